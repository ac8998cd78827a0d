"""What is old goes, nobody waits for it, and whoever missed it is told."""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from service.domain.due import Reader
from service.domain.recent import FOREVER, Interval
from service.domain.retention import SPAN, Keep
from service.store import log, retention
from service.store.database import Database
from service.stream import retention as duty
from service.stream.retention import Pruned, prune
from tests.harness import PATIENCE, Device, Server, eventually

Start = Callable[..., Awaitable[Server]]

DAY = 86400.0
MONTH = Keep(30 * DAY)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A partition is left for the next time because of a reader, not because the machine is slow."""
    monkeypatch.setattr(retention, "PATIENCE", PATIENCE)


@pytest.fixture
async def server(start: Start) -> Server:
    """A service that lets go of nothing meanwhile: the test says when."""
    server = await start(retention=0)
    await eventually(lambda: _has_looked(server))
    return server


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, 2)
    yield database
    await database.close()


async def grow_old(db: asyncpg.Connection, days: int = 40) -> None:
    """Make all that is in the log older."""
    await db.execute("update tidings.events set time = time - make_interval(days => $1)", days)


async def append(db: asyncpg.Connection, to: str = "everyone") -> int:
    position: int = await db.fetchval("select tidings.append_one(0, 'event', $1, 't', '1')", to)
    return position


async def old_partition(db: asyncpg.Connection) -> int:
    """Make the first partition one that is to go, and begin the second; return what is to be the floor."""
    last = [await append(db) for _ in range(3)][-1]
    await grow_old(db)
    assert await db.fetchval("select tidings.close_partition(0, $1)", SPAN)
    assert await append(db) == SPAN
    return last


async def states(db: asyncpg.Connection) -> dict[int, str]:
    return {p.start: p.state for p in (await retention.held(db)).partitions}


async def floor(db: asyncpg.Connection) -> int:
    position: int = await db.fetchval("select floor from tidings.log")
    return position


@asynccontextmanager
async def idle_reader(url: str) -> AsyncIterator[None]:
    """A transaction that has read the log and does nothing more, until the block ends."""
    connection = await asyncpg.connect(url)
    await connection.execute("begin")
    await connection.fetch("select count(*) from tidings.events")
    try:
        yield
    finally:
        await connection.close()


def told(device: Device) -> list[Any]:
    """Return the gaps and the positions of events that a device was sent, in order."""
    frames = [f for f in device.frames if f["type"] in {"gap", "event"}]
    return [f["position"] if f["type"] == "event" else (f["from"], f["to"], f["reason"]) for f in frames]


# --- What goes and what stays


async def test_a_device_that_was_away_for_longer_is_told_with_a_gap(
    server: Server, db: asyncpg.Connection, database: Database
) -> None:
    await server.join("r", "alice")
    cursor = await server.publish("user:alice")
    missed = [await server.publish(to) for to in ("user:alice", "room:r", "everyone", "user:bob")]
    await grow_old(db)
    assert (await _prune_now(database)).floor == missed[-1]
    await eventually(lambda: server.gateway.hub.recent.base >= missed[-1])
    new = await server.publish("room:r")
    async with await server.live("alice", after=cursor) as phone:
        assert told(phone) == [(cursor, missed[-1], "retention"), new]
    async with await server.live("alice", after=missed[-1]) as phone:
        assert told(phone) == [new]
    async with await server.live("bob") as phone:  # first seen now: there is nothing it could have missed
        assert told(phone) == []


async def test_what_lies_below_the_floor_is_gone_before_its_partition_is(
    server: Server, db: asyncpg.Connection
) -> None:
    await server.join("r", "alice")
    old = [await server.publish("room:r") for _ in range(2)]
    assert await db.fetchval("select tidings.close_partition(0, $1)", SPAN)
    assert await db.fetchval("select tidings.raise_floor($1, $2)", old[-1], SPAN)
    new = await server.publish("room:r")
    await eventually(lambda: server.gateway.hub.recent.base == old[-1])
    async with await server.live("alice", after=1) as phone:
        assert told(phone) == [(1, old[-1], "retention"), new]
    history = (await server.http.get("/v1/rooms/r/events", params={"after": 0})).json()
    assert [e["position"] for e in history["data"]] == [new]
    assert not history["has_more"]


async def test_whoever_is_connected_goes_on_over_a_partition_that_is_closed_early(
    server: Server, db: asyncpg.Connection, database: Database
) -> None:
    async with await server.live("alice") as phone:
        first = await server.publish("user:alice")
        await grow_old(db, 2)
        kept = await prune(database, MONTH)
        assert (kept.floor, kept.dropped) == (0, [])
        second = await server.publish("user:alice")
        assert second == SPAN
        await phone.events(2)
        assert told(phone) == [first, second]
    async with await server.live("alice", after=0) as phone:
        assert told(phone) == [first, second]
    # What has gone into the second partition is young: it is not closed in its turn.
    await prune(database, MONTH)
    assert await server.publish("user:alice") < 2 * SPAN
    await grow_old(db, 29)
    assert len((await _prune_now(database)).dropped) == 1
    await eventually(lambda: server.gateway.hub.recent.base >= first)
    async with await server.live("alice", after=0) as phone:
        assert told(phone)[:2] == [(0, first, "retention"), second]


async def test_the_head_stays_where_it_is_when_everything_goes(
    server: Server, db: asyncpg.Connection, database: Database
) -> None:
    async with await server.live("alice") as phone:
        last = await server.publish("user:alice")
        await grow_old(db)
        done = await _prune_now(database)
        assert [p.start for p in done.dropped] == [0]
        assert await db.fetchval("select count(*) from tidings.events") == 0
        assert await db.fetchval("select tidings.head()") == last
        new = await server.publish("user:alice")
        await phone.events(2)
        assert told(phone) == [last, new]


async def test_memberships_that_ended_below_the_floor_are_forgotten(
    server: Server, db: asyncpg.Connection, database: Database
) -> None:
    await server.join("left", "alice")
    await server.join("stays", "alice", "bob")
    await server.http.delete("/v1/rooms/left/members/alice")
    await grow_old(db)
    await server.join("later", "alice")
    await server.http.delete("/v1/rooms/later/members/alice")
    await db.execute("update tidings.events set time = now() where position > 4")
    assert (await prune(database, MONTH)).floor == 0
    await append(db)
    assert await db.fetchval("select count(*) from tidings.memberships") == 4
    await grow_old(db)
    await _prune_now(database)
    rows = await db.fetch("select room, user_id from tidings.memberships order by 1, 2")
    assert [tuple(row) for row in rows] == [("stays", "alice"), ("stays", "bob")]


async def test_nothing_that_is_appended_meanwhile_is_lost_and_no_hole_is_silent(
    database_url: str, db: asyncpg.Connection, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two prune at once, four append, one reads: everything is read, or told as a gap."""
    monkeypatch.setattr(retention, "PATIENCE", 1.0)  # as in production: one may wait for the other
    groups: list[tuple[int, int]] = []
    keep = Keep(0.05)

    async def write() -> None:
        connection = await asyncpg.connect(database_url)
        for _ in range(150):
            groups.append(await connection.fetchrow(
                "select after, first from tidings.append(gen_random_uuid(), 0, false, '0', '{}', '{}',"
                " '{everyone}', '{t}', '{1}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}')"
            ))  # fmt: skip
            await asyncio.sleep(0.005)
        await connection.close()

    async def cut(writers: "asyncio.Future[Any]") -> int:
        dropped = 0
        while not writers.done():
            dropped += len((await prune(database, keep)).dropped)
        return dropped

    async def read(writers: "asyncio.Future[Any]") -> tuple[list[int], list[tuple[int, int]]]:
        seen: list[int] = []
        gaps: list[tuple[int, int]] = []
        reader = Reader("bob", "default", 0)
        at, done = 0, False
        reader = Reader("alice", "phone", time.time())
        while not done:
            done = writers.done()
            head = await db.fetchval("select tidings.head()")
            assert head >= at
            page = await log.page(db, at, head, [Interval("everyone", 0, FOREVER)], 20, reader)
            if page.gap is not None:
                gaps.append((page.gap.after, page.gap.upto))
            assert all(e.position > (page.gap.upto if page.gap else at) for e in page.entries)
            seen += [e.position for e in page.entries]
            at = max(page.upto, page.gap.upto if page.gap else 0)
            done = done and at >= head
            await asyncio.sleep(random.choice([0.01, 0.2]))  # now it keeps up, now it does not
        return seen, gaps

    writers = asyncio.gather(*(write() for _ in range(4)))
    dropped, more, (seen, gaps) = await asyncio.gather(cut(writers), cut(writers), read(writers))
    groups.sort(key=lambda group: group[1])
    written = [first for _, first in groups]
    # Each append was told the position before its own, also where that had been dropped already.
    assert [after for after, _ in groups] == [0, *written[:-1]]
    assert dropped + more > 3
    assert gaps
    assert seen == sorted(set(seen))
    for position in written:
        assert position in set(seen) or any(after < position <= upto for after, upto in gaps), position
    left = [row["position"] for row in await db.fetch("select position from tidings.events order by 1")]
    assert [p for p in left if p > await floor(db)] == [p for p in written if p > await floor(db)]


