"""Users who are being erased: asking for it, and doing it piece by piece."""

from collections.abc import Sequence
from typing import Final

import asyncpg
import sqlalchemy as sa
from sqlalchemy import RowMapping

from service.store.admin import Revoked
from service.store.audit import Actor, audited, record_of
from service.store.database import Database, one
from service.store.tables import erasures

ROWS: Final = 2000
"""Rows of one step, which is one short transaction."""

ERASE: Final = audited("select * from tidings.erase($5, $6, $7, $8)", "$6")

DUE: Final = """
select user_id from tidings.erasures
where requested_at < clock_timestamp() - make_interval(secs => $1) order by requested_at
"""


async def erase(
    connection: asyncpg.Connection, seen: int, by: Actor, user: str, *, issued_before: int
) -> Revoked:
    """Note that a user is to be erased, and revoke their tokens, in one transaction."""
    row = await one(connection, ERASE, *record_of(by, "user.erase"), seen, user, issued_before, by.key)
    return Revoked(row["id"], row["position"])


async def due(connection: asyncpg.Connection, after: float) -> list[str]:
    """Return who is to be erased and was named at least ``after`` seconds ago."""
    return [row["user_id"] for row in await connection.fetch(DUE, after)]


async def erase_some(connection: asyncpg.Connection, seen: int, user: str) -> bool:
    """Do one step of an erasure; tell whether there is more to do, and nobody else is at it."""
    more: bool = await connection.fetchval("select tidings.erase_some($1, $2, $3)", seen, user, ROWS)
    return more


async def list_erasures(database: Database, after: str, limit: int) -> Sequence[RowMapping]:
    """Return the erasures that are not done yet, by user."""
    columns = (erasures.c.user_id.label("user"), erasures.c.requested_at)
    return await database.rows(
        sa.select(*columns).where(erasures.c.user_id > after).order_by(erasures.c.user_id).limit(limit)
    )
