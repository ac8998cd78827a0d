"""One WebSocket: bytes in, bytes out, on callbacks alone.

After the handshake the transport is handed to this object and everything else is let go. At rest it
has no task, no queue and no reader: what a connection costs while nothing happens is its slots.
"""

import array
import asyncio
import fcntl
import logging
import socket
import termios
from collections.abc import Coroutine, Sequence
from typing import Any, Final, Protocol, cast

from service.domain.claims import Claims
from service.domain.commands import AnyCommand
from service.domain.delivery import Delivery, State
from service.domain.events import FOR_CLIENTS
from service.domain.frames import finished, frame, gap_frame
from service.domain.recent import Page
from service.domain.websocket import Close as CloseMessage
from service.domain.websocket import (
    FrameReader,
    Message,
    ProtocolViolation,
    close_frame,
    ping_frame,
    pong_frame,
    text_frame,
    whole_messages,
)
from service.domain.websocket import Ping as PingMessage
from service.domain.websocket import Pong as PongMessage
from service.gateway.inbox import Inbox
from service.observe.metrics import Metrics
from service.settings import Settings
from service.stream.cursors import Cursors
from service.stream.hub import Hub, Receiver

log = logging.getLogger("tidings.gateway")

CLOSE_TIMEOUT: Final = 0.1
"""Seconds from our Close frame to the end: a peer that does not read shall not keep a socket."""
SILENT_HEARTBEATS: Final = 2