async def test_the_floor_is_not_raised_over_what_was_not_seen(db: asyncpg.Connection) -> None:
    one, two = await append(db), await append(db)
    assert not await retention.raise_floor(db, two, SPAN)  # the partition is open
    assert await db.fetchval("select tidings.close_partition(0, $1)", SPAN)
    assert not await retention.raise_floor(db, one, SPAN)  # there is another after it
    assert await floor(db) == 0
    assert await retention.raise_floor(db, two, SPAN)
    assert await floor(db) == two


async def test_what_is_being_appended_is_waited_for(db: asyncpg.Connection, database_url: str) -> None:
    """It has drawn positions that nobody else can see yet."""
    old = await append(db)
    other = await asyncpg.connect(database_url)
    [first, *_] = (await retention.held(db)).partitions
    for work, done in (
        (lambda: retention.close_partition(other, first), True),
        (lambda: retention.raise_floor(other, old, SPAN), False),
    ):
        async with db.transaction():
            await append(db)
            waiting = asyncio.create_task(work())
            await eventually(lambda task=waiting: task.done() or _waits_for_appends(db))
            assert not waiting.done()
        assert await waiting is done
        # The next append is the partition's last one.
        await db.execute("select setval('tidings.position', $1)", SPAN - 2)
    await other.close()


