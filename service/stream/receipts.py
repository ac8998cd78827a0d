"""Who waits for the first receipt of what was just published.

What is acknowledged here is heard as it comes; what is acknowledged elsewhere is in the database soon.
Either way the database has the last word, by the one rule of ``store.receipts``.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from service.domain.addresses import EVERYONE
from service.domain.errors import TidingsError
from service.store import receipts as store
from service.store.database import Database
from service.stream.cursors import Cursors
from service.stream.hub import Hub

log = logging.getLogger("tidings.receipts")

MAX_WAITING: Final = 64
MAX_SECONDS: Final = 30.0
LOOK_EVERY: Final = 1.0
"""Seconds between two looks at the cursors of a user's devices that are connected elsewhere."""
MAX_HEARD: Final = 64
"""Acknowledgements that have yet to be looked at, for each who waits; the last look finds all others."""


class First(NamedTuple):
    """The first receipt and when it was known, in seconds after the wait began; or None."""

    receipt: store.Receipt | None
    after: float
    waited: bool = True
    """False where too many wait, the database cannot be asked or this instance leaves: nothing is known."""


class _Waiting:
    def __init__(self, positions: Mapping[str, int]) -> None:
        self.positions = positions
        self.heard: asyncio.Queue[tuple[str, str] | None] = asyncio.Queue(MAX_HEARD)


class Receipts:
    """Waits for first receipts, at most ``MAX_WAITING`` at a time."""

    def __init__(self, database: Database, hub: Hub, cursors: Cursors) -> None:
        self._database = database
        self._hub = hub
        self._cursors = cursors
        self._waiting: dict[_Waiting, None] = {}
        self._by_address: dict[str, dict[_Waiting, None]] = {}
        self._leaving = False

    def leave(self) -> None:
        """Let nobody wait from now on: what was committed is to be answered before this instance ends."""
        self._leaving = True
        for waiting in self._waiting:
            if not waiting.heard.full():  # else it is awake
                waiting.heard.put_nowait(None)

    async def first(self, positions: Mapping[str, int], seconds: float) -> First:
        """Wait until any device has received any of these events, given by address; raises nothing.

        At most ``MAX_SECONDS``, counted from now: call it as soon as they are committed.
        """
        begun = asyncio.get_running_loop().time()
        if not positions:
            return First(None, 0.0)
        if self._leaving or len(self._waiting) >= MAX_WAITING:
            return First(None, 0.0, waited=False)
        waiting = _Waiting(positions)
        self._add(waiting)
        try:
            receipt = await self._search(waiting, begun + min(seconds, MAX_SECONDS))
        except TidingsError as error:
            log.warning("cannot see who has received an event: %s", error)
            return First(None, 0.0, waited=False)
        finally:
            self._remove(waiting)
        after = asyncio.get_running_loop().time() - begun
        return First(receipt, after, waited=receipt is not None or not self._leaving)

    async def _search(self, waiting: _Waiting, deadline: float) -> store.Receipt | None:
        loop = asyncio.get_running_loop()
        everything = list(waiting.positions.values())
        users = [at for address, at in waiting.positions.items() if address.startswith("user:")]
        found = await self._look(everything)  # it may be a repetition of what was received long ago
        while found is None and not self._leaving and (left := deadline - loop.time()) > 0:
            device = None
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, LOOK_EVERY)):
                    device = await waiting.heard.get()
            # All members of a room would be looked at: those that are elsewhere wait for the end.
            found = await (self._look(users) if device is None else self._look(everything, device))
        return found or await self._look(everything)

    async def _look(
        self, positions: Sequence[int], device: tuple[str, str] | None = None
    ) -> store.Receipt | None:
        if not positions:
            return None
        await self._cursors.flush()
        async with self._database.connection() as connection:
            return await store.received_by(connection, positions, device)

    def _add(self, waiting: _Waiting) -> None:
        self._waiting[waiting] = None
        for address in waiting.positions:
            self._by_address.setdefault(address, {})[waiting] = None
        self._cursors.heard = self._heard

    def _remove(self, waiting: _Waiting) -> None:
        del self._waiting[waiting]
        for address in waiting.positions:
            del self._by_address[address][waiting]
            if not self._by_address[address]:
                del self._by_address[address]
        if not self._waiting:
            self._cursors.heard = None

    def _heard(self, user: str, device: str, position: int) -> None:
        """Note who may have received something that is waited for; whether it has is looked up."""
        for address in self._addresses(user):
            for waiting in self._by_address.get(address, ()):
                if position >= waiting.positions[address] and not waiting.heard.full():
                    waiting.heard.put_nowait((user, device))

    def _addresses(self, user: str) -> Iterator[str]:
        yield f"user:{user}"
        yield EVERYONE
        for connection in self._hub.users.get(user, ()):
            yield from (f"room:{room}" for room in connection.rooms)
