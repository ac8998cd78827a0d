"""The log: read pages, know the head."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple

import asyncpg
import msgspec

from service.domain.due import Reader
from service.domain.errors import Unavailable
from service.domain.events import Entry, Group, Outcome
from service.domain.frames import timestamp
from service.domain.recent import FOREVER, Gap, Interval, Page
from service.domain.revocations import Revocation
from service.store.database import one

LOOKED_AT: Final = 1000
"""Entries that a page of the newest events looks at."""

# In the order of an entry's fields. A float is read in a sixth of the time of a timestamptz.
COLUMNS: Final = (
    "position, kind, address, type, data, date_part('epoch', time) as time, lead, id, sender, exclude,"
    " date_part('epoch', expires_at) as expires_at, collapse_key"
)

RANGE: Final = f"""
select {COLUMNS} from tidings.events
where position > $1 and position <= $2 and (select l.floor from tidings.log l) <= $1
order by position limit $3
"""

# The bounds of the log come with the page from one snapshot, so retention cannot open a silent hole
# between them; what lies below the floor is gone, though it may still be there for a while.
# `lost_to` is set where the cursor lies in a stretch that a failover lost.
#
# Each address is read by the index of addresses, whatever the statistics say: rows compared as a whole
# fit no other, nor does the order. By the key, which is the position alone, an address with little in
# it would cost a walk over everybody's. The lower bound by itself spares the partitions before it; with
# the upper one too the planner takes the range to be narrow, and walks it (65 s instead of 1.5 ms).
#
# What is left out comes as a row without an entry, so a page goes on after it: ``domain.due`` is the rule.
PAGE: Final = f"""
select e.*, d.position as looked_at, l.floor,
       (select i.lost_to from tidings.lineage i
        where i.lost_from < $1 and $1 < i.lost_to order by i.id desc limit 1) as lost_to
from tidings.log l
left join lateral (
    select e.*, a.until from unnest($3::text[], $4::bigint[], $5::bigint[]) as a(address, since, until)
    cross join lateral (
        select e.* from tidings.events e
        where (e.address, e.position) > (a.address, greatest($1, a.since, l.floor))
          and (e.address, e.position) <= (a.address, least($2, a.until))
          and e.position > greatest($1, a.since, l.floor)
        order by e.address, e.position limit $6) e
    order by e.position limit $6) d on true
left join lateral (select {COLUMNS}, recalled, until from (select d.*) d) e
    on (e.expires_at is null or e.expires_at > $7) and e.recalled is null
       and (e.exclude is null or not e.exclude::jsonb ?| $8)
       and (e.collapse_key is null or not exists (
           select from tidings.events n
           where n.address = e.address and n.collapse_key = e.collapse_key
             and n.position > e.position and n.position <= $2
             and (n.expires_at is null or date_part('epoch', n.expires_at) > $7) and n.recalled is null
             and (n.exclude is null or not n.exclude::jsonb ?| $8)
             and (n.position <= e.until or exists (
                 select from unnest($3::text[], $4::bigint[], $5::bigint[]) as a(address, since, until)
                 where a.address = n.address and a.since < n.position and n.position <= a.until))))
"""

START: Final = """
select l.identity, l.seal, tidings.head() as head, l.floor, date_part('epoch', clock_timestamp()) as now,
       coalesce((select max(id) from tidings.lineage), 0) as lineage,
       (select coalesce(json_agg(json_strip_nulls(json_build_object(
            'id', id, 'jti', jti, 'user', user_id, 'issued_before', issued_before, 'ban', ban))), '[]')
        from tidings.revocations)::text as revocations,
       (select coalesce(json_agg(tidings.key_record(k)), '[]') from tidings.api_keys k)::text as keys,
       current_setting('fsync') as fsync, current_setting('synchronous_commit') as synchronous_commit
from tidings.log l
"""

CONTROL_PAGE: Final = 1000
"""Control entries that are read at once."""

CONFIRM: Final = f"""
select e.*, tidings.head() as head, date_part('epoch', clock_timestamp()) as now,
       coalesce((select max(id) from tidings.lineage), 0) as lineage,
       (select min(i.lost_from) from tidings.lineage i where i.id > $2) as kept,
       p.last_value as drawn, l.partitioned_to - p.last_value as room,
       pg_is_in_recovery() as standby, l.floor
from tidings.log l cross join tidings.position p
left join lateral (
    select {COLUMNS} from tidings.events
    where (address, position) > ('control', $1) and (address, position) <= ('control', {FOREVER})
      and position > $1
    order by address, position limit {CONTROL_PAGE}) e on true
