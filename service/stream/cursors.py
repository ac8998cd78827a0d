"""Devices' cursors, written behind: many in one statement, about once a second."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import Final

from service.domain.errors import TidingsError
from service.observe.metrics import Metrics
from service.store import sessions
from service.store.database import Database

log = logging.getLogger("tidings.cursors")

FLUSH_EVERY: Final = 0.5
BATCH: Final = 1000

Heard = Callable[[str, str, int], None]
"""Is told of a user's device and a position that it has acknowledged."""


class Cursors:
    """What devices have acknowledged and the database does not know yet.

    Bounded by the number of devices that are connected, plus those that left since the last flush.
    """

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self._database = database
        self._metrics = metrics
        self._waiting: dict[tuple[str, str], int] = {}
        self._since: float | None = None
        self._hurried = asyncio.Event()
        self.heard: Heard | None = None
        """Set while somebody waits for it."""

    def mark(self, user: str, device: str, position: int) -> None:
        """Note that the device has everything up to ``position``."""
        key = (user, device)
        if self._waiting.get(key, -1) < position:
            self._waiting[key] = position
            if self.heard is not None:
                self.heard(user, device, position)

    def forget(self, user: str, device: str) -> None:
        """Let go of a device: what waits is not for one of this name that comes later."""
        self._waiting.pop((user, device), None)

    def waiting(self, user: str, device: str) -> int:
        """Return how far the device is known to be, if the database does not know it yet."""
        return self._waiting.get((user, device), 0)

    def hurry(self) -> None:
        """Write soon: a device that left may come back by way of another instance."""
        self._hurried.set()

    async def run(self) -> None:
        """Write what waits, again and again, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_EVERY):
                    await self._hurried.wait()
            self._hurried.clear()
            try:
                await self.flush()
            except TidingsError as error:
                log.warning("cannot store cursors: %s", error)
                await asyncio.sleep(FLUSH_EVERY)

    async def flush(self) -> None:
        """Write all that waits; what could not be written goes on waiting."""
        loop = asyncio.get_running_loop()
        self._metrics.cursors_waiting.set(len(self._waiting))
        if self._waiting and self._since is None:
            self._since = loop.time()
        while self._waiting:
            batch = dict(islice(self._waiting.items(), BATCH))
            async with self._database.connection() as connection:
                await sessions.move_cursors(connection, batch)
            for key, position in batch.items():
                if self._waiting.get(key) == position:
                    del self._waiting[key]
        self._since = None

    @property
    def age(self) -> float:
        """Return how long something has been waiting, in seconds."""
        return 0.0 if self._since is None else asyncio.get_running_loop().time() - self._since
