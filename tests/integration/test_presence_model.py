"""The database's word on who is present, against a small model of it.

Time passes where the model says: the rows' times are moved into the past instead of waiting.
"""

import asyncio
from random import Random
from typing import Any, NamedTuple

import asyncpg
import pytest
from sqlalchemy import make_url

from service.domain.presence import Change
from service.store import presence as store
from tests.harness import eventually

INSTANCES, USERS, ROOMS = ["a", "b", "c"], ["alice", "bob", "carol"], ["red", "blue"]
LINGER, LEASE = 100.0, 1000.0
EVERYTHING = 1000


class Row(NamedTuple):
    user: str
    instance: str
    rooms: frozenset[str]
    gone: float | None


class Model:
    def __init__(self) -> None:
        self.now = 0.0
        self.rows: dict[str, Row] = {}
        self.seen: dict[str, float] = {}
        self.members: set[tuple[str, str]] = set()

    def present(self) -> set[tuple[str, str]]:
        """Who is there (with no room), and in which rooms by a connection."""
        rows = self.rows.values()
        return {(r.user, "") for r in rows} | {(r.user, room) for r in rows for room in r.rooms}

    def note(
        self, instance: str, live: dict[str, tuple[str, frozenset[str]]], gone: list[str]
    ) -> tuple[bool, set[Change]]:
        before = self.present()
        known = instance in self.seen and self.seen[instance] > self.now - LEASE
        self.seen[instance] = self.now
        dead = {i for i, seen in self.seen.items() if seen <= self.now - LEASE}
        swept = {
            key for key, row in self.rows.items()
            if key not in live
            and (row.instance in dead if row.gone is None else row.gone <= self.now - LINGER)
        }  # fmt: skip
        for key, (user, rooms) in live.items():
            self.rows[key] = Row(user, instance, rooms, None)
        for key in gone:
            if key in self.rows and self.rows[key].gone is None:
                self.rows[key] = self.rows[key]._replace(gone=self.now)
        for key in swept:
            del self.rows[key]
        for each in dead - {row.instance for row in self.rows.values()}:
            del self.seen[each]
        return known, self.told(before, self.present())

    def told(self, before: set[tuple[str, str]], after: set[tuple[str, str]]) -> set[Change]:
        came = {(u, r) for u, r in after - before if (u, r) not in self.members}
        left = {(u, r) for u, r in before - after if (u, r) not in self.members}
        return {Change("joined" if room else "connected", user, room or None) for user, room in came} | {
            Change("left" if room else "disconnected", user, room or None) for user, room in left
        }


