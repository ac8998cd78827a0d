"""A history put in order: which events there were, who was to have them, and what each device saw."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

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
    Token,
)  # fmt: skip

EVERYONE: Final = "everyone"
UNDER_WAY: Final = 1.0
"""Seconds that what was told before a fault may come after it."""
CHANGES: Final = {"joined_room": True, "left_room": False}


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
    gaps: list[tuple[int, int]] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.user}/{self.name}"

    @property
    def first(self) -> Received | None:
        """Return its first welcome."""
        return next((c.welcome for c in self.connections if c.welcome is not None), None)

    def told(self, position: int) -> bool:
        """Tell whether a gap covers a position."""
        return any(since < position <= upto for since, upto in self.gaps)

    def acknowledged(self, until: float) -> int:
        """Return the greatest position that it had said to have, or had asked to start after."""
        said = [a.position for c in self.connections for a in c.acks if a.at <= until]
        said += [c.begun.after or 0 for c in self.connections if c.begun.at <= until]
        return max(said, default=0)


def is_entry(frame: Received) -> bool:
    """Tell whether a frame stands for an entry of the log."""
    return frame.frame in {"event", "recalled", *CHANGES} and frame.position is not None


class Index:
    """What the claims are checked against."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.posts: dict[str, Post] = {}
        self.marks: dict[str, tuple[Post, Sent]] = {}
        self.connections: dict[str, Connection] = {}
        self.devices: dict[tuple[str, str], Device] = {}
        self.moves: list[Moved] = []
        self.recalls: dict[int, float] = {}
        """Events that may be taken back, and since when."""
        self.recalled: list[Recalled] = []
        self.revoked: list[Revoked] = []
        self.stored: list[Stored] = []
        self.faults: list[Fault] = []
        self.healed: float | None = None
        self.end = 0.0
        for record in records:
            self._take(record)
        self.seen = self._seen()
        self._where = {
            position: (self.marks[mark][1], to)
            for (mark, to), at in self.seen.items() if mark in self.marks for position in at
        }  # fmt: skip
        self.entries = sorted(self._entries(), key=lambda entry: entry.position)
        self.at = {entry.position: entry for entry in self.entries}
        self.by_address: dict[str, list[Entry]] = defaultdict(list)
        for entry in self.entries:
            self.by_address[entry.to].append(entry)
        self._sources = {move.room: move.source for move in self.moves}
        self._changes = self._membership()
        self._first_seen = {user: self._bounds(user) for user in {d.user for d in self.devices.values()}}

    # Records

    def _take(self, record: Record) -> None:
        self.end = record.at
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
            case Moved():
                self.moves.append(record)
            case Recalling():
                self.recalls.setdefault(record.recalled, record.at)
            case Recalled():
                self.recalled.append(record)
            case Revoked():
                self.revoked.append(record)
            case Stored():
                self.stored.append(record)
            case Fault():
                self.faults.append(record)
            case Healed():
                self.healed = record.at
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
        elif frame.frame == "gap" and frame.position is not None and frame.since is not None:
            device.gaps.append((frame.since, frame.position))
        elif is_entry(frame) and frame.position is not None:
            device.received.setdefault(frame.position, frame.at)

    # The log

    def _seen(self) -> dict[tuple[str, str], dict[int, float]]:
        """Return where each event was seen, by its mark and address: positions, and when that was first."""
        seen: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
        for post in self.posts.values():
            for answer in post.answers:
                for (event, to), placed in zip(post.slots, answer.placed, strict=False):
                    seen[event.mark, to].setdefault(placed.position, answer.at)
        for connection in self.connections.values():
            for frame in connection.frames:
                if frame.frame == "event" and frame.mark and frame.to and frame.position is not None:
                    at = seen[frame.mark, frame.to]
                    at[frame.position] = min(frame.at, at.get(frame.position, frame.at))
        return seen

    def _entries(self) -> Iterator[Entry]:
        for post in self.posts.values():
            yield from self._entries_of(post)
        # A set, since a change is answered and seen by several devices.
        yield from {entry.position: entry for entry in self._notices()}.values()

    def _entries_of(self, post: Post) -> Iterator[Entry]:
        """Yield what a request became. Its entries stand in a row: from one the others are known."""
        accepted = post.accepted
        known = [self._position(event, to) for event, to in post.slots]
        bases = [at - n for n, at in enumerate(known) if at is not None]
        whole = bases and post.events[0].after is None
        for n, (event, to) in enumerate(post.slots):
            position = bases[0] + n if known[n] is None and whole else known[n]
            if position is not None:
                since = self.seen.get((event.mark, to), {}).get(position, post.begun)
                lost = self.lost(position, since)
                yield Entry(position, to, event, post, accepted, event.exclude, lost=lost)

    def _position(self, event: Sent, to: str) -> int | None:
        """Return where an event stands: what came after a restore is what there is now."""
        at = self.seen.get((event.mark, to), {})
        lasting = [position for position, since in at.items() if not self.lost(position, since)]
        return min(lasting or at, default=None)

    def _notices(self) -> Iterator[Entry]:
        """Yield membership's entries and recalls; last those whose author was told."""
        for connection in self.connections.values():
            for frame in connection.frames:
                if frame.position is not None and frame.frame in CHANGES:
                    yield self._notice(frame.position, f"user:{connection.user}", frame.at)
                elif frame.position is not None and frame.recalled in self._where:
                    yield self._recall(frame.position, self._where[frame.recalled], frame.at)
        for move in self.moves:
            if move.position is not None:
                yield self._notice(move.position, f"user:{move.user}", move.at, move.at)
        for recall in self.recalled:
            if recall.recalled in self._where:
                yield self._recall(recall.position, self._where[recall.recalled], recall.at, recall.at)

    def _notice(self, position: int, to: str, since: float, accepted: float | None = None) -> Entry:
        return Entry(position, to, accepted=accepted, lost=self.lost(position, since))

    def _recall(
        self, position: int, of: tuple[Sent, str], since: float, accepted: float | None = None
    ) -> Entry:  # fmt: skip
        event, to = of
        return Entry(position, to, accepted=accepted, exclude=event.exclude, lost=self.lost(position, since))

    # Who is to have it

    def _membership(self) -> dict[tuple[str, str], list[tuple[int, bool]]]:
        """Return the changes of each membership, by user and room: positions, and whether they join."""
        changes: dict[tuple[str, str], dict[int, bool]] = defaultdict(dict)
        told: dict[int, float] = {}
        for move in self.moves:
            if move.position is not None:
                changes[move.user, move.room][move.position] = move.joins
                told[move.position] = move.at
        for connection in self.connections.values():
            for frame in connection.frames:
                if frame.frame in CHANGES and frame.room is not None and frame.position is not None:
                    changes[connection.user, frame.room][frame.position] = CHANGES[frame.frame]
                    told[frame.position] = frame.at
        self._take_back(changes, told)
        return {key: sorted(of.items()) for key, of in changes.items()}

    def _take_back(
        self, changes: dict[tuple[str, str], dict[int, bool]], told: dict[int, float]
    ) -> None:  # fmt: skip
        """Let each membership be again what a restore has kept, behind the last position that it lost."""
        for at in self.seen.values():
            told |= at
        for fault in self.faults:
            kept = fault.lost_from
            if kept is not None:
                end = max([kept, *[p for p, at in told.items() if p > kept and at < fault.at]])
                for of in changes.values():
                    before = max([p for p in of if p <= kept], default=None)
                    of.setdefault(end + 1, before is not None and of[before])

    def _bounds(self, user: str) -> tuple[int, float]:
        """Return between which positions a user was first seen: from there on ``everyone`` means them too."""
        connections = [c for c in self.connections.values() if c.user == user]
        begun = min(c.begun.at for c in connections)
        before = [e.position for e in self.entries if e.accepted is not None and e.accepted < begun]
        heads = [c.welcome.head for c in connections if c.welcome is not None and c.welcome.head is not None]
        return max(before, default=0), min(heads, default=float("inf"))

    def due(self, user: str, device: str, tokens: Sequence[Token], entry: Entry) -> bool | None:
        """Tell whether an entry is for a device that shows these tokens; None where it cannot be known."""
        if user in entry.exclude or f"{user}\n{device}" in entry.exclude:
            return False
        if entry.to == EVERYONE:
            least, most = self._first_seen[user]
            return False if entry.position <= least else True if entry.position > most else None
        kind, _, name = entry.to.partition(":")
        if kind == "user":
            return name == user
        return self._member(user, name, entry.position) and self._granted(name, tokens)

    def _member(self, user: str, room: str, position: int) -> bool:
        changes = self._changes.get((user, room), [])
        before = bisect_left(changes, (position, False))
        return before > 0 and changes[before - 1][1]

    def _granted(self, room: str, tokens: Sequence[Token]) -> bool | None:
        if self._sources.get(room) == "api":
            return True
        granted = {any(_matches(pattern, room) for pattern in token.rooms) for token in tokens}
        return granted.pop() if len(granted) == 1 else None

    def due_to(self, device: Device) -> Iterator[Entry]:
        """Yield what a device is certainly to have, since it was first welcomed."""
        if device.first is None:
            return
        tokens = [connection.begun.token for connection in device.connections]
        yield from self._due(device, tokens, device.first.position or 0, float("inf"))

    def due_on(self, connection: Connection) -> Iterator[Entry]:
        """Yield what a connection certainly had to carry, between its welcome and the last that it got."""
        if connection.welcome is None:
            return
        device = self.devices[connection.user, connection.begun.device]
        first = connection.welcome.position or 0
        last = max(
            (f.position or 0 for f in connection.frames if is_entry(f) or f.frame == "live"), default=0
        )
        yield from self._due(device, [connection.begun.token], first, last)

    def _due(
        self, device: Device, tokens: Sequence[Token], after: float, upto: float
    ) -> Iterator[Entry]:  # fmt: skip
        for address in self.by_address:
            if address.startswith("user:") and address[5:] != device.user:
                continue
            for entry in self.by_address[address]:
                if after < entry.position <= upto and self.due(device.user, device.name, tokens, entry):
                    yield entry

    def spared(self, device: Device, entry: Entry, at: float) -> bool:
        """Tell whether an entry may be left out at some time: expired, replaced, or taken back."""
        event = entry.event
        if event is None or entry.post is None:
            return False
        if self.recalls.get(entry.position, at) < at:
            return True
        if event.ttl is not None and entry.post.begun + event.ttl < at:
            return True
        return event.collapse_key is not None and any(
            later.event is not None and later.event.collapse_key == event.collapse_key
            and later.position > entry.position and later.post is not None and later.post.begun < at
            and device.name not in later.exclude and device.user not in later.exclude
            for later in self.by_address[entry.to]
        )  # fmt: skip

    def revocation_of(self, token: Token) -> Revoked | None:
        """Return what took a token back, the first of it."""
        for revoked in self.revoked:
            if revoked.jti is not None and revoked.jti == token.jti:
                return revoked
            if revoked.user == token.user and token.iat <= (revoked.issued_before or token.iat):
                return revoked
        return None

    def alive(self, device: Device) -> bool:
        """Tell whether its last token is good."""
        return self.revocation_of(device.connections[-1].begun.token) is None

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


def _matches(pattern: str, name: str) -> bool:
    """Tell whether a pattern is a name, or its beginning with a star behind it; not by the service's own code."""
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
