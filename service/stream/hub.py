"""Who gets what is new: addresses on one side, live connections on the other.

All live connections stand at the hub's position, so the loop over them keeps no books. The hub is
not thread-safe and never awaits: between two of its calls nothing is half done.
"""

from abc import abstractmethod
from collections.abc import Callable, Container, Iterator, Mapping
from functools import partial
from itertools import groupby

from service.domain.delivery import Delivery, Source, State
from service.domain.events import DELIVERED, MEMBERSHIP, Entry, Group
from service.domain.frames import finished
from service.domain.presence import Change
from service.domain.recent import Recent
from service.stream.outbox import MAX_PARTS, Outbox, Send
from service.stream.watchers import Watchers


class Receiver(Delivery):
    """What the hub needs of a connection besides its place in the log."""

    __slots__ = ("id", "noted", "send", "since", "watches")

    id: str
    noted: bool
    """Whether the database may know of it."""
    send: Send
    """Used only while it is live, when its socket has nothing else to write."""
    since: float
    """When it began, by the loop's clock."""
    watches: set[str] | None
    """Rooms whose comings and goings it is told of, or ``everyone``; None for none."""

    @abstractmethod
    def send_rest(self, rest: memoryview) -> None:
        """Write what ``send`` did not take; calls nothing of the hub but ``lag``."""

    @abstractmethod
    def notify(self, data: bytes) -> None:
        """Write frames that may be lost: they are, where the write buffer is full."""

    @abstractmethod
    def acknowledge(self, position: int) -> None:
        """Take the client's word that it has processed everything up to ``position``."""

    @abstractmethod
    def end(self, code: int, reason: str, *, reconnect: bool = False) -> None:
        """Say why, close, and be gone: it unregisters before it returns."""


