"""The order of the log, made of groups that come from anywhere in any order."""

from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count

from service.domain.events import Group


class Tail:
    """Takes groups with duplicates and gaps, gives out one contiguous stream.

    A group is next where it begins at or before the tail's position and ends beyond it; what it
    repeats is cut off. At most ``limit`` groups wait for one that is missing; beyond that the latest
    are let go (counted in ``dropped``), because the log has them.
    """

    def __init__(self, position: int, limit: int = 1024) -> None:
        self.position = position
        """All entries up to here have been given out."""
        self.known = position
        """The log is known to reach this far."""
        self.dropped = 0
        self._limit = limit
        self._waiting: list[tuple[int, int, Group]] = []
        self._order = count()

    def offer(self, group: Group) -> None:
        """Take a group from any source."""
        self.known = max(self.known, group.last)
        if group.last <= self.position:
            return
        if group.after > self.position and len(self._waiting) >= self._limit:
            self.dropped += 1
            return
        heappush(self._waiting, (group.after, next(self._order), group))

    def reaches(self, head: int) -> None:
        """Learn that the log has entries up to ``head``."""
        self.known = max(self.known, head)

    def take(self) -> Iterator[Group]:
        """Give out what is next, as far as it goes."""
        while self._waiting and self._waiting[0][0] <= self.position:
            _, _, group = heappop(self._waiting)
            if group.last > self.position:
                rest = [e for e in group.entries if e.position > self.position]
                fresh = Group(after=self.position, last=group.last, entries=rest)
                self.position = group.last
                yield fresh

    @property
    def missing(self) -> tuple[int, int] | None:
        """Return ``(after, upto)`` of the log that has to be read; ask after ``take``."""
        if self.known <= self.position:
            return None
        upto = self._waiting[0][0] if self._waiting else self.known
        return (self.position, upto)
