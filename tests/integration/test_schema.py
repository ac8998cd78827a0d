"""The migrations: up from empty, down again, one head, in step with the tables; and who may run on them."""

import asyncio
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from websockets.exceptions import InvalidStatus

from service.auth.keys import generate
from service.store import schema
from service.store.database import engine_for
from service.store.tables import metadata
from tests.harness import Server, serving, token


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(schema.migrations_folder()))
    return ScriptDirectory.from_config(config)


async def within(url: str, work: Callable[[Connection], Any]) -> Any:
    engine = engine_for(url, pool_size=1)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(work)
    finally:
        await engine.dispose()


def test_there_is_one_head_and_the_code_knows_it() -> None:
    heads = scripts().get_heads()
    assert [int(head) for head in heads] == [schema.VERSION]


async def test_up_from_empty_and_down_leaves_nothing_behind(empty_database_url: str) -> None:
    await schema.upgrade(empty_database_url)
    await schema.check(empty_database_url)
    await schema.downgrade(empty_database_url)
    connection = await asyncpg.connect(empty_database_url)
    left = await connection.fetch(
        "select relname from pg_class"
        " where relnamespace = 'tidings'::regnamespace and relkind in ('r', 'p', 'S')"
        " union all select proname from pg_proc where pronamespace = 'tidings'::regnamespace"
    )
    await connection.close()
    assert [row["relname"] for row in left] == ["alembic_version"]
    await schema.upgrade(empty_database_url)
    await schema.check(empty_database_url)


async def test_several_may_migrate_at_once(empty_database_url: str) -> None:
    code = "import asyncio, sys; from service.store import schema; asyncio.run(schema.upgrade(sys.argv[1]))"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code, empty_database_url]
    running = [await asyncio.create_subprocess_exec(*command, cwd=root) for _ in range(3)]
    assert [await process.wait() for process in running] == [0, 0, 0]
    await schema.check(empty_database_url)


OLD = "0002"
KEY = generate("old")


async def fill_the_old_schema(db: asyncpg.Connection) -> dict[str, int]:
    """Leave in the database what a service of schema 2 leaves; return positions."""
    said = (
        "select first from tidings.append(gen_random_uuid(), 0, false, '1 day', '{0}', '{}', array[$1],"
        " '{t}', '{1}', '{}', array[$2::text], array[$3::text], array[$4::text],"
        " '{0}', '{key:old}', array[coalesce('id:' || $2, gen_random_uuid()::text)], '{0}', '{1}')"
    )

    async def append(
        to: str, own_id: str | None, sender: str | None = None, exclude: str | None = None
    ) -> int:
        position: int = await db.fetchval(said, to, own_id, sender, exclude)
        return position

    await db.execute(
        "select tidings.put_key(0, $1, 'old', $2, '{publish,read}', '{user:*,room:*}', null)",
        KEY.id, KEY.secret_hash,
    )  # fmt: skip
    await db.execute("select * from tidings.open_sessions('{alice}', '{phone}', '{null}', 10, 0)")
    await db.execute("select tidings.change_members(0, '{r,past}', '{alice,alice}', '{t,t}', 'api', 100)")
    await db.execute("select tidings.revoke(0, 'old jti', null, null, false, 'admin')")
    at = {
        "got": await append("user:alice", "given"),
        "due": await append("user:alice", None),
        "room": await append("room:r", None, "bob"),
        "excluded": await append("room:r", None, "alice", '["alice\\nphone"]'),
        "past": await append("room:past", None),
        "everyone": await append("everyone", None),
    }
    await db.execute("select tidings.change_members(0, '{past}', '{alice}', '{f}', 'api', 100)")
    await db.execute("update tidings.devices set cursor = $1", at["got"])
    return at


async def replayed(server: Server, user: str, **query: Any) -> list[int]:
    async with await server.live(user, **query) as device:
        return [frame["position"] for frame in device.frames if frame["type"] == "event"]


