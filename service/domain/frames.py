"""The JSON of every frame that the server sends, as UTF-8 bytes with ``type`` first.

An event's ``data`` is spliced in as it was received. What an entry becomes is the same for all its
receivers, so it is made once (``finished``).
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

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


class _InboxEvent(_Event, kw_only=True, gc=False):
    """The same with its read state, as the inbox shows it."""

    read: bool


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


def timestamp(at: datetime) -> str:
    """Return an instant as frames show it: RFC 3339, UTC, milliseconds."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


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


class Farewell(NamedTuple):
    """Why a connection ends, and whether its client is to come back; the last thing that it is told."""

    code: int
    reason: str
    reconnect: bool = False
    retry_after_ms: int | None = None

    def frame(self) -> bytes:
        """Return the frame that says so."""
        return frame("disconnect", **self._asdict())


def entry_frame(entry: Entry) -> bytes:
    """Return what a client is sent for an entry of the log."""
    if entry.kind == "joined":
        return frame("joined_room", room=entry.type, position=entry.position)
    if entry.kind == "left":
        return frame("left_room", room=entry.type, position=entry.position)
    if entry.kind == "read":
        return frame("inbox_read", position=entry.position, **msgspec.json.decode(entry.data))
    if entry.kind == "recalled":
        return frame("recalled", position=entry.position, recalled=int(entry.data))
    return _text(_shown(_EventFrame, entry))


def _shown(shape: type[_Event], entry: Entry, **more: Any) -> _Event:
    data = msgspec.Raw(entry.data)
    return shape(
        entry.position, entry.event_id, entry.address, entry.type, data, entry.time, entry.sender, **more
    )


def ephemeral_frame(
    to: str, about: str, data: str, time: str, event_id: str | None, sender: str | None
) -> bytes:
    """Return what who is connected is sent of an event that is not stored."""
    return _text(_EphemeralFrame(to, about, msgspec.Raw(data), time, event_id, sender, ephemeral=True))


class _EventDetail(_Event, gc=False):
    """The same with what else is known of it."""

    recalled: int | None = None
    expires_at: str | None = None
    collapse_key: str | None = None


def event_detail(entry: Entry, recalled: int | None) -> bytes:
    """Return one event as pages show it, and what most pages need not say."""
    return _text(_detailed(entry, recalled))


def event_details(found: Iterable[tuple[Entry, int | None]], next_cursor: str | None) -> bytes:
    """Return a page of events in all detail, each with where it was taken back."""
    return _list([_detailed(entry, recalled) for entry, recalled in found], next_cursor)


def _detailed(entry: Entry, recalled: int | None) -> _Event:
    expires_at = entry.expires_at and timestamp(datetime.fromtimestamp(entry.expires_at, UTC))
    shown = _shown(_EventDetail, entry)
    fields = {"recalled": recalled, "expires_at": expires_at, "collapse_key": entry.collapse_key}
    return msgspec.structs.replace(shown, **fields)


def gap_frame(gap: Gap) -> bytes:
    """Return the frame that says what cannot be had."""
    return _text({"type": "gap", "from": gap.after, "to": gap.upto, "reason": gap.reason})


def event_list(entries: Iterable[Entry], next_cursor: str | None) -> bytes:
    """Return a page of events as JSON, with the cursor of the page after it."""
    return _list([_shown(_Event, entry) for entry in entries], next_cursor)


def inbox_list(items: Iterable[tuple[Entry, bool]], next_cursor: str | None) -> bytes:
    """Return a page of an inbox as JSON: events, and whether each of them is read."""
    return _list([_shown(_InboxEvent, entry, read=read) for entry, read in items], next_cursor)


def _list(data: list[_Event], next_cursor: str | None) -> bytes:
    return _text({"data": data, "next_cursor": next_cursor, "has_more": next_cursor is not None})
