"""What has to be done now and then, by whichever instance gets to it."""

import asyncio
import logging
from time import time
from typing import Final

import asyncpg

from service.domain.claims import LEEWAY
from service.domain.delivery import State
from service.domain.errors import TidingsError
from service.observe.metrics import Metrics
from service.settings import Settings
from service.store import admin, audit, callbacks, keys, sessions
from service.store import log as store
from service.store.database import Database
from service.stream.control import Control
from service.stream.courier import Courier
from service.stream.cursors import Cursors
from service.stream.follower import Follower
from service.stream.limits import Limits

log = logging.getLogger("tidings.duties")

EVERY: Final = 2.0
PRUNE_EVERY: Final = 30
LEASE: Final = 10.0
"""Seconds after which an instance that has not renewed its lease counts as dead."""
ROOM: Final = 2**23
RETRIES_END: Final = 60.0
"""Seconds after which no append is retried any more."""


class Duties:
    """Renews the lease, notes how keys were used, prunes, and keeps the gauges true."""

    def __init__(
        self, settings: Settings, instance: str, database: Database, control: Control,
        follower: Follower, courier: Courier, cursors: Cursors, limits: Limits, metrics: Metrics,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._instance = instance
        self._database = database
        self._control = control
        self._follower = follower
        self._courier = courier
        self._cursors = cursors
        self._limits = limits
        self._noting = asyncio.Lock()
        self._metrics = metrics
        self._counted = 0
        self._ended = False

    async def run(self) -> None:
        """Do them until cancelled."""
        turn = 0
        while True:
            self._gauge()
            try:
                await self._tick(prune=turn % PRUNE_EVERY == 0)
            except TidingsError as error:
                log.warning("cannot do what is due: %s", error)
            turn += 1
            await asyncio.sleep(EVERY)

    async def _tick(self, *, prune: bool) -> None:
        async with self._database.connection() as connection:
            await self._renew(connection)
            await self._note(connection)
            if self._follower.room < ROOM:
                await store.ensure_partitions(connection)
            if prune:
                await self._prune(connection)

    async def begin(self) -> None:
        """Take a lease, and learn who else is there and what counts against quotas."""
        async with self._database.connection() as connection:
            await self._renew(connection)
            await self._note(connection)

    async def end(self) -> None:
        """Write down what only this instance knows, and give the lease back."""
        async with self._database.connection() as connection:
            await self._note(connection)
            self._ended = True
            await admin.end_lease(connection, self._instance)

    async def _renew(self, connection: asyncpg.Connection) -> None:
        if not self._ended:
            await admin.renew_lease(connection, self._instance)
        self._courier.others = await admin.others(connection, self._instance, LEASE)

    async def _note(self, connection: asyncpg.Connection) -> None:
        """Write down what only this instance knows of keys: their last use, and what quotas count."""
        async with self._noting:
            keyring = self._control.keyring
            if used := keyring.used():
                await keys.used(connection, used)
                keyring.saved(used)
            await self._limits.flush(connection)

    async def _prune(self, connection: asyncpg.Connection) -> None:
        lifetime = self._settings.token_max_age + LEEWAY
        self._control.revocations.prune(time() - lifetime)
        await admin.prune(connection, lifetime)
        # Not at once: an append that is retried goes by the time of its first attempt.
        await admin.forget_keys(connection, self._settings.id_window + RETRIES_END)
        await callbacks.prune(connection)
        await sessions.forget_idle(connection, self._settings.device_expiry)
        await audit.forget(connection, self._settings.audit_retention)
        await keys.forget_usage(connection)

    def _gauge(self) -> None:
        states = [connection.state for connection in self._follower.hub]
        for state in (State.CATCHING_UP, State.LIVE):
            self._metrics.connections.labels(state.value).set(states.count(state))
        self._metrics.deliveries.inc(self._follower.hub.delivered - self._counted)
        self._counted = self._follower.hub.delivered
        self._metrics.cursor_write_age_seconds.set(self._cursors.age)
        self._metrics.head_confirmed_age_seconds.set(self._follower.confirmed_age)
        self._metrics.pool_in_use.set(self._database.in_use)
