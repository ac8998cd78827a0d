"""Lets go of what is old: closes partitions, raises the floor, drops what lies below.

Whichever instance gets to it does it, over a connection of its own, so that a reader in the way
holds nobody up.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final, NamedTuple

import asyncpg

from service.domain.errors import TidingsError
from service.domain.retention import Held, Keep, Partition, plan
from service.observe.metrics import Metrics
from service.store import log as events
from service.store import retention as store
from service.store.audit import Actor
from service.store.database import Database

log = logging.getLogger("tidings.retention")

EVERY: Final = 30.0


class Pruned(NamedTuple):
    """What was found, where the floor is, and which partitions have gone or wait for a reader."""

    held: Held
    floor: int
    dropped: list[Partition]
    waiting: list[Partition]


class Retention:
    """Prunes the log again and again, and keeps its gauges true."""

    def __init__(self, url: str, keep: Keep, metrics: Metrics) -> None:
        self._url = url
        self._keep = keep
        self._metrics = metrics

    async def run(self) -> None:
        """Do it until cancelled."""
        while True:
            try:
                await self._tick()
            except TidingsError as error:
                log.warning("cannot prune the log: %s", error)
            await asyncio.sleep(EVERY)

    async def _tick(self) -> None:
        database = Database(self._url, 1)
        try:
            pruned = await prune(database, self._keep)
        finally:
            await database.close()
        self._metrics.retention_floor_position.set(pruned.floor)
        self._metrics.log_bytes.set(pruned.held.size - sum(p.size for p in pruned.dropped))
        self._metrics.log_oldest_age_seconds.set(pruned.held.oldest)
        if pruned.dropped:
            log.info("pruned the log", extra={"floor": pruned.floor, "partitions": len(pruned.dropped)})


async def prune(database: Database, keep: Keep, *, by: Actor | None = None, dry_run: bool = False) -> Pruned:
    """Let go of what is not to be kept, ``by`` an admin or by itself.

    Partitions that are still being read are left for the next time.
    """
    async with database.connection() as connection:
        held = await store.held(connection)
        wanted = plan(held, keep)
        if dry_run:
            return Pruned(held, wanted.floor, list(wanted.drop), [])
        if wanted.close is not None:
            await events.ensure_partitions(connection)
            await store.close_partition(connection, wanted.close)
        if wanted.floor > held.floor:
            if not await store.raise_floor(connection, wanted.floor, wanted.below, by):
                return Pruned(held, held.floor, [], [])
            await store.forget_memberships(connection, wanted.floor)
        # Only one can be pending at a time, and it stands in the way of the others.
        drop = sorted(wanted.drop, key=lambda p: p.state != "pending")
        dropped = await _drop(connection, drop)
    return Pruned(held, wanted.floor, drop[:dropped], drop[dropped:])


async def _drop(connection: asyncpg.Connection, partitions: Sequence[Partition]) -> int:
    """Drop one after the other, up to the first that has to wait; return how many have gone."""
    for number, partition in enumerate(partitions):
        if not await store.drop(connection, partition):
            return number
    return len(partitions)
