"""What admins keep: revocations, API keys; and the instances' leases."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import asyncpg
import sqlalchemy as sa
from sqlalchemy import RowMapping

from service.store.database import Database, one
from service.store.tables import api_keys, revocations

LEASE: Final = """
insert into tidings.instances as i (id, seen_at) values ($1, clock_timestamp())
on conflict (id) do update set seen_at = excluded.seen_at
"""

OTHERS: Final = """
select count(*) from tidings.instances
where id <> $1 and seen_at > clock_timestamp() - make_interval(secs => $2)
"""

USED: Final = """
update tidings.api_keys k set last_used_at = to_timestamp(u.at)
from unnest($1::text[], $2::float8[]) as u(id, at) where k.id = u.id
"""

PRUNE: Final = """
with idle as (delete from tidings.instances where seen_at < clock_timestamp() - interval '1 day')
delete from tidings.revocations
where not ban
  and greatest(created_at, to_timestamp(issued_before)) < clock_timestamp() - make_interval(secs => $1)
"""


FORGET_KEYS: Final = """
delete from tidings.idempotency_keys where ctid = any (array(
    select ctid from tidings.idempotency_keys
    where created_at < clock_timestamp() - make_interval(secs => $1) limit 10000))
"""


class Revoked(NamedTuple):
    """A revocation that has been written."""

    id: str
    position: int


async def revoke(
    connection: asyncpg.Connection, seen: int, *,
    jti: str | None, user: str | None, issued_before: int | None, ban: bool, by: str,
) -> Revoked:  # fmt: skip
    """Write a revocation: its row and its log entry at once."""
    row = await one(
        connection, "select * from tidings.revoke($1, $2, $3, $4, $5, $6)",
        seen, jti, user, issued_before, ban, by,
    )  # fmt: skip
    return Revoked(row["id"], row["position"])


async def lift(connection: asyncpg.Connection, seen: int, revocation_id: str) -> int | None:
    """Take a revocation back; return the entry's position, or None if there is none of this id."""
    position: int | None = await connection.fetchval(
        "select tidings.lift_revocation($1, $2)", seen, revocation_id
    )
    return position


async def put_key(
    connection: asyncpg.Connection, seen: int, *,
    id: str, name: str, secret_hash: bytes, scopes: Sequence[str],  # noqa: A002 - the field's name
    addresses: Sequence[str] | None, expires_at: datetime | None,
) -> int:  # fmt: skip
    """Keep a new API key; return its entry's position."""
    position: int = await connection.fetchval(
        "select tidings.put_key($1, $2, $3, $4, $5, $6, $7)",
        seen, id, name, secret_hash, scopes, addresses, expires_at,
    )  # fmt: skip
    return position


async def delete_key(connection: asyncpg.Connection, seen: int, key_id: str) -> int | None:
    """Delete an API key; return the entry's position, or None if there is none of this id."""
    position: int | None = await connection.fetchval("select tidings.delete_key($1, $2)", seen, key_id)
    return position


async def keys_used(connection: asyncpg.Connection, used: Mapping[str, float]) -> None:
    """Note when keys were last used, in seconds since the epoch."""
    await connection.execute(USED, list(used), list(used.values()))


async def renew_lease(connection: asyncpg.Connection, instance: str) -> None:
    """Say that this instance is alive."""
    await connection.execute(LEASE, instance)


async def others(connection: asyncpg.Connection, instance: str, within: float) -> int:
    """Return how many other instances were alive within so many seconds."""
    count: int = await connection.fetchval(OTHERS, instance, within)
    return count


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


async def list_keys(database: Database, after: str, limit: int) -> Sequence[RowMapping]:
    """Return API keys without their secrets, by id."""
    columns = [c for c in api_keys.c if c.name != "secret_hash"]
    return await database.rows(
        sa.select(*columns).where(api_keys.c.id > after).order_by(api_keys.c.id).limit(limit)
    )
