"""The append: one group of submissions, one statement, one commit."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

import asyncpg
import msgspec

from service.domain.errors import KeyReused
from service.domain.events import Draft, Entry, Group, Outcome, Submission, Unit
from service.domain.frames import timestamp
from service.store.database import one

APPEND: Final = f"""
select * from tidings.append({", ".join(f"${n}" for n in range(1, 25))})
"""

T = TypeVar("T")
_encode = msgspec.json.Encoder().encode

Result = list[Outcome] | KeyReused
"""Of a submission: its units' outcomes, or that its key belongs to another request."""


class _Key(NamedTuple):
    """A key in a group, for the units from ``unit`` to ``upto``; ``at`` is the index of its first entry."""

    unit: int
    upto: int
    producer: str | None
    key: str
    fingerprint: bytes | None
    at: int | None
    entries: int


class _Repeat(NamedTuple):
    """A key that was used before."""

    key: int
    position: int
    entries: int
    pending: list[int | None] | None
    clash: bool


class Appended(NamedTuple):
    """What became of a group; the tail takes ``group``, None where nothing came into the log."""

    group: Group | None
    results: list[Result]


async def append(
    connection: asyncpg.Connection, batch: UUID, submissions: Sequence[Submission], *,
    seen: int, retry: bool, window: float,
) -> Appended:  # fmt: skip
    """Append a group.

    ``seen`` is the highest position this instance has ever seen, ``window`` how long a key is
    remembered, in seconds. With ``retry`` an earlier attempt of the same ``batch`` may have been
    committed: it is looked for first.
    """
    units = [unit for submission in submissions for unit in submission.units]
    at_once = [(number, unit) for number, unit in enumerate(units) if unit.due_at is None]
    drafts = [draft for _, unit in at_once for draft in unit.drafts]
    keys = _keys(submissions)
    row = await one(
        connection, APPEND, batch, seen, retry, timedelta(seconds=window),
        [number for number, unit in at_once for _ in unit.drafts] if keys else [],
        [],
        [draft.address for draft in drafts],
        [draft.type for draft in drafts],
        [draft.data for draft in drafts],
        _unless_empty([draft.lead for draft in drafts]),
        _unless_empty([draft.id for draft in drafts]),
        _unless_empty([draft.sender for draft in drafts]),
        _unless_empty([excluded(draft) for draft in drafts]),
        _unless_empty([draft.lifetime for draft in drafts]),
        _unless_empty([draft.collapse_key for draft in drafts]),
        *([list(column) for column in zip(*keys, strict=True)] or [[]] * 7),
        _json([_put_off(number, unit) for number, unit in enumerate(units) if unit.due_at is not None]),
        _json([_watched(index, draft) for index, draft in enumerate(drafts) if draft.undelivered_after]),
    )  # fmt: skip
    return _appended(row, submissions, keys)


def _keys(submissions: Iterable[Submission]) -> list[_Key]:
    keys: list[_Key] = []
    number = index = 0
    for submission in submissions:
        first, at = number, index
        for unit in submission.units:
            entries = len(unit.drafts) if unit.due_at is None else 0
            if unit.key is not None:
                where = index if entries else None
                keys.append(_Key(number, number, unit.producer, unit.key, None, where, len(unit.drafts)))
            number += 1
            index += entries
        if (once := submission.once) is not None:
            where = at if index > at else None
            keys.append(_Key(first, number - 1, once.producer, once.key, once.fingerprint, where, index - at))
    return keys


def _unless_empty(column: list[T]) -> list[T]:
    """Return what only some entries have: nothing where none has it, which costs nothing to send."""
    return column if any(column) else []


def excluded(draft: Draft) -> str | None:
    """Return who does not get it, as the table holds it."""
    return _encode(draft.exclude).decode() if draft.exclude else None


def _json(rows: Sequence[object]) -> str | None:
    return _encode(rows).decode() if rows else None


