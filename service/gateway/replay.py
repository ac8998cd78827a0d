"""Replay: brings a connection to the hub's position, page after page of the log under flow control.

Pages come from memory where that reaches back far enough, else from the database. There the page
after the next is read while that one is written and drains: one page ahead, for who keeps up.
"""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from service.domain.claims import Claims
from service.domain.delivery import State
from service.domain.due import Reader, still_due
from service.domain.errors import Unavailable
from service.domain.frames import frame
from service.domain.recent import Page
from service.domain.websocket import text_frame
from service.gateway.connection import Connection
from service.observe.metrics import Metrics
from service.store import log as store
from service.store.database import Database
from service.stream.follower import Follower
from service.stream.hub import Hub

log = logging.getLogger("tidings.gateway")

T = TypeVar("T")

PAGE_ENTRIES: Final = 1024
"""Measured: a fifth cheaper for each entry than 512, and the loop is held for some 2 ms."""
FIRST_ENTRIES: Final = 256
"""What the first page from the database may hold: events can be large, and no page knows it before."""
LEAST_ENTRIES: Final = 16
PAGE_BYTES: Final = 256 * 1024
SOON: Final = 0.25
"""Seconds within which a socket takes a page, or else it is slow; so long a page is held for it."""
RETRY_PAUSE: Final = 0.5


class Spawn(Protocol):
    """Runs something for a connection, whose failure ends the connection."""

    def __call__(self, connection: Connection, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Return the task."""


class Read(NamedTuple):
    """A page that is being read: what comes after a position, by the grants of a token.

    ``hub`` is where the hub stood: what had been taken back up to there is not in it.
    """

    after: int
    claims: Claims
    hub: int
    page: "asyncio.Task[Page | None]"

    def fits(self, connection: Connection) -> bool:
        """Tell whether it may be written next."""
        return self.after == connection.written and self.claims is connection.claims


class Replay:
    """What all backlogs of this instance share."""

    def __init__(
        self, hub: Hub, follower: Follower, database: Database, metrics: Metrics, spawn: Spawn, pool_size: int
    ) -> None:
        self.hub = hub
        self.follower = follower
        self.spawn = spawn
        self._database = database
        self._metrics = metrics
        # A storm of backlogs may not have all the pool.
        self._reading = asyncio.Semaphore(max(1, pool_size // 4))

    def catch_up(self, connection: Connection) -> None:
        """Bring a connection to the hub's position: at once where memory holds the rest."""
        if connection.catching_up is not None:
            return
        here = self.hub.position >= max(connection.written, connection.snapshot)
        if here and self.follower.trusted and not connection.paused:
            page = self.page_from_memory(connection)
            if page is not None:
                self.write(connection, page)
        if connection.state is State.CATCHING_UP and connection.catching_up is None:
            connection.catching_up = self.spawn(connection, Backlog(self, connection).write_all())

    def write(self, connection: Connection, page: Page) -> None:
        """Write a page, and in the same step of the loop make the connection live if that was the last."""
        entries = still_due(page.entries, self._reader(connection), self.hub.recent.recalled)
        connection.write_page(page._replace(entries=entries))
        if not connection.paused and connection.may_go_live(self.hub.position):
            self.hub.go_live(connection)
            connection.write(text_frame(frame("live", position=self.hub.position)))

    def _reader(self, connection: Connection) -> Reader:
        return Reader(connection.user, connection.device, self.follower.now)

    def page_from_memory(self, connection: Connection) -> Page | None:
        """Return the page after what was written, or None where memory does not reach back so far."""
        after, upto = connection.written, self.hub.position
        if after == upto:  # as with nearly everyone who connects
            return Page((), upto)
        reader = self._reader(connection)
        page = self.hub.recent.page(after, upto, connection.intervals(), PAGE_ENTRIES, reader)
        if page is None:
            return None
        self._metrics.catch_up_pages.labels("memory").inc()
        return page.within(PAGE_BYTES)

    async def page_from_log(self, connection: Connection, after: int, limit: int) -> Page | None:
        """Read the page after a position; None, after a pause, where the database cannot be reached."""
        try:
            async with self._reading, self._database.connection() as link:
                page = await store.page(
                    link, after, self.hub.position, connection.intervals(), limit, self._reader(connection)
                )
        except Unavailable as error:
            log.warning("cannot read a page of the log: %s", error)
            await asyncio.sleep(RETRY_PAUSE)
            return None
        self._metrics.catch_up_pages.labels("log").inc()
        return page.within(PAGE_BYTES)

    async def drained_soon(self, connection: Connection) -> bool:
        """Wait for the socket to take what was written, but not for long; tell whether it did."""
        if connection.paused:
            with suppress(TimeoutError):
                async with asyncio.timeout(SOON):
                    await connection.writable()
        return not connection.paused


class Backlog:
    """One connection's way to the hub's position. Whoever cancels it, nothing is left behind."""

    def __init__(self, replay: Replay, connection: Connection) -> None:
        self._replay = replay
        self._connection = connection
        self._limit = FIRST_ENTRIES
        self._keeps_up = True
        self._ahead: Read | None = None

    async def write_all(self) -> None:
        """Write page after page until the connection is live."""
        connection, replay = self._connection, self._replay
        try:
            while connection.state is State.CATCHING_UP:
                await self._writable()
                await replay.follower.until_trusted()
                await replay.follower.reached(max(connection.written, connection.snapshot))
                granted = connection.claims
                page = replay.page_from_memory(connection) or await self._page_from_log()
                if page is None or not replay.follower.trusted or connection.claims is not granted:
                    continue
                if connection.state is State.CATCHING_UP:
                    replay.write(connection, page)
                await asyncio.sleep(0)  # a long backlog shares the loop
        finally:
            connection.catching_up = None
            self._let_go()

    async def _writable(self) -> None:
        """Wait until the socket has taken all, holding a page for a moment only: slowness costs no memory."""
        self._keeps_up = await self._replay.drained_soon(self._connection)
        if not self._keeps_up:
            self._let_go()
            await self._connection.writable()

    async def _page_from_log(self) -> Page | None:
        """Return the next page, and have the one after it read meanwhile."""
        if self._ahead is None or not self._ahead.fits(self._connection):
            self._let_go()
            self._ahead = self._read(self._connection.written)
        read, self._ahead = self._ahead, None
        page = await read.page
        if page is None:
            return None
        # What is read beyond a page's bytes is read again: where events are large, ask for few.
        wanted = len(page.entries) if page.cut else self._limit
        self._limit = max(LEAST_ENTRIES, min(2 * wanted, PAGE_ENTRIES))
        if page.upto < self._replay.hub.recent.base and self._keeps_up:
            self._ahead = self._read(page.upto)
            # Two turns of the loop send its query, so that the database works while we write.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        # It may hold what was taken back meanwhile, unless all that was is still known.
        return page if read.hub >= self._replay.hub.recent.recalls_after else None

    def _read(self, after: int) -> Read:
        connection = self._connection
        work = self._replay.page_from_log(connection, after, self._limit)
        position = self._replay.hub.position
        return Read(after, connection.claims, position, self._replay.spawn(connection, work))

    def _let_go(self) -> None:
        if self._ahead is not None:
            self._ahead.page.cancel()
            self._ahead = None
