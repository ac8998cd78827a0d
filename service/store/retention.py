"""The log's partitions: what each holds, closing one, raising the floor, dropping what lies below.

Each of these is right by itself, whoever else does the same meanwhile, and goes on where another was
interrupted.
"""

from typing import Final

import asyncpg

from service.domain.retention import SPAN, Held, Partition
from service.store.audit import Actor, audited, record_of
from service.store.database import one

BOUNDS: Final = "select l.floor, p.last_value as drawn from tidings.log l cross join tidings.position p"

# A partition whose detaching was begun is none of the log's any more, so it has no entries here.
PARTITIONS: Final = f"""
select c.start, last.position,
       coalesce(extract(epoch from clock_timestamp() - first.time), 0)::float8,
       coalesce(extract(epoch from clock_timestamp() - last.time), 0)::float8,
       coalesce(pg_total_relation_size(c.oid), 0), c.state
from (
    select c.oid, substr(c.relname, 8)::bigint as start,
           case when i.inhrelid is null then 'detached'
                when i.inhdetachpending then 'pending' else 'attached' end as state
    from pg_class c left join pg_inherits i on i.inhrelid = c.oid
    where c.relnamespace = 'tidings'::regnamespace and c.relkind = 'r' and c.relname ~ '^events_[0-9]+$') c
left join lateral (
    select e.time from tidings.events e
    where e.position >= c.start and e.position < c.start + {SPAN}
    order by e.position limit 1) first on true
left join lateral (
    select e.position, e.time from tidings.events e
    where e.position >= c.start and e.position < c.start + {SPAN}
    order by e.position desc limit 1) last on true
order by c.start
"""

RAISE: Final = "select case when tidings.raise_floor($1, $2) then $1 end as position"
RAISE_BY: Final = audited(
    "select case when tidings.raise_floor($5, $6) then $5 end as position", "act.position::text"
)

FORGET_MEMBERSHIPS: Final = """
delete from tidings.memberships where ctid = any (array(
    select ctid from tidings.memberships where until <= $1 limit 10000))
"""

PATIENCE: Final = 1.0
"""Seconds that a statement waits for readers. New readers do not wait behind it, but whoever makes
partitions does; what was not reached is tried again later."""

_NOT_NOW: Final = (
    TimeoutError,
    asyncpg.QueryCanceledError,
    asyncpg.ObjectNotInPrerequisiteStateError,  # a lock not to be had, or somebody else is at it
    asyncpg.UndefinedTableError,  # somebody else has done it
)


async def held(connection: asyncpg.Connection) -> Held:
    """Read what the log holds."""
    bounds = await one(connection, BOUNDS)
    rows = await connection.fetch(PARTITIONS)
    return Held(bounds["floor"], bounds["drawn"], [Partition(*row) for row in rows])


async def close_partition(connection: asyncpg.Connection, partition: Partition) -> bool:
    """Have the next entry begin another partition; False where it does so already."""
    closed: bool = await connection.fetchval(
        "select tidings.close_partition($1, $2)", partition.start, partition.end
    )
    return closed


async def raise_floor(
    connection: asyncpg.Connection, floor: int, below: int, by: Actor | None = None
) -> bool:
    """Declare gone what is at or below ``floor``; False where something has come before ``below``.

    It is recorded where an admin asked for it.
    """
    if by is None:
        row = await one(connection, RAISE, floor, below)
    else:
        row = await one(connection, RAISE_BY, *record_of(by, "log.prune"), floor, below)
    return row["position"] is not None


async def forget_memberships(connection: asyncpg.Connection, floor: int) -> None:
    """Forget memberships that ended at or below the floor, batch by batch."""
    while await connection.execute(FORGET_MEMBERSHIPS, floor) == "DELETE 10000":
        continue


async def drop(connection: asyncpg.Connection, partition: Partition) -> bool:
    """Drop a partition below the floor; False where readers are in the way, or somebody else is at it.

    ``DETACH … CONCURRENTLY`` lets everyone read and write meanwhile. Interrupted, it leaves the
    partition pending, and then only ``FINALIZE`` is to be had.
    """
    name = f"tidings.events_{partition.start}"
    detach = f"alter table tidings.events detach partition {name}"
    try:
        if partition.state == "attached":
            await connection.execute(f"{detach} concurrently", timeout=PATIENCE)
        elif partition.state == "pending":
            await connection.execute(f"{detach} finalize", timeout=PATIENCE)
        await connection.execute(f"drop table {name}", timeout=PATIENCE)
    except _NOT_NOW:
        return False
    return True
