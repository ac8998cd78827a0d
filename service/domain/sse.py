"""Server-Sent Events (HTML, §9.2): the messages of a stream, made of what sockets are sent. Pure code.

A frame is made once, for sockets; what a stream is sent is a function of it, and so can be neither
more, nor less, nor in another order.
"""

import re
from typing import Final

import msgspec

from service.domain.websocket import texts

PING: Final = b": ping\n"
"""A comment, and no message: without an empty line behind it none of the parsers about makes one of it."""

_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_EVENT: Final = re.compile(rb'\{"type":"event",(?:"position":(\d+))?')
"""How an event begins: what its producer wrote stands further on, and is not read."""


class _Place(msgspec.Struct):
    """What any other frame says of its place in the log, in whichever of its fields."""

    type: str
    position: int | None = None
    to: int | str | None = None


_place = msgspec.json.Decoder(_Place).decode


class Messages:
    """Translates frames, and remembers the last ones: they are the same bytes for many streams."""

    def __init__(self) -> None:
        self._frames = self._messages = b""

    def of(self, frames: bytes) -> bytes:
        """Return what ``messages`` makes of these frames."""
        if frames is not self._frames:
            self._frames, self._messages = frames, messages(frames)
        return self._messages


def messages(frames: bytes) -> bytes:
    """Return finished text frames as messages."""
    return b"".join(map(message, texts(frames)))


def message(text: bytes) -> bytes:
    """Return a frame's JSON as a message, with the position that the stream is complete up to as its id.

    Every line has to begin anew (§9.2.5): a producer's JSON may have line ends between its tokens.
    """
    event = _EVENT.match(text)
    if event is not None:
        at = event[1]
    else:
        place = _place(text)
        if place.type == "ping":
            return PING
        position = place.to if place.type == "gap" else place.position
        at = None if position is None else str(position).encode()
    if b"\n" in text or b"\r" in text:
        text = _LINE_END.sub(b"\ndata: ", text)
    return b"data: %b\n\n" % text if at is None else b"id: %b\ndata: %b\n\n" % (at, text)


def retry(pause: int) -> bytes:
    """Return the field that says after how many milliseconds to reconnect; a message may follow."""
    return b"retry: %d\n" % pause
