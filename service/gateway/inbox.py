"""What a client asks over its socket: charged, performed one after the other, answered."""

import asyncio
from collections import deque
from math import ceil
from typing import TYPE_CHECKING, Final, cast

from service.domain.commands import Ack, AnyCommand, Ping, Pong, read_command, read_envelope
from service.domain.delivery import State
from service.domain.errors import Invalid, RateLimited, TidingsError
from service.domain.frames import frame

if TYPE_CHECKING:
    from service.gateway.websocket import WebSocket

MAX_COMMANDS: Final = 64
MAX_OFFENCES: Final = 10

Ref = str | int | None


class Inbox:
    """A connection's commands. It is made when the first one comes: most clients never send any."""

    __slots__ = ("_allowance", "_allowed_at", "_commands", "_connection", "_offences", "_performing")

    def __init__(self, connection: "WebSocket") -> None:
        self._connection = connection
        self._commands: deque[AnyCommand] = deque()
        self._performing: asyncio.Task[None] | None = None
        self._allowance = float(connection.gateway.settings.commands_per_second)
        self._allowed_at = 0.0
        self._offences = 0

    def take(self, message: str | bytes) -> None:
        """Take a message, which ought to be a command."""
        if isinstance(message, bytes):
            if self._allowed(None):
                self._refuse(Invalid("frames are JSON text"), None)
            return
        try:
            command = read_command(message)
        except TidingsError as error:
            if self._allowed(ref := _ref_of(message)):
                self._refuse(error, ref)
            return
        self._take(command)

    def _take(self, command: AnyCommand) -> None:
        connection = self._connection
        if isinstance(command, Ack | Pong):  # not charged: a long backlog may be acknowledged one by one
            if isinstance(command, Ack):
                connection.acknowledge(command.position)
            if command.ref is not None:
                connection.reply(frame("ok", ref=command.ref, position=connection.acked))
        elif not self._allowed(command.ref):
            return
        elif isinstance(command, Ping):
            connection.reply(frame("pong", ts=command.ts, ref=command.ref))
        else:
            self._enqueue(command)

    def _allowed(self, ref: Ref) -> bool:
        """Charge one command; whoever goes on beyond the limit is closed."""
        now = asyncio.get_running_loop().time()
        rate = self._connection.gateway.settings.commands_per_second
        self._allowance = min(rate, self._allowance + (now - self._allowed_at) * rate) - 1
        self._allowed_at = now
        if self._allowance >= 0:
            self._offences = 0
            return True
        self._offences += 1
        if self._offences > MAX_OFFENCES:
            self._connection.end(4029, "too many commands")
        else:
            self._refuse(RateLimited(f"at most {rate} commands a second"), ref)
        return False

    def _enqueue(self, command: AnyCommand) -> None:
        """Perform commands one after the other; reading stops while too many wait."""
        self._commands.append(command)
        if self.full:
            cast("asyncio.Transport", self._connection.transport).pause_reading()
        if self._performing is None:
            self._performing = self._connection.gateway.spawn(self._connection, self._perform())

    async def _perform(self) -> None:
        connection = self._connection
        while self._commands and connection.state is not State.CLOSED:
            command = self._commands.popleft()
            try:
                answer = await connection.gateway.perform(connection, command)
                if answer is not None:
                    connection.reply(answer)
            except TidingsError as error:
                self._refuse(error, command.ref)
            if len(self._commands) == MAX_COMMANDS // 2:
                self._connection.read_on()
        self._performing = None

    def _refuse(self, error: TidingsError, ref: Ref) -> None:
        self._connection.gateway.metrics.refusals.labels(error.code).inc()
        wait = error.retry_after if isinstance(error, RateLimited) else None
        self._connection.reply(frame(
            "error", ref=ref, code=error.code, message=str(error),
            retry_after_ms=None if wait is None else ceil(wait * 1000),
        ))  # fmt: skip

    @property
    def full(self) -> bool:
        """Whether so many commands wait that no more shall be read."""
        return len(self._commands) >= MAX_COMMANDS


def _ref_of(text: str) -> Ref:
    try:
        return read_envelope(text).ref
    except Invalid:
        return None
