"""Callbacks that are due: claimed for a while, and then done with, put off or given up."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import asyncpg

# Whoever claims a row has it until the lease runs out; no transaction is open meanwhile.
CLAIM: Final = """
with due as (
    select position from tidings.callbacks
    where failed is null and due_at <= clock_timestamp() - make_interval(secs => $1)
    order by due_at limit $2 for update skip locked)
update tidings.callbacks c
set due_at = clock_timestamp() + make_interval(secs => $3), attempts = c.attempts + 1
from due where c.position = due.position
returning c.position, c.attempts, c.unless_read
"""

PUT_OFF: Final = """
update tidings.callbacks set due_at = clock_timestamp() + make_interval(secs => $2) where position = $1
"""

PRUNE: Final = """
delete from tidings.callbacks c using tidings.log l where c.failed is not null and c.position <= l.floor
"""


class Claimed(NamedTuple):
    """A callback that is ours for now; ``attempts`` counts this one."""

    position: int
    attempts: int
    unless_read: bool


async def claim(connection: asyncpg.Connection, grace: float, limit: int, lease: float) -> list[Claimed]:
    """Claim callbacks that have been due for ``grace`` seconds, the oldest first, for ``lease`` seconds."""
    return [Claimed(*row) for row in await connection.fetch(CLAIM, grace, limit, lease)]


async def done(connection: asyncpg.Connection, positions: Sequence[int]) -> None:
    """Let go of callbacks that were made, or need not be."""
    await connection.execute("delete from tidings.callbacks where position = any ($1::bigint[])", positions)


async def put_off(connection: asyncpg.Connection, position: int, seconds: float) -> None:
    """Have it tried again after so long."""
    await connection.execute(PUT_OFF, position, seconds)


async def give_up(connection: asyncpg.Connection, position: int, why: str) -> None:
    """Keep it for people to look at; it is not tried again."""
    await connection.execute("update tidings.callbacks set failed = $2 where position = $1", position, why)


async def prune(connection: asyncpg.Connection) -> None:
    """Forget those that were given up, with their events."""
    await connection.execute(PRUNE)
