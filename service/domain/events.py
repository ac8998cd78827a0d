"""What the log holds, and what is handed to it.

Sizes are bytes of UTF-8. ``data`` is JSON text as it was received: it is spliced into frames and
never parsed again.
"""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from service.domain.addresses import CONTROL

MAX_UNIT_ENTRIES: Final = 5_000
MAX_UNIT_BYTES: Final = 8 * 1024 * 1024

Kind = Literal[
    "event", "recalled", "read", "joined", "left",
    "revoked", "lifted", "disconnect", "forgotten", "key", "key_deleted", "erased",
]  # fmt: skip

DELIVERED: Final = frozenset[Kind]({"event", "recalled", "read"})
"""Kinds that are only delivered: they change nothing of who gets what."""
MEMBERSHIP: Final = frozenset[Kind]({"joined", "left"})
"""Kinds that are delivered, and from which on others are due."""
FOR_CLIENTS: Final = DELIVERED | MEMBERSHIP
"""A newer version beside this one may write kinds that this one has no frame for."""


class Entry(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One entry of the log.

    ``event`` carries a producer's event, and ``recalled`` the position of one that was taken back, at
    the same address. ``joined`` and ``left`` stand at ``user:<id>`` with the room as their type and the
    membership's source as data; ``read`` too, with what of the inbox was marked as read, and what is
    unread since, as an object. The other kinds stand at ``control`` and are for the instances.
    ``time`` is RFC 3339 in UTC with milliseconds; ``expires_at`` in seconds since the epoch.

    ``frame`` is the finished WebSocket frame, which is the same for all receivers; ``frames.finished``
    makes it for the first of them and keeps it here. So an entry is compared by what it is, not by
    what it holds.
    """

    position: int
    kind: Kind
    address: str
    type: str
    data: str
    time: str
    lead: int = 0
    id: str | None = None
    sender: str | None = None
    exclude: tuple[str, ...] = ()
    expires_at: float | None = None
    collapse_key: str | None = None
    frame: bytes | None = None

    @property
    def event_id(self) -> str:
        """Return the producer's id, or else the first position of the POST that it came with."""
        return self.id if self.id is not None else str(self.position - self.lead)

    @property
    def is_control(self) -> bool:
        """Tell whether it is for the instances and not for any client."""
        return self.address == CONTROL

    @property
    def size(self) -> int:
        """Return roughly what it weighs in memory, in bytes, with the frame that holds its data again."""
        return 2 * self.data.__sizeof__() + sum(64 + len(name) for name in self.exclude) + 512

    def withheld_from(self, user: str, device: str) -> bool:
        """Tell whether its sender excluded this user, or this one device of the user."""
        return bool(self.exclude) and (user in self.exclude or f"{user}\n{device}" in self.exclude)


class Group(msgspec.Struct, frozen=True, gc=False):
    """All the entries of the log in ``(after, last]``, in order. Gaps between positions are none."""

    after: int
    last: int
    entries: Sequence[Entry]


class Draft(msgspec.Struct, frozen=True, gc=False):
    """An event that is to be appended, to one address.

    ``lifetime`` is in seconds from then on. ``undelivered_after`` as many, its producer is to be told if
    no device has received it, or with ``unless_read`` if nobody has read it.
    """

    address: str
    type: str
    data: str
    lead: int = 0
    id: str | None = None
    sender: str | None = None
    exclude: tuple[str, ...] = ()
    lifetime: float | None = None
    collapse_key: str | None = None
    undelivered_after: float | None = None
    unless_read: bool = False


class Unit(msgspec.Struct, frozen=True):
    """What is appended as a whole or not at all.

    ``key`` is accepted once for each ``producer``; a unit without one is always appended. Where there is
    ``due_at``, in seconds since the epoch, its drafts are one event that is put off until then.
    """

    drafts: Sequence[Draft]
    producer: str | None = None
    key: str | None = None
    due_at: float | None = None

    @property
    def size(self) -> int:
        """Return the bytes that it takes after its addresses are expanded."""
        return sum([len(d.data) + sum(map(len, d.exclude)) for d in self.drafts])


class Once(NamedTuple):
    """A request that is carried out once for each ``producer`` and ``key``.

    ``fingerprint`` is the SHA-256 of its body: the same key with another one is a mistake.
    """

    producer: str
    key: str
    fingerprint: bytes


class Submission(msgspec.Struct, frozen=True):
    """Units that are appended together or not at all: a request."""

    units: Sequence[Unit]
    once: Once | None = None


class Outcome(msgspec.Struct, frozen=True):
    """Where a unit went: ``entries`` positions from ``first`` on, or put off as ``pending``.

    ``replayed`` says that its key had been used before, and this is where the original stands;
    ``repeated``, that its whole request had been carried out before.
    """

    first: int
    entries: int
    replayed: bool = False
    repeated: bool = False
    pending: int | None = None
