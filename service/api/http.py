"""uvicorn's HTTP protocol, with bounds on what may stand before a request's body."""

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.domain.request import MAX_HEAD

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