class Owner(Protocol):
    """What a connection needs of the gateway that it belongs to."""

    settings: Settings
    hub: Hub
    cursors: Cursors
    metrics: Metrics

    def spawn(self, connection: "Connection", work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run something on the connection's behalf; where it fails, the connection ends."""

    def fell_behind(self, connection: "Connection") -> None:
        """Let a connection catch up whose socket was full."""

    async def perform(self, connection: "Connection", command: AnyCommand) -> bytes | None:
        """Perform a command; return the frame that answers it, if any."""

    def closed(self, connection: "Connection", code: int, reason: str) -> None:
        """Take the connection out of everything."""


class Connection(Receiver, asyncio.Protocol):
    """A client's socket, from the accepted handshake to its end."""

    __slots__ = (
        "catching_up", "drained", "expiry", "gateway", "held", "inbox", "outstanding", "owed", "paused",
        "reader", "silent", "spoke", "transport", "wire",
    )  # fmt: skip

    def __init__(
        self, gateway: Owner, connection_id: str, claims: Claims, device: str, *, manual: bool
    ) -> None:
        Delivery.__init__(self, claims, device, manual=manual)
        self.id = connection_id
        self.gateway = gateway
        self.watches = None
        self.transport: asyncio.Transport | None = None
        self.wire: socket.SocketType | None = None
        self.held: list[bytes] | None = None
        self.reader: FrameReader | None = None
        self.inbox: Inbox | None = None
        self.catching_up: asyncio.Task[None] | None = None
        self.drained: asyncio.Future[None] | None = None
        self.expiry: asyncio.TimerHandle | None = None
        self.paused = False
        self.owed: bytes | None = None
        self.silent = 0
        self.outstanding = 0
        self.spoke = 0

    def attach(self, transport: asyncio.Transport, answer: bytes) -> None:
        """Take over a socket; ``answer``, to its handshake, is held back until ``release``.

        With a bound of zero the transport writes at once, and pauses while it has anything left to
        write: so ``paused`` says exactly whether the socket may be sent to past the transport.
        """
        self.transport = transport
        self.held = [answer]
        transport.set_write_buffer_limits(high=0)
        descriptor = transport.get_extra_info("socket").fileno()
        # Only ``send`` and ``detach`` are asked of it, and those know no family.
        self.wire = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)
        self.send = self.wire.send

    # The hub's side

    def write(self, data: bytes) -> None:
        """Write finished frames."""
        if self.held is not None:
            self.held.append(data)
        else:
            cast("asyncio.Transport", self.transport).write(data)

    def release(self) -> None:
        """Write what was held back, with one call; it was held for the time of one step of the loop."""
        held, self.held = self.held or (), None
        self.write(b"".join(held))

    def send_rest(self, rest: memoryview) -> None:
        """Write what the socket did not take; unless it takes it now, that pauses."""
        cast("asyncio.Transport", self.transport).write(rest)

    def notify(self, data: bytes) -> None:
        """Write finished frames, unless much is waiting already or the connection is not open."""
        bound = self.gateway.settings.write_buffer
        transport = None if self.state is State.CLOSED else self.transport
        if transport is not None and transport.get_write_buffer_size() < bound:
            transport.write(data)

    def end(
        self, code: int, reason: str, *, reconnect: bool = False, retry_after_ms: int | None = None
    ) -> None:
        """Say why, close, and be gone."""
        if self.state is State.CLOSED:
            return
        self.gateway.closed(self, code, reason)
        if self.transport is None:
            return
        if self.paused:
            # Its peer does not read, so it cannot be told; what lies in the buffer is not sent either.
            self.transport.abort()
            return
        last = frame(
            "disconnect",
            code=code,
            reason=reason,
            reconnect=reconnect,
            retry_after_ms=retry_after_ms,
        )
        self.transport.write(text_frame(last) + close_frame(code, reason))
        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self.transport.abort)

    # Pages of the log

    def write_page(self, page: Page) -> None:
        """Write what is due of a page, and ask how far it got."""
        due = [
            e
            for e in page.entries
            if e.kind in FOR_CLIENTS and not (e.exclude and e.withheld_from(self.user, self.device))
        ]
        parts = [finished(entry) for entry in due]
        if page.gap is not None:
            parts.insert(0, text_frame(gap_frame(page.gap)))
            self.sent = page.gap.upto
        if due:
            self.sent = due[-1].position
            self.gateway.hub.delivered += len(due)
        self.written = max(self.written, page.upto, page.gap.upto if page.gap is not None else 0)
        if parts:
            self.write(b"".join(parts))
            self.send_ping()

    def send_ping(self, before: bytes = b"") -> None:
        """Ask, by a ping that carries the position, whether all before it has arrived.

        At most one is outstanding; ``before`` is written in any case, with the same call.
        """
        position = self.ping(self.gateway.hub.position)
        ping = b"" if position is None else ping_frame(b"%d" % position)
        if before or ping:
            self.write(before + ping)

    async def writable(self) -> None:
        """Wait until the socket has taken all that was written."""
        while self.paused:
            if self.drained is None:
                self.drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self.drained)

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
        if self.owed is not None:
            payload, self.owed = self.owed, None
            self.write(pong_frame(payload))

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
        """Close: a WebSocket has no half-open state."""
        return False

    def data_received(self, data: bytes) -> None:
        """Take what the client sent."""
        self.silent = 0
        whole = whole_messages(data) if self.reader is None else None
        for message in self._read(data) if whole is None else whole:
            self._receive(message)

    def _read(self, data: bytes) -> Sequence[Message]:
        reader = self.reader or FrameReader(self.gateway.settings.max_message)
        self.reader = reader
        try:
            messages = reader.feed(data)
        except ProtocolViolation as violation:
            for message in violation.messages:
                self._receive(message)
            self.end(violation.code, violation.reason)
            return ()
        if reader.idle:
            self.reader = None
        return messages

    def _receive(self, message: Message) -> None:
        if self.state is State.CLOSED:
            self._received_late(message)
        elif isinstance(message, PongMessage):
            if (position := self.pong(message.payload)) is not None:
                self.gateway.cursors.mark(self.user, self.device, position)
        elif isinstance(message, PingMessage):
            self._answer(message.payload)
        elif isinstance(message, CloseMessage):
            self._closed_by_peer(message)
        else:
            self.inbox = self.inbox or Inbox(self)
            self.inbox.take(message)

    def _received_late(self, message: Message) -> None:
        """After our Close only the peer's own matters: both have said it, so the socket can go."""
        if isinstance(message, CloseMessage) and self.transport is not None:
            self.transport.close()

    def _closed_by_peer(self, message: CloseMessage) -> None:
        """Say Close too, behind all that has yet to leave (RFC 6455 §5.5.1)."""
        self.gateway.closed(self, message.code or 1005, "closed by the client")
        self.owed = None  # §5.5.2: nor is a pong due once a Close has come
        transport = cast("asyncio.Transport", self.transport)
        transport.write(close_frame(message.code))
        transport.close()
        # It may have stopped reading, and then the buffer never drains.
        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, transport.abort)

    def _answer(self, payload: bytes) -> None:
        """Answer a ping; while the buffer is full only the last one is owed (RFC 6455 §5.5.3)."""
        if self.paused:
            self.owed = payload
        else:
            self.write(pong_frame(payload))

    def acknowledge(self, position: int) -> None:
        """Take the client's own word for what it has processed."""
        if (moved := self.ack(position, self.gateway.hub.position)) is not None:
            self.gateway.cursors.mark(self.user, self.device, moved)

    def reply(self, answer: bytes) -> None:
        """Write an answer; a client that asks and asks and never reads is closed."""
        if self.state is State.CLOSED:
            return
        transport = cast("asyncio.Transport", self.transport)
        if transport.get_write_buffer_size() > 2 * self.gateway.settings.write_buffer:
            self.end(4029, "answers are not read")
        else:
            transport.write(text_frame(answer))

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
        if self.silent == 1:  # a frame came: nothing else has to be asked
            self.outstanding = 0
            return True
        outstanding = self._outstanding()
        if outstanding < self.outstanding:
            self.silent = 1
        self.outstanding = outstanding
        return self.silent <= SILENT_HEARTBEATS

    def _outstanding(self) -> int:
        """Return the bytes written that the peer's kernel has not confirmed (SIOCOUTQ)."""
        transport = cast("asyncio.Transport", self.transport)
        waiting = transport.get_write_buffer_size()
        if self.wire is None:
            return waiting
        unsent = array.array("i", [0])
        fcntl.ioctl(self.wire.fileno(), termios.TIOCOUTQ, unsent)
        return waiting + unsent[0]
