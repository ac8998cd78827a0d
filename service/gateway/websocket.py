"""One WebSocket: bytes in, bytes out, on callbacks alone."""

import asyncio
from collections.abc import Sequence
from typing import Final, cast

from service.domain.claims import Claims
from service.domain.delivery import State
from service.domain.frames import Farewell
from service.domain.websocket import (
    AT_ONCE,
    FrameReader,
    Message,
    ProtocolViolation,
    close_frame,
    ping_frame,
    pong_frame,
    text_frame,
    whole_messages,
)
from service.domain.websocket import Close as CloseMessage
from service.domain.websocket import Ping as PingMessage
from service.domain.websocket import Pong as PongMessage
from service.gateway.connection import Connection, Owner
from service.gateway.inbox import Inbox

FRAMES_PER_SECOND: Final = 5000
"""How fast frames are read of who sends many at once: a flood slows down its own connection only."""


class WebSocket(Connection):
    """A connection that speaks RFC 6455."""

    __slots__ = ("inbox", "owed", "reader", "slowed", "unconfirmed")

    def __init__(
        self, gateway: Owner, connection_id: str, claims: Claims, device: str, *, manual: bool
    ) -> None:
        super().__init__(gateway, connection_id, claims, device, manual=manual)
        self.reader: FrameReader | None = None
        self.inbox: Inbox | None = None
        self.owed: bytes | None = None
        self.unconfirmed = 0
        self.slowed = False

    def attach(self, transport: asyncio.Transport, answer: bytes) -> None:
        """Take over a socket, and let the hub send to it directly."""
        super().attach(transport, answer)
        if self.wire is not None:
            self.send = self.wire.send

    def send_ping(self, before: bytes = b"") -> None:
        """Ask, by a ping that carries the position, whether all before it has arrived.

        At most one is outstanding; ``before`` is written in any case, with the same call.
        """
        position = self.ping(self.gateway.hub.position)
        ping = b"" if position is None else ping_frame(b"%d" % position)
        if before or ping:
            self.write(before + ping)

    def progressed(self) -> bool:
        """Tell whether less is on its way than a heartbeat ago; after a frame that is not asked."""
        unconfirmed = self.outstanding() if self.silent > 1 else 0
        less, self.unconfirmed = unconfirmed < self.unconfirmed, unconfirmed
        return less

    def send_away(self, farewell: Farewell) -> None:
        """Write ``disconnect`` ahead of the end."""
        self.notify(text_frame(farewell.frame()))

    def say_last(self, farewell: Farewell) -> None:
        """Write ``disconnect`` and Close."""
        self.write(text_frame(farewell.frame()) + close_frame(farewell.code, farewell.reason))

    def reply(self, answer: bytes) -> None:
        """Write an answer; a client that asks and asks and never reads is closed."""
        if self.state is State.CLOSED:
            return
        transport = cast("asyncio.Transport", self.transport)
        if transport.get_write_buffer_size() > 2 * self.gateway.settings.write_buffer:
            self.end(4029, "answers are not read")
        else:
            transport.write(text_frame(answer))

    # The transport's side

    def resume_writing(self) -> None:
        """Take note that it has drained, and answer the ping that waits for it."""
        super().resume_writing()
        if self.owed is not None:
            payload, self.owed = self.owed, None
            self.write(pong_frame(payload))

    def data_received(self, data: bytes) -> None:
        """Take what the client sent."""
        self.silent = 0
        whole = whole_messages(data) if self.reader is None else None
        messages = self._read(data) if whole is None else whole
        for message in messages:
            self._receive(message)
        if len(messages) >= AT_ONCE or (self.reader is not None and self.reader.waiting):
            self._slow_down(max(AT_ONCE, len(messages)))

    def _slow_down(self, frames: int) -> None:
        """Read nothing more for as long as so many frames may take."""
        transport = cast("asyncio.Transport", self.transport)
        if not (self.slowed or transport.is_closing()):
            self.slowed = True
            transport.pause_reading()
            asyncio.get_running_loop().call_later(frames / FRAMES_PER_SECOND, self._go_on)

    def _go_on(self) -> None:
        self.slowed = False
        if self.reader is not None and self.reader.waiting:
            self.data_received(b"")
        self.read_on()

    def read_on(self) -> None:
        """Read again, unless there is another reason not to."""
        transport = cast("asyncio.Transport", self.transport)
        if not (self.slowed or (self.inbox is not None and self.inbox.full) or transport.is_closing()):
            transport.resume_reading()

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
        self.abort_soon()  # it may have stopped reading, and then the buffer never drains

    def _answer(self, payload: bytes) -> None:
        """Answer a ping; while the buffer is full only the last one is owed (RFC 6455 §5.5.3)."""
        if self.paused:
            self.owed = payload
        else:
            self.write(pong_frame(payload))
