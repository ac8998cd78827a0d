"""Who calls: an API key with a scope, or a client with a token."""

import asyncio
from collections.abc import Callable, Coroutine
from time import time
from typing import Annotated, Any, Final, Literal

from fastapi import Depends, Request, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from service.api.service import Service, service_of
from service.auth.keys import ApiKey
from service.domain.claims import Claims
from service.domain.errors import Forbidden, Malformed, Revoked, TooLarge, Unauthorized, Unavailable
from service.store.audit import Actor

BODY_TIMEOUT: Final = 60.0

Scope = Literal["publish", "read", "tokens", "admin"]

# Only for the OpenAPI description, which says what each is: the check itself is ours.
_api_key = HTTPBearer(auto_error=False, scheme_name="apiKey")
_client_token = HTTPBearer(auto_error=False, scheme_name="clientToken")


def presented(authorization: str) -> str:
    """Return what an Authorization header presents."""
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() != "bearer" or not credentials.strip():
        raise Unauthorized("send `Authorization: Bearer …`")
    return credentials.strip()


def bearer(request: Request) -> str:
    """Return what a request presents."""
    return presented(request.headers.get("authorization", ""))


def key_of(authorization: str, service: Service, scope: Scope) -> ApiKey:
    """Return the API key that an Authorization header presents, if it has the scope."""
    key = service.keyring.authenticate(presented(authorization), now=time())
    key.require(scope)
    return key


def key_with(request: Request, service: Service, scope: Scope) -> ApiKey:
    """Return the API key of a request, if it has the scope."""
    return key_of(request.headers.get("authorization", ""), service, scope)


def _scoped(scope: Scope) -> Callable[..., ApiKey]:
    def check(request: Request, _: Annotated[object, Security(_api_key, scopes=[scope])]) -> ApiKey:
        return key_with(request, service_of(request), scope)

    return check


Publisher = Annotated[ApiKey, Depends(_scoped("publish"))]
Reader = Annotated[ApiKey, Depends(_scoped("read"))]
TokenIssuer = Annotated[ApiKey, Depends(_scoped("tokens"))]
Admin = Annotated[ApiKey, Depends(_scoped("admin"))]


def _actor(request: Request, key: Admin) -> Actor:
    return Actor(key.id, request.state.request_id)


Acting = Annotated[Actor, Depends(_actor)]
"""An admin who changes something: who goes into the audit log."""


def _reader_unless_public(
    request: Request, _: Annotated[object, Security(_api_key, scopes=["read"])]
) -> ApiKey | None:
    service = service_of(request)
    return None if service.settings.metrics_public else key_with(request, service, "read")


ReaderUnlessPublic = Annotated[ApiKey | None, Depends(_reader_unless_public)]


def _is_token(credentials: str) -> bool:
    """Tell a JWT (RFC 7515 §3.1) from an API key."""
    return credentials.count(".") == 2 and not credentials.startswith("tk_")


async def _believed(token: str, service: Service) -> Claims:
    claims = await service.verifier.verify(token, now=time())
    if not service.follower.trusted:
        raise Unavailable("the log cannot be read just now, nor what it revokes")
    if service.control.revocations.refuse(claims):
        raise Revoked("the token has been revoked")
    return claims


def _charged(request: Request, claims: Claims) -> Claims:
    request.state.standings = service_of(request).limits.charge_user(claims.user)
    return claims


async def client_of(request: Request) -> Claims:
    """Return the claims of the token that a request presents; raises Forbidden for an API key."""
    credentials, service = bearer(request), service_of(request)
    if _is_token(credentials):
        return await _believed(credentials, service)
    service.keyring.authenticate(credentials, now=time())
    raise Forbidden("this is for a client with its own token, not for an API key")


async def _listener(request: Request, _: Annotated[object, Depends(_client_token)]) -> Claims:
    return await client_of(request)


async def _client(request: Request, _: Annotated[object, Depends(_client_token)]) -> Claims:
    return _charged(request, await client_of(request))


async def _client_or_reader(
    request: Request,
    _token: Annotated[object, Depends(_client_token)],
    _key: Annotated[object, Security(_api_key, scopes=["read"])],
) -> Claims | ApiKey:
    credentials = bearer(request)
    if _is_token(credentials):
        return _charged(request, await _believed(credentials, service_of(request)))
    return key_with(request, service_of(request), "read")


Listener = Annotated[Claims, Depends(_listener)]
"""A client that tells how far it has got: that is not charged, like its answers to pings."""
Client = Annotated[Claims, Depends(_client)]
ClientOrReader = Annotated[Claims | ApiKey, Depends(_client_or_reader)]


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body; raises TooLarge as soon as it is over ``limit`` bytes.

    Raises Malformed where it does not come within a minute.
    """
    too_large = TooLarge(f"the body must be at most {limit} bytes")
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise too_large
                chunks.append(chunk)
    except TimeoutError:
        raise Malformed(f"the body did not come within {BODY_TIMEOUT:.0f} s") from None
    except ClientDisconnect:
        raise Malformed("the caller left before all of the body was there") from None
    return b"".join(chunks)


class KeyFirst(APIRoute):
    """Asks for the key before it reads the body; FastAPI by itself does it the other way round, unbounded."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler that asks first."""
        handle = super().get_route_handler()

        async def ask_first(request: Request) -> Response:
            if self.body_field is not None:
                await self.ask(request)
                # Starlette keeps a body that has been read under this name.
                request._body = await read_body(request, service_of(request).settings.max_body)  # noqa: SLF001
            return await handle(request)

        return ask_first

    async def ask(self, request: Request) -> None:
        """Raise Unauthorized unless it presents an API key."""
        service_of(request).keyring.authenticate(bearer(request), now=time())


class TokenFirst(KeyFirst):
    """The same for clients: asks for the token."""

    async def ask(self, request: Request) -> None:
        """Raise Unauthorized or Forbidden unless it presents a client's token."""
        await client_of(request)
