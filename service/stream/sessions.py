"""Sessions of those who connect, loaded in groups: who comes while one load is under way is in the next.

So a storm of reconnects shares its round trips, and who comes alone waits for nobody.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from service.domain.delivery import Session
from service.domain.errors import RateLimited, TidingsError, Unavailable
from service.domain.recent import Recent
from service.store import sessions as store
from service.store.database import Database, Held, translated
from service.stream.cursors import Cursors

LINGER: Final = 0.002
"""Seconds that a load waits for company, if the last one ended less than that ago. In a storm it makes
of two round trips for three connects one for ten, and of 190 µs of CPU for each of them 140."""
GROUP: Final = 64
"""Sessions that are loaded together at the most: their rooms, by the thousand, are read in one go."""

AT_ONCE: Final = 16
"""Sessions that are handed over in one turn of the loop."""


class _Waiting(NamedTuple):
    wanted: store.Wanted
    session: asyncio.Future[Session]


class Sessions:
    """Loads sessions; as many wait as handshakes are under way."""

    def __init__(self, database: Database, recent: Recent, cursors: Cursors, max_devices: int) -> None:
        """``max_devices`` is for each user."""
        self._database = database
        self._recent = recent
        self._cursors = cursors
        self._max_devices = max_devices
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()

    async def open(self, user: str, device: str, after: int | None, has: int = 0) -> Session:
        """Return a device's session; ``after`` is the position that it asks to start after, if any.

        It has passed over what lies before that, but for all up to its cursor, or to what it ``has``.
        Its row and its user's are committed by then. Raises RateLimited where it is one device too
        many, and Unavailable.
        """
        session: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        known = max(has, self._cursors.waiting(user, device))
        wanted = store.Wanted(user, device, after, known)
        self._waiting.append(_Waiting(wanted, session))
        self._arrived.set()
        return await session

    async def run(self) -> None:
        """Load one group after the other until cancelled; who waits then is refused."""
        try:
            async with self._database.held() as link:
                while True:
                    await self._arrived.wait()
                    await self._load(link, self._next_group())
                    if not self._waiting:
                        self._arrived.clear()
                    await asyncio.sleep(LINGER)
        finally:
            self._refuse(self._waiting, Unavailable("the service is shutting down"))

    def _next_group(self) -> list[_Waiting]:
        group = [self._waiting.popleft() for _ in range(min(GROUP, len(self._waiting)))]
        return [waiting for waiting in group if not waiting.session.done()]  # some have hung up

    async def _load(self, link: Held, group: list[_Waiting]) -> None:
        if not group:
            return
        try:
            connection = await link.get()
            with translated():
                wanted = [waiting.wanted for waiting in group]
                sessions = await store.open_sessions(connection, wanted, self._max_devices, self._recent.base)
        except TidingsError as error:
            link.discard()  # it may be what is wrong
            self._refuse(group, error)
        except BaseException:
            self._refuse(group, Unavailable("the service is shutting down"))
            raise
        else:
            for number, (waiting, session) in enumerate(zip(group, sessions, strict=True), 1):
                if number % AT_ONCE == 0:
                    await asyncio.sleep(0)  # who was let in catches up in the same turn of the loop
                if session is None:
                    self._refuse([waiting], RateLimited(f"this user has {self._max_devices} devices already"))
                elif not waiting.session.done():
                    waiting.session.set_result(session)

    @staticmethod
    def _refuse(group: Iterable[_Waiting], error: TidingsError) -> None:
        for waiting in group:
            if not waiting.session.done():
                waiting.session.set_exception(error)
