"""Events on their way out: as they are sent, and how they are put together."""

import asyncio
import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple, TypedDict

EVENTS: Final = 500
"""In a batch, at most; the service takes 1,000."""
BYTES: Final = 900 * 1024
"""Of a batch, at most; the service takes 1 MiB."""


class Options(TypedDict, total=False):
    """What an event can say besides address, type and data; see the protocol."""

    id: str
    exclude: Sequence[str]
    ttl: int
    collapse_key: str
    deliver_at: datetime | str
    ephemeral: bool
    undelivered_after: int
    undelivered_unless: str


class Sent(NamedTuple):
    """What has become of an event: where it stands in the log, once for each address.

    One that is put off has no positions yet, but the ids by which it can be taken back; an ephemeral one has
    neither.
    """

    positions: Sequence[int]
    id: str | None
    scheduled: Sequence[str] = ()

    @property
    def position(self) -> int | None:
        """Return the first position."""
        return self.positions[0] if self.positions else None


@dataclass(slots=True, eq=False)
class Outgoing:
    """An event that somebody waits for."""

    body: bytes
    id: str | None
    answer: asyncio.Future[Sent]


def encoded(to: str | Sequence[str], kind: str, data: Any, options: Options) -> bytes:
    """Return an event as JSON. Raises ValueError, TypeError, where it cannot be."""
    event: dict[str, Any] = {"to": to if isinstance(to, str) else [*to], "type": kind, "data": data}
    event |= {name: value for name, value in options.items() if value is not None}
    at = event.get("deliver_at")
    if isinstance(at, datetime):
        event["deliver_at"] = at.isoformat()
    return json.dumps(event, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()


def batch_body(batch: Sequence[Outgoing]) -> bytes:
    """Return the request for a batch of which each event is judged by itself."""
    return b'{"mode":"partial","events":[' + b",".join(one.body for one in batch) + b"]}"


class Buffer:
    """Events that wait for their turn; those on their way count too, until they are ``settled``."""

    def __init__(self, events: int, size: int) -> None:
        """``events`` and ``size``, in bytes, are how much it holds; a single event always fits."""
        self._events, self._size = events, size
        self._waiting: deque[Outgoing] = deque()
        self._held = self._bytes = 0

    def __len__(self) -> int:
        """Return how many wait or are on their way."""
        return self._held

    def takes(self, body: bytes) -> bool:
        """Tell whether there is room for this."""
        return not self._held or (self._held < self._events and self._bytes + len(body) <= self._size)

    def add(self, outgoing: Outgoing) -> None:
        """Let it wait."""
        self._waiting.append(outgoing)
        self._held += 1
        self._bytes += len(outgoing.body)

    def settle(self, batch: Sequence[Outgoing]) -> None:
        """Forget what was on its way."""
        self._held -= len(batch)
        self._bytes -= sum(len(one.body) for one in batch)

    def cut(self) -> list[Outgoing]:
        """Return the next batch, in the order in which they came.

        The service takes no two events with the same ``id`` in one: the second one begins the next batch.
        """
        batch: list[Outgoing] = []
        ids: set[str] = set()
        size = 0
        while self._waiting and len(batch) < EVENTS:
            one = self._waiting[0]
            if batch and (size + len(one.body) > BYTES or one.id in ids):
                break
            batch.append(self._waiting.popleft())
            size += len(one.body) + 1
            if one.id is not None:
                ids.add(one.id)
        return batch
