"""The JSON of every frame that the server sends, as UTF-8 bytes with ``type`` first.

An event's ``data`` is spliced in as it was received. What an entry becomes is the same for all its
receivers, so it is made once.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from service.domain.events import Entry
from service.domain.recent import Gap

_text = msgspec.json.Encoder().encode


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
    return b'{"type":"event",' + event_fields(entry) + b"}"


def event_fields(entry: Entry) -> bytes:
    """Return an event's fields without the braces, as frames and pages show them."""
    sender = b"" if entry.sender is None else b',"from":' + _text(entry.sender)
    return b'"position":%d,"id":%s,"to":%s,"event":%s,"data":%s,"time":"%s"%s' % (
        entry.position,
        _text(entry.event_id),
        _text(entry.address),
        _text(entry.type),
        entry.data.encode(),
        entry.time.encode(),
        sender,
    )


def gap_frame(gap: Gap) -> bytes:
    """Return the frame that says what cannot be had."""
    return _text({"type": "gap", "from": gap.after, "to": gap.upto, "reason": gap.reason})


def event_list(entries: Iterable[Entry], next_cursor: str | None) -> bytes:
    """Return a page of events as JSON, with the cursor of the page after it."""
    data = b",".join(b"{" + event_fields(entry) + b"}" for entry in entries)
    more = b"true" if next_cursor is not None else b"false"
    return b'{"data":[%s],"next_cursor":%s,"has_more":%s}' % (data, _text(next_cursor), more)