class Story:
    """The model and the database beside each other."""

    def __init__(self, db: asyncpg.Connection, draw: Random) -> None:
        self.db = db
        self.draw = draw
        self.model = Model()
        self.number = 0
        self.own: dict[str, dict[str, tuple[str, frozenset[str]]]] = {each: {} for each in INSTANCES}
        """What each instance has told of its connections."""

    async def pass_time(self) -> None:
        seconds = self.draw.choice([LINGER / 2, LINGER / 2, LINGER + 1, LEASE + 1])
        self.model.now += seconds
        await self.db.execute(
            "update tidings.connections set gone_at = gone_at - make_interval(secs => $1)", seconds
        )
        await self.db.execute(
            "update tidings.instances set seen_at = seen_at - make_interval(secs => $1)", seconds
        )

    async def become_member(self) -> None:
        user, room = self.draw.choice(USERS), self.draw.choice(ROOMS)
        joins = (user, room) not in self.model.members
        (self.model.members.add if joins else self.model.members.remove)((user, room))
        await self.db.fetch(
            "select tidings.change_members(0, array[$1], array[$2], array[$3::bool], 'api', null)",
            room, user, joins,
        )  # fmt: skip

    async def note(self) -> None:
        instance = self.draw.choice(INSTANCES)
        own, live = self.own[instance], {}
        for _ in range(self.draw.randrange(3)):
            self.number += 1
            live[f"{self.number:04}"] = (self.draw.choice(USERS), frozenset[str]())
        for key in self.draw.sample(sorted(own), self.draw.randrange(len(own) + 1) // 2):
            rooms = frozenset(self.draw.sample(ROOMS, self.draw.randrange(3)))
            live[key] = (own[key][0], rooms)
        own |= live
        gone = self.draw.sample(sorted(own), self.draw.randrange(len(own) + 1) // 2)
        for key in gone:
            del own[key]
        await self.compare(instance, live, gone)

    async def compare(
        self, instance: str, live: dict[str, tuple[str, frozenset[str]]], gone: list[str]
    ) -> None:
        known, changes = self.model.note(instance, live, gone)
        rows = [
            store.Live(key, user, "d", None, 0.0, ",".join(sorted(rooms)))
            for key, (user, rooms) in live.items()
        ]
        lease = store.Lease(instance, "1", LEASE, LINGER)
        noted = await store.note(self.db, lease, 0.0, None, rows, gone, EVERYTHING)
        assert (noted.known, noted.more) == (known, False)
        assert sorted(noted.changes, key=str) == sorted(changes, key=str)
        if not known:
            # It writes all of them anew, as the instances do.
            again = {key: self.own[instance][key] for key in self.own[instance].keys() - live.keys()}
            if again:
                await self.compare(instance, again, [])

    async def look(self) -> None:
        room = self.draw.choice(ROOMS)
        present = self.model.present()
        expected = {
            user for user in USERS
            if (user, room) in present or ((user, "") in present and (user, room) in self.model.members)
        }  # fmt: skip
        rows = await store.present(self.db, room, "", EVERYTHING)
        assert [row["user_id"] for row in rows] == sorted(expected)
        live = [key for key, row in self.model.rows.items() if row.gone is None]
        rows = await store.connections(self.db, None, None, "", EVERYTHING)
        assert [row["id"] for row in rows] == sorted(live)
        expected = {row.user for row in self.model.rows.values() if row.gone is None}
        assert await store.users(self.db) == len(expected)

    async def go_on(self) -> None:
        step = self.draw.choices(
            [self.note, self.pass_time, self.become_member, self.look], weights=[6, 2, 1, 2]
        )
        await step[0]()


@pytest.mark.parametrize("seed", range(6))
async def test_presence_is_what_the_model_says(db: asyncpg.Connection, seed: int) -> None:
    story = Story(db, Random(seed))
    for _ in range(120):
        await story.go_on()


async def test_who_writes_at_the_same_time_sees_the_other(db: asyncpg.Connection, database_url: str) -> None:
    """One has not committed yet when the other begins: of two first connections one is the first."""
    url = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    other = await asyncpg.connect(url)
    row = store.Live("1", "alice", "d", None, 0.0, "")
    for live, gone, kinds in (([row], [], "connected"), ([], ["1"], "disconnected")):
        second = [each._replace(id="2") for each in live], ["2"] * len(gone)
        held = db.transaction()
        await held.start()
        told = [await store.note(db, store.Lease("a", "1", LEASE, 0.0), 0.0, None, live, gone, 10)]
        waiting = asyncio.create_task(
            store.note(other, store.Lease("b", "1", LEASE, 0.0), 0.0, None, *second, 10)
        )
        await eventually(lambda: db.fetchval(WAITING))
        await held.commit()
        told.append(await waiting)
        told.append(await store.note(db, store.Lease("a", "1", LEASE, 0.0), 0.0, None, [], [], 10))
        assert [change.kind for noted in told for change in noted.changes] == [kinds]
    await other.close()


WAITING = "select exists (select from pg_locks where locktype = 'advisory' and not granted)"


async def test_sweeping_is_bounded_and_goes_on(db: asyncpg.Connection) -> None:
    def lease(instance: str) -> store.Lease:
        return store.Lease(instance, "1", LEASE, LINGER)

    live = [store.Live(f"{n:03}", f"user {n // 2}", "d", None, 0.0, "") for n in range(30)]
    await store.note(db, lease("dead"), 0.0, None, live, [], 10)
    await db.execute("update tidings.instances set seen_at = '-infinity'")
    told: list[Change] = []
    for more in (True, True, True, False):
        noted: Any = await store.note(db, lease("alive"), 0.0, None, [], [], 10)
        assert noted.more is more
        told += noted.changes
    assert sorted(told) == sorted(Change("disconnected", f"user {n}") for n in range(15))
    assert [row["id"] for row in await store.instances(db, LEASE)] == ["alive"]


async def test_what_an_instance_left_without_a_lease_is_swept_by_the_next(db: asyncpg.Connection) -> None:
    live = [store.Live("c", "alice", "d", '{"name":"Alice"}', 0.0, "red")]
    await store.note(db, store.Lease("dead", "1", LEASE, LINGER), 0.0, None, live, [], 10)
    await db.execute("delete from tidings.instances")  # as the version before does after a day
    alive = store.Lease("alive", "1", LEASE, LINGER)
    noted = await store.note(db, alive, 0.0, None, [], [], 10)
    assert noted.changes == [
        Change("disconnected", "alice", None, '{"name":"Alice"}'),
        Change("left", "alice", "red"),
    ]
    assert await store.noted(db, "dead", "", 10) == []
