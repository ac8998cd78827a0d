"""How much a key or a user may send: a rate with a burst, and a quota by the day.

What counts is events, however many addresses each has. Pure code: ``now`` is in seconds since the
epoch.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from math import ceil
from typing import Final, NamedTuple

import msgspec

DAY: Final = 86_400
MAX_KEPT: Final = 100_000
"""Buckets that are kept; beyond it the one that was used longest ago is taken for full."""
BATCH: Final = 1_000
"""Events that one request may have."""
HAIR: Final = 1e-6
"""Of an event: what rounding may add up to."""


class Limit(msgspec.Struct, frozen=True):
    """At most ``burst`` events at once, and ``rate`` a second on the average."""

    rate: float
    burst: int

    def __str__(self) -> str:
        return f"{self.burst:,} events at once and {self.rate:,g} a second"

    @property
    def policy(self) -> str:
        """Return it as an item of RateLimit-Policy."""
        return f'"events";q={self.burst};w={ceil(self.burst / self.rate)}'


def limit_of(rate: float | None, burst: int | None = None) -> Limit | None:
    """Return the limit of ``rate`` events a second, None or 0 for none.

    ``burst`` is by default what comes in a second, and at least a whole batch.
    """
    return Limit(rate, burst or max(BATCH, ceil(rate))) if rate else None


class Quota(msgspec.Struct, frozen=True):
    """At most so many events a day (UTC)."""

    events: int

    def __str__(self) -> str:
        return f"{self.events:,} events a day (UTC)"

    @property
    def policy(self) -> str:
        """Return it as an item of RateLimit-Policy."""
        return f'"daily-events";q={self.events};w={DAY}'


class Standing(NamedTuple):
    """Where a key or user stands: ``left`` events may be sent, ``reset`` seconds from now all of them again.

    What was refused may be sent in ``wait`` seconds; None where nothing was.
    """

    bound: Limit | Quota
    left: int
    reset: int
    wait: float | None = None


class Buckets:
    """Token buckets by name; one that is not known is full."""

    def __init__(self) -> None:
        # The level, when it was so, and when it is full; the one used last stands last.
        self._kept: dict[str, tuple[float, float, float]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, name: str, limit: Limit, events: int, now: float) -> Standing:
        """Take ``events`` out of a bucket, all or none of them."""
        level, at, _ = self._kept.pop(name, (limit.burst, now, now))
        level = min(limit.burst, level + max(0.0, now - at) * limit.rate)  # a clock may be set back
        fits = events <= level + HAIR
        wait = None if fits else (events - level) / limit.rate
        if fits:
            level -= events
        reset = (limit.burst - level) / limit.rate
        self._kept[name] = level, now, now + reset
        self._forget(now)
        return Standing(limit, max(0, int(level + HAIR)), ceil(reset - HAIR), wait)

    def _forget(self, now: float) -> None:
        """Forget those used longest ago where they are full, or too many; two for each that is used."""
        for name, (_, _, full_at) in list(islice(self._kept.items(), 2)):
            if full_at <= now or len(self._kept) > MAX_KEPT:
                del self._kept[name]


class Usage:
    """What keys with a quota have sent today (UTC): as it is stored, and what is new since."""

    def __init__(self) -> None:
        self._day = 0
        self._stored: dict[str, int] = {}
        self._new: dict[tuple[str, int], int] = {}

    def standing(self, name: str, quota: Quota, events: int, now: float) -> Standing:
        """Tell whether ``events`` more are within a quota; nothing is counted."""
        day = int(now // DAY)
        stored = self._stored.get(name, 0) if day == self._day else 0
        left = quota.events - stored - self._new.get((name, day), 0)
        reset = ceil((day + 1) * DAY - now)
        return Standing(quota, max(0, left), reset, None if events <= left else float(reset))

    def count(self, name: str, events: int, now: float) -> None:
        """Count what a key has sent."""
        key = name, int(now // DAY)
        self._new[key] = self._new.get(key, 0) + events

    def new(self) -> dict[tuple[str, int], int]:
        """Return what is not stored yet, by name and day (since the epoch)."""
        return dict(self._new)

    def store(self, written: Mapping[tuple[str, int], int], day: int, used: Mapping[str, int]) -> None:
        """Learn that what was new has been ``written``, and what all have ``used`` on ``day`` together."""
        self._day, self._stored = day, dict(used)
        for key, events in written.items():
            self._new[key] -= events
            if not self._new[key]:
                del self._new[key]


def ratelimit_headers(standings: Sequence[Standing]) -> dict[str, str]:
    """Return the headers that tell a caller where it stands; none where nothing limits it.

    By draft-ietf-httpapi-ratelimit-headers-11 §3 and §4; the names of the policies say their unit.
    """
    if not standings:
        return {}
    policies = [each.bound.policy for each in standings]
    items = [
        f"{policy.partition(';')[0]};r={each.left};t={each.reset}"
        for policy, each in zip(policies, standings, strict=True)
    ]
    return {"ratelimit-policy": ", ".join(policies), "ratelimit": ", ".join(items)}
