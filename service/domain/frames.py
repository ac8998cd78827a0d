"""The JSON of every frame that the server sends, as UTF-8 bytes with ``type`` first.

An event's ``data`` is spliced in as it was received. What an entry becomes is the same for all its
receivers, so it is made once (``finished``).
"""

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from service.domain.events import Entry
from service.domain.recent import Gap
from service.domain.websocket import text_frame

_text = msgspec.json.Encoder().encode


class _Event(msgspec.Struct, omit_defaults=True, rename={"sender": "from"}, gc=False):
    """An event as pages show it; one pass of the encoder is a quarter cheaper than one for each field."""

    position: int
    id: str
    to: str
    event: str
    data: msgspec.Raw
    time: str
    sender: str | None = None


class _EventFrame(_Event, tag_field="type", tag="event", gc=False):
    """The same with its ``type``, as sockets show it."""


class _EphemeralFrame(
    msgspec.Struct, omit_defaults=True, rename={"sender": "from"}, tag_field="type", tag="event"
):
    """An event that has no position, because it is not stored."""

    to: str
    event: str
    data: msgspec.Raw
    time: str
    id: str | None = None
    sender: str | None = None
    ephemeral: Literal[True] | msgspec.UnsetType = msgspec.UNSET


def finished(entry: Entry) -> bytes:
    """Return the WebSocket frame of an entry, which is made once, when somebody first needs it."""
    made = entry.frame
    if made is None:
        made = text_frame(entry_frame(entry))
        msgspec.structs.force_setattr(entry, "frame", made)
    return made


def frame(kind: str, **fields: Any) -> bytes:
    """Return a frame of this type; fields that are None are left out."""
    present = {name: value for name, value in fields.items() if value is not None}
    return _text({"type": kind, **present})


def entry_frame(entry: Entry) -> bytes:
    """Return what a client is sent for an entry of the log."""
    if entry.kind == "joined":
        return frame("joined_room", room=entry.type, position=entry.position)
    if entry.kind == "left":
        return frame("left_room", room=entry.type, position=entry.position)
    return _text(_shown(_EventFrame, entry))


def _shown(shape: type[_Event], entry: Entry) -> _Event:
    data = msgspec.Raw(entry.data)
    return shape(entry.position, entry.event_id, entry.address, entry.type, data, entry.time, entry.sender)


def ephemeral_frame(
    to: str, about: str, data: str, time: str, event_id: str | None, sender: str | None
) -> bytes:
    """Return what who is connected is sent of an event that is not stored."""
    return _text(_EphemeralFrame(to, about, msgspec.Raw(data), time, event_id, sender, ephemeral=True))


def gap_frame(gap: Gap) -> bytes:
    """Return the frame that says what cannot be had."""
    return _text({"type": "gap", "from": gap.after, "to": gap.upto, "reason": gap.reason})


def event_list(entries: Iterable[Entry], next_cursor: str | None) -> bytes:
    """Return a page of events as JSON, with the cursor of the page after it."""
    data = b",".join(_text(_shown(_Event, entry)) for entry in entries)
    more = b"true" if next_cursor is not None else b"false"
    return b'{"data":[%s],"next_cursor":%s,"has_more":%s}' % (data, _text(next_cursor), more)