async def _waits_for_appends(db: asyncpg.Connection) -> bool:
    waits: bool = await db.fetchval(
        "select exists (select from pg_locks where locktype = 'advisory' and not granted"
        " and database = (select oid from pg_database where datname = current_database()))"
    )
    return waits


async def test_a_partition_is_closed_once_and_only_into_one_that_exists(db: asyncpg.Connection) -> None:
    await append(db)
    [first, second, *_] = (await retention.held(db)).partitions
    assert await retention.close_partition(db, first)
    assert not await retention.close_partition(db, first)
    assert await append(db) == second.start
    await db.execute("update tidings.log set partitioned_to = $1", second.end)
    assert not await retention.close_partition(db, second)
    assert await append(db) == second.start + 1


# --- Nobody waits


async def test_an_idle_reader_holds_up_nobody_and_its_partition_goes_afterwards(
    server: Server, db: asyncpg.Connection, database: Database, database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    last = await old_partition(db)
    await server.reached(SPAN)
    server.gateway.hub.recent.forget(SPAN)  # so that replay has to read
    async with await server.live("bob") as phone, idle_reader(database_url):
        pruning = asyncio.create_task(_prune_now(database))  # the server's own limit is 4 s
        await eventually(lambda: _waits(db))
        position = await server.publish("everyone")
        async with await server.live("bob", device="other", after=0) as other:
            assert told(other) == [(0, last, "retention"), position]
        await phone.until("event", position=position)
        assert not pruning.done()
        assert [p.start for p in (await pruning).waiting] == [0]
        assert (await states(db))[0] == "pending"
        # The same where only the second half is left to do.
        with monkeypatch.context() as patched:
            patched.setattr(retention, "PATIENCE", 1.0)
            assert [p.start for p in (await prune(database, MONTH)).waiting] == [0]
        await server.publish("everyone")
    assert [p.start for p in (await prune(database, MONTH)).dropped] == [0]
    assert 0 not in await states(db)


async def _prune_now(database: Database) -> Pruned:
    """Prune; where partitions are being made just now the floor is raised the next time only."""
    while (done := await prune(database, MONTH)).floor == 0:
        continue
    return done


async def _waits(db: asyncpg.Connection) -> bool:
    waits: bool = await db.fetchval(
        "select exists (select from pg_stat_activity where query ~ 'detach partition .* concurrently'"
        " and query !~ 'pg_stat_activity' and wait_event_type = 'Lock')"
    )
    return waits


async def test_the_service_prunes_by_itself_and_says_where_it_stands(
    start: Start, db: asyncpg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duty, "EVERY", 0.05)
    monkeypatch.setattr(retention, "PATIENCE", 1.0)
    last = await old_partition(db)
    async with idle_reader(database_url):
        # Two instances, and the smallest of pools: the other duties have it while a reader is in the way.
        servers = [await start(pool_size=4), await start(pool_size=4)]
        await eventually(lambda: _pending(db))
        for server in servers:
            await server.publish("everyone")
            assert (await server.http.get("/v1/keys")).status_code == 200
    await eventually(lambda: _gone(db, 0))
    for server in servers:
        await eventually(lambda s=server: _shows(s, f"tidings_retention_floor_position {float(last)}"))
        await eventually(lambda s=server: _has_looked(s))


async def _pending(db: asyncpg.Connection) -> bool:
    return (await states(db)).get(0) == "pending"


async def _gone(db: asyncpg.Connection, start: int) -> bool:
    return start not in await states(db)


async def _has_looked(server: Server) -> bool:
    """Tell whether the service has looked at its partitions; it does so again half a minute later."""
    return not await _shows(server, "tidings_log_bytes 0.0")


async def _shows(server: Server, line: str) -> bool:
    return line in (await server.http.get("/metrics")).text


async def test_kept_for_ever_means_for_ever(
    start: Start, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duty, "EVERY", 0.05)
    server = await start(retention=0)
    await server.publish("everyone")
    await grow_old(db, 4000)
    await eventually(lambda: _shows(server, "tidings_log_oldest_age_seconds 3.4"))
    assert await server.publish("everyone") < SPAN
    assert (await floor(db), len(await states(db))) == (0, 3)


async def test_by_size_the_oldest_goes_however_young(db: asyncpg.Connection, database: Database) -> None:
    for n in range(3):
        last = await append(db)
        assert await db.fetchval("select tidings.close_partition($1, $2)", n * SPAN, (n + 1) * SPAN)
        await log.ensure_partitions(db)
    await append(db)
    held = await retention.held(db)
    done = await prune(database, Keep(None, held.size - 1))
    assert [p.start for p in done.dropped] == [0]
    open_ = await append(db)
    await prune(database, Keep(None, 1))
    assert last < await floor(db) < open_  # what is being written to is never cut


# --- Interrupted


async def test_a_detach_that_was_interrupted_is_finished_by_another(
    db: asyncpg.Connection, database: Database, database_url: str
) -> None:
    last = await old_partition(db)
    dying = await asyncpg.connect(database_url)
    async with idle_reader(database_url):
        detaching = asyncio.create_task(
            dying.execute("alter table tidings.events detach partition tidings.events_0 concurrently")
        )
        await eventually(lambda: _waits(db))
        await db.execute("select pg_terminate_backend($1)", dying.get_server_pid())
        with pytest.raises((asyncpg.PostgresError, asyncpg.PostgresConnectionError)):
            await detaching
    assert (await states(db))[0] == "pending"
    await retention.raise_floor(db, last, SPAN)
    assert [p.state for p in (await prune(database, MONTH)).dropped] == ["pending"]
    assert 0 not in await states(db)


async def test_a_partition_that_was_detached_and_not_dropped_is_dropped(
    db: asyncpg.Connection, database: Database
) -> None:
    last = await old_partition(db)
    assert await retention.raise_floor(db, last, SPAN)
    await db.execute("alter table tidings.events detach partition tidings.events_0 concurrently")
    assert [p.state for p in (await prune(database, Keep(None))).dropped] == ["detached"]
    assert await states(db) == {SPAN: "attached", 2 * SPAN: "attached"}


async def test_a_table_above_the_floor_is_not_ours_to_drop(
    db: asyncpg.Connection, database: Database
) -> None:
    await old_partition(db)
    await db.execute("alter table tidings.events detach partition tidings.events_0 concurrently")
    assert (await prune(database, MONTH)).dropped == []
    assert (await states(db))[0] == "detached"


async def test_two_that_prune_at_once_do_not_hinder_each_other(
    db: asyncpg.Connection, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = await old_partition(db)
    with monkeypatch.context() as patched:
        patched.setattr(retention, "PATIENCE", 1.0)  # as in production: one may wait for the other
        both = await asyncio.gather(*(prune(database, MONTH) for _ in range(2)))
    assert {done.floor for done in both} <= {last, 0}  # 0: the other was making partitions
    await _prune_now(database)
    assert 0 not in await states(db)
    assert await floor(db) == last


async def test_an_instance_that_missed_what_went_does_not_go_on_without_it(
    server: Server, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A revocation may have been among it: it lets nobody in before it has found out."""
    ended = asyncio.Event()
    monkeypatch.setattr(log, "between", lambda *_: asyncio.Event().wait())
    monkeypatch.setattr(os, "kill", lambda *_: ended.set())
    await db.execute("update tidings.log set floor = 99")
    async with asyncio.timeout(PATIENCE):
        await ended.wait()
    await eventually(lambda: not server.service.follower.trusted)
    assert (await server.http.get("/readyz")).status_code == 503


async def test_a_stretch_that_went_while_it_was_read_is_no_silent_hole(db: asyncpg.Connection) -> None:
    last = await append(db)
    await db.execute("update tidings.log set floor = $1", last)
    assert (await log.between(db, last, last + 5, 10)).entries == []
    with pytest.raises(log.Overtaken):
        await log.between(db, last - 1, last + 5, 10)
