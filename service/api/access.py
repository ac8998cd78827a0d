"""Who calls: an API key with a scope, or a client with a token."""

from collections.abc import Callable
from time import time
from typing import Annotated, Literal

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from service.api.service import Service, service_of
from service.auth.keys import ApiKey
from service.domain.claims import Claims
from service.domain.errors import Revoked, Unauthorized

Scope = Literal["publish", "read", "tokens", "admin"]

# Only for the OpenAPI description: the check itself is ours.
_described = HTTPBearer(auto_error=False, description="An API key, or a client's JWT where it says so")


def bearer(request: Request) -> str:
    """Return what the Authorization header presents."""
    scheme, _, presented = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not presented.strip():
        raise Unauthorized("send `Authorization: Bearer …`")
    return presented.strip()


def key_with(request: Request, service: Service, scope: Scope) -> ApiKey:
    """Return the API key of a request, if it has the scope."""
    key = service.keyring.authenticate(bearer(request), now=time())
    key.require(scope)
    return key


def _scoped(scope: Scope) -> Callable[..., ApiKey]:
    def check(request: Request, _: Annotated[object, Depends(_described)]) -> ApiKey:
        return key_with(request, service_of(request), scope)

    return check


Publisher = Annotated[ApiKey, Depends(_scoped("publish"))]
Reader = Annotated[ApiKey, Depends(_scoped("read"))]
TokenIssuer = Annotated[ApiKey, Depends(_scoped("tokens"))]
Admin = Annotated[ApiKey, Depends(_scoped("admin"))]


async def _client_or_reader(request: Request, _: Annotated[object, Depends(_described)]) -> Claims | ApiKey:
    presented = bearer(request)
    service = service_of(request)
    if presented.startswith("eyJ"):
        claims = await service.verifier.verify(presented, now=time())
        if service.control.revocations.refuse(claims):
            raise Revoked("the token has been revoked")
        return claims
    return key_with(request, service, "read")


ClientOrReader = Annotated[Claims | ApiKey, Depends(_client_or_reader)]
