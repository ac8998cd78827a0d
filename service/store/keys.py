"""API keys, and what those with a quota have sent."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

import asyncpg
import sqlalchemy as sa
from sqlalchemy import RowMapping

from service.domain.limits import Limit
from service.store.audit import Actor, audited, record_of
from service.store.database import Database, one
from service.store.tables import api_keys

CREATE: Final = audited(
    "select tidings.create_key($5, $6, $7, $8, $9, $10, $11, $12, $13, $14) as position", "$6"
)
ROTATE: Final = audited("select * from tidings.rotate_key($5, $6, $7, $8)", "$6")
DELETE: Final = audited("select tidings.delete_key($5, $6) as position", "$6")

USED: Final = """
update tidings.api_keys k set last_used_at = u.at
from unnest($1::text[], $2::timestamptz[]) as u(id, at)
where k.id = u.id and (k.last_used_at is null or k.last_used_at < u.at)
"""

# In one statement: where it fails, nothing has been added.
COUNT: Final = """
with counted as (
    insert into tidings.usage as u (key_id, day, events)
    select c.key_id, date '1970-01-01' + c.day, c.events
    from unnest($1::text[], $2::integer[], $3::bigint[]) as c(key_id, day, events) order by 1, 2
    on conflict (key_id, day) do update set events = u.events + excluded.events
    returning key_id, day, events)
select distinct on (key_id) key_id, events from (
    select * from counted union all select * from tidings.usage) as u
where day = date '1970-01-01' + $4::integer order by key_id, events desc
"""

FORGET_USAGE: Final = """
delete from tidings.usage where ctid = any (array(
    select ctid from tidings.usage where day < (now() at time zone 'utc')::date - 62 limit 10000))
"""


class Rotated(NamedTuple):
    """A key whose secret is another from ``position`` on.

    The former one is good until ``former_until``; None where it is no longer.
    """

    position: int
    former_until: datetime | None


async def create(
    connection: asyncpg.Connection, seen: int, by: Actor, *,
    id: str, name: str, secret_hash: bytes, scopes: Sequence[str],  # noqa: A002 - the field's name
    addresses: Sequence[str] | None, expires_at: datetime | None, limit: Limit | None, quota: int | None,
) -> int:  # fmt: skip
    """Keep a new API key; return its entry's position."""
    rate, burst = (None, None) if limit is None else (limit.rate, limit.burst)
    detail = {
        "name": name, "scopes": scopes, "addresses": addresses, "expires_at": expires_at,
        "rate": rate, "burst": burst, "quota": quota,
    }  # fmt: skip
    row = await one(
        connection, CREATE, *record_of(by, "key.create", detail),
        seen, id, name, secret_hash, scopes, addresses, expires_at, rate, burst, quota,
    )  # fmt: skip
    position: int = row["position"]
    return position


async def rotate(
    connection: asyncpg.Connection, seen: int, by: Actor, key_id: str, *, secret_hash: bytes, overlap: int
) -> Rotated | None:
    """Give a key another secret; the one it had is good for ``overlap`` s. None if there is no such key."""
    record = record_of(by, "key.rotate", {"overlap": overlap})
    row = await one(connection, ROTATE, *record, seen, key_id, secret_hash, float(overlap))
    return None if row["position"] is None else Rotated(row["position"], row["former_until"])


async def delete(connection: asyncpg.Connection, seen: int, by: Actor, key_id: str) -> int | None:
    """Delete an API key; return the entry's position, or None if there is none of this id."""
    row = await one(connection, DELETE, *record_of(by, "key.delete"), seen, key_id)
    position: int | None = row["position"]
    return position


async def list_keys(database: Database, after: str, limit: int) -> Sequence[RowMapping]:
    """Return API keys without their secrets, by id."""
    columns = [c for c in api_keys.c if c.name not in {"secret_hash", "former_hash"}]
    return await database.rows(
        sa.select(*columns).where(api_keys.c.id > after).order_by(api_keys.c.id).limit(limit)
    )


async def used(connection: asyncpg.Connection, at: Mapping[str, float]) -> None:
    """Note when keys were last used, in seconds since the epoch."""
    # In one order, so that two instances wait for each other and never in a circle.
    ids = sorted(at)
    # Made an instant here, as where it is shown: PostgreSQL may round it to another microsecond.
    await connection.execute(USED, ids, [datetime.fromtimestamp(at[key_id], UTC) for key_id in ids])


async def count(
    connection: asyncpg.Connection, events: Mapping[tuple[str, int], int], day: int
) -> dict[str, int]:
    """Add to what keys have sent, by key and day since the epoch; return what all sent on one ``day``."""
    ids, days = [key_id for key_id, _ in events], [each for _, each in events]
    rows = await connection.fetch(COUNT, ids, days, list(events.values()), day)
    return {row["key_id"]: row["events"] for row in rows}


async def forget_usage(connection: asyncpg.Connection) -> None:
    """Forget what was sent more than two months ago."""
    await connection.execute(FORGET_USAGE)