async def test_what_the_first_schemas_hold_is_served_after_the_upgrade(empty_database_url: str) -> None:
    await schema.upgrade(empty_database_url, OLD)
    db = await asyncpg.connect(empty_database_url)
    at = await fill_the_old_schema(db)
    await db.close()
    await schema.upgrade(empty_database_url)
    producer = {"Authorization": f"Bearer {KEY.presented}"}
    async with serving(database_url=empty_database_url) as server:
        due = [at["due"], at["room"], at["past"], at["everyone"]]
        assert await replayed(server, "alice", device="phone") == due
        repeat = {"to": "user:alice", "type": "t", "id": "given"}
        answer = await server.http.post("/v1/events", json=repeat, headers=producer)
        assert answer.json()["events"][0]["position"] == at["got"]
        with pytest.raises(InvalidStatus, match="401"):
            await server.live("alice", claims={"jti": "old jti"})
        mine = {"Authorization": f"Bearer {token('alice')}"}
        inbox = (await server.http.get("/v1/inbox", headers=mine)).json()["data"]
        assert [item["position"] for item in inbox] == [at["everyone"], at["due"], at["got"]]
        held = await server.http.get(f"/v1/events/{at['room']}/deliveries", headers=producer)
        assert [(d["user"], d["state"]) for d in held.json()["data"]] == [("alice", "received")]
        rotated = (await server.http.post("/v1/keys/old/rotate", json={})).json()
        for key in (KEY.presented, rotated["key"]):
            again = {"Authorization": f"Bearer {key}"}
            assert (await server.http.post("/v1/events", json=repeat, headers=again)).status_code == 202
        assert (await server.http.delete(f"/v1/events/{at['due']}", headers=producer)).status_code == 200
        assert (await server.http.delete("/v1/users/bob")).status_code == 202


