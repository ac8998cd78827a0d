"""What an application is told."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

from tidings_client.progress import Frame

State = Literal["connecting", "catching-up", "live", "offline", "unauthorized", "closed"]
"""``connecting``: an attempt is under way. ``catching-up``: what was missed is coming. ``live``: all of it
has come. ``offline``: the next attempt is waited for. ``unauthorized`` and ``closed`` are ends."""

Kind = Literal["state", "gap", "recalled", "read", "room", "presence", "error"]
"""What can be watched besides events."""

Notice = Mapping[str, Any]
"""A frame as the protocol has it; of a ``state`` what it is, and what is known about it; of an ``error``
the ``error``, an exception."""

KINDS: Final[Mapping[str, Kind]] = {
    "gap": "gap",
    "recalled": "recalled",
    "inbox_read": "read",
    "joined_room": "room",
    "left_room": "room",
    "user_joined_room": "presence",
    "user_left_room": "presence",
    "user_connected": "presence",
    "user_disconnected": "presence",
}
"""The frames that come in order with events, and who watches them."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event. One that is ``ephemeral`` has no position, and an ``id`` only if its sender gave one."""

    position: int | None
    id: str | None
    to: str
    type: str
    data: Any
    time: datetime
    """Of the commit, in UTC."""
    from_: str | None = None
    """The user, where a client has published it."""
    ephemeral: bool = False


def event_of(frame: Frame) -> Event:
    """Return the event that a frame tells of."""
    get = frame.get
    return Event(
        get("position"), get("id"), frame["to"], frame["event"], get("data"),
        datetime.fromisoformat(frame["time"]), get("from"), get("ephemeral", False),
    )  # fmt: skip


class Published(NamedTuple):
    """Where an event that a client has published stands; an ephemeral one stands nowhere."""

    position: int | None
    id: str | None
