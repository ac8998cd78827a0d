"""What a history says besides claims: how much there was, what came twice, and how soon all was well."""

from collections.abc import Iterable, Iterator, Sequence
from math import ceil, inf
from typing import Final, NamedTuple

from proof.history import UNKNOWN, Fault
from proof.index import Index
from proof.parts import Connection, Entry

LEAP: Final = 2**31
"""Positions go on further than that behind what a failover may have lost."""
FAILED: Final = frozenset({UNKNOWN, 429, 503})
OF_THE_LOG: Final = frozenset({"gap", "live", "event", "recalled", "joined_room", "left_room"})
"""Frames that say how far a connection has got."""


class Figures(NamedTuple):
    """Of one run."""

    acknowledged: int
    """Events that were answered with 202, once for each of their addresses."""
    failed: int
    """Attempts that were refused for now, or of which nobody was told what became."""
    delivered: int
    """Events that came in, over all devices."""
    repeated: int
    """Among them those that their device had had on an earlier connection."""
    delays: list[float]
    """Seconds from the end of a fault to what had been acknowledged, and came after it."""


def figures(index: Index) -> Figures:
    """Return what a history says."""
    delivered, repeated = _deliveries(index)
    acknowledged = sum(entry.post is not None and entry.accepted is not None for entry in index.entries)
    answers = (answer for post in index.posts.values() for answer in post.answers)
    failed = sum(answer.status in FAILED for answer in answers)
    return Figures(acknowledged, failed, delivered, repeated, list(_delays(index)))


def _deliveries(index: Index) -> tuple[int, int]:
    delivered = repeated = 0
    for device in index.devices.values():
        had: set[int] = set()
        for connection in device.connections:
            came = [f.position for f in connection.frames if f.frame == "event" and f.position is not None]
            delivered += len(came)
            repeated += sum(position in had for position in came)
            had.update(came)
    return delivered, repeated


def _delays(index: Index) -> Iterator[float]:
    """Yield how long after the first heal what was due came; time in which something was broken is none."""
    broken = spans(index.faults)
    for device in index.devices.values():
        for position, came in device.received.items():
            entry = index.at.get(position)
            if entry is None or entry.accepted is None:
                continue
            healed = next((end for _, end in broken if entry.accepted <= end < came), None)
            if healed is not None and entry.event is not None and entry.event.after is None:
                yield calm(broken, healed, came)


def lost(index: Index) -> list[Entry]:
    """Return what was acknowledged, and lost by a restore or a failover."""
    entries = (entry for entry in index.entries if entry.post is not None and entry.accepted is not None)
    return [entry for entry in entries if _is_void(index, entry.position)]


def untold(index: Index) -> list[Connection]:
    """Return connections that named a position after it was lost, and went on without a gap."""
    since = max((fault.at for fault in index.faults if fault.lost_from is not None), default=inf)
    named = [
        connection
        for connection in index.connections.values()
        if connection.begun.at > since and _is_void(index, connection.begun.after or 0)
    ]
    begins = ((one, next((f.frame for f in one.frames if f.frame in OF_THE_LOG), None)) for one in named)
    return [connection for connection, first in begins if first not in {None, "gap"}]


def _is_void(index: Index, position: int) -> bool:
    """Tell whether a position was lost."""
    kept = [fault.lost_from for fault in index.faults if fault.lost_from is not None]
    return any(at < position < at + LEAP for at in kept)


def spans(faults: Iterable[Fault]) -> list[tuple[float, float]]:
    """Return when something was broken, from the first fault of a heap to the end of its last."""
    found: list[tuple[float, float]] = []
    open_since: dict[tuple[str, str], float] = {}
    since = 0.0
    for fault in faults:
        which = (fault.kind, fault.detail)
        if fault.begins:
            since = since if open_since else fault.at
            open_since.setdefault(which, fault.at)
        elif open_since.pop(which, None) is not None and not open_since:
            found.append((since, fault.at))
    return found


def calm(broken: Sequence[tuple[float, float]], begin: float, end: float) -> float:
    """Return how much of a time nothing was broken in, in seconds."""
    return end - begin - sum(max(0.0, min(end, upto) - max(begin, since)) for since, upto in broken)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of them does not exceed; 0 of none."""
    ranked = sorted(values)
    return ranked[max(0, ceil(share * len(ranked)) - 1)] if ranked else 0.0
