"""Who has an event, by the devices' cursors: no row is written for a delivery."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

import asyncpg

from service.store.audit import Actor, audited, record_of
from service.store.database import one

# What one or several events are, and what has happened to them since.
_EVENTS: Final = """
select e.position, e.address, e.exclude, e.recalled is not null as recalled,
       coalesce(e.expires_at <= clock_timestamp(), false) as expired,
       e.collapse_key is not null and exists (
           select from tidings.events n
           where n.address = e.address and n.collapse_key = e.collapse_key
             and n.position > e.position and n.kind = 'event') as replaced
from tidings.events e cross join tidings.log l
where e.position = any ($1::bigint[]) and e.kind = 'event' and e.position > l.floor
"""

# The devices of those whom event `e` is for. Only the part that fits its address is carried out.
_DEVICES: Final = """
select d.*, null as source from tidings.devices d
where e.address like 'user:%' and d.user_id = substr(e.address, 6)
union all
select d.*, m.source from tidings.memberships m join tidings.devices d using (user_id)
where e.address like 'room:%' and m.room = substr(e.address, 6) and m.since < e.position and m.until is null
union all
select d.*, m.source from tidings.memberships m join tidings.devices d using (user_id)
where e.address like 'room:%' and m.room = substr(e.address, 6)
  and m.since < e.position and m.until >= e.position and m.until is not null
union all
select d.*, null from tidings.users u join tidings.devices d using (user_id)
where e.address = 'everyone' and u.first_seen < e.position
"""

# The one rule: what can be said of event `e` and device `d`, as a state and a reason. Received is what is
# certain: a cursor passes also what expired, was replaced or taken back before it was the device's turn, and
# what a client's own membership was withheld for lack of a grant.
_SAID: Final = """
case
    when e.exclude::jsonb ?| array[d.user_id, d.user_id || E'\\n' || d.device] then 'skipped excluded'
    when d.start >= e.position then 'skipped started_later'
    when d.cursor < e.position then case
        when e.recalled then 'skipped recalled'
        when e.expired then 'skipped expired'
        else 'pending' end
    when d.skipped @> int8range(0, e.position, '[]') then 'unknown forgotten'
    when d.skipped @> e.position then 'skipped after'
    when e.recalled then 'unknown recalled'
    when e.expired then 'unknown expired'
    when e.replaced then 'unknown collapsed'
    when d.source = 'client' then 'unknown grant'
    else 'received'
end
"""


def read_by(user: str) -> str:
    """Return the SQL that tells whether ``user``, a column, has read event ``e``; null in a room."""
    return f"""case when not starts_with(e.address, 'room:') then exists (
        select from tidings.reads r where r.user_id = {user} and r.read @> e.position) end"""


PAGE: Final = f"""
with e as ({_EVENTS})
select d.user_id, d.device, {_SAID} as said, {read_by("d.user_id")} as read
from e cross join lateral ({_DEVICES}) d
where (d.user_id, d.device) > ($2, $3) order by d.user_id, d.device limit $4
"""

COUNTS: Final = f"""
with e as ({_EVENTS})
select split_part({_SAID}, ' ', 1) as state, count(*) from e cross join lateral ({_DEVICES}) d group by 1
"""

ANYONE: Final = f"""
with e as ({_EVENTS})
select d.user_id, d.device, e.position from e cross join lateral ({_DEVICES}) d
where {_SAID} = 'received' limit 1
"""

SOMEONE: Final = f"""
with e as ({_EVENTS})
select d.user_id, d.device, e.position from e cross join lateral ({_DEVICES}) d
where d.user_id = $2 and d.device = $3 and {_SAID} = 'received' limit 1
"""

# A cursor that has passed an event which was replaced stands for one of the two.
STANDING: Final = f"""
with e as ({_EVENTS})
select e.position, count(d.device) as devices,
       count(d.device) filter (where {_SAID} in ('received', 'unknown collapsed')) > 0 as received,
       coalesce({read_by("substr(e.address, 6)")}, false) as read