"""

# An event that was put off is in the log by now, and its key says where, or it still waits.
ORIGINALS: Final = """
with original as (
    select u.n, u.pending, case when u.pending is null then u.first else i.position end as first,
           coalesce(i.entries, u.entries) as entries
    from unnest($1::bigint[], $2::integer[], $3::bigint[]) with ordinality as u(first, entries, pending, n)
    left join tidings.idempotency_keys i
        on i.pending[1] = u.pending and i.fingerprint is null and i.pending is not null
)
select o.n, e.position, e.address, null::timestamptz as due_at
    from original o join tidings.events e on e.position between o.first and o.first + o.entries - 1
    where o.first > 0
union all
select o.n, p.id, a.address, p.due_at
    from original o join tidings.pending p on p.id = o.pending, unnest(p.addresses) as a(address)
order by 1, 2
"""

ROOM_EVENTS: Final = f"""
select {COLUMNS} from tidings.events e
where (address, position) > ($1, greatest($2, (select l.floor from tidings.log l)))
  and (address, position) < ($1, $3)
  and kind = 'event' and recalled is null and (expires_at is null or expires_at > statement_timestamp())
order by address {{order}}, position {{order}} limit $4
"""

EVENT: Final = f"""
select {COLUMNS}, e.recalled, l.floor from tidings.log l
left join tidings.events e
    on e.position = $1 and e.kind = 'event' and e.address <> 'erased' and e.position > l.floor
"""

NEWEST: Final = f"""
with looked as (
    select min(p.position) as upto, count(*) as entries from (
        select position from tidings.events
        where position < $1 and position > (select l.floor from tidings.log l)
        order by position desc limit $2) p)
select e.*, looked.upto, looked.entries from looked left join lateral (
    select {COLUMNS}, recalled from tidings.events
    where position >= looked.upto and position < $1 and kind = 'event' and address <> 'erased'
      and (address = $3 or starts_with(address, $4)) and (type = $5 or starts_with(type, $6))
    order by position desc limit $7) e on true
"""

AT: Final = f"select {COLUMNS} from tidings.events where position = any ($1::bigint[])"

_names = msgspec.json.Decoder(tuple[str, ...]).decode


class Overtaken(RuntimeError):
    """The retention floor has passed what an instance has read: nobody can tell it now what it missed."""

    def __init__(self, floor: int, position: int) -> None:
        super().__init__(f"the log begins after {floor} now, and this instance has read up to {position}")


class Start(NamedTuple):
    """What an instance begins with, all from one snapshot at ``head``."""

    identity: str
    seal: bytes
    """The key with which instances seal what they tell each other."""
    head: int
    floor: int
    now: float
    """By the database's clock, in seconds since the epoch; so for ``Head``."""
    lineage: int
    revocations: list[Revocation]
    keys: bytes
    fsync: str
    synchronous_commit: str


class Head(NamedTuple):
    """Where the log stands, and the control entries that an instance has not applied yet."""

    head: int
    now: float
    lineage: int
    kept: int | None
    """Where it is another lineage: up to where the log is what it was before."""
    drawn: int
    """The last position that was drawn, committed or not."""
    room: int
    """Positions left before another partition is needed."""
    control: list[Entry]
    floor: int


class Original(NamedTuple):
    """An entry at its position; or an event put off, with its own number in place of that."""

    position: int
    address: str
    due_at: datetime | None


async def start(connection: asyncpg.Connection) -> Start:
    """Read what an instance begins with."""
    row = await one(connection, START)
    return Start(
        identity=str(row["identity"]),
        seal=row["seal"],
        head=row["head"],
        floor=row["floor"],
        now=row["now"],
        lineage=row["lineage"],
        revocations=msgspec.json.decode(row["revocations"], type=list[Revocation]),
        keys=row["keys"].encode(),
        fsync=row["fsync"],
        synchronous_commit=row["synchronous_commit"],
    )


async def confirm(connection: asyncpg.Connection, position: int, lineage: int) -> Head:
    """Read the head, and the control entries after ``position``; raises Unavailable on a standby.

    ``lineage`` is the one that is known.
    """
    rows = await connection.fetch(CONFIRM, position, lineage)
    first = rows[0]
    if first["standby"]:
        raise Unavailable("the database is a standby: what it knows may be old")
    return Head(
        first["head"], first["now"], first["lineage"], first["kept"], first["drawn"], first["room"],
        entries_of(rows), first["floor"],
    )  # fmt: skip


async def keep_ahead(connection: asyncpg.Connection, seen: int) -> None:
    """Move the positions on past ``seen``, where they are not."""
    await connection.fetchval("select tidings.keep_ahead($1)", seen)


async def between(connection: asyncpg.Connection, after: int, upto: int, limit: int) -> Group:
    """Read the log in ``(after, upto]``, or the first ``limit`` entries of it; raises Overtaken."""
    rows = await connection.fetch(RANGE, after, upto, limit)
    if not rows and (floor := await connection.fetchval("select floor from tidings.log")) > after:
        raise Overtaken(floor, after)
    entries = entries_of(rows)
    return Group(after, entries[-1].position if len(entries) == limit else upto, entries)


