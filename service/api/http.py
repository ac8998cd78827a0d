"""uvicorn's HTTP protocol, with bounds on what may stand before a request's body."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.domain.request import MAX_HEAD, Request

LetIn = Callable[[asyncio.Transport, Request], bool]
"""Takes a socket over if this request is for that; tells whether it does."""

HEAD_TIMEOUT: Final = 10.0


class Http(HttpToolsProtocol):
    """Closes whoever sends a head over 64 KiB, or takes more than 10 s for it.

    uvicorn itself bounds neither: one header of 24 MB was accepted, and a socket that never sends
    one was held for ever.
    """

    _head: int | None = None
    """Bytes of the head so far; None outside of one."""
    _begun = 0
    """How many heads have begun."""
    _late: asyncio.TimerHandle | None = None

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
        super().on_message_begin()
        self._begun += 1
        self._begin()

    def on_headers_complete(self) -> None:
        """Let the body take as long as it takes; its size is bounded where it is read."""
        self._end()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head; one that begins behind another request, from the next chunk on."""
        begun = self._begun
        super().data_received(data)
        if self._head is not None and not self.transport.is_closing():
            self._head += len(data) if self._begun in {begun, 1} else 0
            if self._head > MAX_HEAD:
                self.send_400_response("The head of the request is too long.")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Run the application, which uvicorn does here, unless a client is to get the socket for good."""
        scope = cycle.scope
        target = scope["raw_path"] + b"?" + scope["query_string"]
        request = Request(scope["method"], target.decode("latin-1"), list(scope["headers"]), 0)
        if self._let_in(self.transport, request):
            self.connections.discard(self)
            self._unset_keepalive_if_required()
        else:
            super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._end()
        super().connection_lost(exc)

    def _begin(self) -> None:
        self._end()
        self._head = 0
        self._late = self.loop.call_later(HEAD_TIMEOUT, self.transport.abort)

    def _end(self) -> None:
        self._head = None
        if self._late is not None:
            self._late.cancel()
            self._late = None
