"""How far a receiver is: which frames are new to it, and which it has handled."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

Frame = Mapping[str, Any]

_ABOUT_OTHERS: Final = {"welcome", "live"}
"""Frames whose position is not their own."""


class Stream(NamedTuple):
    """Whose events of which log: positions are comparable only within one."""

    log: str
    user: str

    @classmethod
    def of(cls, welcome: Frame) -> Self:
        """Return what a connection says that it brings."""
        return cls(welcome["log"], welcome["user"])


@dataclass(frozen=True, slots=True)
class Place:
    """Everything of this stream up to the position is handled."""

    stream: Stream
    position: int

    @property
    def resume(self) -> str:
        """Return it as the query of a connection says it."""
        return f"{self.stream.log}:{self.position}"

    def text(self) -> str:
        """Return what is put into a store."""
        return json.dumps({"log": self.stream.log, "user": self.stream.user, "position": self.position})

    @classmethod
    def read(cls, text: str | None) -> Self | None:
        """Return what a store had; nothing where it makes no sense."""
        try:
            match json.loads(text or "null"):
                case {"log": str(log), "user": str(user), "position": int(position)} if position >= 0:
                    return cls(Stream(log, user), position)
        except ValueError:
            pass
        return None


class Arrivals:
    """Tells what is new, of all that comes over one connection after the other, or over two at once.

    Each connection brings everything that comes after the handled position, in order. So whatever is
    not beyond the greatest position that any has brought has come before.
    """

    def __init__(self, place: Place | None) -> None:
        self.stream = place.stream if place else None
        self._received = place.position if place else -1

    def turn_to(self, stream: Stream | None) -> None:
        """Note whose events come now. If they are others than before, no position counts any more."""
        if stream != self.stream:
            self.stream, self._received = stream, -1

    def is_new(self, stream: Stream | None, frame: Frame) -> bool:
        """Tell whether this frame is to be passed on, and count it.

        One of a former stream is not: its position would be taken for one of this. What follows a gap comes
        after its end, also where that is less than what has been seen: then the log has lost the rest, and
        gives out these positions anew.
        """
        if stream != self.stream:
            return False
        if frame["type"] == "gap":
            self._received = frame["to"]
            return True
        position = frame.get("position")
        if position is None or frame["type"] in _ABOUT_OTHERS:
            return True
        if position <= self._received:
            return False
        self._received = position
        return True


def handled_by(frame: Frame) -> int | None:
    """Return the position up to which all is handled once this frame is; None where it has none."""
    position: int | None = frame.get("to" if frame["type"] == "gap" else "position")
    return position