class Hub:
    """Routes the log to the connections of this instance, entry by entry and in order."""

    def __init__(self, position: int, recent: Recent, control: Callable[["Hub", Entry], None]) -> None:
        self.position = position
        """Every live connection has been written everything up to here."""
        self.recent = recent
        self.delivered = 0
        self.users: dict[str, tuple[Receiver, ...]] = {}
        """By name, each user's connections in whatever state, the oldest first."""
        self.touched: set[str] = set()
        """Addresses written to since somebody last emptied this."""
        self.changed: dict[Receiver, None] = {}
        """Connections that began, ended or changed what others see of them, likewise; the oldest first."""
        self.watchers = Watchers()
        self._control = control
        self._receivers: dict[str, dict[Receiver, Send]] = {}
        self._outbox: Outbox[Receiver] = Outbox()
        self._last: dict[str, int] = {}

    # Connections come and go

    def __iter__(self) -> Iterator[Receiver]:
        for connections in list(self.users.values()):
            yield from connections

    def register(self, connection: Receiver) -> None:
        """Let control entries and membership reach it from now on, in whatever state it is."""
        self.users[connection.user] = (*self.users.get(connection.user, ()), connection)

    def unregister(self, connection: Receiver) -> None:
        """Forget it. Doing so again changes nothing."""
        connections = self.users.get(connection.user, ())
        if connection not in connections:
            return
        if connection.state is State.LIVE:
            self._detach(connection)
        connection.state = State.CLOSED
        self.watchers.forget(connection)
        self.users[connection.user] = tuple([c for c in connections if c is not connection])
        if not self.users[connection.user]:
            del self.users[connection.user]
        if connection.begun:
            self.changed[connection] = None

    def announce(self, connection: Receiver) -> None:
        """Let others see it; call once, when it has begun."""
        self.changed[connection] = None

    def go_live(self, connection: Receiver) -> None:
        """Route to it from the hub's position on, where it stands."""
        if connection.state is State.CLOSED:
            return
        connection.went_live()
        for address in connection.addresses():
            self._receivers.setdefault(address, {})[connection] = connection.send

    def lag(self, connection: Receiver) -> None:
        """Take a connection whose socket is full out of the loop: from here on it has to catch up."""
        if connection.state is State.LIVE:
            self._detach(connection)
            connection.fell_behind(self.position)

    def regrant(self, connection: Receiver, change: Callable[[], None]) -> None:
        """Run ``change``, which alters what is due to the connection, and route by the result."""
        live = connection.state is State.LIVE
        if live:
            self._detach(connection)
        change()
        self.changed[connection] = None
        if live:
            self.go_live(connection)

    def reroute(self, connection: Receiver, room: str, change: Callable[[], None]) -> None:
        """Do the same for one room, at a cost that does not grow with the others."""
        before = connection.rooms.get(room)
        change()
        address, membership = f"room:{room}", connection.rooms.get(room)
        if any(m is not None and m.source == "connection" for m in (before, membership)):
            self.changed[connection] = None
        if connection.state is not State.LIVE:
            return
        if membership is not None and connection.receives(room, membership.source):
            self._receivers.setdefault(address, {})[connection] = connection.send
        elif connection in self._receivers.get(address, ()):
            self._remove(connection, address)

    def _detach(self, connection: Receiver) -> None:
        for address in connection.addresses():
            self._remove(connection, address)

    def _remove(self, connection: Receiver, address: str) -> None:
        connection.sent = max(connection.sent, self._last.get(address, 0))
        receivers = self._receivers[address]
        del receivers[connection]
        if not receivers:
            del self._receivers[address]
            self._last.pop(address, None)

    # The log

    def apply(self, group: Group) -> None:
        """Write the next group to whom it is for. It has to begin where the hub stands."""
        for (address, plain), run in groupby(group.entries, key=_routing):
            if plain:
                self._deliver(address, list(run))
            else:
                for entry in run:
                    self._apply_one(entry)
        self._flush(group.last)
        self.recent.extend(group.entries)

    def _flush(self, position: int) -> None:
        """Write what is due up to ``position``, and stand there; who cannot take it lags from there."""
        self.position = position
        self._outbox.flush()

    def _live(self, address: str) -> Mapping[Receiver, Send]:
        """Return who is live at an address; a user's are found by name, which saves a table for each."""
        if address.startswith("user:"):
            return {c: c.send for c in self.users.get(address[5:], ()) if c.state is State.LIVE}
        return self._receivers.get(address, {})

    def _deliver(self, address: str, entries: list[Entry]) -> None:
        receivers = self._live(address)
        if not receivers:
            return
        last = entries[-1].position
        self.delivered += len(receivers) * len(entries)
        self.touched.add(address)
        if address in self._receivers:
            self._last[address] = last
        else:
            for connection in receivers:
                connection.sent = last
        self._add(receivers, b"".join([finished(entry) for entry in entries]), last)

    def _add(self, receivers: Mapping[Receiver, Send], frames: bytes, position: int) -> None:
        self._outbox.add(receivers, frames)
        if self._outbox.held > MAX_PARTS:
            self._flush(position)

    def _apply_one(self, entry: Entry) -> None:
        if entry.is_control:
            self._flush(entry.position)
            self._control(self, entry)
        elif entry.kind in MEMBERSHIP:
            self._move(entry)
        elif entry.kind in DELIVERED:
            self._deliver_selectively(entry)

    def _deliver_selectively(self, entry: Entry) -> None:
        receivers = {
            connection: send
            for connection, send in self._live(entry.address).items()
            if not entry.withheld_from(connection.user, connection.device)
        }
        if not receivers:
            return
        for connection in receivers:
            connection.sent = entry.position
        self.delivered += len(receivers)
        self.touched.add(entry.address)
        self._add(receivers, finished(entry), entry.position)

    def _move(self, entry: Entry) -> None:
        user, room = entry.address.removeprefix("user:"), entry.type
        self._deliver(entry.address, [entry])
        self._flush(entry.position)
        for connection in self.users.get(user, ()):
            if entry.kind == "left":
                change = partial(connection.left, room, entry.position)
            else:
                source: Source = "api" if entry.data == "api" else "client"
                change = partial(connection.joined, room, source, entry.position)
            self.reroute(connection, room, change)
            if entry.kind == "left":
                self.watchers.unwatch(connection, room)
        self.watchers.tell(Change("left" if entry.kind == "left" else "joined", user, room))

    def pass_on(self, address: str, data: bytes, exclude: Container[str] = ()) -> None:
        """Write frames of what is not in the log to who is live at ``address``; they may be lost.

        ``exclude`` has users, and users with one of their devices behind a line feed.
        """
        for connection in list(self._live(address)):
            if not (connection.user in exclude or f"{connection.user}\n{connection.device}" in exclude):
                connection.notify(data)

    def last_written(self, connection: Receiver) -> int:
        """Return a position at or after the last entry that was written to a live connection."""
        return max(self._last.get(address, 0) for address in connection.addresses())

    def receivers(self, address: str) -> list[Receiver]:
        """Return the live connections that get what is sent to ``address``."""
        return list(self._live(address))


def _routing(entry: Entry) -> tuple[str, bool]:
    """Return what may be joined: entries of one address that only go to all of its receivers."""
    return entry.address, entry.kind in DELIVERED and not entry.exclude
