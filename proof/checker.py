"""The promise, claim by claim: each is a function that looks for what contradicts it in a history.

An event that was answered with 202 reaches every entitled device whose token is good, in order; and a
duplicate can be told by its position, or by its id where one POST reached someone by two addresses.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from proof.history import Received, Record
from proof.index import Index
from proof.parts import CHANGES, Connection, Device, Entry, is_entry


class Bounds(NamedTuple):
    """What is promised within some time, in seconds; all of it on a machine that has other things to do."""

    flush: float = 2.0
    """Until what a device has acknowledged is stored."""
    revocation: float = 3.0
    """From the answer to a revocation until nothing is written by its tokens, whichever instance it is."""
    delivery: float = 10.0
    """Once nothing is broken any more."""


class Violation(NamedTuple):
    """A contradiction: of which claim, and by what."""

    claim: str
    what: str

    def __str__(self) -> str:
        return f"{self.claim}: {self.what}"


def nothing_is_missing(index: Index, _: Bounds) -> Iterator[str]:
    """C1: no acknowledged event is missing on any device that is entitled to it."""
    for device, entry in _missing(index):
        if entry.accepted is not None and not entry.position <= index.floor:
            yield f"{device} never received {entry}"
    for post in index.posts.values():
        if post.accepted is None or index.lost_what_waited(post.accepted):
            continue
        for event, to in post.slots:
            if not index.seen.get((event.mark, to)) and _is_certain(index, to):
                yield f"nobody received event {event.mark} to {to}, which was put off"


def refused_is_not_there(index: Index, _: Bounds) -> Iterator[str]:
    """C2: nothing is delivered that was refused; what nobody was told of is on all devices or on none."""
    for connection, frame in _events(index):
        post, event = index.marks.get(frame.mark or "", (None, None))
        if post is None or event is None or frame.to not in event.to:
            yield f"{connection.name} was sent what nobody has sent: {frame}"
        elif post.refused:
            yield f"{connection.name} was sent event {event.mark}, which was refused"
    for device, entry in _missing(index):
        if entry.post is not None and entry.accepted is None:
            yield f"{device} never received {entry}, which others did, or a part of its request"


def order_is_kept(index: Index, _: Bounds) -> Iterator[str]:
    """C3: by position on every connection; what is sent after an answer comes after what was answered."""
    for connection in index.connections.values():
        last = 0
        for frame in connection.frames:
            position = frame.position or 0
            if is_entry(frame) and position < last:
                yield f"{connection.name} was sent {frame.frame} {position} after {last}"
            if is_entry(frame) or frame.frame in {"live", "gap"}:
                last = max(last, position) if frame.reason != "unknown_position" else position
    yield from _order_of_producers(index)


def _order_of_producers(index: Index) -> Iterator[str]:
    placed = []
    for post in index.posts.values():
        first = next((answer for answer in post.answers if answer.placed), None)
        if first is not None and not any(index.lost(one.position, first.at) for one in first.placed):
            positions = [one.position for one in first.placed]
            placed.append((post, first.at, min(positions), max(positions)))
    answered = sorted(placed, key=lambda one: one[1])
    greatest, by, n = 0, "", 0
    for post, _, least, _ in sorted(placed, key=lambda one: one[0].begun):
        while n < len(answered) and answered[n][1] < post.begun:
            if answered[n][3] > greatest:
                greatest, by = answered[n][3], answered[n][0].name
            n += 1
        if least < greatest:
            yield f"{post.name} begins at {least}, and {by}, answered before it was sent, ends at {greatest}"


def holes_are_told(index: Index, _: Bounds) -> Iterator[str]:
    """C4: no connection is sent less than what is due between two of its frames, but for a told gap."""
    for connection in index.connections.values():
        frames = {f.position: f.at for f in connection.frames if is_entry(f) and f.position is not None}
        until = max(frames.values(), default=index.end)
        device = index.devices[connection.user, connection.begun.device]
        gaps = connection.gaps
        for entry in index.due_on(connection):
            told = index.told(gaps, entry.position)
            if entry.position in frames or told or entry.lost:
                continue
            if not index.spared(device, entry, until):
                yield f"{connection.name} was sent what is before and after {entry}, but not that"
        for gap in gaps:
            if not index.explains(gap):
                yield f"{connection.name} was told of a gap for no reason: {gap}"


def duplicates_are_known(index: Index, bounds: Bounds) -> Iterator[str]:
    """C5: nothing comes twice on a connection, and after a reconnect only what is above the stored cursor.

    That is behind what was acknowledged by one flush, or more after a crash. One POST has one id.
    """
    for connection in index.connections.values():
        seen: set[int] = set()
        begins = 0 if connection.welcome is None else connection.welcome.position or 0
        for frame in connection.entries:
            position = frame.position or 0
            if position in seen:
                yield f"{connection.name} was sent {frame.frame} {position} twice"
            seen.add(position)
            if position <= begins:
                yield f"{connection.name} began after {begins}, and was sent {frame.frame} {position}"
    for connection, frame in _events(index):
        _, event = index.marks.get(frame.mark or "", (None, None))
        if event is not None and frame.to in event.to and event.after is None:
            first = (frame.position or 0) - event.to.index(frame.to)
            if frame.id != (event.id or str(first)):
                yield f"{connection.name} was sent event {event.mark} with the id {frame.id}"
    for device in index.devices.values():
        yield from _stale_welcomes(index, device, bounds)


def _stale_welcomes(index: Index, device: Device, bounds: Bounds) -> Iterator[str]:
    stored, said_at = 0, 0.0
    for connection in device.connections:
        begun, welcome = connection.begun, connection.welcome
        for earlier in device.connections:
            gone = begun.at if earlier.closed is None else earlier.closed.at
            for ack in earlier.acks:
                if ack.position > stored and ack.at + bounds.flush < min(gone, begun.at):
                    stored, said_at = ack.position, ack.at
        if welcome is None or begun.after is not None or index.troubled(said_at, begun.at):
            continue
        if (welcome.position or 0) < stored:
            yield f"{connection.name} begins after {welcome.position}, and had acknowledged {stored}"


def once_means_once(index: Index, _: Bounds) -> Iterator[str]:
    """C6: one position for what was sent under one key or id, and one event for each position."""
    marks: dict[int, set[tuple[str, str]]] = defaultdict(set)
    for (mark, to), at in index.seen.items():
        lasting = sorted(position for position, since in at.items() if not index.lost(position, since))
        if len(lasting) > 1:
            yield f"event {mark} to {to} stands at {lasting}"
        for position in at:
            marks[position].add((mark, to))
    for position, of in marks.items():
        if len(of) > 1:
            yield f"position {position} stands for {sorted(of)}"


def cursors_are_earned(index: Index, _: Bounds) -> Iterator[str]:
    """C7: a device's cursor never passes what it has acknowledged.

    A device that acknowledges by itself may be taken further by what is not for it.
    """
    for stored in index.stored:
        device = index.devices.get((stored.user, stored.device))
        if device is not None and device.first is not None and device.first.at < stored.at:
            yield from _unearned(index, device, stored.cursor, stored.at)
    for device in index.devices.values():
        if device.first is None:
            continue
        others = [d.acknowledged(device.first.at) for d in index.devices.values() if d.user == device.user]
        if (device.first.position or 0) > max(index.floor, *others):
            yield f"{device} begins at {device.first.position}, which no device of the user has acknowledged"
        for connection in device.connections:
            welcome = connection.welcome
            if welcome is not None and welcome is not device.first and connection.begun.after is None:
                yield from _unearned(index, device, welcome.position or 0, welcome.at)


def _unearned(index: Index, device: Device, cursor: int, at: float) -> Iterator[str]:
    begun = 0 if device.first is None else device.first.position or 0
    earned = max(begun, device.acknowledged(at), index.floor)
    if cursor <= earned:
        return
    passed = [e for e in index.due_to(device) if earned < e.position <= cursor]
    if passed or not device.connections[0].begun.manual:
        owed = ", ".join(map(str, passed))
        yield f"the cursor of {device} is at {cursor}, and it has acknowledged {earned}: {owed}"


def revoked_is_cut_off(index: Index, bounds: Bounds) -> Iterator[str]:
    """C8: after the bound nothing is written by a token that was revoked, nor is it accepted."""
    for connection in index.connections.values():
        revoked = index.revocation_of(connection.begun.token)
        if revoked is None:
            continue
        late = index.calm_at(revoked.at, connection.begun.at) + bounds.revocation
        if connection.begun.at > late and connection.welcome is not None:
            yield f"{connection.name} was let in {connection.begun.at - revoked.at:.1f} s after {revoked}"
        written = [frame.at for frame in connection.frames if frame.at > late]
        if connection.begun.at <= late and written:
            yield f"{connection.name} was written to {written[-1] - revoked.at:.1f} s after {revoked}"


def nobody_else_has_it(index: Index, _: Bounds) -> Iterator[str]:
    """C9: nothing comes to anyone without the right to it."""
    moved = {(move.user, move.room) for move in index.moves}
    for connection in index.connections.values():
        for frame in connection.entries:
            if frame.frame in CHANGES and (connection.user, frame.room) not in moved:
                yield f"{connection.name} was told of a membership of {frame.room}, which is not theirs"
            entry = index.at.get(frame.position or 0)
            if entry is None or frame.frame in CHANGES:
                continue
            tokens = [connection.begun.token]
            if index.due(connection.user, connection.begun.device, tokens, entry) is False:
                yield f"{connection.name} was sent {entry}, which is not for them"


def it_heals(index: Index, bounds: Bounds) -> Iterator[str]:
    """C10: once nothing is broken any more, all is delivered within the bound."""
    if index.healed is None:
        return
    for device in _living(index):
        if device.first is None:
            yield f"{device} was never let in"
        for entry in index.due_to(device):
            if entry.accepted is None:
                continue
            well = max(index.healed, entry.accepted + _put_off(entry))
            came = device.received.get(entry.position, index.end)
            if came > well + bounds.delivery and not _excused(index, device, entry):
                yield f"{device} did not have {entry} until {came - well:.1f} s after all was well"


CLAIMS: Final = {
    "C1": nothing_is_missing, "C2": refused_is_not_there, "C3": order_is_kept, "C4": holes_are_told,
    "C5": duplicates_are_known, "C6": once_means_once, "C7": cursors_are_earned,
    "C8": revoked_is_cut_off, "C9": nobody_else_has_it, "C10": it_heals,
}  # fmt: skip


def check(records: Sequence[Record], bounds: Bounds = Bounds()) -> list[Violation]:  # noqa: B008
    """Return all that contradicts the promise; C1, C2 and C10 are about histories that are over."""
    index = Index(records)
    return [Violation(name, what) for name, claim in CLAIMS.items() for what in claim(index, bounds)]


# What several claims look at


def _living(index: Index) -> list[Device]:
    return [device for device in index.devices.values() if index.alive(device)]


def _missing(index: Index) -> Iterator[tuple[Device, Entry]]:
    """Yield what is due to a device that is alive, and has neither come nor been told as a gap."""
    for device in _living(index):
        for entry in index.due_to(device):
            if entry.position not in device.received and not _excused(index, device, entry):
                yield device, entry


def _excused(index: Index, device: Device, entry: Entry) -> bool:
    """Tell whether a device may lack an entry in the end."""
    return entry.lost or index.told(device.gaps, entry.position) or index.spared(device, entry, index.end)


def _put_off(entry: Entry) -> float:
    return 0.0 if entry.event is None else entry.event.after or 0.0


def _is_certain(index: Index, to: str) -> bool:
    """Tell whether somebody is entitled to what is sent to an address, whenever it is."""
    name = to.removeprefix("user:")
    return any(to == "everyone" or device.user == name for device in _living(index) if device.first)


def _events(index: Index) -> Iterator[tuple[Connection, Received]]:
    for connection in index.connections.values():
        for frame in connection.frames:
            if frame.frame == "event":
                yield connection, frame
