"""What a replay leaves out. Live, everything goes out; ``store.log`` has the same rule as SQL.

- An event that has expired, or that was taken back, is not replayed.
- One with a collapse key is left out for a newer one of the same address and key, if that is within
  this replay, which goes up to the hub's position, and this reader gets it: a member at its position,
  not excluded, and it has neither expired nor been taken back.
- What somebody is excluded from does not exist for them, nor does a kind that only a newer version knows.
"""

from collections.abc import Callable, Container, Mapping, Reversible, Sequence
from typing import NamedTuple

from service.domain.events import FOR_CLIENTS, Entry

Key = tuple[str, str]
"""An address, and a collapse key there."""


class Reader(NamedTuple):
    """Whom a page is for, and when: ``now`` in seconds since the epoch, by the database's clock."""

    user: str
    device: str
    now: float

    def may_get(self, entry: Entry, recalled: Container[int]) -> bool:
        """Tell whether nothing about the entry itself speaks against it; ``recalled`` are positions."""
        return (
            entry.kind in FOR_CLIENTS
            and (entry.expires_at is None or entry.expires_at > self.now)
            and entry.position not in recalled
            and not entry.withheld_from(self.user, self.device)
        )


def still_due(entries: Sequence[Entry], reader: Reader, recalled: Container[int]) -> Sequence[Entry]:
    """Return what of a page goes out when it is written; between that and its reading time has passed."""
    return [
        entry
        for entry in entries
        if (
            entry.kind == "event"
            and entry.expires_at is None
            and not entry.exclude
            and entry.position not in recalled
        )
        or reader.may_get(entry, recalled)  # for the few, since a call costs more than all of the above
    ]


def without_replaced(
    entries: Sequence[Entry], keyed: Mapping[Key, Reversible[Entry]], gets: Callable[[Entry], bool]
) -> Sequence[Entry]:
    """Return the entries but for those that a newer one replaces.

    ``keyed`` has all there are of an address and collapse key, in order, and ``gets`` tells whether the
    reader gets one of them in this replay.
    """
    newest: dict[Key, int] = {}

    def replaced(position: int, key: Key) -> bool:
        if key not in newest:
            newest[key] = next((entry.position for entry in reversed(keyed[key]) if gets(entry)), 0)
        return newest[key] > position

    return [
        entry
        for entry in entries
        if entry.collapse_key is None or not replaced(entry.position, (entry.address, entry.collapse_key))
    ]
