"""Who is connected, on whichever instance: written behind, and looked up."""

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

import asyncpg

from service.domain.presence import Change
from service.store.database import one

NOTE: Final = """
select * from tidings.note_connections($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
"""

# Whoever comes next sweeps what it has left behind, without waiting for its lease to run out.
LEAVE: Final = "update tidings.instances set seen_at = '-infinity' where id = $1"

NOTED: Final = """
select id from tidings.connections where instance = $1 and id > $2 and gone_at is null order by id limit $3
"""

SHARED: Final = """
select user_id, array_agg(room) as rooms from tidings.memberships
where user_id = any ($1::text[]) and room = any ($2::text[]) and until is null group by user_id
"""

# A connection that has just ended counts until it is swept, as in what watchers are told.
PRESENT: Final = """
with present as materialized (
    select m.user_id from tidings.memberships m
    where m.room = $1 and m.until is null and m.user_id > $2
      and exists (select from tidings.connections c where c.user_id = m.user_id)
    union
    select c.user_id from tidings.connections c where c.rooms @> array[$1] and c.user_id > $2
    order by 1 limit $3
)
select user_id, count(distinct c.device) as devices, min(c.since) as since,
       (array_agg(c.info order by c.since desc))[1] as info
from present join tidings.connections c using (user_id) group by user_id order by user_id
"""

CONNECTIONS: Final = """
select c.id, c.instance, c.user_id, c.device, c.info, c.since, d.cursor,
       coalesce(cardinality(c.rooms), 0) + (
           select count(*) from tidings.memberships m
           where m.user_id = c.user_id and m.until is null) as rooms
from tidings.connections c
left join tidings.devices d on d.user_id = c.user_id and d.device = c.device
where c.id > $1 and c.gone_at is null
  and ($2::text is null or c.user_id = $2) and ($3::text is null or c.instance = $3)
order by c.id limit $4
"""

INSTANCES: Final = """
select id, version, started_at, seen_at, stats::text from tidings.instances
where seen_at > clock_timestamp() - make_interval(secs => $1) order by started_at, id
"""

USERS: Final = "select count(distinct user_id) from tidings.connections where gone_at is null"


class Live(NamedTuple):
    """A connection as it is written: ``age`` in seconds, ``info`` as JSON, ``rooms`` with commas between."""

    id: str
    user: str
    device: str
    info: str | None
    age: float
    rooms: str


class Lease(NamedTuple):
    """Which instance writes, how long it lives when it is not seen, and how long who left is waited for."""

    instance: str
    version: str
    seconds: float
    linger: float


class Noted(NamedTuple):
    """What came of a note: for users, and for the instance.

    ``known`` is false where its lease had run out and all that it had written was swept; ``others`` are
    the instances that are alive besides. ``lineage`` tells one history of the database from another.
    ``more`` says that there is more to be swept.
    """

    known: bool
    others: frozenset[str]
    lineage: int
    more: bool
    changes: list[Change]


async def note(
    connection: asyncpg.Connection, lease: Lease, uptime: float, stats: str | None,
    live: Sequence[Live], gone: Sequence[str], limit: int,
) -> Noted:  # fmt: skip
    """Write which connections there are and which have ended, and sweep at most ``limit`` others."""
    columns = list(zip(*live, strict=True)) or [()] * len(Live._fields)
    row = await one(
        connection, NOTE, lease.instance, lease.version, uptime, stats, *columns, gone,
        lease.linger, lease.seconds, limit,
    )  # fmt: skip
    known, others, lineage, more, *told = row
    changes = [Change(*change) for change in zip(*(column or () for column in told), strict=True)]
    return Noted(known, frozenset(others), lineage, more, changes)


async def leave(connection: asyncpg.Connection, instance: str) -> None:
    """Give up the lease: what is still written under it goes with the next sweep."""
    await connection.execute(LEAVE, instance)


async def noted(connection: asyncpg.Connection, instance: str, after: str, limit: int) -> list[str]:
    """Return the ids of the connections that an instance has written, in order."""
    return [row["id"] for row in await connection.fetch(NOTED, instance, after, limit)]


async def shared(
    connection: asyncpg.Connection, users: Collection[str], rooms: Collection[str]
) -> dict[str, list[str]]:
    """Return which of these rooms each of these users is a durable member of."""
    rows = await connection.fetch(SHARED, list(users), list(rooms))
    return {row["user_id"]: row["rooms"] for row in rows}


async def present(
    connection: asyncpg.Connection, room: str, after: str, limit: int
) -> Sequence[asyncpg.Record]:
    """Return ``user_id, devices, since, info`` of who is connected in a room, by name."""
    found: Sequence[asyncpg.Record] = await connection.fetch(PRESENT, room, after, limit)
    return found


async def connections(
    connection: asyncpg.Connection, user: str | None, instance: str | None, after: str, limit: int
) -> Sequence[asyncpg.Record]:
    """Return connections by id, each with its device's cursor and how many rooms it is in."""
    found: Sequence[asyncpg.Record] = await connection.fetch(CONNECTIONS, after, user, instance, limit)
    return found


async def instances(connection: asyncpg.Connection, within: float) -> Sequence[asyncpg.Record]:
    """Return the instances that were seen within so many seconds, the oldest first."""
    found: Sequence[asyncpg.Record] = await connection.fetch(INSTANCES, within)
    return found


async def users(connection: asyncpg.Connection) -> int:
    """Return how many users are connected."""
    count: int = await connection.fetchval(USERS)
    return count
