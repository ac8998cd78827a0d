"""uvicorn's HTTP protocol, with bounds on what may stand before a request's body."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.api.access import BODY_TIMEOUT
from service.domain.request import MAX_FIELDS, MAX_HEAD, Request

LetIn = Callable[[asyncio.Transport, Request], bool]
"""Takes a socket over if this request is for that; tells whether it does."""

HEAD_TIMEOUT: Final = 10.0
UNREAD_TIMEOUT: Final = 60.0
"""Seconds that an answer may lie unread, none of it leaving."""
MAX_WAITING: Final = 64
"""Requests of one connection that may wait for the answer to the one before."""


class Http(HttpToolsProtocol):
    """Closes whoever sends a head over 64 KiB or 256 fields, or takes more than 10 s for it.

    So it does with who takes too long for a body, does not read answers, or sends ever more requests
    meanwhile. uvicorn itself bounds none of these: one header of 24 MB was accepted, a socket that never
    sends one was held for ever, and requests in a row took half a gigabyte in three seconds.
    """

    _head: int | None = None
    """Bytes of the head so far; None outside of one."""
    _begun = 0
    """How many heads have begun."""
    _late: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], let_in: LetIn
    ) -> None:
        super().__init__(config, server_state, app_state)
        self._let_in = let_in

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._begin()

    def on_message_begin(self) -> None:
        """Begin to measure a head."""
        if len(self.pipeline) >= MAX_WAITING:
            raise _Refused
        super().on_message_begin()
        self._begun += 1
        self._begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count the fields."""
        if len(self.headers) >= MAX_FIELDS:
            raise _Refused
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Wait for the body, which who reads it answers for; its size is bounded there as well."""
        self._end()
        self._wait(BODY_TIMEOUT + HEAD_TIMEOUT)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Leave the next wait to uvicorn, which begins it with the end of an answer, unless that is past."""
        self._end()
        super().on_message_complete()
        if self.cycle is not None and self.cycle.response_complete:
            self._wait(HEAD_TIMEOUT)

    def handle_websocket_upgrade(self) -> None:
        """Wait no longer: another protocol has the socket now."""
        self._end()
        super().handle_websocket_upgrade()

    def timeout_keep_alive_handler(self) -> None:
        """Close, and wait for what is not read no longer than for any answer."""
        super().timeout_keep_alive_handler()
        if self._unread is None:
            self._unread = self.loop.call_later(UNREAD_TIMEOUT, self.transport.abort)

    def pause_writing(self) -> None:
        """Wait for who does not read, but not for ever."""
        super().pause_writing()
        self._forget_unread()
        self._unread = self.loop.call_later(UNREAD_TIMEOUT, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on."""
        self._forget_unread()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head; one that begins behind another request, from the next chunk on."""
        begun = self._begun
        super().data_received(data)
        if self._head is not None and not self.transport.is_closing():
            self._head += len(data) if self._begun in {begun, 1} else 0
            if self._head > MAX_HEAD:
                self.send_400_response("The head of the request is too long.")

    def send_400_response(self, msg: str) -> None:
        """Answer, and let who is still at work for the request before write nothing behind it."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        super().send_400_response(msg)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Run the application, which uvicorn does here, unless a client is to get the socket for good."""
        scope = cycle.scope
        target = scope["raw_path"] + b"?" + scope["query_string"]
        request = Request(scope["method"], target.decode("latin-1"), list(scope["headers"]), 0)
        if self._let_in(self.transport, request):
            self.connections.discard(self)
            self._unset_keepalive_if_required()
            self._end()
        else:
            super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting, and let go of what waits: in a circle, it would be found late."""
        self._end()
        self._forget_unread()
        super().connection_lost(exc)
        self.pipeline.clear()

    def _begin(self) -> None:
        self._end()
        self._head = 0
        self._wait(HEAD_TIMEOUT)

    def _wait(self, seconds: float) -> None:
        self._late = self.loop.call_later(seconds, self.transport.abort)

    def _forget_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _end(self) -> None:
        self._head = None
        if self._late is not None:
            self._late.cancel()
            self._late = None


class _Refused(Exception):
    """The parser shall stop: uvicorn answers 400 and closes."""
