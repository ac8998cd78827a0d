"""What a history consists of: requests, connections and devices, and what was done to the service."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from proof.history import (
    UNKNOWN,
    Acknowledged,
    Answered,
    Closed,
    Connecting,
    Fault,
    Healed,
    Moved,
    Posted,
    Recalled,
    Recalling,
    Received,
    Record,
    Revoked,
    Sent,
    Stored,
)  # fmt: skip

CHANGES: Final = {"joined_room": True, "left_room": False}
"""Frames of memberships, and whether they begin one."""
UNDER_WAY: Final = 1.0
"""Seconds that what was told before a fault may come after it."""


@dataclass(slots=True)
class Post:
    """A request with all its attempts."""

    name: str
    producer: str
    events: tuple[Sent, ...]
    begun: float
    attempts: set[int] = field(default_factory=set)
    answers: list[Answered] = field(default_factory=list)

    @property
    def slots(self) -> list[tuple[Sent, str]]:
        """Return its events, once for each of their addresses, in the order of their positions."""
        return [(event, to) for event in self.events for to in event.to]

    @property
    def accepted(self) -> float | None:
        """Return when it was first answered with 202, or None."""
        return next((answer.at for answer in self.answers if answer.status == 202), None)

    @property
    def refused(self) -> bool:
        """Tell whether nothing of it can be stored: each attempt was answered, and none accepted."""
        said = {answer.attempt for answer in self.answers if answer.status != UNKNOWN}
        return self.accepted is None and said == self.attempts


@dataclass(slots=True)
class Entry:
    """One entry of the log, as far as it is known; ``accepted`` is when its author was told."""

    position: int
    to: str
    event: Sent | None = None
    post: Post | None = None
    accepted: float | None = None
    exclude: tuple[str, ...] = ()
    lost: bool = False
    """A restore came after it, which did not have it."""

    def __str__(self) -> str:
        what = "a notice" if self.event is None else f"event {self.event.mark}"
        return f"{what} to {self.to} at {self.position}"


class Gap(NamedTuple):
    """A stretch of the log that a connection was told of as not to be had."""

    after: int
    upto: int
    reason: str


def gap_of(frame: Received) -> Gap:
    """Return what a frame tells."""
    return Gap(frame.since or 0, frame.position or 0, frame.reason or "")


@dataclass(slots=True)
class Connection:
    """One connection of a device."""

    name: str
    begun: Connecting
    frames: list[Received] = field(default_factory=list)
    acks: list[Acknowledged] = field(default_factory=list)
    welcome: Received | None = None
    closed: Closed | None = None

    @property
    def user(self) -> str:
        """Return whose it is."""
        return self.begun.token.user

    @property
    def gaps(self) -> list[Gap]:
        """Return what it was told of."""
        return [gap_of(frame) for frame in self.frames if frame.frame == "gap"]

    @property
    def entries(self) -> list[Received]:
        """Return the frames that stand for entries of the log."""
        return [frame for frame in self.frames if is_entry(frame)]


@dataclass(slots=True)
class Device:
    """A receiver and its connections, in their order."""

    user: str
    name: str
    connections: list[Connection] = field(default_factory=list)
    received: dict[int, float] = field(default_factory=dict)
    """Positions, and when each came first."""
    gaps: list[Gap] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.user}/{self.name}"

    @property
    def first(self) -> Received | None:
        """Return its first welcome."""
        return next((c.welcome for c in self.connections if c.welcome is not None), None)

    def acknowledged(self, until: float) -> int:
        """Return the greatest position that it had said to have, or had asked to start after."""
        said = [a.position for c in self.connections for a in c.acks if a.at <= until]
        said += [c.begun.after or 0 for c in self.connections if c.begun.at <= until]
        return max(said, default=0)


def is_entry(frame: Received) -> bool:
    """Tell whether a frame stands for an entry of the log."""
    return frame.frame in {"event", "recalled", *CHANGES} and frame.position is not None


class Parts:
    """The records of a history, each put to what it is about."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.posts: dict[str, Post] = {}
        self.marks: dict[str, tuple[Post, Sent]] = {}
        self.connections: dict[str, Connection] = {}
        self.devices: dict[tuple[str, str], Device] = {}
        self.recalls: dict[int, float] = {}
        """Events that may be taken back, and since when."""
        self.moves = [record for record in records if isinstance(record, Moved)]
        self.recalled = [record for record in records if isinstance(record, Recalled)]
        self.revoked = [record for record in records if isinstance(record, Revoked)]
        self.stored = [record for record in records if isinstance(record, Stored)]
        self.faults = [record for record in records if isinstance(record, Fault)]
        self.healed = next((record.at for record in records if isinstance(record, Healed)), None)
        self.end = records[-1].at if records else 0.0
        for record in records:
            self._take(record)

    def _take(self, record: Record) -> None:
        match record:
            case Posted():
                self._posted(record)
            case Answered():
                self.posts[record.post].answers.append(record)
            case Connecting():
                connection = Connection(record.connection, record)
                self.connections[record.connection] = connection
                key = (record.token.user, record.device)
                self.devices.setdefault(key, Device(*key)).connections.append(connection)
            case Received():
                self._received(record)
            case Acknowledged():
                self.connections[record.connection].acks.append(record)
            case Closed():
                self.connections[record.connection].closed = record
            case Recalling():
                self.recalls.setdefault(record.recalled, record.at)
            case _:
                pass

    def _posted(self, record: Posted) -> None:
        post = self.posts.get(record.post)
        if post is None:
            post = Post(record.post, record.producer, record.events, record.at)
            self.posts[record.post] = post
            self.marks |= {event.mark: (post, event) for event in record.events}
        post.attempts.add(record.attempt)

    def _received(self, frame: Received) -> None:
        connection = self.connections[frame.connection]
        connection.frames.append(frame)
        device = self.devices[connection.user, connection.begun.device]
        if frame.frame == "welcome":
            connection.welcome = frame
        elif frame.frame == "gap":
            device.gaps.append(gap_of(frame))
        elif is_entry(frame) and frame.position is not None:
            device.received.setdefault(frame.position, frame.at)

    # What was broken

    def lost(self, position: int, since: float) -> bool:
        """Tell whether what was known of a position by then was lost by a restore after it."""
        return any(
            fault.lost_from is not None and position > fault.lost_from and since < fault.at + UNDER_WAY
            for fault in self.faults
        )

    def lost_what_waited(self, since: float) -> bool:
        """Tell whether a restore may have lost what waited to be put into the log by then."""
        return any(fault.lost_from is not None and since < fault.at for fault in self.faults)

    @property
    def floor(self) -> int:
        """Return up to where retention may have deleted."""
        return max((fault.floor or 0 for fault in self.faults), default=0)

    def explains(self, gap: Gap) -> bool:
        """Tell whether what was done to the service is a reason for a gap."""
        if gap.reason == "retention":
            return gap.upto <= self.floor
        return any(fault.lost_from is not None for fault in self.faults)

    def told(self, gaps: Iterable[Gap], position: int) -> bool:
        """Tell whether a gap that there is a reason for covers a position."""
        return any(gap.after < position <= gap.upto and self.explains(gap) for gap in gaps)

    def troubled(self, since: float, until: float) -> bool:
        """Tell whether anything was broken within a time."""
        begun: dict[tuple[str, str], float] = {}
        for fault in self.faults:
            which = (fault.kind, fault.detail)
            if fault.begins:
                begun.setdefault(which, fault.at)
            elif begun.pop(which, until) < until and fault.at > since:
                return True
        return any(at < until for at in begun.values())

    def calm_at(self, at: float, until: float) -> float:
        """Return when what was broken between two times was no longer so; ``at`` where nothing was."""
        ends = [f.at for f in self.faults if not f.begins and at < f.at and self.troubled(at, until)]
        return max([at, *ends])
