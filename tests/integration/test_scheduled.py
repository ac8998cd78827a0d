"""What is put off gets into the log when it is due: once, in order, whoever lives or dies meanwhile."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from time import time
from typing import Any

import asyncpg
import httpx
import pytest

from service.domain.events import Draft, Outcome, Unit
from service.store import pending as store
from service.stream import scheduler
from tests.harness import PATIENCE, Server, eventually, token
from tests.pending import FAR, data_of, held_up, logged, mover, nothing_waits, waiting

Start = Callable[..., Awaitable[Server]]

MOVERS_LOCK = 32766977284925307


async def put_off(
    server: Server, *to: str, at: float, id: str | None = None, producer: str = "key:admin", **more: Any
) -> Outcome:
    """Put an event off as a POST does, until ``at``."""
    drafts = [Draft(address, "later", "1", lead, id, **more) for lead, address in enumerate(to)]
    key = None if id is None else f"id:{id}"
    outcome = await server.service.appender.append(Unit(drafts, producer, key, at))
    server.service.scheduler.wake()
    return outcome


async def put_off_many(db: asyncpg.Connection, count: int, due_in: str = "0 s") -> None:
    """Put off events that are due one after the other, in the reverse order of their ids."""
    await db.execute(
        "insert into tidings.pending (due_at, producer, addresses, type, data)"
        " select now() + $2::text::interval - make_interval(secs => n / 1e4), 'p',"
        " '{user:alice}', 't', ($1 - 1 - n)::text from generate_series(0, $1 - 1) as n",
        count, due_in,
    )  # fmt: skip


async def key_of(
    server: Server, *scopes: str, addresses: list[str] | None = None
) -> tuple[str, httpx.Headers]:
    """Make a key; return its producer and what presents it."""
    order = {"name": "k", "scopes": scopes} | ({} if addresses is None else {"addresses": addresses})
    made = (await server.http.post("/v1/keys", json=order)).json()
    return f"key:{made['id']}", httpx.Headers({"Authorization": f"Bearer {made['key']}"})


async def test_it_comes_when_it_is_due_and_not_before(server: Server, db: asyncpg.Connection) -> None:
    await server.publish("user:bob")  # so that an id is no position
    async with await server.live("alice") as phone:
        due = time() + 0.3
        outcome = await put_off(server, "user:alice", at=due)
        assert outcome.pending is not None
        frame = await phone.until("event")
        late = datetime.fromisoformat(frame["time"]).timestamp() - due
        assert late >= -0.001  # the log's time is cut to milliseconds
        assert (frame["event"], frame["id"]) == ("later", str(outcome.pending))
    assert await waiting(db) == 0


async def test_over_http_it_wakes_the_instance_that_took_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "POLL_EVERY", 2 * PATIENCE)  # no poll makes up for a wake-up
    await put_off(server, "user:bob", at=time())  # the rest that began before ends
    await server.reached(1)
    async with await server.live("alice") as phone:
        for _ in range(10):
            due = datetime.now(UTC) + timedelta(seconds=0.02)
            order = {"to": "user:alice", "type": "t", "id": due.isoformat(), "deliver_at": due.isoformat()}
            [event] = (await server.http.post("/v1/events", json=order)).json()["events"]
            frame = await phone.until("event")
            again = await server.http.post("/v1/events", json=order)
            assert again.json()["events"][0]["position"] == frame["position"]
            assert event["id"] == frame["id"] == order["id"]


async def test_two_instances_deliver_each_once_and_in_order(start: Start, db: asyncpg.Connection) -> None:
    one, other = await start(), await start()
    async with await one.live("alice") as phone, await other.live("alice", device="b") as laptop:
        await put_off_many(db, 500, "0.4 s")
        one.service.scheduler.wake()
        other.service.scheduler.wake()
        assert data_of(await phone.events(500)) == list(range(500))
        assert data_of(await laptop.events(500)) == list(range(500))
    assert await logged(db) == list(range(500))


async def test_what_was_due_while_no_instance_ran_comes_first(start: Start, db: asyncpg.Connection) -> None:
    await put_off_many(db, 12_000)
    await asyncio.gather(start(), start())
    await nothing_waits(db)
    assert await logged(db) == list(range(12_000))
    groups = await db.fetchval("select count(batch) from tidings.events")
    assert groups == 3  # of at most 5,000


async def test_a_group_is_bounded_in_bytes_with_all_its_addresses(
    db: asyncpg.Connection, start: Start
) -> None:
    await db.execute(
        "insert into tidings.pending (due_at, producer, addresses, type, data)"
        " select clock_timestamp(), 'p', array(select 'user:' || a from generate_series(1, 100) a), 't',"
        " to_json(repeat('x', 30000)) from generate_series(1, 5)"
    )
    await start()
    await nothing_waits(db)
    assert await db.fetchval("select count(*) from tidings.events") == 500
    assert await db.fetchval("select count(batch) from tidings.events") == 3  # 3 MB each, two fit


async def test_a_mover_that_is_killed_loses_and_doubles_nothing(start: Start, db: asyncpg.Connection) -> None:
    one, _ = await start(), await start()
    async with await one.live("alice") as phone:
        for _ in range(3):
            async with held_up(db):
                await put_off_many(db, 50)
                await db.execute("select pg_terminate_backend($1)", await mover(db))
            assert data_of(await phone.events(50)) == list(range(50))
        assert await waiting(db) == 0
    assert await logged(db) == list(range(50)) * 3


async def test_an_instance_that_is_stopped_while_it_moves_loses_and_doubles_nothing(
    database_url: str, start: Start, db: asyncpg.Connection
) -> None:
    one = await start()
    async with held_up(db):
        await put_off_many(db, 50)
        await mover(db)
        one.service.scheduler._most = 0  # it would have to say so if it went on
        task = next(t for t in asyncio.all_tasks() if "Scheduler.run" in repr(t))
        task.cancel()
        await asyncio.wait([task])
    await start()
    await nothing_waits(db)
    assert await logged(db) == list(range(50))


async def test_only_one_moves_at_a_time(server: Server, db: asyncpg.Connection) -> None:
    """Else a group could overtake the one before it."""
    other = await asyncpg.connect(server.service.settings.database_url.get_secret_value())
    async with held_up(db):
        await put_off_many(db, 6_000)
        await mover(db)
        async with asyncio.timeout(PATIENCE):  # it does not wait
            released = await store.release(other, seen=0, window=60, entries=5_000, size=2**23, back=None)
        assert (released.moved, released.head) == (0, None)
        assert released.wait is not None
        assert released.wait < 0
    await other.close()
    await nothing_waits(db)
    assert await logged(db) == list(range(6_000))


async def test_appends_go_on_between_the_groups(start: Start, db: asyncpg.Connection) -> None:
    await put_off_many(db, 40_000)
    server = await start()
    published = []
    while await waiting(db):
        published.append(await server.publish("user:bob", data=-1))
    assert len(published) >= 2
    order = await logged(db)
    assert order.index(-1) + 5_000 < 40_000  # not only after all of them
    assert [n for n in order if n >= 0] == list(range(40_000))


async def test_what_the_log_refuses_is_set_aside_and_holds_nobody_up(
    server: Server, db: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    async with db.transaction():
        await put_off_many(db, 300)
        await db.execute("update tidings.pending set lifetime = 1e300 where data in ('0', '77', '78', '299')")
    await nothing_waits(db)
    good = [n for n in range(300) if n not in {0, 77, 78, 299}]
    assert await logged(db) == good
    listed = (await server.http.get("/v1/scheduled")).json()["data"]
    assert sorted(item["data"] for item in listed) == [0, 77, 78, 299]
    assert all("out of range" in item["failed"] for item in listed)
    refusals = [m for m in caplog.messages if "cannot be appended" in m]
    assert [m.endswith("out of range") for m in refusals] == [True] * 4
    outcomes = server.service.metrics.pending_outcomes
    assert [outcomes.labels(o)._value.get() for o in ("moved", "failed")] == [296, 4]
    cancelled = await server.http.delete(f"/v1/scheduled/{listed[0]['id']}")
    assert cancelled.status_code == 204


async def test_all_that_was_said_of_it_goes_with_it(server: Server, db: asyncpg.Connection) -> None:
    async with await server.live("alice") as phone, await server.live("bob") as other:
        await put_off(
            server, "user:alice", "user:bob", "everyone", at=time(), exclude=("bob",), lifetime=60.0,
            collapse_key="c", undelivered_after=5.0, unless_read=True,
        )  # fmt: skip
        frames = await phone.events(2)
        assert frames[0]["id"] == frames[1]["id"]
        assert [frame["to"] for frame in frames] == ["user:alice", "everyone"]
        await server.reached(frames[1]["position"])
        assert data_of(await other.quiet()) == []
    rows = await db.fetch("select * from tidings.events where kind = 'event' order by position")
    assert [row["lead"] for row in rows] == [0, 1, 2]
    assert {(row["expires_at"] - row["time"]).total_seconds() for row in rows} == {60.0}
    assert {row["collapse_key"] for row in rows} == {"c"}
    watched = await db.fetch("select * from tidings.callbacks order by position")
    assert [row["position"] for row in watched] == [row["position"] for row in rows[:2]]
    assert {(row["due_at"] - rows[0]["time"]).total_seconds() for row in watched} == {5.0}
    assert all(row["unless_read"] for row in watched)


async def test_a_repeated_id_is_answered_with_the_position_once_there_is_one(
    server: Server, db: asyncpg.Connection
) -> None:
    first = await put_off(server, "user:x", at=FAR)
    later = await put_off(server, "user:alice", "user:bob", at=FAR, id="reminder")
    again = await put_off(server, "user:alice", "user:bob", at=FAR, id="reminder")
    assert (again.pending, again.replayed) == (later.pending, True)
    await db.execute("update tidings.pending set due_at = now()")
    server.service.scheduler.wake()
    await nothing_waits(db)
    moved = await put_off(server, "user:alice", "user:bob", at=FAR, id="reminder")
    rows = await db.fetch("select position, id from tidings.events order by position")
    assert [row["id"] for row in rows] == [str(first.pending), "reminder", "reminder"]
    assert (moved.first, moved.entries) == (rows[1]["position"], 2)
    assert (moved.pending, moved.replayed) == (None, True)
    assert await waiting(db) == 0


async def test_what_is_cancelled_is_never_delivered_and_its_id_is_free_again(
    server: Server, db: asyncpg.Connection
) -> None:
    async with await server.live("alice") as phone:
        outcome = await put_off(server, "user:alice", at=FAR, id="reminder")
        path = f"/v1/scheduled/{outcome.pending}"
        assert (await server.http.delete(path)).status_code == 204
        refused = await server.http.delete(path)
        assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
        anew = await put_off(server, "user:alice", at=FAR, id="reminder")
        assert anew.pending not in {None, outcome.pending}
        await db.execute("update tidings.pending set due_at = now()")
        server.service.scheduler.wake()
        assert (await phone.until("event"))["id"] == "reminder"
    assert len(await logged(db)) == 1
    refused = await server.http.delete(f"/v1/scheduled/{anew.pending}")
    assert refused.status_code == 404


async def test_who_cancels_while_it_is_moved_is_told_the_truth(
    server: Server, db: asyncpg.Connection
) -> None:
    outcome = await put_off(server, "user:alice", at=FAR)
    async with held_up(db):
        await db.execute("update tidings.pending set due_at = now()")
        server.service.scheduler.wake()
        await mover(db)
        cancel = asyncio.create_task(server.http.delete(f"/v1/scheduled/{outcome.pending}"))
        blocked = "select 1 from pg_stat_activity where query like '%with gone%' and wait_event_type = 'Lock'"
        await eventually(lambda: db.fetchval(blocked))
    assert (await cancel).status_code == 404
    assert len(await logged(db)) == 1


async def test_what_is_being_cancelled_is_passed_over(
    server: Server, db: asyncpg.Connection, database_url: str
) -> None:
    canceller = await asyncpg.connect(database_url)
    await db.execute("select pg_advisory_lock($1)", MOVERS_LOCK)
    await put_off_many(db, 3)
    async with canceller.transaction():
        await canceller.execute("delete from tidings.pending where data = '1'")
        await db.execute("select pg_advisory_unlock($1)", MOVERS_LOCK)
        await eventually(lambda: db.fetchval("select count(*) = 2 from tidings.events"))
    await canceller.close()
    await nothing_waits(db)
    assert await logged(db) == [0, 2]


async def test_each_is_either_cancelled_or_delivered(start: Start, db: asyncpg.Connection) -> None:
    servers = [await start(), await start()]
    await put_off_many(db, 400, "1 h")
    ids = [row["id"] for row in await db.fetch("select id from tidings.pending order by due_at")]
    cancelled: set[int] = set()

    async def cancel(number: int) -> None:
        paths = [f"/v1/scheduled/{ids[number]}"] * 2
        pair = await asyncio.gather(*(servers[number % 2].http.delete(path) for path in paths))
        statuses = sorted(answer.status_code for answer in pair)
        assert statuses in ([204, 404], [404, 404])
        if 204 in statuses:
            cancelled.add(number)

    await cancel(399)
    await db.execute("update tidings.pending set due_at = due_at - interval '1 h' + interval '0.1 s'")
    for server in servers:
        server.service.scheduler.wake()
    for number in range(396, 0, -3):
        await cancel(number)
    await nothing_waits(db)
    await cancel(0)
    assert await logged(db) == [n for n in range(400) if n not in cancelled]
    assert 399 in cancelled
    assert 0 not in cancelled


async def test_a_key_sees_and_cancels_what_is_its_own(server: Server, db: asyncpg.Connection) -> None:
    mine, presented = await key_of(server, "publish")
    theirs, others = await key_of(server, "publish")
    _, admin = await key_of(server, "admin")
    narrow, limited = await key_of(server, "publish", addresses=["user:a*", "room:r"])
    _, reader = await key_of(server, "read")
    for producer in (mine, theirs):
        await put_off(server, "user:alice", at=FAR, producer=producer)
    for to in (["user:alice", "room:r"], ["user:alice", "user:bob"]):
        await put_off(server, *to, at=FAR, producer=narrow)

    async def seen(by: httpx.Headers) -> list[str]:
        answer = await server.http.get("/v1/scheduled", headers=by)
        return [item["id"] for item in answer.json()["data"]]

    first, second, third, fourth = [
        str(row["id"]) for row in await db.fetch("select id from tidings.pending order by id")
    ]
    assert await seen(presented) == [first]
    assert await seen(others) == [second]
    assert await seen(limited) == [third]
    assert await seen(admin) == [first, second, third, fourth]
    assert (await server.http.get("/v1/scheduled", headers=reader)).status_code == 403
    client = httpx.Headers({"Authorization": f"Bearer {token('alice')}"})
    assert (await server.http.get("/v1/scheduled", headers=client)).status_code == 401
    for by, name, status in [
        (others, first, 404), (limited, fourth, 404), (reader, first, 403), (presented, first, 204),
        (limited, third, 204), (admin, second, 204),
    ]:  # fmt: skip
        answer = await server.http.delete(f"/v1/scheduled/{name}", headers=by)
        assert answer.status_code == status
    assert await seen(admin) == [fourth]


async def test_the_list_comes_in_pages_with_data_as_it_was_sent(
    server: Server, db: asyncpg.Connection
) -> None:
    for n in range(5):
        await put_off(server, f"user:{n}", "everyone", at=FAR, id=f"i{n}")
    await db.execute("""update tidings.pending set data = '{"a": 1.0, "a":12345678901234567890}'""")
    got, after = [], ""
    for size in (2, 2, 1):
        answer = await server.http.get("/v1/scheduled", params={"limit": 2, "after": after})
        page = answer.json()
        assert len(page["data"]) == size
        assert page["has_more"] is (page["next_cursor"] is not None)
        assert answer.text.count('"data":{"a": 1.0, "a":12345678901234567890}') == size
        got += page["data"]
        after = page["next_cursor"] or ""
    assert [(item["event_id"], item["to"]) for item in got] == [
        (f"i{n}", [f"user:{n}", "everyone"]) for n in range(5)
    ]
    due = datetime.fromisoformat(got[0]["deliver_at"]).timestamp()
    assert due == pytest.approx(FAR, abs=0.001)
    assert got[0].keys() == {"id", "event_id", "to", "type", "data", "deliver_at", "created_at"}
    for bad in ("x", "-1", str(2**63), "²"):
        refused = await server.http.get("/v1/scheduled", params={"after": bad})
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid")
    for bad in ("x", "0", str(2**63)):
        assert (await server.http.delete(f"/v1/scheduled/{bad}")).status_code == 422


@pytest.mark.parametrize("due_in", ["0 s", "-1 hour"])
async def test_a_wake_up_that_is_lost_costs_a_poll(
    server: Server, db: asyncpg.Connection, due_in: str
) -> None:
    async with await server.live("alice") as phone:
        await server.publish("user:alice")
        await phone.until("event")
        await put_off_many(db, 1, due_in)  # nobody is told
        await phone.until("event")


async def test_it_listens_again_after_its_connection_was_lost(
    server: Server, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening = (
        "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        " and query like '%tidings.release%'"
    )
    pid = await eventually(lambda: db.fetchval(listening))
    await db.execute("select pg_terminate_backend($1)", pid)
    await eventually(lambda: db.fetchval(f"{listening} and pid <> {pid}"))
    monkeypatch.setattr(scheduler, "POLL_EVERY", 2 * PATIENCE)  # no poll makes up for a wake-up
    async with await server.live("alice") as phone:
        for _ in range(10):
            await db.execute("select tidings.publish('user:alice', 't', '1')")
            await phone.until("event")


async def test_what_cannot_be_vacuumed_is_walked_over_by_polls_only(
    db: asyncpg.Connection, database_url: str
) -> None:
    """A transaction that is open for long keeps in the index whatever is moved meanwhile."""
    old = await asyncpg.connect(database_url)
    await old.execute("begin; select txid_current()")
    await put_off_many(db, 10_000, "-1 hour")
    await db.execute("delete from tidings.pending")
    await put_off_many(db, 1, "1 hour")
    await db.execute("analyze tidings.pending")
    walked = "select pg_stat_get_xact_tuples_returned('tidings.pending_by_time'::regclass)"
    read = []
    for back in (None, 60.0):
        async with db.transaction():
            before = await db.fetchval(walked)
            await store.release(db, seen=0, window=60, entries=5_000, size=2**23, back=back)
            read.append(await db.fetchval(walked) - before)
    await old.close()
    assert read[0] >= 10_000
    assert read[1] == 1


async def test_an_idle_instance_locks_nothing(server: Server, db: asyncpg.Connection) -> None:
    await db.execute("select pg_advisory_lock($1)", MOVERS_LOCK)
    released = await store.release(db, seen=0, window=60, entries=5_000, size=2**23, back=None)
    assert released == store.Released(None, 0, 0, None, None, None)
    await put_off_many(db, 1, "1 hour")
    held = "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
    released = await store.release(db, seen=0, window=60, entries=5_000, size=2**23, back=None)
    assert released.wait == pytest.approx(3600, abs=5)
    assert await db.fetchval(held) == 1
    assert json.loads((await server.http.get("/v1/scheduled")).text)["data"][0]["data"] == 0
