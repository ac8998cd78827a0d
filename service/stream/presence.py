"""Who is connected, on all instances: each writes its connections, and the database says what that means.

Connections are written behind, many in one call. A user has come with the first of them, on whichever
instance it is, and has gone when the last has ended and none has come back for a moment. Whoever finds
out tells its own watchers, and the other instances, which tell theirs; that may be lost, as all of
presence may be: the list is what counts.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Final

import asyncpg
import msgspec

from service.domain import messages
from service.domain.delivery import State
from service.domain.errors import TidingsError, Unavailable
from service.domain.presence import Change
from service.observe.metrics import Metrics
from service.store import presence as store
from service.store.database import Database, Held, rolled_back, translated
from service.stream.courier import Courier
from service.stream.figures import Figures
from service.stream.hub import Hub, Receiver

log = logging.getLogger("tidings.presence")

EVERY: Final = 0.25
"""Seconds between two flushes, while there is anything to write."""
BEAT: Final = 1.0
"""Seconds after which the lease is renewed and others are swept in any case."""
MEASURE_EVERY: Final = 2.0
BATCH: Final = 500
"""Connections that one call writes, and that one sweeps: all others who write wait for it."""
MAX_UNTOLD: Final = 20_000
"""Changes that wait until watchers are told of them; what is beyond is not told."""

_json = msgspec.json.Encoder().encode


class Presence:
    """Writes this instance's connections with its lease, and tells watchers what comes of it everywhere.

    It writes all of them anew where it cannot be sure what the database has: over a new connection (the
    server may have crashed, and lost what it had not synced), after a failover, and where it
    was stopped for so long that its lease had run out.
    """

    def __init__(
        self, database: Database, hub: Hub, courier: Courier, measure: Callable[[], Figures],
        metrics: Metrics, lease: store.Lease,
    ) -> None:  # fmt: skip
        self.lease = lease
        self.measure = measure
        self._hub = hub
        self._courier = courier
        courier.on(messages.Presence, lambda message: self.hear(message.changes))
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._beat = self._measured = float("-inf")
        self._using = asyncio.Lock()
        """Taken by whoever uses the one connection."""
        self._held = Held(database)
        self._written_to: asyncpg.Connection | None = None
        self._lineage: int | None = None
        self._doubt = True
        self._strays: list[str] = []
        """Ids of connections that the database has and that are not here."""
        self._untold: deque[Change] = deque()
        self._due = asyncio.Event()
        self._left = False

    # What is written

    async def run(self) -> None:
        """Write what changes, until cancelled."""
        while True:
            try:
                await self.flush()
            except TidingsError as error:
                log.warning("cannot write who is connected: %s", error)
            await asyncio.sleep(EVERY)

    async def flush(self) -> None:
        """Write all that has changed, in bounded batches, and renew the lease if it is time."""
        async with self._using:
            more = bool(self._hub.changed) or self._loop.time() - self._beat >= BEAT
            while more and not self._left:
                more = await self._write()

    async def leave(self) -> None:
        """Write which connections have ended, and give up the lease: nothing is written any more."""
        await self.flush()
        async with self._using:
            self._left = True
            with translated():
                await store.leave(await self._held.get(), self.lease.instance)

    async def close(self) -> None:
        """Give back the connection to the database."""
        await self._held.release()

    async def _write(self) -> bool:
        """Write one batch; tell whether there is more to do at once."""
        try:
            connection = await self._held.get()
            with translated():
                if self._doubt or connection is not self._written_to:
                    await self._doubt_all(connection)
                noted, full = await self._note(connection)
        except TidingsError as error:
            if not (isinstance(error, Unavailable) and rolled_back(error)):
                self._held.discard()
            raise
        self._beat = self._loop.time()
        self._courier.others = noted.others
        self._doubt = not noted.known or noted.lineage != self._lineage
        self._lineage = noted.lineage
        if noted.changes:
            self._tell_all(noted.changes)
        return full or noted.more or self._doubt

    async def _note(self, connection: asyncpg.Connection) -> tuple[store.Noted, bool]:
        batch, self._strays, strays = self._next_batch(), self._strays[BATCH:], self._strays[:BATCH]
        now = self._loop.time()
        live = [_live(c, now) for c in batch if c.state is not State.CLOSED or not c.noted]
        gone = [c.id for c in batch if c.state is State.CLOSED]
        for each in batch:
            each.noted = True
        try:
            noted = await store.note(
                connection, self.lease, now - self._began, self._figures(), live, gone + strays, BATCH
            )
        except BaseException:
            self._hub.changed = dict.fromkeys(batch) | self._hub.changed
            self._strays += strays
            raise
        return noted, len(batch) == BATCH or bool(self._strays)

    def _next_batch(self) -> list[Receiver]:
        """Take who has waited longest."""
        batch = list(islice(self._hub.changed, BATCH))
        for connection in batch:
            del self._hub.changed[connection]
        return batch

    async def _doubt_all(self, connection: asyncpg.Connection) -> None:
        """Have all connections written anew, and find those that the database has by mistake."""
        self._hub.changed |= {c: None for c in self._hub if c.begun}
        here = {c.id for c in self._hub.changed}
        after, self._strays = "", []
        while page := await store.noted(connection, self.lease.instance, after, BATCH):
            after = page[-1]
            self._strays += [noted for noted in page if noted not in here]
        self._written_to, self._doubt = connection, False

    def _figures(self) -> str | None:
        """Return what the others are told of this instance, where it is time to."""
        if self._loop.time() - self._measured < MEASURE_EVERY:
            return None
        self._measured = self._loop.time()
        measured = self.measure()
        for state, number in measured.connections.items():
            self._metrics.connections.labels(state).set(number)
        return _json(measured).decode()

    # What is told

    def _tell_all(self, changes: Sequence[Change]) -> None:
        self.hear(changes)
        for message in messages.Presence(changes).parts():
            self._courier.send(message)

    def hear(self, changes: Iterable[Change]) -> None:
        """Have the watchers of this instance told of changes, soon."""
        if not self._hub.watchers:
            return
        self._untold.extend(changes)
        while len(self._untold) > MAX_UNTOLD:
            self._untold.pop()
            self._metrics.presence_dropped.inc()
        self._due.set()

    async def tell(self) -> None:
        """Tell watchers what is due, until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            while self._untold:
                batch = [self._untold.popleft() for _ in range(min(BATCH, len(self._untold)))]
                shared = await self._shared(batch)
                for change in batch:
                    self._hub.watchers.tell(change, shared.get(change.user, ()))
                await asyncio.sleep(0)

    async def _shared(self, changes: Sequence[Change]) -> dict[str, list[str]]:
        """Return which watched rooms those who come and go are members of."""
        users = {change.user for change in changes if change.room is None}
        rooms = self._hub.watchers.rooms
        if not users or not rooms:
            return {}
        try:
            async with self._using:
                connection = await self._held.get()
                with translated():
                    return await store.shared(connection, users, rooms)
        except TidingsError as error:
            log.warning("cannot tell who watches a room that users come and go: %s", error)
            self._metrics.presence_dropped.inc(len(users))
            return {}


def _live(connection: Receiver, now: float) -> store.Live:
    rooms = sorted(room for room, m in connection.rooms.items() if m.source == "connection")
    claims = connection.claims
    return store.Live(
        connection.id, claims.user, connection.device, claims.info, now - connection.since, ",".join(rooms)
    )
