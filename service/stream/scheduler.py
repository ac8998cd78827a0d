"""Moves events into the log when they are due, and what transactions of others have published."""

import asyncio
import logging
from typing import Final

import asyncpg

from service.domain.errors import Invalid, TidingsError
from service.domain.events import MAX_UNIT_BYTES, MAX_UNIT_ENTRIES
from service.observe.metrics import Metrics
from service.store import pending as store
from service.store.database import Database, Held, translated
from service.stream.courier import Courier
from service.stream.follower import Follower

log = logging.getLogger("tidings.scheduler")

POLL_EVERY: Final = 1.0
POLL_OFTEN: Final = 0.1
"""Where transactions of others do not wake us."""
BUSY: Final = 0.02
"""Seconds until it is looked again whether another instance has moved what is due."""
RETRY_PAUSE: Final = 0.2
RECENT: Final = 60.0
"""Seconds that a transaction may be open so that it need not wait for the next poll."""


class Scheduler:
    """Sleeps until something is due, and moves it, group by group.

    It is woken by ``wake``, by the notifications of ``tidings.publish`` where ``notified``, and by a poll:
    what gets lost costs a second, never an event. Every instance has one; a group is moved by one of them.
    ``database`` is its own: it listens on the connection on which it moves.
    """

    def __init__(
        self, database: Database, follower: Follower, courier: Courier, metrics: Metrics, *,
        window: float, notified: bool,
    ) -> None:  # fmt: skip
        self._database = database
        self._follower = follower
        self._courier = courier
        self._metrics = metrics
        self._window = window
        self._notified = notified
        self._most = MAX_UNIT_ENTRIES
        self._listening: asyncpg.Connection | None = None
        self._loop = asyncio.get_running_loop()
        self._polled = -POLL_EVERY
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Learn that something was put off: it may be due before all else."""
        self._wake.set()

    async def run(self) -> None:
        """Move what is due until cancelled."""
        async with self._database.held() as link:
            while True:
                self._wake.clear()
                if (pause := await self._turn(link)) > 0:
                    await self._rest(pause)

    async def _turn(self, link: Held) -> float:
        """Move a group; return for how long there is nothing to do."""
        asked = self._loop.time()
        poll = asked - self._polled > POLL_EVERY / 2
        try:
            connection = await link.get()
            with translated():
                await self._listen(connection)
                released = await store.release(
                    connection, seen=self._follower.seen, window=self._window,
                    entries=self._most, size=MAX_UNIT_BYTES, back=None if poll else RECENT,
                )  # fmt: skip
        except TidingsError as error:
            return self._failed(link, error)
        if poll and (released.wait or 0.0) > -RECENT:
            self._polled = asked
        return self._moved(released)

    async def _listen(self, connection: asyncpg.Connection) -> None:
        if self._notified and connection is not self._listening:
            await connection.add_listener(store.CHANNEL, lambda *_: self.wake())
            self._listening = connection

    def _failed(self, link: Held, error: TidingsError) -> float:
        """Take half as much, until what the log refuses stands alone, or what takes too long is done."""
        alone = self._most == 1
        self._most = max(1, self._most // 2)
        if isinstance(error, Invalid) and not alone:
            return 0.0
        log.warning("cannot move what is due: %s", error)
        link.discard()
        return RETRY_PAUSE

    def _moved(self, released: store.Released) -> float:
        self._metrics.pending_outcomes.labels("moved").inc(released.moved)
        self._metrics.pending_outcomes.labels("repeated").inc(released.repeated)
        self._metrics.pending_late_seconds.set(max(0.0, -(released.wait or 0.0)))
        if released.head is not None:
            self._courier.wrote(released.head)
        if released.failed is not None:
            self._metrics.pending_outcomes.labels("failed").inc()
            log.warning("event %d cannot be appended: %s", released.failed, released.reason)
        elif not released.moved and not released.repeated:
            return POLL_EVERY if released.wait is None else max(BUSY, released.wait)
        self._most = min(2 * self._most, MAX_UNIT_ENTRIES)
        return 0.0

    async def _rest(self, pause: float) -> None:
        try:
            async with asyncio.timeout(min(pause, POLL_EVERY if self._notified else POLL_OFTEN)):
                await self._wake.wait()
        except TimeoutError:
            return
