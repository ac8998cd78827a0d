"""Follows the log: feeds the hub one contiguous stream, and knows how far it may be trusted.

Groups come from this instance's own appender at once, and from everyone else's by reading the log.
The head is confirmed every second, so a lost wake-up costs a second and never an event.
"""

import asyncio
import logging
from typing import Final

from service.domain.errors import TidingsError
from service.domain.events import Group
from service.domain.tail import Tail
from service.observe.metrics import Metrics
from service.store import log as store
from service.store.database import Database, Held, translated
from service.stream.control import Control
from service.stream.hub import Hub

log = logging.getLogger("tidings.follower")

CONFIRM_EVERY: Final = 1.0
TRUSTED_FOR: Final = 2.0
PAGE: Final = 1000
LEAP: Final = 2**31
"""No log grows by so much in a second. After a failover positions go on twice as far from there."""


class Follower:
    """Keeps the hub at the head of the log.

    Nothing of the log is written to anybody unless the head was confirmed within the last two
    seconds, and each confirmation applies the control entries up to the head first: an instance
    that was stopped for a while closes revoked sockets before it writes another event to them.
    One that was away for longer than the log is kept cannot follow it any more, and ends.
    """

    def __init__(
        self, database: Database, hub: Hub, control: Control, metrics: Metrics, *,
        lineage: int, ahead: float,
    ) -> None:  # fmt: skip
        self.hub = hub
        self._database = database
        self._control = control
        self._metrics = metrics
        self._tail = Tail(hub.position)
        self._lost = 0
        self.lineage = lineage
        """Which of the log's histories this is: a failover or a restore begins another."""
        self.room = 0
        """Positions left before another partition is needed."""
        self._loop = asyncio.get_running_loop()
        self._confirmed = self._loop.time()
        self._vouched = hub.position
        """How far the log went when it was confirmed."""
        self._doubted = False
        self._ahead = ahead
        """What the database's clock is ahead of the loop's, in seconds, and at most a round trip more."""
        self._wake = asyncio.Event()
        self._moved: asyncio.Future[None] = self._loop.create_future()

    @property
    def seen(self) -> int:
        """Return the highest position that this instance has ever seen."""
        return max(self._lost, self._tail.known)

    @property
    def known(self) -> int:
        """Return how far the log is known to reach, in the history that it has now."""
        return max(self._tail.known, self.hub.position)

    @property
    def trusted(self) -> bool:
        """Tell whether the head was confirmed recently enough to write and to accept."""
        return self._loop.time() - self._confirmed < TRUSTED_FOR

    @property
    def confirmed_age(self) -> float:
        """Return how long ago the head was confirmed, in seconds."""
        return self._loop.time() - self._confirmed

    @property
    def now(self) -> float:
        """Return the database's time, in seconds since the epoch; never less than it is."""
        return self._loop.time() + self._ahead

    def offer(self, group: Group) -> None:
        """Take a group that was just committed.

        One that leaps comes after a failover: first it has to be known what of all that was seen is lost.
        """
        if not self.agrees(0, group.last):
            return
        self._tail.offer(group)
        self._advance()

    def wake(self, head: int) -> None:
        """Learn that the log reaches ``head``; it is read soon, where it is not there yet."""
        self._tail.reaches(head)
        if self._tail.missing is not None:
            self._wake.set()

    def agrees(self, stood: int, head: int) -> bool:
        """Tell whether a head, read after the hub ``stood`` somewhere, is of the log as it is known.

        It is not where a failover came in between. Then it is confirmed soon.
        """
        agrees = stood <= head <= self._vouched + LEAP
        if not agrees:
            self.doubt()
        return agrees

    def doubt(self) -> None:
        """Learn that the log may reach further than is known: the head is confirmed soon."""
        self._doubted = True
        self._wake.set()

    async def reached(self, position: int) -> None:
        """Wait until the hub has got to ``position``."""
        if self.hub.position < position:
            self.wake(position)
        while self.hub.position < position:
            await asyncio.shield(self._moved)

    async def reached_within(self, position: int, seconds: float) -> bool:
        """Wait like ``reached``, but not for longer; tell whether the hub has got there."""
        try:
            async with asyncio.timeout(seconds):
                await self.reached(position)
        except TimeoutError:
            return False
        return True

    async def until_trusted(self) -> None:
        """Wait until the head has been confirmed."""
        while not self.trusted:
            self._wake.set()
            await asyncio.shield(self._moved)

    async def run(self) -> None:
        """Confirm, read what is missing, and go on until cancelled."""
        # A connection of its own: in a storm of handshakes it would wait behind them all.
        async with self._database.held() as link:
            while True:
                await self._step(link)
                try:
                    async with asyncio.timeout(CONFIRM_EVERY):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    async def _step(self, link: Held) -> None:
        self._wake.clear()
        try:
            if self._doubted or self.confirmed_age >= CONFIRM_EVERY or not self._tail.missing:
                await self._confirm(link)
            while self.trusted and not self._doubted and (missing := self._tail.missing) is not None:
                connection = await link.get()
                with translated():
                    self.offer(await store.between(connection, *missing, PAGE))
        except TidingsError as error:
            log.warning("cannot read the log: %s", error)
            link.discard()
            await asyncio.sleep(CONFIRM_EVERY / 5)

    async def _confirm(self, link: Held) -> None:
        asked, stood = self._loop.time(), self.hub.position
        self._doubted = False
        connection = await link.get()
        with translated():
            applied = max(stood, self._control.applied)
            head = await store.confirm(connection, applied, self.lineage)
            if head.drawn < self.seen:
                await store.keep_ahead(connection, self.seen)
                head = await store.confirm(connection, applied, self.lineage)
        if head.lineage != self.lineage:
            self._follow_another(head)
        elif head.head < stood:
            self._start_over(head.head)
        if head.floor > self.hub.position:
            # Revocations and memberships may have been among it: only a new start knows them.
            raise store.Overtaken(head.floor, self.hub.position)
        self.hub.recent.trim(head.floor)
        for entry in head.control:
            self._control(self.hub, entry)
        if len(head.control) == store.CONTROL_PAGE:
            # There may be more revocations: nothing is trusted before all of them are applied.
            self.doubt()
            return
        self._tail.reaches(head.head)
        self._confirmed = asked
        self._vouched = head.head
        self._ahead = head.now - asked
        self.room = head.room
        self._metrics.tail_lag_positions.set(max(0, head.head - self.hub.position))
        self._metrics.partition_room_positions.set(head.room)
        self._advance()
        self._moved_on()

    def _follow_another(self, head: store.Head) -> None:
        """Follow a log that another server goes on with: part of what was seen may be lost from it.

        Memory may hold what is lost, and what waits to be applied may be. Where some of it was applied,
        so may have been memberships.
        """
        self.lineage = head.lineage
        self.hub.recent.forget(head.drawn)
        self._lost = self.seen
        self._tail = Tail(self.hub.position)
        if head.kept is not None and head.kept < self.hub.position:
            self._start_over(head.kept)

    def _start_over(self, head: int) -> None:
        """Follow a log that was restored to an older state: others may have written on from there.

        Everyone is sent away to come back by the log as it is now; what they have beyond it is told
        them with a gap.
        """
        log.error("the log went back from %d to %d: it was restored or failed over", self.hub.position, head)
        self._lost = max(self._lost, self.seen)
        self._tail = Tail(head)
        self._control.applied = head
        self.hub.position = head
        for connection in list(self.hub):
            connection.end(1012, "the log was restored", reconnect=True)

    def _advance(self) -> None:
        """Give the hub what is next, if it may be written now."""
        if not self.trusted:
            self._wake.set()
            return
        for group in self._tail.take():
            self.hub.apply(group)
        if self._tail.missing is not None:
            self._wake.set()
        self._moved_on()

    def _moved_on(self) -> None:
        moved, self._moved = self._moved, self._loop.create_future()
        moved.set_result(None)
