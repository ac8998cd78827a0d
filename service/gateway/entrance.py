"""The way in for clients: holds a socket from its request until a connection takes it over.

A token is believed before the request is answered.
"""

import asyncio
import logging
import socket
from abc import abstractmethod
from time import time
from typing import Any, ClassVar, Final, cast
from urllib.parse import parse_qsl

from uvicorn.config import Config
from uvicorn.server import ServerState

from service.domain.addresses import check_text
from service.domain.errors import Forbidden, Invalid, TidingsError, Unauthorized
from service.domain.problems import CONTENT_TYPE, problem_body, problem_headers, status_of
from service.domain.request import Headers, Request
from service.domain.response import response
from service.gateway.connection import Connection
from service.gateway.gateway import Asked, Gateway

log = logging.getLogger("tidings.gateway")

MAX_EARLY: Final = 64 * 1024
UNSENT_IN_KERNEL: Final = 32 * 1024
"""Bytes that may lie unsent in the kernel for one socket: more would hide how slow its peer is."""


class Entrance(asyncio.Protocol):
    """Holds a socket; it is one of uvicorn's protocol classes."""

    kind: ClassVar[type[Connection]]

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
        """Take the socket."""
        self._transport = cast("asyncio.Transport", transport)
        self._state.connections.add(cast("Any", self))

    def data_received(self, data: bytes) -> None:
        """Keep what comes before the request is answered."""
        if len(self._early) + len(data) > MAX_EARLY:
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

    @abstractmethod
    async def _let_in(self, request: Request) -> None:
        """Admit who asks; raises where that must not be."""

    @abstractmethod
    def _accept(self) -> bytes:
        """Return the answer to a request that was granted."""

    @abstractmethod
    def _refuse(self, error: TidingsError) -> None:
        """Answer a request that was not."""

    async def _run(self, request: Request) -> None:
        try:
            await self._let_in(request)
        except TidingsError as error:
            self._gateway.metrics.refusals.labels(error.code).inc()
            self._refuse(error)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("a client could not be let in")
            self._answer(500, b"text/plain; charset=utf-8", b"internal error")

    async def _admit(self, token: str, asked: Asked) -> None:
        """Hand the socket to a connection."""
        gateway = self._gateway
        claims = await gateway.verifier.verify(token, now=time())
        connection, session = await gateway.admit(self.kind, claims, asked)
        transport = self._transport
        if transport is None or transport.is_closing():
            gateway.abandon(connection)
            return
        transport.set_protocol(connection)
        self._state.connections.discard(cast("Any", self))
        _bound_kernel(transport)
        gateway.open(connection, transport, asked, session, self._accept())
        if self._early:
            connection.data_received(self._early)

    def _credentials(self, headers: Headers, query: dict[str, str], offered: str | None = None) -> str:
        """Return the token, from wherever it is; check the page's origin on the way.

        ``offered`` is one that came in a way of its own.
        """
        settings, origin = self._gateway.settings, header(headers, b"origin")
        allowed = (
            not origin or origin in settings.origins or (settings.dev and _is_from_here(headers, origin))
        )
        if settings.origins and not allowed:
            raise Forbidden("this origin is not allowed")
        if token := query.get("token") or _bearer(headers) or offered:
            return token
        if settings.cookie and (token := _cookie(headers, settings.cookie)):
            # A cookie comes along whoever's page it was: only a known origin makes it a sign of will.
            if not allowed or not (origin or _is_own_page(headers)):
                raise Forbidden("a cookie is believed from an allowed origin only")
            return token
        raise Unauthorized("a token is required")

    def _answer_problem(self, error: TidingsError, request_id: str, extra: Headers = ()) -> None:
        told = [(name.encode(), value.encode()) for name, value in problem_headers(error).items()]
        headers = [(b"x-request-id", request_id.encode()), *told, *extra]
        self._answer(status_of(error), CONTENT_TYPE.encode(), problem_body(error, request_id), headers)

    def _answer(self, status: int, kind: bytes, body: bytes, extra: Headers = ()) -> None:
        if self._transport is not None:
            headers = [*self._state.default_headers, *extra, (b"connection", b"close")]
            self._transport.write(response(status, kind, body, headers))
            self._transport.close()


def header(headers: Headers, wanted: bytes) -> str:
    """Return the value of a header, the last one where it came twice, or an empty text."""
    return dict(headers).get(wanted, b"").decode("latin-1")


def query_of(request: Request) -> dict[str, str]:
    """Return the parameters in a request's target."""
    return dict(parse_qsl(request.target.partition("?")[2], keep_blank_values=True))


def read_query(query: dict[str, str], identity: str) -> Asked:
    """Return what a client asks for of the log with this identity; raises Invalid."""
    ack = query.get("ack", "auto")
    if ack not in {"auto", "client"}:
        raise Invalid("ack is auto or client", "#/ack")
    has = resumed(query.get("resume", ""), identity)
    after = query.get("after")
    return Asked(
        device=check_text(query.get("device", "default"), 128, "#/device"),
        after=has if after is None else position_of(after, "#/after"),
        has=has or 0,
        manual=ack == "client",
        presence=query.get("presence") in {"1", "true"},
    )


def resumed(text: str, identity: str) -> int | None:
    """Return the position in ``<log>:<position>``, or None where that is of another log; raises Invalid."""
    if not text:
        return None
    log_id, _, position = text.rpartition(":")
    at = position_of(position, "#/resume")
    return at if log_id == identity else None


def position_of(text: str, pointer: str) -> int:
    """Return the position that is meant; raises Invalid."""
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise Invalid(f"{pointer.removeprefix('#/')} is a position", pointer)
    return int(text)


def _bound_kernel(transport: asyncio.Transport) -> None:
    wire = transport.get_extra_info("socket")
    if wire is not None and hasattr(socket, "TCP_NOTSENT_LOWAT") and wire.family != socket.AF_UNIX:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_IN_KERNEL)


def _bearer(headers: Headers) -> str | None:
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip().decode("latin-1")
    return None


def _is_from_here(headers: Headers, origin: str) -> bool:
    """Tell whether the page is one of this service: the demonstration's."""
    return origin.partition("://")[2] == header(headers, b"host")


def _is_own_page(headers: Headers) -> bool:
    """Tell whether a browser says that the page is of this origin: it sends no Origin then (Fetch §3.2)."""
    return header(headers, b"sec-fetch-site") == "same-origin"


def _cookie(headers: Headers, wanted: str) -> str | None:
    """Return a cookie's value (RFC 6265 §5.2); others beside it may be as malformed as they like."""
    for name, value in headers:
        if name == b"cookie":
            for pair in value.decode("latin-1").split(";"):
                key, _, content = pair.partition("=")
                if key.strip() == wanted:
                    return content.strip().strip('"')
    return None
