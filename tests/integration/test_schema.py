"""The migrations: up from empty, down again, one head, in step with the tables; and who may run on them."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from service.store import schema
from service.store.database import engine_for
from service.store.tables import metadata
from tests.harness import serving


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
