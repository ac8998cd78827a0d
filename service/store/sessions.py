"""What the database knows of users and devices: sessions, cursors, rooms."""

from collections.abc import Iterable, Mapping, Sequence
from sys import intern
from typing import Final, NamedTuple

import asyncpg

from service.domain.delivery import Membership, Session, Source
from service.domain.recent import Interval
from service.store.inbox import first_seen

OPEN: Final = "select * from tidings.open_sessions($1, $2, $3, $4, $5, $6)"

CHANGE: Final = "select * from tidings.change_members($1, $2, $3, $4, $5, $6)"

# Cursors are written behind: losing the last second of them costs duplicates, never an event. When a device
# was seen is indexed, so a row whose time moves is no heap-only tuple: once a minute is enough.
MOVE: Final = """
with unsynced as materialized (select set_config('synchronous_commit', 'off', true))
update tidings.devices d
set cursor = greatest(d.cursor, m.cursor),
    seen_at = case when d.seen_at < clock_timestamp() - interval '1 minute' then clock_timestamp()
                   else d.seen_at end
from unsynced, unnest($1::text[], $2::text[], $3::bigint[]) as m(user_id, device, cursor)
where d.user_id = m.user_id and d.device = m.device
"""

ACKNOWLEDGE: Final = """
with unsynced as materialized (select set_config('synchronous_commit', 'off', true))
update tidings.devices set
    cursor = greatest(cursor, least($3, tidings.head())), seen_at = clock_timestamp()
from unsynced where user_id = $1 and device = $2 returning cursor
"""

FORGET_IDLE: Final = """
delete from tidings.devices where ctid = any (array(
    select ctid from tidings.devices where seen_at < clock_timestamp() - make_interval(secs => $1)
    limit 1000))
"""

MEMBERS: Final = """
select user_id, source, since from tidings.memberships
where room = $1 and until is null and user_id > $2 order by user_id limit $3
"""

ROOMS: Final = """
select room, source, since from tidings.memberships
where user_id = $1 and until is null and room > $2 order by room limit $3
"""


class Wanted(NamedTuple):
    """A device whose session is wanted, and the position that it asks to start after, if any.

    ``known`` is a cursor of it that the database does not know yet, or 0.
    """

    user: str
    device: str
    after: int | None
    known: int = 0


class Change(NamedTuple):
    """A membership that was changed, and where the log says so."""

    room: str
    user: str
    joins: bool
    position: int


async def open_sessions(
    connection: asyncpg.Connection, wanted: Sequence[Wanted], max_devices: int, base: int
) -> list[Session | None]:
    """Know these users and devices from now on, and return what is due to each, from one snapshot.

    ``base`` is where the instance's memory of the log begins. A device that is one too many for its
    user gets None and is not known.
    """
    users, devices, afters, known = zip(*wanted, strict=True)
    rows = await connection.fetch(OPEN, users, devices, afters, known, max_devices, base)
    # Whoever comes back before their erasure is done may lose the one row and keep the other.
    lost = {user for user, row in zip(users, rows, strict=True) if row["first_seen"] is None}
    anew = {user: await first_seen(connection, user) for user in lost}
    return [
        _session(head, floor, anew.get(user, since), *rest)
        for user, (head, floor, since, *rest) in zip(users, rows, strict=True)
    ]


def _session(
    head: int, floor: int, first_seen: int, cursor: int | None, rooms: Sequence[str] | None,
    sources: Sequence[Source] | None, sinces: Sequence[int] | None, untils: Sequence[int | None] | None,
    quiet_to: int | None,
) -> Session | None:  # fmt: skip
    if cursor is None:
        return None
    current: dict[str, Membership] = {}
    past: list[tuple[Interval, Source]] = []
    for room, source, since, until in zip(
        rooms or (), sources or (), sinces or (), untils or (), strict=True
    ):
        if until is None:
            current[intern(room)] = Membership(source, since)  # its members share one string
        else:
            past.append((Interval(f"room:{room}", since, until), source))
    return Session(head, floor, first_seen, cursor, current, tuple(past), quiet_to or 0)


async def change_members(
    connection: asyncpg.Connection,
    seen: int,
    changes: Iterable[tuple[str, str, bool]],
    *,
    source: Source,
    max_rooms: int | None = None,
) -> list[Change]:
    """Join and leave: ``(room, user, joins)`` each. What is so already is not in the answer."""
    rooms, users, joins = zip(*changes, strict=True)
    rows = await connection.fetch(CHANGE, seen, rooms, users, joins, source, max_rooms)
    return [Change(*row) for row in rows]


async def move_cursors(connection: asyncpg.Connection, cursors: Mapping[tuple[str, str], int]) -> None:
    """Move devices' cursors forward; a device that is forgotten meanwhile stays so."""
    # In the order of their keys, so that two instances wait for each other and never in a circle.
    users, devices, positions = zip(*sorted((*key, at) for key, at in cursors.items()), strict=True)
    await connection.execute(MOVE, users, devices, positions)


async def acknowledge(connection: asyncpg.Connection, user: str, device: str, position: int) -> int | None:
    """Move a device's cursor forward, at most to the head; return where it is, or None for no device."""
    cursor: int | None = await connection.fetchval(ACKNOWLEDGE, user, device, position)
    return cursor


async def forget_idle(connection: asyncpg.Connection, age: float) -> None:
    """Forget devices not seen for ``age`` seconds, at most a thousand at a time."""
    await connection.execute(FORGET_IDLE, age)


async def members(
    connection: asyncpg.Connection, room: str, after: str, limit: int
) -> Sequence[asyncpg.Record]:
    """Return ``user_id, source, since`` of a room's members, by name."""
    rows: Sequence[asyncpg.Record] = await connection.fetch(MEMBERS, room, after, limit)
    return rows


async def rooms(
    connection: asyncpg.Connection, user: str, after: str, limit: int
) -> Sequence[asyncpg.Record]:
    """Return ``room, source, since`` of a user's rooms, by name."""
    found: Sequence[asyncpg.Record] = await connection.fetch(ROOMS, user, after, limit)
    return found
