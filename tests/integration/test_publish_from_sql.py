"""``tidings.publish``: delivered if and only if the transaction commits, and in nobody's way until then."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from random import Random
from typing import Any
from uuid import uuid4

import asyncpg
import msgspec
import pytest

from service.domain import addresses, payload
from service.domain.errors import TidingsError
from service.stream import scheduler
from tests.harness import PATIENCE, Server, eventually
from tests.pending import FAR, data_of, held_up, logged, mover, nothing_waits, waiting

Start = Callable[..., Awaitable[Server]]

MANY = "array(select 'user:' || n from generate_series(1, {}) n)"
ONE = "select tidings.publish('user:alice', 'order.shipped', '{\"order\":42}')"


@asynccontextmanager
async def connected(url: str, count: int = 1) -> AsyncIterator[list[asyncpg.Connection]]:
    connections = [await asyncpg.connect(url) for _ in range(count)]
    yield connections
    for connection in connections:
        connection.terminate()


@pytest.fixture
async def role(db: asyncpg.Connection) -> AsyncIterator[str]:
    """A role that may do nothing; it is gone afterwards."""
    name = f"shop_{uuid4().hex[:12]}"
    await db.execute(f"create role {name}")
    yield name
    await db.execute(f"reset session authorization; drop owned by {name}; drop role {name}")


async def test_it_is_delivered_once_the_transaction_commits(server: Server, db: asyncpg.Connection) -> None:
    async with await server.live("alice") as phone:
        async with db.transaction():
            pending = await db.fetchval(ONE)
            await server.publish("user:alice", data="in between")
            assert (await phone.until("event"))["data"] == "in between"
        frame = await phone.until("event")
        assert (frame["to"], frame["event"], frame["data"]) == ("user:alice", "order.shipped", {"order": 42})
        assert frame["id"] == str(pending)
    assert await waiting(db) == 0


async def test_it_is_not_delivered_where_it_rolls_back(server: Server, db: asyncpg.Connection) -> None:
    publish = "select tidings.publish('user:alice', 't', $1)"
    async with await server.live("alice") as phone:
        transaction = db.transaction()
        await transaction.start()
        await db.execute(publish, "1")
        await transaction.rollback()
        async with db.transaction():
            await db.execute(publish, "2")
            inner = db.transaction()
            await inner.start()
            await db.execute(publish, "3")
            await inner.rollback()
            await db.execute(publish, "4")
        assert data_of(await phone.events(2)) == [2, 4]
    assert await logged(db) == [2, 4]


async def test_it_is_picked_up_at_once(
    start: Start, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "POLL_EVERY", 60)  # it has to be heard
    server = await start()
    async with await server.live("alice") as phone:
        for _ in range(20):
            await db.execute(ONE)
            await phone.until("event")


async def test_without_notify_it_costs_a_short_poll(
    start: Start, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "POLL_EVERY", 60)
    server = await start(sql_notify=False)
    heard: list[Any] = []
    await db.add_listener("tidings.pending", lambda *_: heard.append(_))
    async with await server.live("alice") as phone:
        for _ in range(5):
            await db.execute(ONE)
            await phone.until("event")
    assert heard == []
    await start(sql_notify=True)
    await db.execute(ONE)
    assert len(heard) == 1


async def test_an_open_transaction_holds_nobody_up(
    server: Server, db: asyncpg.Connection, database_url: str
) -> None:
    publish = "select tidings.publish('user:alice', 't', $1, id => $2)"
    async with connected(database_url) as [other], await server.live("alice") as phone:
        async with asyncio.timeout(PATIENCE), db.transaction():
            for n in range(100):
                await db.execute(publish, str(n), f"id {n}")
            position = await server.publish("user:alice", data=1000, id="id 0")
            await server.publish("user:alice", data=1001)
            async with other.transaction():
                await other.execute(publish, "1002", "id 0")
                await other.execute(publish, "1003", None)
            frames = await phone.events(4)
            assert data_of(frames) == [1000, 1001, 1002, 1003]
            assert frames[0]["position"] == position
            scheduled = await server.http.get("/v1/scheduled")
            assert scheduled.json()["data"] == []
        assert data_of(await phone.events(99)) == [*range(1, 100)]  # `id 0` came with the other
    assert await waiting(db) == 0


async def test_an_id_counts_once_within_a_group_and_later(
    server: Server, db: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    publish = "select tidings.publish(null, 't', $1, addresses => $2, id => $3)"
    async with held_up(db):
        async with db.transaction():
            for n, key in enumerate(["a", "b", "a", None, "b", "c"]):
                await db.execute(publish, str(n), ["user:alice", "user:bob"], key)
        await mover(db)
    await nothing_waits(db)
    async with db.transaction():
        await db.execute(publish, "6", ["user:alice"], "a")
        await db.execute(publish, "7", ["user:alice"], "d")
        await db.execute(publish, "8", ["user:alice"], "b")
    await nothing_waits(db)
    assert await logged(db) == [0, 0, 1, 1, 3, 3, 5, 5, 7]
    kept = await db.fetch(
        "select key, position, entries from tidings.idempotency_keys"
        " where producer <> 'group' order by position"
    )
    assert [(row["key"], row["entries"]) for row in kept] == [
        ("id:a", 2),
        ("id:b", 2),
        ("id:c", 2),
        ("id:d", 1),
    ]
    for row in kept:
        found = "select id, lead from tidings.events where position = $1"
        assert tuple(await db.fetchrow(found, row["position"])) == (row["key"][3:], 0)
    outcomes = server.service.metrics.pending_outcomes
    assert [outcomes.labels(o)._value.get() for o in ("moved", "repeated")] == [5, 4]
    assert [r.message for r in caplog.records if r.name == "tidings.scheduler"] == []


async def test_an_id_is_forgotten_after_its_window(start: Start, db: asyncpg.Connection) -> None:
    await start(id_window=0.001)
    for n in range(2):
        await db.execute("select tidings.publish('user:alice', 't', $1, id => 'x')", str(n))
        await nothing_waits(db)
    assert await logged(db) == [0, 1]


@pytest.mark.timeout(240)
async def test_a_hundred_thousand_of_one_transaction_stay_in_order(
    start: Start, db: asyncpg.Connection
) -> None:
    await asyncio.gather(start(), start())
    await db.execute(
        "select tidings.publish('user:alice', 't', n::text::json) from generate_series(0, 99999) as n"
    )
    await nothing_waits(db)
    assert await logged(db) == [*range(100_000)]
    sizes = await db.fetch("select position from tidings.events where batch is not null order by position")
    assert len(sizes) == 20
    assert max(b["position"] - a["position"] for a, b in pairwise(sizes)) <= 5_000


async def test_a_transaction_stays_in_order_however_the_clock_runs(db: asyncpg.Connection) -> None:
    async with db.transaction():
        for deliver_at in ("null", "'2020-01-01'", "null", "'-infinity'"):
            await db.execute(f"select tidings.publish('everyone', 't', deliver_at => {deliver_at})")
    rows = await db.fetch("select distinct due_at from tidings.pending")
    assert len(rows) == 1


async def test_a_role_with_nothing_but_execute_can_publish(
    server: Server, db: asyncpg.Connection, role: str
) -> None:
    await db.execute(f"grant usage on schema tidings to {role}")
    await db.execute(f"set session authorization {role}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await db.execute(ONE)
    await db.execute("reset session authorization")
    await db.execute(f"grant execute on function tidings.publish to {role}")
    await db.execute(f"create schema {role} authorization {role}")
    await db.execute(f"set session authorization {role}")
    # Whoever can make functions of their own cannot slip them in.
    await db.execute(
        f"create function {role}.now() returns timestamptz language sql as $$select to_timestamp(1/0)$$"
    )
    await db.execute(f"set search_path = {role}, pg_catalog")
    async with await server.live("alice") as phone:
        await db.execute(ONE)
        assert (await phone.until("event"))["data"] == {"order": 42}
    for table in ("pending", "events", "log", "idempotency_keys"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await db.execute(f"select from tidings.{table}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await db.execute("select tidings.release(0, '1 s', 1, 1, null)")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await db.execute("select tidings.append_one(0, 'event', 'everyone', 't', '1')")
    await db.execute("reset session authorization")


async def test_what_it_can_say(server: Server, db: asyncpg.Connection) -> None:
    await db.execute("update tidings.log set callbacks = true")
    pending = await db.fetchval(
        "select tidings.publish(type => 't', data => json_build_object('a', 1), id => 'x', ttl => 60,"
        " addresses => '{user:alice,user:bob,user:alice}', collapse_key => 'c',"
        " exclude => array['carol', 'd\"'], deliver_at => to_timestamp($1), undelivered_after => 5,"
        " undelivered_unless => 'read')",
        FAR,
    )
    [item] = (await server.http.get("/v1/scheduled")).json()["data"]
    assert (item["id"], item["event_id"], item["to"]) == (str(pending), "x", ["user:alice", "user:bob"])
    await db.execute("update tidings.pending set due_at = now()")
    await nothing_waits(db)
    rows = await db.fetch("select * from tidings.events order by position")
    assert [(row["address"], row["lead"], row["id"]) for row in rows] == [
        ("user:alice", 0, "x"),
        ("user:bob", 1, "x"),
    ]
    assert msgspec.json.decode(rows[0]["exclude"]) == ["carol", 'd"']
    assert (rows[0]["data"], rows[0]["collapse_key"]) == ('{"a" : 1}', "c")
    assert {(row["expires_at"] - row["time"]).total_seconds() for row in rows} == {60.0}
    assert await db.fetchval("select count(*) from tidings.callbacks where unless_read") == 2
    with pytest.raises(asyncpg.InvalidParameterValueError, match="undelivered_unless: must be"):
        await db.execute(
            "select tidings.publish('user:a', 't', undelivered_after => 1, undelivered_unless => 'seen')"
        )


async def test_only_what_was_put_off_or_failed_is_listed(server: Server, db: asyncpg.Connection) -> None:
    async with held_up(db):
        await db.execute(ONE)
        await mover(db)
        assert (await server.http.get("/v1/scheduled")).json()["data"] == []
        await db.execute(
            "insert into tidings.pending (due_at, producer, addresses, type, data, failed)"
            " values ('2020-01-01', 'sql:x', '{everyone}', 't', '1', 'why')"
        )
        [item] = (await server.http.get("/v1/scheduled")).json()["data"]
        assert item["failed"] == "why"


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ("null, 't'", "address"),
        ("'user:a', 't', addresses => '{user:b}'", "address"),
        ("'alice', 't'", "address"),
        ("'user:', 't'", "address"),
        ("'user:' || repeat('x', 257), 't'", "address"),
        ("E'user:a\\nb', 't'", "address"),
        ("U&'user:a\\0085', 't'", "address"),
        ("'room:', 't'", "address"),
        ("'room:a b', 't'", "address"),
        ("E'room:a\\n', 't'", "address"),
        ("'room:' || repeat('x', 129), 't'", "address"),
        ("'control', 't'", "address"),
        ("type => 't', addresses => '{}'", "addresses"),
        ("type => 't', addresses => '{{user:a}}'", "addresses"),
        ("type => 't', addresses => array['user:a', null]", "addresses"),
        (f"type => 't', addresses => {MANY.format(1001)}", "addresses"),
        ("'user:a', null", "type"),
        ("'user:a', ''", "type"),
        ("'user:a', repeat('x', 129)", "type"),
        ("'user:a', E'a\\tb'", "type"),
        ("'user:a', 't', to_json(repeat('x', 32767))", "data"),
        ("'user:a', 't', (repeat('[', 65) || repeat(']', 65))::json", "data"),
        (f"type => 't', data => to_json(repeat('x', 32000)), addresses => {MANY.format(300)}", "data"),
        ("'user:a', 't', id => ''", "id"),
        ("'user:a', 't', id => repeat('x', 256)", "id"),
        ("'user:a', 't', ttl => 0", "ttl"),
        ("'user:a', 't', ttl => 'nan'", "ttl"),
        ("'user:a', 't', ttl => 'infinity'", "ttl"),
        ("'user:a', 't', collapse_key => ''", "collapse_key"),
        ("'user:a', 't', exclude => array(select n::text from generate_series(1, 101) n)", "exclude"),
        ("'user:a', 't', exclude => '{\"\"}'", "exclude"),
        ("'user:a', 't', exclude => '{null}'", "exclude"),
        ("'user:a', 't', exclude => '{{a},{b}}'", "exclude"),
        ("'user:a', 't', deliver_at => 'infinity'", "deliver_at"),
        ("'user:a', 't', deliver_at => now() + '90 days 1 s'", "deliver_at"),
        ("'user:a', 't', undelivered_after => -1", "undelivered_after"),
        ("'room:a', 't', undelivered_after => 1", "undelivered_after"),
        ("'user:a', 't', undelivered_after => 2592001", "undelivered_after"),
        ("'user:a', 't', undelivered_after => 1", "undelivered_after"),
        ("'user:a', 't', undelivered_unless => 'read'", "undelivered_unless"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_refused_by_name(db: asyncpg.Connection, arguments: str, names: str) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError) as refused:
        await db.execute(f"select tidings.publish({arguments})")
    assert str(refused.value).startswith(f"{names}: ")
    assert await waiting(db) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        "'user:' || repeat('é', 256), repeat('é', 128)",
        "'room:' || repeat('x', 128), 't', 'null', id => repeat('é', 255)",
        "'user:a:b', 't', to_json(repeat('x', 32766))",
        "'everyone', 't', (repeat('[', 64) || repeat(']', 64))::json",
        "'everyone', 't', (' [' || repeat('[],', 200) || '[]] ')::json",
        "'everyone', 't', to_json(repeat('[', 200) || '\\\"')",
        "'everyone', 't', null, exclude => '{}'",
        "'everyone', 't', exclude => array(select n::text from generate_series(1, 100) n)",
        f"type => 't', addresses => {MANY.format(1000)}",
    ],
)
async def test_what_is_just_within_the_limits_is_taken(
    server: Server, db: asyncpg.Connection, arguments: str
) -> None:
    await db.execute(f"select tidings.publish({arguments})")
    await nothing_waits(db)
    async with await server.live("1") as phone:
        await phone.quiet()


async def test_the_size_limit_is_the_instances(start: Start, db: asyncpg.Connection) -> None:
    await start(max_data=10)
    await db.execute("select tidings.publish('user:a', 't', '12345678')")
    with pytest.raises(asyncpg.InvalidParameterValueError, match="data: must be at most 10 bytes"):
        await db.execute("select tidings.publish('user:a', 't', '12345678901')")


async def test_the_checks_are_those_of_http(db: asyncpg.Connection) -> None:
    random = Random(7)
    alphabet = 'aZ09_.:- ué\U0001f600\x7f\x80\x9f\xa0\n\t\x01\u2028[]{}"\\'

    def some(most: int) -> str:
        return "".join(random.choice(alphabet) for _ in range(random.randrange(most)))

    tried = [random.choice(["user:", "room:", "everyone", ""]) + some(6) for _ in range(3000)]
    taken = await db.fetch("select tidings.is_address(a) as it from unnest($1::text[]) a", tried)
    assert [row["it"] for row in taken] == [passes(addresses.check_address, a) for a in tried]
    nested = []
    for _ in range(300):
        value: Any = some(5)
        for _ in range(random.randrange(8)):
            value = random.choice([[value], {some(3): value}, [some(5), value, []], {"x": [], "y": value}])
        nested.append(msgspec.json.encode(value))
    depths = await db.fetch(
        "select tidings.depth(d) as it from unnest($1::text[]) d", [n.decode() for n in nested]
    )
    assert [row["it"] for row in depths] == [payload._depth(n) for n in nested]


def passes(check: Callable[[str], object], text: str) -> bool:
    try:
        check(text)
    except TidingsError:
        return False
    return True


async def test_a_transaction_of_whatever_isolation_can_publish(
    server: Server, db: asyncpg.Connection
) -> None:
    for isolation in ("repeatable_read", "serializable"):
        async with db.transaction(isolation=isolation):
            await db.execute(ONE)
    await eventually(lambda: db.fetchval("select count(*) = 2 from tidings.events"))
    await nothing_waits(db)
