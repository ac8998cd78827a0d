"""What has to be done now and then, by whichever instance gets to it."""

import asyncio
import logging
from typing import Final

from service.auth.keys import Keyring
from service.domain.claims import LEEWAY
from service.domain.delivery import State
from service.domain.errors import TidingsError
from service.observe.metrics import Metrics
from service.settings import Settings
from service.store import admin, sessions
from service.store.database import Database
from service.stream.cursors import Cursors
from service.stream.follower import Follower

log = logging.getLogger("tidings.duties")

EVERY: Final = 2.0
PRUNE_EVERY: Final = 900


class Duties:
    """Renews the lease, notes which keys were used, prunes, and keeps the gauges true."""

    def __init__(
        self, settings: Settings, instance: str, database: Database, keyring: Keyring,
        follower: Follower, cursors: Cursors, metrics: Metrics,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._instance = instance
        self._database = database
        self._keyring = keyring
        self._follower = follower
        self._cursors = cursors
        self._metrics = metrics
        self._counted = 0

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
            await admin.renew_lease(connection, self._instance)
            if used := self._keyring.used():
                await admin.keys_used(connection, used)
            if prune:
                settings = self._settings
                await admin.prune(connection, settings.id_window, settings.token_max_age + LEEWAY)
                await sessions.forget_idle(connection, settings.device_expiry)

    def _gauge(self) -> None:
        states = [connection.state for connection in self._follower.hub]
        for state in (State.CATCHING_UP, State.LIVE):
            self._metrics.connections.labels(state.value).set(states.count(state))
        self._metrics.deliveries.inc(self._follower.hub.delivered - self._counted)
        self._counted = self._follower.hub.delivered
        self._metrics.cursor_write_age_seconds.set(self._cursors.age)
        self._metrics.head_confirmed_age_seconds.set(self._follower.confirmed_age)
        self._metrics.pool_in_use.set(self._database.in_use)
