"""What admins keep: revocations; and the instances' leases."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import asyncpg
import sqlalchemy as sa
from sqlalchemy import RowMapping

from service.store.audit import Actor, audited, record_of
from service.store.database import Database, one
from service.store.tables import revocations

REVOKE: Final = audited("select * from tidings.revoke($5, $6, $7, $8, $9, $10)", "act.id")
LIFT: Final = audited("select tidings.lift_revocation($5, $6) as position", "$6")
DISCONNECT: Final = audited(
    "select tidings.append_one($5, 'disconnect', 'control', $6, '') as position", "$6"
)

LEASE: Final = """
insert into tidings.instances as i (id, seen_at) values ($1, clock_timestamp())
on conflict (id) do update set seen_at = excluded.seen_at
"""

OTHERS: Final = """
select id from tidings.instances
where id <> $1 and seen_at > clock_timestamp() - make_interval(secs => $2)
"""

PRUNE: Final = """
with idle as (delete from tidings.instances where seen_at < clock_timestamp() - interval '1 day')
delete from tidings.revocations
where not ban
  and greatest(created_at, to_timestamp(issued_before)) < clock_timestamp() - make_interval(secs => $1)
"""


# What an append is using anew it has locked, under the lock of the appends, and may wait for another of them.
FORGET_KEYS: Final = """
delete from tidings.idempotency_keys where ctid = any (array(
    select ctid from tidings.idempotency_keys
    where created_at < clock_timestamp() - make_interval(secs => $1) limit 10000
    for update skip locked))
"""


class Revoked(NamedTuple):
    """A revocation that has been written."""

    id: str
    position: int


async def revoke(
    connection: asyncpg.Connection, seen: int, by: Actor, *,
    jti: str | None, user: str | None, issued_before: int | None, ban: bool,
) -> Revoked:  # fmt: skip
    """Write a revocation: its row, its log entry and its record at once."""
    detail = {"jti": jti, "user": user, "issued_before": issued_before, "ban": ban}
    row = await one(
        connection, REVOKE, *record_of(by, "token.revoke", detail),
        seen, jti, user, issued_before, ban, by.key,
    )  # fmt: skip
    return Revoked(row["id"], row["position"])


async def lift(connection: asyncpg.Connection, seen: int, by: Actor, revocation_id: str) -> int | None:
    """Take a revocation back; return the entry's position, or None if there is none of this id."""
    row = await one(connection, LIFT, *record_of(by, "revocation.lift"), seen, revocation_id)
    position: int | None = row["position"]
    return position


async def disconnect(connection: asyncpg.Connection, seen: int, by: Actor, connection_id: str) -> int:
    """Write the order to close one connection; return its position."""
    row = await one(connection, DISCONNECT, *record_of(by, "connection.disconnect"), seen, connection_id)
    position: int = row["position"]
    return position


async def renew_lease(connection: asyncpg.Connection, instance: str) -> None:
    """Say that this instance is alive."""
    await connection.execute(LEASE, instance)


async def end_lease(connection: asyncpg.Connection, instance: str) -> None:
    """Say that this instance is there no more."""
    await connection.execute("delete from tidings.instances where id = $1", instance)


async def others(connection: asyncpg.Connection, instance: str, within: float) -> frozenset[str]:
    """Return which other instances were alive within so many seconds."""
    return frozenset([row["id"] for row in await connection.fetch(OTHERS, instance, within)])


async def prune(connection: asyncpg.Connection, lifetime: float) -> None:
    """Drop the leases of the dead, and revocations that every token has outlived by now."""
    await connection.execute(PRUNE, lifetime)


async def forget_keys(connection: asyncpg.Connection, window: float) -> None:
    """Forget idempotency keys past their window, batch by batch: each is a short statement."""
    while await connection.execute(FORGET_KEYS, window) == "DELETE 10000":
        continue


async def list_revocations(database: Database, after: str, limit: int) -> Sequence[RowMapping]:
    """Return revocations in force, by id."""
    return await database.rows(
        sa.select(revocations).where(revocations.c.id > after).order_by(revocations.c.id).limit(limit)
    )
