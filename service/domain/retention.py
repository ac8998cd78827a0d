"""What the log lets go of: whole partitions, the oldest first, by age or by size."""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

SPAN: Final = 2**22
"""Positions of one partition, as the migrations make them."""
SHARES: Final = 30
"""A partition is closed when it holds this part of what is kept: so much is kept longer, at the most."""


class Partition(NamedTuple):
    """One partition, from position ``start`` on; ages in seconds, of its first and last entry."""

    start: int
    last: int | None
    """The position of its last entry; None where it has none, or none that can still be read."""
    oldest: float
    newest: float
    size: int
    """In bytes, with its indexes."""
    state: Literal["attached", "pending", "detached"] = "attached"

    @property
    def end(self) -> int:
        """Return the first position after it."""
        return self.start + SPAN


class Held(NamedTuple):
    """What the log holds: its partitions in order, its floor, and the last position that was drawn."""

    floor: int
    drawn: int
    partitions: Sequence[Partition]

    @property
    def size(self) -> int:
        """Return the bytes of all partitions."""
        return sum(p.size for p in self.partitions)

    @property
    def oldest(self) -> float:
        """Return the age of the oldest entry that is kept, in seconds."""
        return next((p.oldest for p in self.partitions if p.last is not None and p.last > self.floor), 0.0)


class Keep(NamedTuple):
    """For how many seconds entries are kept, and how many bytes of them; None: no bound."""

    age: float | None
    size: int | None = None

    def outlived(self, partition: Partition) -> bool:
        """Tell whether all entries of a partition are too old."""
        return self.age is not None and partition.newest > self.age

    def to_close(self, partition: Partition) -> bool:
        """Tell whether the partition that is being written to holds its share already."""
        if partition.last is None:
            return False
        return (self.age is not None and partition.oldest > self.age / SHARES) or (
            self.size is not None and partition.size > self.size / SHARES
        )


class Plan(NamedTuple):
    """What is to be done: close the open partition, raise the floor, drop what lies below it."""

    close: Partition | None
    floor: int
    """Entries at or below it go."""
    below: int
    """Between the floor and here there is no entry."""
    drop: Sequence[Partition]


def plan(held: Held, keep: Keep) -> Plan:
    """Decide what goes. The floor becomes the position of the last entry that goes.

    A size is a bound on closed partitions only: the one that is being written to is never cut.
    """
    upcoming = held.drawn + 1
    reached = [p for p in held.partitions if p.start <= upcoming]
    excess = 0 if keep.size is None else held.size - keep.size
    floor, below = held.floor, held.floor
    for partition in reached:
        if partition.last is not None:
            if not keep.outlived(partition) and (partition.end > upcoming or excess <= 0):
                break
            floor, below = max(floor, partition.last), partition.end
        excess -= partition.size
    close = next((p for p in reached if p.end > upcoming and keep.to_close(p)), None)
    drop = [p for p in reached if p.end <= max(below, upcoming) and _gone(p, floor)]
    return Plan(close, floor, below, drop)


def _gone(partition: Partition, floor: int) -> bool:
    """Tell whether all of a closed partition lies below the floor."""
    return 0 < floor >= partition.start and (partition.last is None or partition.last <= floor)
