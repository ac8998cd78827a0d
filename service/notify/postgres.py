"""LISTEN and NOTIFY: instances reach each other by the database that they share anyway."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from service.domain.errors import Unavailable
from service.notify.port import Notifier
from service.store.database import Database, Held, translated

PROBE_EVERY: Final = 5.0
NOTIFY: Final = "select pg_notify($1, text) from unnest($2::text[]) as text"


class PostgresNotifier(Notifier):
    """Listens and notifies on one connection of its own, which has to be a direct one.

    A pooler that hands the connection to others after each transaction loses LISTEN without a word.
    Each NOTIFY takes a lock that all of a server's databases share until its commit; so texts go
    out many in one statement, outside the transactions that they tell of, and wait for no disk.
    """

    capacity = 7_900  # PostgreSQL takes 7,999 bytes

    def __init__(self, url: str, channel: str) -> None:
        self._database = Database(url, 1)
        self._link = Held(self._database)
        self._channel = channel
        self._lock = asyncio.Lock()

    async def publish(self, texts: Sequence[str]) -> None:
        """Notify of all of them in one statement."""
        async with self._lock:
            connection = await self._link.get()
            try:
                with translated():
                    await connection.execute(NOTIFY, self._channel, texts)
            except BaseException:
                self._link.discard()  # it may be what is wrong
                raise

    async def listen(self, receive: Callable[[str], None], ready: Callable[[], None]) -> None:
        """Listen, and ask now and then whether the server is still there."""
        lost = asyncio.Event()
        async with self._lock:
            connection = await self._link.get()
            try:
                with translated():
                    await connection.add_listener(self._channel, lambda *args: receive(str(args[3])))
            except BaseException:
                self._link.discard()  # it may be a standby's
                raise
            connection.add_termination_listener(lambda _: lost.set())
        ready()
        while not lost.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(PROBE_EVERY):
                    await lost.wait()
            await self._probe()
        raise Unavailable("the connection that listens was lost")

    async def _probe(self) -> None:
        async with self._lock:
            connection = await self._link.get()
            try:
                with translated():
                    await connection.execute("select")
            except BaseException:
                self._link.discard()
                raise

    async def aclose(self) -> None:
        """Close the connection."""
        await self._link.release()
        await self._database.close()
