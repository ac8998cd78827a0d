"""What others see of users: that they are connected, and the rooms that they are in."""

from typing import Literal, NamedTuple

import msgspec

from service.domain.frames import frame

Kind = Literal["connected", "disconnected", "joined", "left"]


class Change(NamedTuple):
    """A user came or went, or joined or left ``room``; ``info`` is JSON text of who came or went."""

    kind: Kind
    user: str
    room: str | None = None
    info: str | None = None


def notice(change: Change) -> bytes:
    """Return the frame that tells of a change."""
    if change.kind == "joined":
        return frame("user_joined_room", room=change.room, user=change.user)
    if change.kind == "left":
        return frame("user_left_room", room=change.room, user=change.user)
    shown = None if change.info is None else msgspec.Raw(change.info.encode())
    if change.kind == "connected":
        return frame("user_connected", user=change.user, info=shown)
    return frame("user_disconnected", user=change.user, info=shown)