async def page(
    connection: asyncpg.Connection, after: int, upto: int, intervals: Sequence[Interval], limit: int,
    reader: Reader,
) -> Page:  # fmt: skip
    """Look at the first ``limit`` entries in ``(after, upto]``; read the due, with the gap before them."""
    addresses, sinces, untils = zip(*intervals, strict=True)
    names = [reader.user, f"{reader.user}\n{reader.device}"]
    rows = await connection.fetch(PAGE, after, upto, addresses, sinces, untils, limit, reader.now, names)
    floor, lost_to = rows[0]["floor"], rows[0]["lost_to"]
    gap = None
    if lost_to is not None and lost_to > floor:
        gap = Gap(after, lost_to, "failover")
    elif floor > after:
        gap = Gap(after, floor, "retention")
    reached = rows[-1]["looked_at"] if len(rows) == limit else None
    return Page(entries_of(rows), reached or upto, gap)


async def room_events(
    connection: asyncpg.Connection, room: str, after: int, before: int, limit: int, *, newest: bool
) -> list[Entry]:
    """Read events of a room strictly between two positions, newest or oldest first."""
    statement = ROOM_EVENTS.format(order="desc" if newest else "asc")
    rows = await connection.fetch(statement, f"room:{room}", after, before, limit)
    return entries_of(rows)


class Newest(NamedTuple):
    """Events, newest first, each with where it was taken back; ``rest`` is what the others come before."""

    found: list[tuple[Entry, int | None]]
    rest: int | None


async def newest(connection: asyncpg.Connection, before: int, to: str, about: str, limit: int) -> Newest:
    """Read events before a position, whose address and type match these patterns."""
    rows = await connection.fetch(
        NEWEST, before, LOOKED_AT, *_exact_or_prefix(to), *_exact_or_prefix(about), limit
    )
    found = [(entry, row["recalled"]) for entry, row in zip(entries_of(rows), rows, strict=False)]
    if len(found) == limit:
        return Newest(found, found[-1][0].position)
    return Newest(found, rows[0]["upto"] if rows[0]["entries"] == LOOKED_AT else None)


def _exact_or_prefix(pattern: str) -> tuple[str | None, str | None]:
    return (None, pattern[:-1]) if pattern.endswith("*") else (pattern, None)


async def originals(connection: asyncpg.Connection, outcomes: Sequence[Outcome]) -> list[list[Original]]:
    """Return what earlier units became, each as far as it is held."""
    rows = await connection.fetch(
        ORIGINALS, [o.first for o in outcomes], [o.entries for o in outcomes], [o.pending for o in outcomes]
    )
    found: list[list[Original]] = [[] for _ in outcomes]
    for number, *original in rows:
        found[number - 1].append(Original(*original))
    return found


class Found(NamedTuple):
    """An event, None where there is none at its position, and the retention floor."""

    entry: Entry | None
    recalled: int | None
    """Where it was taken back."""
    floor: int


async def event(connection: asyncpg.Connection, position: int) -> Found:
    """Read one event."""
    row = await one(connection, EVENT, position)
    return Found(next(iter(entries_of([row])), None), row["recalled"], row["floor"])


async def at(connection: asyncpg.Connection, positions: Sequence[int]) -> list[Entry]:
    """Read the entries at these positions, as far as they are held."""
    return entries_of(await connection.fetch(AT, positions))


async def recall(connection: asyncpg.Connection, seen: int, position: int) -> int | None:
    """Take an event back; return where the log says so, the same for each time, or None without an event."""
    own: int | None = await connection.fetchval("select tidings.recall($1, $2)", seen, position)
    return own


async def ensure_partitions(connection: asyncpg.Connection) -> None:
    """Make partitions until there is room ahead of the head."""
    await connection.fetchval("select tidings.ensure_partitions()")


@lru_cache(maxsize=1024)  # entries of one commit share their time: 0.06 µs instead of 1.3
def _timestamp(epoch: float) -> str:
    return timestamp(datetime.fromtimestamp(epoch, UTC))


def entries_of(rows: Sequence[asyncpg.Record]) -> list[Entry]:
    """Return the entries of rows that begin with ``COLUMNS``; a position that is null is none."""
    return [
        Entry(
            position, kind, address, about, data, _timestamp(time), lead, id_, sender,
            _names(exclude) if exclude else (), expires_at, collapse_key,
        )
        for position, kind, address, about, data, time, lead, id_, sender, exclude, expires_at, collapse_key,
        *_ in rows
        if position is not None
    ]  # fmt: skip