def _put_off(number: int, unit: Unit) -> dict[str, object]:
    event = unit.drafts[0]
    return {
        "unit": number,
        "due_at": unit.due_at,
        "producer": unit.producer,
        "addresses": [draft.address for draft in unit.drafts],
        "type": event.type,
        "data": event.data,
        "event_id": event.id,
        "exclude": excluded(event),
        "lifetime": event.lifetime,
        "collapse_key": event.collapse_key,
        "undelivered_after": event.undelivered_after,
        "unless_read": event.unless_read,
    }


def _watched(index: int, draft: Draft) -> dict[str, object]:
    return {"entry": index, "after": draft.undelivered_after, "unless_read": draft.unless_read}


def _appended(row: asyncpg.Record, submissions: Sequence[Submission], keys: Sequence[_Key]) -> Appended:
    group = _Reading(row, keys)
    results = [group.result(submission) for submission in submissions]
    if row["first"] is None:
        return Appended(None, results)
    return Appended(Group(row["after"], group.entries[-1].position, group.entries), results)


class _Reading:
    """Reads what the append answered, submission by submission in their order."""

    def __init__(self, row: asyncpg.Record, keys: Sequence[_Key]) -> None:
        self.entries: list[Entry] = []
        self._position = row["first"] or 0
        self._at = row["at"].timestamp()
        self._time = timestamp(row["at"])
        self._number = 0
        self._pending = iter(row["pending"] or ())
        repeats = [] if row["repeats"] is None else msgspec.json.decode(row["repeats"], type=list[_Repeat])
        self._natural = {keys[r.key].unit: r for r in repeats if keys[r.key].fingerprint is None}
        self._requests = {keys[r.key].unit: r for r in repeats if keys[r.key].fingerprint is not None}

    def result(self, submission: Submission) -> Result:
        """Return what became of the next submission."""
        request = self._requests.get(self._number)
        if request is None:
            return [self._outcome(unit) for unit in submission.units]
        outcomes = self._repeated(submission.units, request)
        return KeyReused("this Idempotency-Key came with another body before") if request.clash else outcomes

    def _outcome(self, unit: Unit) -> Outcome:
        repeat = self._natural.get(self._number)
        self._number += 1
        position = self._position
        pending = None
        if unit.due_at is None:
            self._position += len(unit.drafts)
        else:
            pending = next(self._pending)
        if repeat is not None:
            return _original(repeat)
        if unit.due_at is not None:
            return Outcome(0, len(unit.drafts), pending=pending)
        self.entries += [self._entry(place, draft) for place, draft in enumerate(unit.drafts, position)]
        return Outcome(position, len(unit.drafts))

    def _repeated(self, units: Sequence[Unit], request: _Repeat) -> list[Outcome]:
        """Tell where the units of a request went when it was carried out."""
        outcomes: list[Outcome] = []
        position, pending = request.position, iter(request.pending or ())
        for unit in units:
            repeat = self._natural.get(self._number)
            self._number += 1
            if unit.due_at is None:
                own = Outcome(position, len(unit.drafts), repeated=True)
                position += len(unit.drafts)
                self._position += len(unit.drafts)
            else:
                next(self._pending)
                put_off = next(pending, None)  # another body may put off more; it is refused
                # One that was left out then, and is cancelled now, is nowhere.
                own = Outcome(0, len(unit.drafts), put_off is None, repeated=True, pending=put_off)
                repeat = repeat if put_off is None else None
            outcomes.append(own if repeat is None else _original(repeat, repeated=True))
        return outcomes

    def _entry(self, position: int, draft: Draft) -> Entry:
        expires_at = None if draft.lifetime is None else self._at + draft.lifetime
        return Entry(
            position, "event", draft.address, draft.type, draft.data, self._time, draft.lead, draft.id,
            draft.sender, draft.exclude, expires_at, draft.collapse_key,
        )  # fmt: skip


def _original(repeat: _Repeat, *, repeated: bool = False) -> Outcome:
    pending = repeat.pending[0] if repeat.pending and not repeat.position else None
    return Outcome(repeat.position, repeat.entries, replayed=True, repeated=repeated, pending=pending)
