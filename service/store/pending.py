"""What waits to get into the log: events for later, and those of transactions that have published."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final, NamedTuple

import asyncpg

from service.domain.publication import Rules
from service.store.database import one

CHANNEL: Final = "tidings.pending"
"""On which ``tidings.publish`` notifies."""

CONFIGURE: Final = """
update tidings.log set max_data = $1, schedule_horizon = $2, callbacks = $3, sql_notify = $4
where (max_data, schedule_horizon, callbacks, sql_notify) is distinct from ($1, $2, $3, $4)
"""

# What was published by SQL for at once is due when it comes: it is not scheduled, unless it failed.
# $1 is the producer and $2 its patterns, null for any.
_VISIBLE: Final = """
(due_at > created_at or failed is not null) and ($1::text is null or producer = $1)
and ($2::text[] is null or not exists (
    select from unnest(addresses) as a(address)
    where not exists (select from unnest($2) as p(pattern) where case
        when right(p.pattern, 1) = '*' then starts_with(a.address, left(p.pattern, -1))
        else a.address = p.pattern end)))
"""

SCHEDULED: Final = f"""
select id, coalesce(event_id, id::text) as event_id, addresses, type, data, due_at, created_at, failed
from tidings.pending where {_VISIBLE} and id > $3 order by id limit $4
"""

# Where the row is claimed this waits, and finds nothing. Its id can be used anew.
CANCEL: Final = f"""
with gone as (delete from tidings.pending where {_VISIBLE} and id = $3 returning id),
unused as (
    delete from tidings.idempotency_keys i using gone
    where i.pending[1] = gone.id and i.fingerprint is null and i.pending is not null)
select count(*) from gone
"""


class Released(NamedTuple):
    """What was moved into the log."""

    wait: float | None
    """Seconds until the next is due, negative where it has been; None where none is left."""
    moved: int
    repeated: int
    """Left out, because their ids were used before."""
    head: int | None
    """The last position that was used."""
    failed: int | None
    """The event that can never be appended."""
    reason: str | None


async def configure(connection: asyncpg.Connection, rules: Rules, *, sql_notify: bool) -> None:
    """Say what ``tidings.publish`` goes by."""
    await connection.execute(CONFIGURE, *rules, sql_notify)


async def release(
    connection: asyncpg.Connection, *, seen: int, window: float, entries: int, size: int, back: float | None
) -> Released:
    """Move what is due, at most so many entries and bytes, but at least one event.

    With ``back`` only what has been due for less than so many seconds. Raises where the log refuses one
    of several; see ``store.append`` for ``seen`` and ``window``.
    """
    return Released(
        *await one(
            connection, "select * from tidings.release($1, $2, $3, $4, $5)",
            seen, timedelta(seconds=window), entries, size,
            None if back is None else timedelta(seconds=back),
        )
    )  # fmt: skip


async def scheduled(
    connection: asyncpg.Connection,
    producer: str | None,
    patterns: Sequence[str] | None,
    after: int,
    limit: int,
) -> list[asyncpg.Record]:
    """Return what is put off, by id, of one producer and to addresses that match; None is any."""
    rows: list[asyncpg.Record] = await connection.fetch(SCHEDULED, producer, patterns, after, limit)
    return rows


async def cancel(
    connection: asyncpg.Connection, producer: str | None, patterns: Sequence[str] | None, pending: int
) -> bool:
    """Take back what ``scheduled`` would return; tell whether it was still there."""
    return bool(await connection.fetchval(CANCEL, producer, patterns, pending))