async def use_everything(server: Server) -> int:
    """Leave in the database what there was no place for in the old schema; return what was taken back."""
    await server.join("r", "alice")
    recalled = await server.publish("room:r")
    assert (await server.http.delete(f"/v1/events/{recalled}")).status_code == 200
    await server.publish("user:alice", ttl=600, collapse_key="k")
    await server.publish("user:alice", id="own")
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    later = {"to": "user:alice", "type": "t", "deliver_at": soon}
    answer = await server.http.post("/v1/events", json=later, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 202, answer.text
    async with await server.live("alice", device="phone", after=recalled):
        mark = {"Authorization": f"Bearer {token('alice')}"}
        read = await server.http.post("/v1/inbox/read", json={"up_to": 2**40}, headers=mark)
        assert read.status_code == 200
    key = {"name": "n", "scopes": ["publish"], "rate": 1, "quota": 9}
    assert (await server.http.post("/v1/keys", json=key)).status_code == 201
    assert (await server.http.delete("/v1/users/alice/devices/phone")).status_code == 204
    assert (await server.http.delete("/v1/users/bob")).status_code == 202
    return recalled


async def test_each_step_down_and_up_again_takes_what_is_there(empty_database_url: str) -> None:
    await schema.upgrade(empty_database_url)
    async with serving(database_url=empty_database_url) as server:
        recalled = await use_everything(server)
    db = await asyncpg.connect(empty_database_url)
    kept = await db.fetch(
        "select position from tidings.events where kind in ('event', 'joined') and position <> $1", recalled
    )
    for version in range(schema.VERSION - 1, int(OLD) - 1, -1):
        await schema.downgrade(empty_database_url, f"{version:04}")
    # The version of then takes every other kind for a membership, and knows of nothing that was taken back.
    left = await db.fetch("select position, kind from tidings.events where address <> 'control' order by 1")
    assert {row["kind"] for row in left} == {"event", "joined"}
    assert [row["position"] for row in left] == [row["position"] for row in kept]
    at = await fill_the_old_schema(db)
    await db.close()
    await schema.upgrade(empty_database_url)
    async with serving(database_url=empty_database_url) as server:
        assert at["everyone"] in await replayed(server, "alice", device="phone")


async def test_tables_and_migrations_agree(database_url: str) -> None:
    def ours(name: str | None, kind: str, parents: Any) -> bool:
        if kind == "schema":
            return name == "tidings"
        return kind != "table" or not str(name).startswith(("alembic_version", "events_"))

    def compare(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(
            connection,
            opts={"include_schemas": True, "include_name": ours, "version_table_schema": "tidings"},
        )
        # Comments are the database's own.
        return [d for d in compare_metadata(context, metadata) if "comment" not in str(d)]

    assert await within(database_url, compare) == []


async def test_an_old_schema_is_refused_by_the_command_that_mends_it(empty_database_url: str) -> None:
    with pytest.raises(schema.SchemaMismatch, match="tidings migrate"):
        await schema.check(empty_database_url)


async def test_a_newer_schema_is_accepted_where_it_only_added(
    database_url: str, db: asyncpg.Connection
) -> None:
    await db.execute("update tidings.alembic_version set version_num = '9999'")
    async with serving(database_url=database_url) as server:
        assert await server.publish("user:alice") > 0
    await db.execute("update tidings.log set readable_by = 9999")
    with pytest.raises(schema.SchemaMismatch, match="newer"):
        await schema.check(database_url)


async def test_appends_are_refused_where_their_snapshot_would_be_too_old(db: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.InvalidTransactionStateError):
        async with db.transaction(isolation="repeatable_read"):
            await db.fetchval("select tidings.append_one(0, 'event', 'everyone', 't', '1')")


async def test_appends_are_durable_where_the_database_defaults_to_less(db: asyncpg.Connection) -> None:
    async with db.transaction():
        await db.execute("set local synchronous_commit = off")
        await db.fetchval("select tidings.append_one(0, 'event', 'everyone', 't', '1')")
        assert await db.fetchval("show synchronous_commit") == "on"


async def test_a_rolled_back_append_leaves_a_gap_that_nothing_fills(db: asyncpg.Connection) -> None:
    one = "select tidings.append_one(0, 'event', 'everyone', 't', '1')"
    first = await db.fetchval(one)
    transaction = db.transaction()
    await transaction.start()
    lost = await db.fetchval(one)
    await transaction.rollback()
    assert await db.fetchval("select tidings.head()") == first
    assert await db.fetchval(one) > lost


async def test_partitions_are_made_ahead_and_after_a_leap(db: asyncpg.Connection) -> None:
    reach = await db.fetchval("select partitioned_to from tidings.log")
    assert reach == 3 * 2**22
    await db.execute("select setval('tidings.position', $1)", reach - 1)
    position = await db.fetchval("select tidings.append_one(0, 'event', 'everyone', 't', '1')")
    assert position == reach
    far = await db.fetchval("select tidings.append_one($1, 'event', 'everyone', 't', '1')", 2**40)
    assert far == 2**40 + 2**32 + 1
    children = await db.fetchval(
        "select count(*) from pg_inherits where inhparent = 'tidings.events'::regclass"
    )
    assert children <= 9


async def test_many_writers_make_one_order_without_holes(database_url: str) -> None:
    """Whoever has read up to N never again sees a new entry at or below N."""

    async def write(count: int) -> None:
        connection = await asyncpg.connect(database_url)
        for _ in range(count):
            await connection.fetchval("select tidings.append_one(0, 'event', 'everyone', 't', '1')")
        await connection.close()

    async def read(writers: "asyncio.Task[None]") -> list[int]:
        connection = await asyncpg.connect(database_url)
        seen: list[int] = []
        done = False
        while not done:
            done = writers.done()
            after = seen[-1] if seen else 0
            query = "select position from tidings.events where position > $1 order by position"
            seen += [row["position"] for row in await connection.fetch(query, after)]
        everything = await connection.fetch("select position from tidings.events order by position")
        await connection.close()
        assert seen == [row["position"] for row in everything]
        return seen

    async def write_all() -> None:
        await asyncio.gather(*(write(100) for _ in range(8)))

    writers = asyncio.create_task(write_all())
    assert len(await read(writers)) == 800
    await writers
