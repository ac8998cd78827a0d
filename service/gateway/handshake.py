"""The opening handshake: uvicorn's protocol class for WebSockets.

A token is believed before the handshake is answered. A refused client gets an HTTP problem; one
that offers the subprotocol ``tidings.v1`` is accepted and closed at once, because a browser can read
a close code and no HTTP status.
"""

import asyncio
import logging
import socket
from time import time
from typing import Any, Final, cast
from urllib.parse import parse_qsl
from uuid import uuid4

from uvicorn.config import Config
from uvicorn.server import ServerState

from service.domain.addresses import check_text
from service.domain.errors import (
    Forbidden,
    Invalid,
    NotFound,
    RateLimited,
    TidingsError,
    Unauthorized,
    Unavailable,
)  # fmt: skip
from service.domain.frames import frame
from service.domain.problems import problem_body, problem_headers, status_of
from service.domain.request import Headers, Request, read_request
from service.domain.response import response
from service.domain.upgrade import BadHandshake, Upgrade, accept_key, check_upgrade, switching_protocols
from service.domain.websocket import close_frame, text_frame
from service.gateway.connection import CLOSE_TIMEOUT
from service.gateway.gateway import Asked, Gateway

log = logging.getLogger("tidings.gateway")

PATH: Final = "/v1/ws"
SUBPROTOCOL: Final = "tidings.v1"
MAX_EARLY: Final = 64 * 1024
UNSENT_IN_KERNEL: Final = 32 * 1024
"""Bytes that may lie unsent in the kernel for one socket: more would hide how slow its peer is."""

_CLOSE_CODES: Final[dict[type[TidingsError], int]] = {
    Unauthorized: 4001, Forbidden: 4003, RateLimited: 4029, Invalid: 1008, NotFound: 1008, Unavailable: 1012,
}  # fmt: skip


