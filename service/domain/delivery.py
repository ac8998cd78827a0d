"""One receiver's place in the log: what is due to it, and how far it has got.

Three positions are never confused: *written* (to this socket), *acked* (by it) and *stored* (the
device's cursor, which is the database's). A delivery is

- ``CATCHING_UP``: written < the hub's position; it reads pages of the log under flow control;
- ``LIVE``: it stands at the hub's position, and its own ``written`` is not kept;
- ``CLOSED``: nothing is written to it any more, and nothing moves its cursor.

It waits as ``CATCHING_UP`` also where it came from an instance that is further on.
"""

from collections.abc import Iterator
from enum import Enum
from typing import Literal, NamedTuple

import msgspec

from service.domain.addresses import EVERYONE
from service.domain.claims import Claims
from service.domain.recent import Interval

Source = Literal["api", "client", "connection"]


class State(Enum):
    """Where a delivery stands to the hub."""

    CATCHING_UP = "catching_up"
    LIVE = "live"
    CLOSED = "closed"


class Membership(NamedTuple):
    """Of a room, from ``since`` on; made by the API, by the user, or for one connection only."""

    source: Source
    since: int


class Session(msgspec.Struct, frozen=True):
    """What the store knows of a device when it connects: a snapshot taken at ``head``."""

    head: int
    floor: int
    first_seen: int
    cursor: int
    memberships: dict[str, Membership]
    past: tuple[tuple[Interval, Source], ...] = ()
    """Rooms left after the cursor: what they hold up to then is still due."""
    quiet_to: int = 0
    """Nothing is due, and no gap to be told, between where it begins and this position."""


class Delivery:
    """The pure part of a connection: its positions, its rooms, its state."""

    __slots__ = (
        "acked", "claims", "device", "early", "first_seen", "manual", "past", "pinged", "rooms", "sent",
        "snapshot",
        "state", "written",
    )  # fmt: skip

    def __init__(self, claims: Claims, device: str, *, manual: bool = False) -> None:
        self.claims = claims
        self.device = device
        self.manual = manual
        """Whether the client acknowledges by itself (``ack=client``) instead of by its pongs."""
        self.state = State.CATCHING_UP
        self.written = 0
        self.acked = 0
        self.pinged: int | None = None
        self.sent = 0
        """The last entry written to it or its user alone; what all of a room got is the hub's to know."""
        self.first_seen = 0
        self.snapshot = 0
        self.rooms: dict[str, Membership] = {}
        self.past: tuple[tuple[Interval, Source], ...] = ()
        self.early: list[tuple[str, Source | None, int]] | None = []
        """Membership changes that came while the session was being loaded; None from then on."""

    @property
    def user(self) -> str:
        """Return the user it is for."""
        return self.claims.user

    def begin(self, session: Session, position: int) -> None:
        """Start after ``position`` with what the store knows."""
        self.written, self.acked = max(position, session.quiet_to), position
        self.first_seen = session.first_seen
        self.snapshot = session.head
        self.rooms = dict(session.memberships)
        self.past = session.past
        early, self.early = self.early or [], None
        for room, source, at in early:
            self._change(room, source, at)

    @property
    def begun(self) -> bool:
        """Tell whether its session has been loaded."""
        return self.early is None

    # What is due

    def receives(self, room: str, source: Source) -> bool:
        """Tell whether membership is enough here: the API's is, a client's needs the grant."""
        return source == "api" or self.claims.rooms.match(room)

    def addresses(self) -> Iterator[str]:
        """Yield the addresses whose entries are due from now on, besides the user's own."""
        yield EVERYONE
        for room, membership in self.rooms.items():
            if self.receives(room, membership.source):
                yield f"room:{room}"

    def intervals(self) -> list[Interval]:
        """Return what was and is due, for reading the log after ``written``."""
        due = [Interval(f"user:{self.user}"), Interval(EVERYONE, self.first_seen)]
        due += [
            Interval(f"room:{room}", membership.since)
            for room, membership in self.rooms.items()
            if self.receives(room, membership.source)
        ]
        due += [
            interval
            for interval, source in self.past
            if interval.until > self.written and self.receives(interval.address[5:], source)
        ]
        return due

    # Membership, applied at its place in the log

    def joined(self, room: str, source: Source, position: int) -> None:
        """Apply a join at ``position``."""
        self._change(room, source, position)

    def join_alone(self, room: str, position: int) -> None:
        """Join for this connection only, from ``position`` on; a durable membership stands above it."""
        self.rooms.setdefault(room, Membership("connection", position))

    def leave_alone(self, room: str) -> None:
        """End what ``join_alone`` began."""
        self.rooms.pop(room, None)

    def left(self, room: str, position: int) -> None:
        """Apply a leave at ``position``."""
        self._change(room, None, position)

    def _change(self, room: str, source: Source | None, position: int) -> None:
        if self.early is not None:
            self.early.append((room, source, position))
        elif position > self.snapshot:  # else the session has it already
            self._end(room, position)
            if source is not None:
                self.rooms[room] = Membership(source, position)

    def _end(self, room: str, position: int) -> None:
        ended = self.rooms.pop(room, None)
        if ended is not None and self.state is State.CATCHING_UP:
            interval = Interval(f"room:{room}", ended.since, position)
            self.past = (*self.past, (interval, ended.source))

    # How far it has got

    def may_go_live(self, hub: int) -> bool:
        """Tell whether it stands at the hub's position, and that is not before its own snapshot.

        Its rooms are those of the snapshot: what was joined or left before that and after the hub's
        position could not be applied at its place any more.
        """
        return self.written >= hub >= self.snapshot

    def went_live(self) -> None:
        """Stand at the hub's position from now on."""
        self.state = State.LIVE
        self.past = ()

    def fell_behind(self, position: int) -> None:
        """Read from ``position`` on, which is where the hub was when it last wrote here."""
        self.state = State.CATCHING_UP
        self.written = position

    def complete_to(self, hub: int) -> int:
        """Return the position up to which everything due has been written, given the hub's."""
        return hub if self.state is State.LIVE else self.written

    def ping(self, hub: int) -> int | None:
        """Return the position for a ping's payload; None while one is outstanding."""
        if self.pinged is not None:
            return None
        self.pinged = self.complete_to(hub)
        return self.pinged

    def pong(self, payload: bytes) -> int | None:
        """Take a pong; return the position it newly acknowledges, if it does.

        Only the answer to the outstanding ping counts (RFC 6455 §5.5.3 allows unsolicited ones).
        """
        if self.pinged is None or payload != b"%d" % self.pinged:
            return None
        position, self.pinged = self.pinged, None
        if self.manual or position <= self.acked:
            return None
        self.acked = position
        return position

    def ack(self, position: int, hub: int) -> int | None:
        """Take a client's own acknowledgement, clamped to what was written to it."""
        position = min(position, self.complete_to(hub))
        if position <= self.acked:
            return None
        self.acked = position
        return position

    def follow(self, last: int, hub: int) -> int | None:
        """Let a quiet client's cursor follow the hub.

        ``last`` is the position of the last entry that was written live where it listens. Without this, a
        client that acknowledges by itself would keep an old cursor for as long as nothing is sent to it.
        """
        # Before it was live it may have been spared that one: replay leaves out what has expired.
        last = max(last, self.sent) if last > self.written else self.sent
        if self.state is State.LIVE and self.manual and last <= self.acked < hub:
            self.acked = hub
            return hub
        return None
