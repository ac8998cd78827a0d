"""A history put in order: which entries the log had, and who was to have them."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Final

from proof.history import Record, Revoked, Sent, Token
from proof.parts import CHANGES, Connection, Device, Entry, Parts, Post, is_entry

EVERYONE: Final = "everyone"
_POSITION: Final = attrgetter("position")


class Index(Parts):
    """What the claims are checked against."""

    def __init__(self, records: Sequence[Record]) -> None:
        super().__init__(records)
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
            entries = self.by_address[address]
            first, last = (bisect_right(entries, at, key=_POSITION) for at in (after, upto))
            for entry in entries[first:last]:
                if self.due(device.user, device.name, tokens, entry):
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


def _matches(pattern: str, name: str) -> bool:
    """Tell whether a pattern is a name, or its beginning with a star behind it; not by the service's code."""
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
