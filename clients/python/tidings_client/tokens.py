"""What a client can know of its token without checking it: whose it is, and when another is due."""

import base64
import json
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, Final

Token = str | Callable[[], str | Awaitable[str]]
"""A token, or what returns one: it is called before the first connection, and whenever another is due."""

FRESH: Final = 0.8
"""The part of a token's life after which the next one is fetched."""
SHORTEST: Final = 1.0
"""Seconds between two attempts at renewing, at least."""
LONGEST: Final = 30.0


def claims_of(token: str) -> dict[str, Any]:
    """Return what a JSON Web Token claims; nothing where it is none."""
    try:
        part = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def life_of(claims: dict[str, Any]) -> float | None:
    """Return how many seconds a token lives, as far as it says."""
    begin, end = claims.get("iat"), claims.get("exp")
    if not isinstance(begin, int | float) or not isinstance(end, int | float) or end <= begin:
        return None
    return float(end - begin)


class TokenClock:
    """Holds the token in use, and says when it needs another.

    Its age counts from when it was got, by a clock that only runs forward: so it does not matter whether
    this machine's time of day is right. A token that was not new when it was got dies earlier than this
    says, which the service tells.
    """

    def __init__(self) -> None:
        self.token: str | None = None
        self.user: str | None = None
        """Who the token says that it is for."""
        self._got = 0.0
        self._life: float | None = None

    def renew(self, token: str, now: float) -> None:
        """Use this one from now on."""
        claims = claims_of(token)
        subject = claims.get("sub")
        self.token = token
        self.user = subject if isinstance(subject, str) else None
        self._got, self._life = now, life_of(claims)

    def forget(self) -> None:
        """Note that the token is no good."""
        self.token = None

    def usable(self, now: float) -> str | None:
        """Return the token, if there is one that is not known to be dead."""
        expired = self._life is not None and now >= self._got + self._life
        return None if expired else self.token

    @property
    def due(self) -> float | None:
        """Return when another one is to be fetched; None where nobody knows."""
        if self.token is None or self._life is None:
            return None
        return self._got + FRESH * self._life


class TokenSource:
    """Where tokens come from: one text for good, or a function that is called for another one."""

    def __init__(self, token: Token) -> None:
        self.clock = TokenClock()
        self._token = token
        self._not_before = 0.0
        self._failures = 0

    @property
    def renewable(self) -> bool:
        """Tell whether there can be another one."""
        return callable(self._token)

    async def current(self, now: float) -> str:
        """Return the token to use. Raises what the function raises."""
        token = self.clock.usable(now)
        if token is None:
            token = await self.fetch()
            self.clock.renew(token, now)
        return token

    async def fetch(self) -> str:
        """Return another token, which is not in use yet."""
        if isinstance(self._token, str):
            return self._token.strip()
        token = self._token()
        return (await token if isawaitable(token) else token).strip()

    def renewed(self, token: str, now: float) -> None:
        """Use a token that the service has taken in place of the one before."""
        self.clock.renew(token, now)
        self._failures, self._not_before = 0, now + SHORTEST

    def postpone(self, now: float) -> None:
        """Note that renewing has failed: it is tried again some time later."""
        self._failures += 1
        self._not_before = now + min(LONGEST, 2.0 ** (self._failures - 1))

    def due_in(self, now: float) -> float | None:
        """Return in how many seconds to renew; None for never."""
        due = self.clock.due if self.renewable else None
        return None if due is None else max(0.0, max(due, self._not_before) - now)
