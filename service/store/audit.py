"""The audit log: what admins did, written in the same commit as the act itself.

An act is one statement and its record becomes part of it (``audited``), since nothing may hold the
append's lock over a round trip.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

import asyncpg
import msgspec
import sqlalchemy as sa
from sqlalchemy import RowMapping

from service.store.database import Database
from service.store.tables import audit

Action = Literal[
    "token.revoke", "revocation.lift", "connection.disconnect",
    "key.create", "key.rotate", "key.delete", "device.forget", "user.erase", "log.prune",
]  # fmt: skip

FORGET: Final = """
delete from tidings.audit where id = any (array(
    select id from tidings.audit where at < clock_timestamp() - make_interval(secs => $1) limit 10000))
"""


class Actor(NamedTuple):
    """Who acts: an API key, by its id, and the request in which it asked."""

    key: str
    request_id: str


def audited(act: str, subject: str) -> str:
    """Return the statement that carries out ``act`` and records it.

    ``act`` is a query of one row with ``position``; nothing is recorded where that is null, since then
    nothing was done. $1 to $4 are ``record_of``, the act's own parameters begin at $5. ``subject`` is
    an expression.
    """
    return f"""
with act as ({act}), recorded as (
    insert into tidings.audit (actor, request_id, action, subject, detail)
    select $1, $2, $3, {subject}, $4::json from act where act.position is not null)
select * from act
"""


def record_of(
    by: Actor, action: Action, detail: Mapping[str, object] | None = None
) -> tuple[str, str, Action, str]:
    """Return the parameters that an ``audited`` statement begins with; ``detail`` must hold no secret."""
    return by.key, by.request_id, action, msgspec.json.encode(detail or {}).decode()


async def forget(connection: asyncpg.Connection, age: float) -> None:
    """Forget what is older than ``age`` seconds, batch by batch: each is a short statement."""
    while await connection.execute(FORGET, age) == "DELETE 10000":
        continue


async def listed(
    database: Database, *, after: int | None, before: int | None, limit: int, **equal: str | None
) -> Sequence[RowMapping]:
    """Return records, newest first: those that come after the one with the id ``after`` in that order.

    ``before`` leaves out that one and all that are older. ``equal`` filters by column.
    """
    bounds = [] if after is None else [audit.c.id < after]
    bounds += [] if before is None else [audit.c.id > before]
    bounds += [audit.c[name] == value for name, value in equal.items() if value is not None]
    return await database.rows(sa.select(audit).where(*bounds).order_by(audit.c.id.desc()).limit(limit))
