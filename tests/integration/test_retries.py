"""An append whose answer was lost is sent again: it is told what the first attempt was told.

And the log holds each unit once, whether the first attempt had arrived or not, and whatever others
appended in between.
"""

from collections.abc import Iterator
from itertools import count
from random import Random
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from service.domain.events import Draft, Group, Once, Outcome, Submission, Unit
from service.store import append as store
from service.store import log, pending
from tests.pending import FAR

GROUPS = 150
OFTEN = "abcdefgh"
"""Keys that are used again and again, each for other entries."""
WINDOW = 3600.0
"""Seconds that a key is remembered: all of them."""

Answer = tuple[Group | None, list[Outcome]]
"""The group as the tail takes it, and where each unit stands."""
Appended = tuple[list[Unit], Answer]


class Producer:
    """Makes up groups in which no two entries are the same, and appends them."""

    def __init__(self, db: asyncpg.Connection, seed: int) -> None:
        self.random = Random(seed)
        self._db = db
        self._serial = count()

    def units(self) -> list[Unit]:
        """Return a group of units with and without keys; no two of them have the same."""
        units: dict[str, Unit] = {}
        for _ in range(self.random.randrange(1, 6)):
            own = f"own {next(self._serial)}"
            key = self.random.choice([None, None, own, *OFTEN])
            drafts = [self._draft(lead, key) for lead in range(self.random.randrange(1, 4))]
            units[key or own] = Unit(drafts, "p", key)
        return list(units.values())

    def _draft(self, lead: int, key: str | None) -> Draft:
        sender, exclude = self.random.choice([(None, ()), ("alice", ("alice\nphone",))])
        return Draft(f"user:{lead}", "t", str(next(self._serial)), lead, key, sender, exclude)

    async def append(self, units: list[Unit], batch: UUID, seen: int, *, retry: bool) -> Answer:
        submissions = [Submission([unit]) for unit in units]
        group, results = await store.append(
            self._db, batch, submissions, seen=seen, retry=retry, window=WINDOW
        )
        return group, [outcome for result in results if isinstance(result, list) for outcome in result]

    async def append_others(self) -> list[Appended]:
        """Append what others might meanwhile: up to two groups."""
        groups = [self.units() for _ in range(self.random.randrange(3))]
        return [(units, await self.append(units, uuid4(), 0, retry=False)) for units in groups]


def told(answer: Answer) -> tuple[Any, ...]:
    """Return all that an answer says, so that it can be compared."""
    group, outcomes = answer
    return (outcomes, None if group is None else content(group))


def content(group: Group) -> tuple[Any, ...]:
    return (group.after, group.last, [msgspec.structs.astuple(entry) for entry in group.entries])


def each(appended: list[Appended]) -> Iterator[tuple[Unit, Outcome]]:
    for units, (_, outcomes) in appended:
        yield from zip(units, outcomes, strict=True)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_retry_is_told_what_the_lost_answer_said_and_the_log_holds_each_unit_once(
    db: asyncpg.Connection, seed: int
) -> None:
    producer = Producer(db, seed)
    appended: list[Appended] = []
    for _ in range(GROUPS):
        appended += await producer.append_others()
        units, batch, seen = producer.units(), uuid4(), await db.fetchval("select tidings.head()")
        arrived = producer.random.random() < 0.7
        answers = [await producer.append(units, batch, seen, retry=False)] if arrived else []
        for _ in range(2):
            appended += await producer.append_others()
            answers.append(await producer.append(units, batch, seen, retry=True))
        first, *again = map(told, answers)
        assert again == [first] * len(again)
        appended.append((units, answers[0]))

    rows = await db.fetch("select position, address, data from tidings.events order by position")
    new = [(unit, outcome.first) for unit, outcome in each(appended) if not outcome.replayed]
    assert [tuple(row) for row in rows] == sorted(
        (first + n, draft.address, draft.data) for unit, first in new for n, draft in enumerate(unit.drafts)
    )
    originals = {unit.key: (first, len(unit.drafts)) for unit, first in new}
    replays = [(unit, outcome) for unit, outcome in each(appended) if outcome.replayed]
    assert len(replays) > GROUPS
    assert all(originals[unit.key] == (outcome.first, outcome.entries) for unit, outcome in replays)
    groups = [group for _, (group, _) in appended if group is not None]
    for group in groups:
        assert content(await log.between(db, group.after, group.last, len(rows) + 1)) == content(group)


def unit(data: str, key: str | None = None, due_at: float | None = None) -> Unit:
    return Unit([Draft("user:a", "t", data, id=key)], "p", key, due_at)


async def test_a_retry_is_told_the_same_though_keys_are_moved_and_forgotten_meanwhile(
    db: asyncpg.Connection,
) -> None:
    async def append(submissions: list[Submission], batch: UUID, *, retry: bool) -> store.Appended:
        return await store.append(db, batch, submissions, seen=0, retry=retry, window=WINDOW)

    await append([Submission([unit("0", "old"), unit("1", "later", FAR)])], uuid4(), retry=False)
    submissions = [
        Submission([unit("2", "later"), unit("3", "old"), unit("4")], Once("p", "mixed", b"m")),
        Submission([unit("5", "own")]),
        Submission([unit("6", "own later", FAR)]),
        Submission([unit("7", None, FAR)], Once("p", "put off", b"p")),
    ]
    batch = uuid4()
    first = await append(submissions, batch, retry=False)
    await db.execute("update tidings.pending set due_at = now()")
    moved = await pending.release(db, seen=0, window=WINDOW, entries=10, size=10**6, back=None)
    assert moved.moved == 3
    await db.execute("delete from tidings.idempotency_keys where key = 'old'")
    again = await append(submissions, batch, retry=True)
    assert again.results == first.results
    assert first.group is not None
    assert again.group is not None
    assert content(again.group) == content(first.group)
    assert [entry.data for entry in first.group.entries] == ["4", "5"]


async def test_a_retry_of_what_was_only_put_off_is_told_the_same(db: asyncpg.Connection) -> None:
    submissions, batch = [Submission([unit("0", "own", FAR)], Once("p", "request", b"r"))], uuid4()
    answers = [
        await store.append(db, batch, submissions, seen=0, retry=retry, window=WINDOW)
        for retry in (False, True)
    ]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("due_at", [None, FAR], ids=["at once", "for later"])
async def test_many_repeats_in_one_group_do_not_hold_the_lock_for_long(
    db: asyncpg.Connection, due_at: float | None
) -> None:
    """After an outage all producers try again at once: half of these took 18 s once."""
    await db.execute("set statement_timeout = '20s'")
    submissions = [
        Submission([unit("0", f"own {n}", due_at)], Once("p", f"request {n}", b"")) for n in range(2000)
    ]
    for again in (False, True):
        _, results = await store.append(db, uuid4(), submissions, seen=0, retry=False, window=WINDOW)
        assert all(isinstance(result, list) and result[0].repeated == again for result in results)
