"""One stream of Server-Sent Events: the same connection, written as text and never read from."""

from typing import TYPE_CHECKING, Final, cast

from service.domain.claims import Claims
from service.domain.frames import Farewell
from service.domain.sse import message, retry
from service.gateway.connection import Connection, Owner

if TYPE_CHECKING:
    import asyncio
    import socket

STAY_AWAY: Final = 24 * 3600 * 1000
"""Milliseconds before who is not to come back does so all the same: an EventSource reconnects by itself, and
no message stops it. With a dead token it may come soon, for the 401 that it gets then stops it for good."""


class EventStream(Connection):
    """A connection whose client says by requests of its own how far it has got.

    The hub's frames are translated on their way out; the connection counts what is written, so that
    the bytes that have arrived are known: there are no pongs.
    """

    __slots__ = ("arrived", "rest", "total")

    def __init__(
        self, gateway: Owner, connection_id: str, claims: Claims, device: str, *, manual: bool
    ) -> None:
        super().__init__(gateway, connection_id, claims, device, manual=manual)
        self.total = 0
        self.arrived = 0
        self.rest: memoryview | None = None

    def send(self, frames: bytes) -> int:
        """Write to the socket itself; what it does not take, ``send_rest`` is about, whatever it is given."""
        data = self.encoded(frames)
        try:
            sent = cast("socket.SocketType", self.wire).send(data)
        except OSError:  # full or broken: its transport finds out which
            sent = 0
        if sent == len(data):
            return len(frames)
        self.rest = memoryview(data)[sent:]
        return 0

    def send_rest(self, rest: memoryview) -> None:
        """Write what the socket did not take of the messages."""
        left, self.rest = self.rest, None
        if left is not None:
            super().send_rest(left)

    def encoded(self, frames: bytes) -> bytes:
        """Return the frames as messages, and count their bytes."""
        data = self.gateway.messages.of(frames)
        self.total += len(data)
        return data

    def send_ping(self, before: bytes = b"") -> None:
        """Write what is to be written; nothing can be asked."""
        if before:
            self.write(before)

    def progressed(self) -> bool:
        """Tell whether anything has arrived in the peer's kernel, or nothing is on its way.

        How much is on its way says nothing of a busy stream, which always has something under way.
        """
        outstanding = self.outstanding()
        before, self.arrived = self.arrived, self.total - outstanding
        return not outstanding or self.arrived > before

    def send_away(self, farewell: Farewell) -> None:
        """End: an EventSource asks for the next stream once this one has ended, and not before."""
        self.end_with(farewell)

    def say_last(self, farewell: Farewell) -> None:
        """Write ``disconnect``, and let the end of the response follow."""
        transport = cast("asyncio.Transport", self.transport)
        transport.write(last_message(farewell))
        transport.close()

    def data_received(self, data: bytes) -> None:
        """Ignore it: on this connection there is no further request."""


def last_message(farewell: Farewell) -> bytes:
    """Return what a stream ends with, from which an EventSource also learns when to reconnect."""
    pause = farewell.retry_after_ms if farewell.reconnect else STAY_AWAY
    asked = b"" if pause is None or farewell.code == 4001 else retry(pause)
    return asked + message(farewell.frame())
