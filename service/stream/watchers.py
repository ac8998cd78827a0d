"""Who asked to be told of others: that they come and go, and in which rooms they are."""

from collections.abc import Iterable
from typing import Protocol

from service.domain.addresses import EVERYONE
from service.domain.delivery import State
from service.domain.presence import Change, notice
from service.domain.websocket import text_frame


class Watcher(Protocol):
    """What is needed of a connection to tell it."""

    state: State
    watches: set[str] | None
    """Rooms whose comings and goings it is told of, or ``everyone``; None for none."""

    @property
    def user(self) -> str:
        """Return the user it is for: nobody is told of themselves."""

    def notify(self, data: bytes) -> None:
        """Write frames that may be lost."""


class Watchers:
    """The connections of this instance that watch, by what they watch."""

    def __init__(self) -> None:
        self._watchers: dict[str, dict[Watcher, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._watchers)

    @property
    def rooms(self) -> list[str]:
        """Return the rooms that are watched."""
        return [room for room in self._watchers if room != EVERYONE]

    def watch(self, connection: Watcher, room: str) -> None:
        """Tell this connection who comes and goes in ``room``, or at all where it is ``everyone``."""
        if connection.state is State.CLOSED:
            return
        connection.watches = (connection.watches or set()) | {room}
        self._watchers.setdefault(room, {})[connection] = None

    def unwatch(self, connection: Watcher, room: str) -> None:
        """Tell it no longer."""
        if connection.watches is None or room not in connection.watches:
            return
        connection.watches.remove(room)
        watchers = self._watchers[room]
        del watchers[connection]
        if not watchers:
            del self._watchers[room]

    def forget(self, connection: Watcher) -> None:
        """Tell it of nothing any more."""
        for room in list(connection.watches or ()):
            self.unwatch(connection, room)

    def tell(self, change: Change, rooms: Iterable[str] = ()) -> None:
        """Tell of a change whoever watches its room; without one, whoever watches all or one of ``rooms``."""
        watched = (EVERYONE, *rooms) if change.room is None else (change.room,)
        interested = {w: None for room in watched for w in self._watchers.get(room, ())}
        if interested:
            data = text_frame(notice(change))
            for connection in interested:
                if connection.user != change.user:
                    connection.notify(data)
