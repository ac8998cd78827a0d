"""What happened, as the clients saw it: every record of a run, in the order in which it was made.

Times are seconds of the monotonic clock, which all processes of a machine share. What is done is recorded
before it is done, and what was seen once it was seen: so that one record precedes another means that
the one cannot have been caused by the other.

An event carries a ``mark`` in its data, by which it is known wherever it turns up. Rooms have one
source of membership each: the API, or the clients themselves.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Final, Literal, Self

import msgspec

UNKNOWN: Final = 0
"""The status of a request whose outcome nobody was told."""


class _Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    at: float = msgspec.field(default_factory=monotonic)


# Producers


class Sent(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One event of a POST; times in seconds. ``exclude`` has users, and devices behind a line feed."""

    mark: str
    to: tuple[str, ...]
    id: str | None = None
    exclude: tuple[str, ...] = ()
    ttl: float | None = None
    collapse_key: str | None = None
    after: float | None = None
    """It was put off for so long."""


class Placed(msgspec.Struct, frozen=True, gc=False):
    """Where an event stands for one of its addresses, as its producer was told."""

    to: str
    position: int
    id: str


class Posted(_Record, frozen=True, tag=True, omit_defaults=True, gc=False):
    """An attempt of a POST (or of a publish by a client) begins; another may have preceded it.

    All attempts of one ``post`` are the same request: with the same ``Idempotency-Key``, or with the
    same ids, so that it may be done once only. Without either there is but one attempt.
    """

    post: str
    attempt: int
    producer: str
    url: str
    events: tuple[Sent, ...]
    key: str | None = None


class Answered(_Record, frozen=True, tag=True, omit_defaults=True, gc=False):
    """What became of an attempt: a status, ``UNKNOWN`` where there was none or it says so.

    ``placed`` is in the order of events and of their addresses; empty where the events are put off.
    """

    post: str
    attempt: int
    status: int
    placed: tuple[Placed, ...] = ()
    why: str = ""


# Devices


class Token(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What a device showed: ``rooms`` are patterns of those that it may receive by its own joining."""

    user: str
    jti: str
    iat: int
    rooms: tuple[str, ...] = ()


class Connecting(_Record, frozen=True, tag=True, omit_defaults=True, gc=False):
    """A handshake begins. With ``manual`` the device acknowledges by itself (``ack=client``)."""

    connection: str
    url: str
    device: str
    token: Token
    after: int | None = None
    manual: bool = False


class Received(_Record, frozen=True, tag=True, omit_defaults=True, gc=False):
    """A frame has come in: ``welcome``, ``event``, ``live``, ``gap``, ``joined_room`` and so on.

    ``head`` is the welcome's. ``since`` and the position are the bounds of a gap.
    """

    connection: str
    frame: str
    position: int | None = None
    id: str | None = None
    to: str | None = None
    mark: str | None = None
    room: str | None = None
    recalled: int | None = None
    head: int | None = None
    since: int | None = None
    reason: str | None = None


class Acknowledged(_Record, frozen=True, tag=True, omit_defaults=True, gc=False):
    """The device is about to say that it has everything up to a position: by ``ack``, or by a pong."""

    connection: str
    position: int


class Closed(_Record, frozen=True, tag=True, omit_defaults=True, gc=False):
    """A connection or a handshake is over. ``code`` is a close code or an HTTP status; 0 for none.

    ``own`` says that it was the device's wish.
    """

    connection: str
    code: int = 0
    own: bool = False


class Stored(_Record, frozen=True, tag=True, omit_defaults=True, gc=False):
    """The service has said what a device's cursor is."""

    user: str
    device: str
    cursor: int


# Admins


class Ordered(_Record, frozen=True, tag=True, omit_defaults=True, gc=False):
    """An admin is about to do something: what is answered comes as a record of its own."""

    order: str
    url: str
    what: Literal["member", "revoke", "recall", "disconnect"]


class Moved(_Record, frozen=True, tag=True, omit_defaults=True, gc=False):
    """A membership has changed, at a position of the log; ``position`` is None where nobody was told."""

    user: str
    room: str
    joins: bool
    source: Literal["api", "client"]
    position: int | None = None


class Revoked(_Record, frozen=True, tag=True, omit_defaults=True, gc=False):
    """Tokens are dead from now on: that of ``jti``, or of ``user`` those issued up to ``issued_before``."""

    position: int
    jti: str | None = None
    user: str | None = None
    issued_before: int | None = None


class Recalling(_Record, frozen=True, tag=True, omit_defaults=True, gc=False):
    """An event may be taken back from now on."""

    recalled: int


class Recalled(_Record, frozen=True, tag=True, omit_defaults=True, gc=False):
    """An event has been taken back."""

    recalled: int
    position: int


# What is done to the service


class Fault(_Record, frozen=True, tag=True, omit_defaults=True, gc=False):
    """Something is broken from now on, or with ``begins`` false no longer: the same kind and detail.

    ``lost_from`` is the last position that a restore or a failover has kept, ``floor`` the last one that
    retention has deleted: what lies beyond the one or before the other may be missing.
    """

    kind: str
    begins: bool = True
    detail: str = ""
    lost_from: int | None = None
    floor: int | None = None


class Healed(_Record, frozen=True, tag=True, omit_defaults=True, gc=False):
    """Nothing is broken any more, and nobody produces: what is still missing has to come soon."""


class Over(_Record, frozen=True, tag=True, omit_defaults=True, gc=False):
    """The end: whatever is to be seen has been seen."""


Record = (
    Posted | Answered | Connecting | Received | Acknowledged | Closed | Stored
    | Ordered | Moved | Revoked | Recalling | Recalled | Fault | Healed | Over
)  # fmt: skip

_decode = msgspec.json.Decoder(Record).decode


class History:
    """Records of a run, in memory and, where there is a path, in a file: one line of JSON for each.

    The file is written as it goes, and is whole once the context has ended.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.records: list[Record] = []
        self._encoder = msgspec.json.Encoder()
        self._file = None if path is None else path.open("ab", buffering=1024 * 1024)

    def add(self, record: Record) -> None:
        """Append a record."""
        self.records.append(record)
        if self._file is not None:
            self._file.write(self._encoder.encode(record) + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)


def read(path: Path) -> list[Record]:
    """Return what a file holds; a last line that was cut off is left out."""
    return list(_records(path.read_bytes().split(b"\n")))


def _records(lines: Iterable[bytes]) -> Iterator[Record]:
    *whole, _ = lines
    for line in whole:
        record: Record = _decode(line)
        yield record
