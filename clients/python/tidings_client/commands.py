"""Commands that wait for their answers, over one connection after the other."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

from tidings_client.errors import CommandFailed
from tidings_client.progress import Frame

BOUND: Final = 100
"""Commands that may wait at once."""
TOO_LARGE: Final = 1009


@dataclass(slots=True, eq=False)
class Command:
    """A command on its way. One that ``repeats`` may be sent again, where nobody knows what became of it."""

    frame: Frame
    answer: asyncio.Future[Frame]
    repeats: bool
    sent: bool = False


class Commands:
    """Holds commands by their ``ref``."""

    def __init__(self) -> None:
        self._refs = count(1)
        self._waiting: dict[int, Command] = {}

    def add(self, fields: Mapping[str, Any], *, repeats: bool) -> Command:
        """Let a command wait. Raises CommandFailed where too many do."""
        if len(self._waiting) >= BOUND:
            raise CommandFailed("rate_limited", f"{BOUND} commands wait for their answers")
        ref = next(self._refs)
        answer = asyncio.get_running_loop().create_future()
        command = Command({**fields, "ref": ref}, answer, repeats)
        self._waiting[ref] = command
        return command

    def forget(self, command: Command) -> None:
        """Wait for it no more."""
        self._waiting.pop(command.frame["ref"], None)

    def unsent(self) -> Command | None:
        """Return the first one that this connection has not been sent."""
        return next((command for command in self._waiting.values() if not command.sent), None)

    def answered(self, frame: Frame) -> bool:
        """Take an answer; tell whether a command of ours was waiting for it."""
        command = self._waiting.pop(frame.get("ref", 0), None)
        if command is None:
            return False
        if not command.answer.done():
            if frame["type"] == "ok":
                command.answer.set_result(frame)
            else:
                command.answer.set_exception(failure(frame))
        return True

    def lost(self, code: int | None = None) -> None:
        """Note that the connection has gone: what had been sent is sent again, or has failed.

        Where that was because of too large a message, it was the largest one.
        """
        sent = [command for command in self._waiting.values() if command.sent]
        if code == TOO_LARGE and sent:
            largest = max(sent, key=lambda command: len(json.dumps(command.frame)))
            self._fail(largest, CommandFailed("too_large", "the message is larger than the service takes"))
        for command in list(self._waiting.values()):
            if command.sent and command.repeats:
                command.sent = False
            elif command.sent:
                self._fail(command, CommandFailed("disconnected", "the connection was lost"))

    def end(self, error: Exception) -> None:
        """Fail all of them."""
        for command in list(self._waiting.values()):
            self._fail(command, error)

    def _fail(self, command: Command, error: Exception) -> None:
        self.forget(command)
        if not command.answer.done():
            command.answer.set_exception(error)


def failure(frame: Frame) -> CommandFailed:
    """Return what an ``error`` frame says."""
    return CommandFailed(frame["code"], frame["message"], frame.get("retry_after_ms"))
