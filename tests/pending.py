"""What waits to get into the log, seen and held up from outside."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import time

import asyncpg

from tests.harness import Frame, eventually

APPEND_LOCK = 32766977284925299
WAITING = """
select pid from pg_stat_activity
where query like '%tidings.release%' and wait_event = 'advisory' and datname = current_database()
"""
FAR = time() + 86400


async def logged(db: asyncpg.Connection) -> list[int]:
    """Return the data of all events, in their order."""
    rows = await db.fetch("select data from tidings.events where kind = 'event' order by position")
    return [int(row["data"]) for row in rows]


async def waiting(db: asyncpg.Connection) -> int:
    count: int = await db.fetchval("select count(*) from tidings.pending where failed is null")
    return count


async def nothing_waits(db: asyncpg.Connection) -> None:
    async def none() -> bool:
        return await waiting(db) == 0

    await eventually(none, patience=30)


@asynccontextmanager
async def held_up(db: asyncpg.Connection) -> AsyncIterator[None]:
    """Let no append happen."""
    await db.execute("select pg_advisory_lock($1)", APPEND_LOCK)
    try:
        yield
    finally:
        await db.execute("select pg_advisory_unlock($1)", APPEND_LOCK)


async def mover(db: asyncpg.Connection) -> int:
    """Wait until somebody has claimed what is due and is held up; return its backend's pid."""
    pid: int = await eventually(lambda: db.fetchval(WAITING))
    return pid


def data_of(frames: Sequence[Frame]) -> list[int]:
    return [frame["data"] for frame in frames if frame["type"] == "event"]
