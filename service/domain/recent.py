"""The newest part of the log, kept in memory, and what a page of the log is."""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from operator import attrgetter
from typing import Final, Literal, NamedTuple

from service.domain.events import Entry

POSITION = attrgetter("position")
FOREVER: Final = 2**53
FRAMING: Final = 128
"""Bytes of a frame around an entry's data, about."""

GapReason = Literal["retention", "failover", "unknown_position"]


class Interval(NamedTuple):
    """Entries of ``address`` are due where ``since < position <= until``."""

    address: str
    since: int = 0
    until: int = FOREVER


class Gap(NamedTuple):
    """What lay in ``(after, upto]`` cannot be had."""

    after: int
    upto: int
    reason: GapReason


class Page(NamedTuple):
    """What is due in ``(after, upto]``, complete and in order, and the gap before it, if any."""

    entries: Sequence[Entry]
    upto: int
    gap: Gap | None = None

    def within(self, size: int) -> "Page":
        """Return the page, or its first entries where all of them are over about ``size`` bytes as frames."""
        sizes = list(accumulate([len(entry.data) + FRAMING for entry in self.entries]))
        if not sizes or sizes[-1] <= size:
            return self
        entries = self.entries[: bisect_left(sizes, size) + 1]
        return self._replace(entries=entries, upto=entries[-1].position)


class _Lane:
    """The entries of one address; the first ``gone`` of them have left."""

    __slots__ = ("entries", "gone")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.gone = 0

    def shift(self) -> bool:
        """Let the oldest go; tell whether none is left."""
        self.gone += 1
        if self.gone * 2 > len(self.entries):
            del self.entries[: self.gone]
            self.gone = 0
        return not self.entries

    def between(self, after: int, upto: int, limit: int) -> Sequence[Entry]:
        begin = bisect_right(self.entries, after, lo=self.gone, key=POSITION)
        end = bisect_right(self.entries, upto, lo=begin, key=POSITION)
        return self.entries[begin : min(end, begin + limit)]


class Recent:
    """Entries after ``base``, all of them, at most about ``limit`` bytes."""

    def __init__(self, base: int, limit: int) -> None:
        self.base = base
        self.bytes = 0
        self._limit = limit
        self._entries: deque[Entry] = deque()
        self._lanes: dict[str, _Lane] = {}

    def extend(self, entries: Iterable[Entry]) -> None:
        """Take what comes next in the log, and let the oldest go beyond the limit."""
        for entry in entries:
            if not entry.is_control:
                self._entries.append(entry)
                self._lanes.setdefault(entry.address, _Lane()).entries.append(entry)
                self.bytes += entry.size
        while self.bytes > self._limit:
            self._let_go()

    def _let_go(self) -> None:
        entry = self._entries.popleft()
        self.base = max(self.base, entry.position)
        self.bytes -= entry.size
        if self._lanes[entry.address].shift():
            del self._lanes[entry.address]

    def trim(self, floor: int) -> None:
        """Let go of what is at or below the retention floor."""
        while self._entries and self._entries[0].position <= floor:
            self._let_go()
        self.base = max(self.base, floor)

    def forget(self, position: int) -> None:
        """Begin anew after ``position``."""
        self.base = position
        self.bytes = 0
        self._entries.clear()
        self._lanes.clear()

    def page(self, after: int, upto: int, intervals: Iterable[Interval], limit: int) -> Page | None:
        """Return at most ``limit`` entries that are due, or None where they are not all here."""
        if after < self.base:
            return None
        due = [
            lane.between(max(after, since), min(upto, until), limit)
            for address, since, until in intervals
            if (lane := self._lanes.get(address)) is not None
        ]
        if len(due) == 1:
            [entries] = due
        else:
            # Lanes are in order, and sorting knows runs: three times as fast as heapq.merge.
            entries = sorted(chain.from_iterable(due), key=POSITION)[:limit]
        return Page(entries, entries[-1].position if len(entries) == limit else upto)
