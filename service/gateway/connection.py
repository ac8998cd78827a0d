"""A client's connection, whatever it speaks: what is written, how much of it, and until when.

After admission the transport is handed to this object and everything else is let go. At rest it has
no task, no queue and no reader: what a connection costs while nothing happens is its slots. What
differs is the subclasses' matter: ``WebSocket`` and ``EventStream``.
"""

import array
import asyncio
import fcntl
import socket
import termios
from abc import abstractmethod
from collections.abc import Coroutine
from typing import Any, Final, Protocol, cast

from service.domain.claims import Claims
from service.domain.commands import AnyCommand
from service.domain.delivery import Delivery, State
from service.domain.frames import Farewell, finished, gap_frame
from service.domain.recent import Page
from service.domain.sse import Messages
from service.domain.websocket import text_frame
from service.observe.metrics import Metrics
from service.settings import Settings
from service.stream.cursors import Cursors
from service.stream.hub import Hub, Receiver

CLOSE_TIMEOUT: Final = 0.1
"""Seconds from the last that is written to the end: a peer that does not read shall not keep a socket."""
SILENT_HEARTBEATS: Final = 2


class Owner(Protocol):
    """What a connection needs of the gateway that it belongs to."""

    settings: Settings
    hub: Hub
    cursors: Cursors
    metrics: Metrics
    messages: Messages

    def spawn(self, connection: "Connection", work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run something on the connection's behalf; where it fails, the connection ends."""

    def fell_behind(self, connection: "Connection") -> None:
        """Let a connection catch up whose socket was full."""

    async def perform(self, connection: "Connection", command: AnyCommand) -> bytes | None:
        """Perform a command; return the frame that answers it, if any."""

    def closed(self, connection: "Connection", code: int, reason: str) -> None:
        """Take the connection out of everything."""


class Connection(Receiver, asyncio.Protocol):
    """A client's connection, from its admission to its end.

    Frames are handed to it as sockets get them.
    """

    __slots__ = (
        "catching_up", "drained", "expiry", "gateway", "held", "paused", "silent", "spoke", "transport",
        "wire",
    )  # fmt: skip

    def __init__(
        self, gateway: Owner, connection_id: str, claims: Claims, device: str, *, manual: bool
    ) -> None:
        Delivery.__init__(self, claims, device, manual=manual)
        self.id = connection_id
        self.gateway = gateway
        self.noted = False
        self.since = 0.0
        self.watches = None
        self.transport: asyncio.Transport | None = None
        self.wire: socket.SocketType | None = None
        self.held: list[bytes] | None = None
        self.catching_up: asyncio.Task[None] | None = None
        self.drained: asyncio.Future[None] | None = None
        self.expiry: asyncio.TimerHandle | None = None
        self.paused = False
        self.silent = 0
        self.spoke = 0

    def attach(self, transport: asyncio.Transport, answer: bytes) -> None:
        """Take over a socket; ``answer``, to its request, is held back until ``release``.

        With a bound of zero the transport writes at once, and pauses while it has anything left to
        write: so ``paused`` says exactly whether the socket may be sent to past the transport.
        """
        self.transport = transport
        self.held = [answer]
        transport.set_write_buffer_limits(high=0)
        descriptor = transport.get_extra_info("socket").fileno()
        # Only ``send`` and ``detach`` are asked of it, and those know no family.
        self.wire = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)

    # What differs

    @abstractmethod
    def send_ping(self, before: bytes = b"") -> None:
        """Ask how far the client has got, where that can be asked; write ``before`` in any case."""

    @abstractmethod
    def progressed(self) -> bool:
        """Tell, once a heartbeat, whether bytes have drained out since it was last asked."""

    @abstractmethod
    def send_away(self, farewell: Farewell) -> None:
        """Let the client find another place, and leave when it has one, where it is able to."""

    @abstractmethod
    def say_last(self, farewell: Farewell) -> None:
        """Write why this is the end, and what has to come after that."""

    def encoded(self, frames: bytes) -> bytes:
        """Return what stands for finished frames on the wire, for the one who is about to write it."""
        return frames

    # The hub's side

    def write(self, frames: bytes) -> None:
        """Write finished frames."""
        data = self.encoded(frames)
        if self.held is not None:
            self.held.append(data)
        else:
            cast("asyncio.Transport", self.transport).write(data)

    def release(self) -> None:
        """Write what was held back, with one call; it was held for the time of one step of the loop."""
        held, self.held = self.held or (), None
        cast("asyncio.Transport", self.transport).write(b"".join(held))

    def send_rest(self, rest: memoryview) -> None:
        """Write what the socket did not take; unless it takes it now, that pauses."""
        cast("asyncio.Transport", self.transport).write(rest)

    def notify(self, frames: bytes) -> None:
        """Write finished frames, unless much is waiting already or the connection is not open."""
        bound = self.gateway.settings.write_buffer
        transport = None if self.state is State.CLOSED else self.transport
        if transport is not None and transport.get_write_buffer_size() < bound:
            transport.write(self.encoded(frames))

    def end(self, code: int, reason: str, *, reconnect: bool = False) -> None:
        """Say why, close, and be gone."""
        self.end_with(Farewell(code, reason, reconnect))

    def end_with(self, farewell: Farewell) -> None:
        """Say this, close, and be gone."""
        if self.state is State.CLOSED:
            return
        self.gateway.closed(self, farewell.code, farewell.reason)
        if self.transport is None:
            return
        if self.paused:
            # Its peer does not read, so it cannot be told; what lies in the buffer is not sent either.
            self.transport.abort()
            return
        self.say_last(farewell)
        self.abort_soon()

    def abort_soon(self) -> None:
        """Be gone in a moment, whether or not what was written last gets through."""
        transport = cast("asyncio.Transport", self.transport)
        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, transport.abort)

    # Pages of the log

    def write_page(self, page: Page) -> None:
        """Write a page, and ask how far it got."""
        parts = [finished(entry) for entry in page.entries]
        if page.gap is not None:
            parts.insert(0, text_frame(gap_frame(page.gap)))
            self.sent = page.gap.upto
        if page.entries:
            self.sent = page.entries[-1].position
            self.gateway.hub.delivered += len(page.entries)
        self.written = max(self.written, page.upto, page.gap.upto if page.gap is not None else 0)
        if parts:
            self.write(b"".join(parts))
            self.send_ping()

    async def writable(self) -> None:
        """Wait until the socket has taken all that was written."""
        while self.paused:
            if self.drained is None:
                self.drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self.drained)

    def acknowledge(self, position: int) -> None:
        """Take the client's own word for what it has processed."""
        if (moved := self.ack(position, self.gateway.hub.position)) is not None:
            self.gateway.cursors.mark(self.user, self.device, moved)

    # The transport's side

    def pause_writing(self) -> None:
        """Take note that the socket is full, and leave the hub's loop before it sends anything more."""
        self.paused = True
        if self.state is State.LIVE:
            self.gateway.hub.lag(self)
            self.gateway.fell_behind(self)

    def resume_writing(self) -> None:
        """Take note that it has drained."""
        self.paused = False
        self.silent = 0
        if self.drained is not None:
            self.drained.set_result(None)
            self.drained = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Be gone; the descriptor is the transport's to close, right after this."""
        if self.wire is not None:
            self.wire.detach()
            self.wire = None
        self.paused = False
        if self.drained is not None:
            self.drained.set_result(None)
            self.drained = None
        if self.state is not State.CLOSED:
            self.gateway.closed(self, 1006, "connection lost" if exc is None else type(exc).__name__)

    def eof_received(self) -> bool:
        """Close: neither a WebSocket nor a stream goes on half-open."""
        return False

    # Its token's end

    def expire_within(self, seconds: float, now: float) -> None:
        """Set a timer if the token ends so soon, anew each time, since clocks are put right.

        Else it is to be asked again: a timer takes 660 bytes.
        """
        self.forget_expiry()
        left = self.claims.expires_at - now
        if left <= seconds:
            loop = asyncio.get_running_loop()
            self.expiry = loop.call_later(max(0.0, left), self.end, 4001, "token expired")

    def forget_expiry(self) -> None:
        """Take the timer back."""
        if self.expiry is not None:
            self.expiry.cancel()
            self.expiry = None

    # Signs of life

    def alive(self) -> bool:
        """Tell, once a heartbeat, whether anything came in or drained out within the last two.

        A slow link may be silent for long, because its pongs wait behind megabytes: bytes that leave
        are as good a sign as frames that arrive.
        """
        self.silent += 1
        if self.progressed():
            self.silent = 1
        return self.silent <= SILENT_HEARTBEATS

    def outstanding(self) -> int:
        """Return the bytes written that the peer's kernel has not confirmed (SIOCOUTQ)."""
        transport = cast("asyncio.Transport", self.transport)
        waiting = transport.get_write_buffer_size()
        if self.wire is None:
            return waiting
        unsent = array.array("i", [0])
        fcntl.ioctl(self.wire.fileno(), termios.TIOCOUTQ, unsent)
        return waiting + unsent[0]
