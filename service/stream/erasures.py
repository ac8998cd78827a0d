"""Erases users, as whichever instance gets to it: piece by piece, and on from where another left off."""

import asyncio
import logging
from typing import Final

from service.domain.errors import TidingsError
from service.store import erasure
from service.store.database import Database
from service.stream.follower import Follower

log = logging.getLogger("tidings.erasures")

EVERY: Final = 2.0
GRACE: Final = 10.0
"""Seconds after the revocation at which no instance has a socket of the user left, nor anything under way
that such a socket or its handshake began."""


class Erasures:
    """Does what has been asked for, in the order in which it was."""

    def __init__(self, database: Database, follower: Follower) -> None:
        self._database = database
        self._follower = follower

    async def run(self) -> None:
        """Do it until cancelled."""
        while True:
            try:
                await self._erase_due()
            except TidingsError as error:
                log.warning("cannot erase who is to be erased: %s", error)
            await asyncio.sleep(EVERY)

    async def _erase_due(self) -> None:
        async with self._database.connection() as connection:
            users = await erasure.due(connection, GRACE)
        for user in users:
            while await self._erase_some(user):
                continue

    async def _erase_some(self, user: str) -> bool:
        # One connection for each step: a search of the whole log does not keep it from others.
        async with self._database.connection() as connection:
            return await erasure.erase_some(connection, self._follower.seen, user)
