"""What a replay leaves out. Live, everything goes out; ``store.log`` has the same rule as SQL.

- An event that has expired, or that was taken back, is not replayed.
- One with a collapse key is left out for a newer one of the same address and key, if that is within
  this replay, which goes up to the hub's position, and this reader gets it: a member at its position,
  not excluded, and it has neither expired nor been taken back.
- What somebody is excluded from does not exist for them.
"""

from collections.abc import Callable, Container, Iterable, Sequence
from typing import NamedTuple

from service.domain.events import Entry


class Reader(NamedTuple):
    """Whom a page is for, and when: ``now`` in seconds since the epoch, by the database's clock."""

    user: str
    device: str
    now: float

    def may_get(self, entry: Entry, recalled: Container[int]) -> bool:
        """Tell whether nothing about the entry itself speaks against it; ``recalled`` are positions."""
        return (
            (entry.expires_at is None or entry.expires_at > self.now)
            and entry.position not in recalled
            and not entry.withheld_from(self.user, self.device)
        )


def still_due(entries: Sequence[Entry], reader: Reader, recalled: Container[int]) -> Sequence[Entry]:
    """Return what of a page goes out when it is written; between that and its reading time has passed."""
    if recalled:
        return [entry for entry in entries if reader.may_get(entry, recalled)]
    return [
        entry
        for entry in entries
        if not (entry.exclude or entry.expires_at is not None) or reader.may_get(entry, recalled)
    ]


def without_replaced(
    entries: Sequence[Entry], newest_first: Callable[[Entry], Iterable[Entry]], gets: Callable[[Entry], bool]
) -> Sequence[Entry]:
    """Return the entries but for those that a newer one replaces.

    ``newest_first`` yields all of an entry's address and collapse key within the replay, and ``gets``
    tells whether the reader gets one of them.
    """
    newest: dict[tuple[str, str], int] = {}

    def replaced(entry: Entry) -> bool:
        if entry.collapse_key is None:
            return False
        lane = entry.address, entry.collapse_key
        if lane not in newest:
            newest[lane] = next((e.position for e in newest_first(entry) if gets(e)), 0)
        return newest[lane] > entry.position

    return [entry for entry in entries if not replaced(entry)]