from e left join lateral ({_DEVICES}) d on true
where not e.recalled and not e.expired group by e.position, e.address
"""

DEVICES: Final = """
select d.device, d.start, d.cursor, greatest(h.head - d.cursor, 0) as lag, d.seen_at, due.behind
from (select tidings.head() as head) h cross join tidings.devices d
join tidings.users u using (user_id)
cross join lateral (
    select count(*) as behind from (
        select from (
            select 'user:' || d.user_id, 0::bigint, h.head
            union all select 'everyone', u.first_seen, h.head
            union all select 'room:' || m.room, m.since, coalesce(m.until, h.head)
                      from tidings.memberships m
                      where m.user_id = d.user_id and (m.until is null or m.until > d.cursor)
        ) i(address, since, until)
        cross join lateral (
            select from tidings.events e
            where (e.address, e.position) > (i.address, greatest(d.cursor, i.since))
              and (e.address, e.position) <= (i.address, i.until)
              and e.position > greatest(d.cursor, i.since)
              and e.kind = 'event' and e.recalled is null
              and (e.expires_at is null or e.expires_at > clock_timestamp())
              and (e.exclude is null
                   or not e.exclude::jsonb ?| array[d.user_id, d.user_id || E'\\n' || d.device])
            order by e.address, e.position limit $4) e
        limit $4) e
) due
where d.user_id = $1 and d.device > $2 order by d.device limit $3
"""

MOST_BEHIND: Final = 1000
"""Events that are counted for a device, at the most."""


FORGET: Final = audited("select tidings.forget_device($5, $6, $7) as position", "$6")


class Held(NamedTuple):
    """What is known of an event at a device; ``read`` is None where nobody has told."""

    user: str
    device: str
    state: str
    reason: str | None
    read: bool | None


class Receipt(NamedTuple):
    """A device that has received an event."""

    user: str
    device: str
    position: int


class Standing(NamedTuple):
    """How an event stands with the devices of its user, who may have none."""

    devices: int
    received: bool
    read: bool


class Device(NamedTuple):
    """A device and how far it has got: ``lag`` in positions, ``behind`` in events, up to ``MOST_BEHIND``."""

    device: str
    start: int
    cursor: int
    lag: int
    seen_at: datetime
    behind: int


async def page(
    connection: asyncpg.Connection, position: int, after: tuple[str, str], limit: int
) -> list[Held]:
    """Return devices of those whom an event is for, by user and device, from after one of them."""
    rows = await connection.fetch(PAGE, [position], *after, limit)
    return [Held(user, device, *_words(said), read) for user, device, said, read in rows]


def _words(said: str) -> tuple[str, str | None]:
    state, _, reason = said.partition(" ")
    return state, reason or None


async def counts(connection: asyncpg.Connection, position: int) -> dict[str, int]:
    """Return how many devices there are in each state."""
    found = {row["state"]: row["count"] for row in await connection.fetch(COUNTS, [position])}
    return {state: found.get(state, 0) for state in ("received", "pending", "skipped", "unknown")}


async def received_by(
    connection: asyncpg.Connection, positions: Sequence[int], device: tuple[str, str] | None = None
) -> Receipt | None:
    """Return a receipt of any of these events, by this device or by whichever; None where there is none."""
    if device is None:
        rows = await connection.fetch(ANYONE, positions)
    else:
        rows = await connection.fetch(SOMEONE, positions, *device)
    return Receipt(*rows[0]) if rows else None


async def standings(connection: asyncpg.Connection, positions: Sequence[int]) -> dict[int, Standing]:
    """Return how events stand, by position; without those that are gone, recalled or expired."""
    rows = await connection.fetch(STANDING, positions)
    return {row["position"]: Standing(row["devices"], row["received"], row["read"]) for row in rows}


async def devices(connection: asyncpg.Connection, user: str, after: str, limit: int) -> list[Device]:
    """Return a user's devices by name."""
    rows = await connection.fetch(DEVICES, user, after, limit, MOST_BEHIND)
    return [Device(*row) for row in rows]


async def forget(connection: asyncpg.Connection, seen: int, by: Actor, user: str, device: str) -> int | None:
    """Forget a device; return the position of the entry that says so, or None if there is none."""
    row = await one(
        connection, FORGET, *record_of(by, "device.forget", {"device": device}), seen, user, device
    )
    position: int | None = row["position"]
    return position
