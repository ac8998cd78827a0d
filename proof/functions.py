"""Bugs to plant in the functions of one database."""

import re

import asyncpg


async def _change(connection: asyncpg.Connection, function: str, *changes: tuple[str, str]) -> None:
    source: str = await connection.fetchval(
        "select pg_get_functiondef(p.oid) from pg_proc p where p.proname = $1"
        " and p.pronamespace = 'tidings'::regnamespace order by p.pronargs desc limit 1",
        function,
    )
    for pattern, replacement in changes:
        source, made = re.subn(pattern, replacement, source)
        if not made:
            raise LookupError(f"tidings.{function} has no {pattern}")
    await connection.execute(source)


async def draws_positions_without_the_lock(connection: asyncpg.Connection) -> None:
    """Let positions become visible in whatever order transactions commit, as with a bigserial."""
    await _change(
        connection, "append",
        (r"perform pg_advisory_xact_lock\(\d+\);", ""),
        (r"(first := nextval\('tidings.position'\);)", r"\1 perform pg_sleep(0.03 * random());"),
    )  # fmt: skip


async def releases_without_a_claim(connection: asyncpg.Connection) -> None:
    """Let every instance move what is due: slowly, so that each of them comes to look."""
    await _change(
        connection, "release",
        (r"or not pg_try_advisory_xact_lock\(\d+\)", ""),
        ("for update skip locked", ""),
        (r"gen_random_uuid\(\), _seen,", "gen_random_uuid(), _seen + (select 0 from pg_sleep(1.1)),"),
    )  # fmt: skip


async def uses_positions_again(connection: asyncpg.Connection) -> None:
    """Go on after a restore from where the log ends."""
    await connection.execute(
        "create or replace function tidings.check_lineage(head bigint, seen bigint) returns boolean"
        " language sql as 'select false'"
    )