class Handshake(asyncio.Protocol):
    """Holds a socket from the upgrade request until a connection takes it over."""

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:  # fmt: skip
        self._gateway: Gateway = app_state["gateway"]
        self._state = server_state
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket from uvicorn's HTTP protocol."""
        self._transport = cast("asyncio.Transport", transport)
        self._state.connections.add(cast("Any", self))

    def data_received(self, data: bytes) -> None:
        """Take the request, as uvicorn hands it on; keep what comes before it is answered."""
        if self._task is None:
            request = read_request(data)
            if request is None:
                self._answer(400, "the head of the request cannot be read")
            else:
                self.begin(request, data[request.end :])
        elif len(self._early) + len(data) > MAX_EARLY:
            self._abort()
        else:
            self._early += data

    def begin(self, request: Request, early: bytes) -> None:
        """Answer a request; ``early`` is what came with it."""
        self._early = early
        self._task = asyncio.get_running_loop().create_task(self._run(request))
        self._state.tasks.add(self._task)
        self._task.add_done_callback(self._state.tasks.discard)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give up: nobody is there to be answered."""
        self._state.connections.discard(cast("Any", self))
        self._transport = None
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        """Nothing to do: one small answer is written."""

    def resume_writing(self) -> None:
        """Nothing to do."""

    def eof_received(self) -> bool:
        """Close."""
        return False

    def shutdown(self) -> None:
        """Be told by uvicorn that the server stops; the gateway refuses by itself."""

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def _run(self, request: Request) -> None:
        upgrade: Upgrade | None = None
        try:
            path, _, query = request.target.partition("?")
            upgrade = check_upgrade(request.method, request.headers)
            asked = dict(parse_qsl(query, keep_blank_values=True))
            await self._open(upgrade, path, asked, request.headers)
        except BadHandshake as error:
            self._answer(error.status, error.message, error.headers)
        except TidingsError as error:
            self._refuse(error, upgrade)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("the handshake failed")
            self._answer(500, "internal error")

    async def _open(self, upgrade: Upgrade, path: str, query: dict[str, str], headers: Headers) -> None:
        if path != PATH:
            raise NotFound("the WebSocket is at " + PATH)
        gateway = self._gateway
        token = self._credentials(upgrade, query, headers)
        asked = _read_query(query)
        claims = await gateway.verifier.verify(token, now=time())
        connection, session = await gateway.admit(claims, asked)
        transport = self._transport
        if transport is None or transport.is_closing():
            gateway.abandon(connection)
            return
        transport.set_protocol(connection)
        self._state.connections.discard(cast("Any", self))
        gateway.open(connection, transport, asked, session, self._accept(transport, upgrade))
        if self._early:
            connection.data_received(self._early)

    @staticmethod
    def _accept(transport: asyncio.Transport, upgrade: Upgrade) -> bytes:
        """Make the socket ready; return the answer to its handshake."""
        wire = transport.get_extra_info("socket")
        if wire is not None and hasattr(socket, "TCP_NOTSENT_LOWAT") and wire.family != socket.AF_UNIX:
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_IN_KERNEL)
        chosen = SUBPROTOCOL if SUBPROTOCOL in upgrade.subprotocols else None
        return switching_protocols(accept_key(upgrade.key), chosen)

    def _credentials(self, upgrade: Upgrade, query: dict[str, str], headers: Headers) -> str:
        """Return the token, from wherever it is; check the page's origin on the way."""
        settings = self._gateway.settings
        allowed = upgrade.origin is None or upgrade.origin in settings.origins
        if settings.origins and not allowed:
            raise Forbidden("this origin is not allowed")
        if token := query.get("token") or _bearer(upgrade, headers):
            return token
        if settings.cookie and (token := _cookie(headers, settings.cookie)):
            # A cookie comes along whoever's page it was: only a known origin makes it a sign of will.
            if upgrade.origin is None or not allowed:
                raise Forbidden("a cookie is believed from an allowed origin only")
            return token
        raise Unauthorized("a token is required")

    def _refuse(self, error: TidingsError, upgrade: Upgrade | None) -> None:
        self._gateway.metrics.refusals.labels(error.code).inc()
        if upgrade is None or SUBPROTOCOL not in upgrade.subprotocols:
            request_id = uuid4().hex
            extra = [(b"x-request-id", request_id.encode())]
            extra += [(name.encode(), value.encode()) for name, value in problem_headers(error).items()]
            self._answer(status_of(error), "", extra, problem_body(error, request_id))
        elif self._transport is not None:
            answer = self._accept(self._transport, upgrade)
            code = next((c for kind, c in _CLOSE_CODES.items() if isinstance(error, kind)), 1011)
            last = frame("disconnect", code=code, reason=str(error), reconnect=isinstance(error, Unavailable))
            self._transport.write(answer + text_frame(last) + close_frame(code, str(error)))
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._abort)

    def _answer(self, status: int, message: str, extra: Any = (), body: bytes | None = None) -> None:
        if self._transport is None:
            return
        kind = b"application/problem+json" if body is not None else b"text/plain; charset=utf-8"
        content = message.encode() if body is None else body
        self._transport.write(response(status, kind, content, [*extra, (b"connection", b"close")]))
        self._transport.close()


def is_upgrade(request: Request) -> bool:
    """Tell whether a request is for the socket, as far as its first line says."""
    return request.method == "GET" and request.target.partition("?")[0] == PATH


def _read_query(query: dict[str, str]) -> Asked:
    ack = query.get("ack", "auto")
    if ack not in {"auto", "client"}:
        raise Invalid("ack is auto or client", "#/ack")
    after = query.get("after")
    if after is not None and not (after.isascii() and after.isdigit() and len(after) <= 16):
        raise Invalid("after is a position", "#/after")
    return Asked(
        device=check_text(query.get("device", "default"), 128, "#/device"),
        after=None if after is None else int(after),
        manual=ack == "client",
        presence=query.get("presence") in {"1", "true"},
    )


def _bearer(upgrade: Upgrade, headers: Headers) -> str | None:
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip().decode("latin-1")
    for offered in upgrade.subprotocols:
        if offered.startswith("bearer."):
            return offered.removeprefix("bearer.")
    return None


def _cookie(headers: Headers, wanted: str) -> str | None:
    """Return a cookie's value (RFC 6265 §5.2); others beside it may be as malformed as they like."""
    for name, value in headers:
        if name == b"cookie":
            for pair in value.decode("latin-1").split(";"):
                key, _, content = pair.partition("=")
                if key.strip() == wanted:
                    return content.strip().strip('"')
    return None
