"""Group commit: what arrives while one append is in flight is the next group.

There is no timer and no linger: an idle service commits a single event at once, and a busy one
shares each commit among as many requests as came meanwhile.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final
from uuid import uuid4

from service.domain.errors import InFlight, Invalid, OutcomeUnknown, TidingsError, TooLarge, Unavailable
from service.domain.events import (
    MAX_UNIT_BYTES,
    MAX_UNIT_ENTRIES,
    Group,
    Once,
    Outcome,
    Submission,
    Unit,
)  # fmt: skip
from service.observe.metrics import Metrics
from service.store import append as store
from service.store.database import Database, Held, rolled_back, translated

log = logging.getLogger("tidings.appender")

MAX_WAITING_ENTRIES: Final = 50_000
MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
RETRY_PAUSE: Final = 0.2


@dataclass(slots=True, eq=False)
class _Waiting:
    submission: Submission
    entries: int
    size: int
    deadline: float
    outcomes: asyncio.Future[list[Outcome]]


class Appender:
    """Appends units to the log, and hands each committed group to ``committed``.

    The queue is bounded in entries and bytes; beyond that a unit is refused with Unavailable before
    anything is done. A unit is answered within ``timeout`` seconds, whatever the database does.
    """

    def __init__(
        self, database: Database, metrics: Metrics, *,
        committed: Callable[[Group], None], seen: Callable[[], int], timeout: float, window: float,
    ) -> None:  # fmt: skip
        self._database = database
        self._metrics = metrics
        self._committed = committed
        self._seen = seen
        self._timeout = timeout
        self._window = window
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Waiting] = deque()
        self._entries = 0
        self._bytes = 0
        self._in_flight: set[tuple[str, str]] = set()
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    async def append(self, unit: Unit) -> Outcome:
        """Append one unit; see ``submit``."""
        [outcome] = await self.submit([unit])
        return outcome

    def submit(self, units: Sequence[Unit], once: Once | None = None) -> "asyncio.Future[list[Outcome]]":
        """Append units in one group, all of them or none; the future is done once they are committed.

        Two of them cannot have the same key. The future raises Invalid where the database refuses a
        value, KeyReused where ``once`` stands for something else, Unavailable where nothing was done,
        and OutcomeUnknown where that could not be found out in time. Who stops waiting does not take
        anything back. Raises TooLarge at once where it is too much for one group, Unavailable where
        too much is waiting, and InFlight where the same request is.
        """
        entries = sum([len(unit.drafts) for unit in units])
        size = sum([unit.size for unit in units])
        if entries > MAX_UNIT_ENTRIES:
            raise TooLarge(f"more than {MAX_UNIT_ENTRIES} entries, one for each address of each event")
        if size > MAX_UNIT_BYTES:
            raise TooLarge("data and exclude, once for each address, are more than 8 MiB", "#/to")
        if self._entries + entries > MAX_WAITING_ENTRIES or self._bytes > MAX_WAITING_BYTES:
            self._metrics.append_outcomes.labels("unavailable").inc(len(units))
            raise Unavailable("too much is waiting to be committed")
        if once is not None:
            if once[:2] in self._in_flight:
                raise InFlight("a request with this Idempotency-Key is being carried out")
            self._in_flight.add(once[:2])
        deadline = self._loop.time() + self._timeout
        waiting = _Waiting(Submission(units, once), entries, size, deadline, self._loop.create_future())
        self._waiting.append(waiting)
        self._entries += entries
        self._bytes += size
        self._idle.clear()
        self._arrived.set()
        return waiting.outcomes

    async def run(self) -> None:
        """Commit one group after the other until cancelled; what waits then is refused."""
        try:
            async with self._database.held() as link:
                await self._run(link)
        finally:
            while self._waiting:
                self._settle([self._take()], [Unavailable("the service is shutting down")])

    async def _run(self, link: Held) -> None:
        while True:
            await self._arrived.wait()
            await self._commit(link, self._next_group())
            if not self._waiting:
                self._arrived.clear()
                self._idle.set()

    async def drained(self) -> None:
        """Wait until nothing is waiting and nothing is in flight."""
        await self._idle.wait()

    def _take(self) -> _Waiting:
        waiting = self._waiting.popleft()
        self._entries -= waiting.entries
        self._bytes -= waiting.size
        return waiting

    def _next_group(self) -> list[_Waiting]:
        """Take what fits into one group. Two units with one key cannot share it: the later waits."""
        group: list[_Waiting] = []
        entries = size = 0
        keys: set[tuple[str | None, str]] = set()
        while self._waiting:
            head = self._waiting[0]
            entries += head.entries
            size += head.size
            if group and (entries > MAX_UNIT_ENTRIES or size > MAX_UNIT_BYTES):
                break
            new = [(unit.producer, unit.key) for unit in head.submission.units if unit.key is not None]
            if not keys.isdisjoint(new):
                break
            keys.update(new)
            group.append(self._take())
        return group

    async def _commit(self, link: Held, group: list[_Waiting]) -> None:
        """Commit a group, or answer each of its units with why not."""
        self._metrics.append_entries.observe(sum([waiting.entries for waiting in group]))
        begun = perf_counter()
        submissions = [waiting.submission for waiting in group]
        try:
            appended, results = await self._attempt(link, submissions, group[0].deadline)
        except Invalid as error:
            await self._split(link, group, error)
        except TidingsError as error:
            self._settle(group, [error] * len(group))
        except BaseException:
            self._settle(group, [OutcomeUnknown("the service is shutting down")] * len(group))
            raise
        else:
            self._metrics.append_seconds.observe(perf_counter() - begun)
            self._settle(group, results)
            if appended is not None:
                self._committed(appended)

    async def _split(self, link: Held, group: list[_Waiting], error: Invalid) -> None:
        """Halve a group that holds a value the database refuses, until only the culprit errs."""
        if len(group) == 1:
            self._settle(group, [error])
            return
        middle = len(group) // 2
        front, back = group[:middle], group[middle:]
        try:
            await self._commit(link, front)
        except BaseException:
            self._settle(back, [Unavailable("the service is shutting down")] * len(back))
            raise
        await self._commit(link, back)

    def _settle(self, group: Sequence[_Waiting], results: Sequence[list[Outcome] | TidingsError]) -> None:
        """Answer whoever waits for a group: each with what became of its own."""
        self._count(group, results)
        for waiting, result in zip(group, results, strict=True):
            if (once := waiting.submission.once) is not None:
                self._in_flight.discard(once[:2])
            if waiting.outcomes.done():  # it has stopped waiting
                continue
            if isinstance(result, TidingsError):
                waiting.outcomes.set_exception(result)
            else:
                waiting.outcomes.set_result(result)

    def _count(self, group: Sequence[_Waiting], results: Sequence[list[Outcome] | TidingsError]) -> None:
        appended = replayed = 0
        for waiting, result in zip(group, results, strict=True):
            if isinstance(result, TidingsError):
                self._metrics.append_outcomes.labels(result.code).inc(len(waiting.submission.units))
            else:
                again = sum([outcome.replayed or outcome.repeated for outcome in result])
                replayed += again
                appended += len(result) - again
        self._metrics.append_outcomes.labels("replayed").inc(replayed)
        self._metrics.append_outcomes.labels("appended").inc(appended)

    async def _attempt(
        self, link: Held, submissions: Sequence[Submission], deadline: float
    ) -> store.Appended:
        """Append until it is known to be done or known to be refused, or the time is up.

        The group carries its uuid through all attempts, so one whose answer was lost is found
        instead of being appended twice.
        """
        batch, seen, sent = uuid4(), self._seen(), False
        while True:
            retry = sent
            try:
                async with asyncio.timeout_at(deadline):
                    connection = await link.get()
                    sent = True
                    with translated():
                        return await store.append(
                            connection, batch, submissions, seen=seen, retry=retry, window=self._window
                        )
            except Unavailable as error:
                cause = error
                sent = retry if rolled_back(error) else sent
                link.discard()  # it may be what is wrong: a server that has become a standby stays one
            except TimeoutError:
                cause = Unavailable("the database did not answer in time")
                link.discard()
            if self._loop.time() + RETRY_PAUSE >= deadline:
                raise self._given_up(sent) from cause
            await asyncio.sleep(RETRY_PAUSE)

    @staticmethod
    def _given_up(sent: bool) -> Unavailable:  # noqa: FBT001 - reads as a sentence where it is called
        if sent:
            return OutcomeUnknown("the database went away; the event may or may not be stored")
        return Unavailable("the database cannot be reached just now")
