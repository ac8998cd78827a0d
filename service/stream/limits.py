"""Charges what comes in to the API key or the user that sends it.

Rates are this instance's own. Quotas are shared: what was sent is written behind and read back by
``flush``, so all instances together may exceed one by what they take in between two of them.
"""

from collections.abc import Iterable, Sequence
from time import time

import asyncpg

from service.auth.keys import ApiKey, Keyring
from service.domain.errors import RateLimited, TooLarge
from service.domain.events import Unit
from service.domain.limits import DAY, Buckets, Limit, Standing, Usage
from service.store import keys as store


class Limits:
    """Knows how much every key and user may still send."""

    def __init__(self, keyring: Keyring, *, key: Limit | None, user: Limit | None) -> None:
        """``key`` is for keys without a rate of their own; None is no limit."""
        self._keyring = keyring
        self._key = key
        self._user = user
        self._keys = Buckets()
        self._users = Buckets()
        self._usage = Usage()

    def charge_key(self, key: ApiKey, units: Iterable[Unit], ephemeral: int = 0) -> Sequence[Standing]:
        """Charge events to a key, those in ``units`` and so many that are not stored.

        Returns where it stands with each of its limits.

        Raises RateLimited, or TooLarge where waiting does not help; then nothing is charged.
        """
        limit = key.limit or self._key
        if limit is None and key.quota is None:
            return ()
        events = ephemeral + sum([draft.lead == 0 for unit in units for draft in unit.drafts])
        return self._charge(key, limit, events, time())

    def _charge(self, key: ApiKey, limit: Limit | None, events: int, now: float) -> Sequence[Standing]:
        """Charge the quota and the rate, both or neither of them."""
        standings = []
        if key.quota is not None:
            _check_size(events, key.quota.events)
            standings.append(self._usage.standing(key.id, key.quota, events, now))
        if limit is not None:
            _check_size(events, limit.burst)
            refused = standings and standings[0].wait is not None
            standings.append(self._keys.take(key.id, limit, 0 if refused else events, now))
        _check(standings)
        if key.quota is not None:
            self._usage.count(key.id, events, now)
            standings[0] = standings[0]._replace(left=standings[0].left - events)
        return standings

    def charge_user(self, user: str) -> Sequence[Standing]:
        """Charge one event, or one call, to a user; return where that leaves them. Raises RateLimited."""
        if self._user is None:
            return ()
        standings = [self._users.take(user, self._user, 1, time())]
        _check(standings)
        return standings

    async def flush(self, connection: asyncpg.Connection) -> None:
        """Write what counts against quotas, and learn what came in elsewhere; one call at a time.

        Where the answer is lost it is written again: that errs on the side of the quota.
        """
        new, today = self._usage.new(), int(time() // DAY)
        if new or self._keyring.has_quotas:
            self._usage.store(new, today, await store.count(connection, new, today))


def _check_size(events: int, most: int) -> None:
    if events > most:
        raise TooLarge(f"the key may never send more than {most:,} events at once", "#/events")


def _check(standings: Sequence[Standing]) -> None:
    for standing in standings:
        if standing.wait is not None:
            raise RateLimited(f"at most {standing.bound}", standing.wait, standings)
