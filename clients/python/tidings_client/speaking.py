"""What a client says: commands, each until it is answered, and what every connection is to be told anew."""

import asyncio
from typing import Any, Final

from tidings_client.commands import Commands, failure
from tidings_client.link import Link
from tidings_client.pace import Pace
from tidings_client.progress import Frame
from tidings_client.watchers import Watchers

PATIENCE: Final = 30.0
"""Seconds for the answer to a command."""


class Speaking:
    """Sends commands over whichever connection there is, in order and not too fast, and waits for answers."""

    def __init__(self, watchers: Watchers) -> None:
        self._watchers = watchers
        self._commands = Commands()
        self._rooms: dict[str, Frame] = {}
        """What this connection was told, and the next one has to be told."""
        self._pace = Pace()
        self._turn = asyncio.Lock()
        self._link: Link | None = None
        self._error: Exception | None = None

    async def ask(self, kind: str, *, repeats: bool = True, **fields: Any) -> Frame:
        """Return the answer to a command, over this connection or the next one.

        Raises CommandFailed, TimeoutError, and what it has all ended with.
        """
        if self._error is not None:
            raise self._error
        command = self._commands.add({"type": kind, **fields}, repeats=repeats)
        try:
            async with asyncio.timeout(PATIENCE):
                await self._send_waiting()
                return await command.answer
        finally:
            self._commands.forget(command)

    async def join(self, room: str, *, durable: bool, presence: bool) -> None:
        """Join a room, and again over every connection where that counts for one only."""
        frame = {"type": "join_room", "room": room, "durable": durable, "presence": presence}
        if presence or not durable:
            self._rooms[room] = frame  # before the answer: what is left meanwhile must not be joined again
        try:
            await self.ask("join_room", room=room, durable=durable, presence=presence)
        except BaseException:
            if self._rooms.get(room) is frame:
                del self._rooms[room]
            raise

    async def leave(self, room: str) -> None:
        """Leave a room, and do not join it again."""
        self._rooms.pop(room, None)
        await self.ask("leave_room", room=room)

    def hear(self, frame: Frame) -> None:
        """Take an answer."""
        if not self._commands.answered(frame) and frame["type"] == "error":
            self._watchers.report(failure(frame))

    async def over(self, link: Link) -> None:
        """Speak over this connection from now on, and tell it what it has to know."""
        self._link = link
        async with self._turn:
            for frame in list(self._rooms.values()):
                await self._pause()
                await link.send(frame)
        await self._send_waiting()

    def lost(self, code: int | None) -> None:
        """Note that there is no connection."""
        self._link = None
        self._commands.lost(code)

    def end(self, error: Exception) -> None:
        """Answer nobody any more."""
        self._link, self._error = None, error
        self._commands.end(error)

    async def _send_waiting(self) -> None:
        async with self._turn:
            while self._link is not None and self._commands.unsent() is not None:
                await self._pause()  # where that is cancelled, nobody's command is taken for sent
                if self._link is not None and (command := self._commands.unsent()) is not None:
                    command.sent = True
                    await self._link.send(command.frame)

    async def _pause(self) -> None:
        await asyncio.sleep(self._pace.next(asyncio.get_running_loop().time()))
