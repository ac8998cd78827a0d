"""An identity provider's public keys, fetched from its JWKS URL (RFC 7517 §5)."""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, Final

import httpx
from jose.backends.base import Key

from service.auth.verification import jwk_key
from service.domain.errors import Unavailable
from service.settings import HMAC

log = logging.getLogger("tidings.jwks")

TTL: Final = 600.0
"""Seconds after which the set is fetched again before a token is verified."""
MIN_INTERVAL: Final = 30.0
"""Seconds between two fetches, whatever ``kid`` strangers make up."""
RETRY: Final = 1.0
"""The same while there are no keys at all, so that a start beside a slow issuer heals quickly."""
STALE_FOR: Final = 3600.0
"""Seconds for which the last good set is believed while the issuer does not answer."""
TIMEOUT: Final = 5.0
"""Seconds for a whole fetch, from connecting to the last byte."""
MAX_BYTES: Final = 1024 * 1024
MAX_KEYS: Final = 64


class JwksKeys:
    """The key source of an issuer that rotates its keys.

    A ``kid`` that is not in the set makes it fetch anew; whoever needs a fetch that is under way
    waits for that one. No set at all, or one older than STALE_FOR, means Unavailable: a token can
    then be neither believed nor refused. A set without a usable key counts: the issuer has
    withdrawn them.
    """

    def __init__(self, url: str, algorithm: str, *, clock: Callable[[], float] = monotonic) -> None:
        """``clock`` gives seconds and never goes back; raises ValueError for what cannot work."""
        if algorithm in HMAC:
            raise ValueError("a JWKS URL goes with RS… and ES…: a published secret is none")
        if httpx.URL(url).scheme not in ("https", "http"):
            raise ValueError("the JWKS URL must begin with https:// or http://")
        self._url = url
        self._algorithm = algorithm
        self._clock = clock
        self._client = httpx.AsyncClient(follow_redirects=False, timeout=TIMEOUT)
        self._all: tuple[Key, ...] = ()
        self._by_kid: dict[str, tuple[Key, ...]] = {}
        self._fetched_at: float | None = None
        self._attempted_at: float | None = None
        self._fetching: asyncio.Task[None] | None = None

    async def keys(self, kid: str | None) -> Sequence[Key]:
        """Return the issuer's keys of this ``kid``, or all of them for a token that names none.

        May wait for a fetch, up to TIMEOUT. Raises Unavailable. Being cancelled ends the wait, not
        the fetch, which others may share.
        """
        if self._wanted(kid) and (self._fetching is not None or self._allowed()):
            await self._refresh()
        if not self._all or self._age() > STALE_FOR:
            raise Unavailable("the issuer's keys cannot be had now", RETRY)
        return self._all if kid is None else self._by_kid.get(kid, ())

    async def aclose(self) -> None:
        """Stop a fetch under way and close the connections."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])
        await self._client.aclose()

    def _age(self) -> float:
        return float("inf") if self._fetched_at is None else self._clock() - self._fetched_at

    def _wanted(self, kid: str | None) -> bool:
        unknown = kid is not None and kid not in self._by_kid
        return unknown or not self._all or self._age() >= TTL

    def _allowed(self) -> bool:
        if self._attempted_at is None:
            return True
        return self._clock() - self._attempted_at >= (MIN_INTERVAL if self._all else RETRY)

    async def _refresh(self) -> None:
        if self._fetching is None:
            self._attempted_at = self._clock()
            self._fetching = asyncio.get_running_loop().create_task(self._fetch())
            self._fetching.add_done_callback(self._ended)
        await asyncio.wait([self._fetching])

    def _ended(self, _: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _fetch(self) -> None:
        try:
            found = _read(await self._download(), self._algorithm)
        except (httpx.HTTPError, OSError, ValueError, RecursionError) as error:
            log.warning("cannot fetch the issuer's keys: %s", _reason(error))
            return
        if not found:
            log.error("the issuer publishes no key for %s", self._algorithm)
        by_kid: dict[str, tuple[Key, ...]] = {}
        for kid, key in found:
            if kid is not None:
                by_kid[kid] = (*by_kid.get(kid, ()), key)
        self._all, self._by_kid = tuple(key for _, key in found), by_kid
        self._fetched_at = self._clock()

    async def _download(self) -> bytes:
        # Unpacked data could be a thousand times what came over the wire: ask for none.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        body = bytearray()
        async with (
            asyncio.timeout(TIMEOUT),
            self._client.stream("GET", self._url, headers=headers) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise ValueError(f"status {response.status_code}")
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise ValueError(f"more than {MAX_BYTES} bytes")
        return bytes(body)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _read(body: bytes, algorithm: str) -> list[tuple[str | None, Key]]:
    """Return the usable keys of a set with their ids; raises ValueError if it is no set."""
    content = json.loads(body)
    members = content.get("keys") if isinstance(content, Mapping) else None
    if not isinstance(members, list):
        raise ValueError("not a JWK set")  # noqa: TRY004 - one error for whatever came
    found = [
        (_kid(member), key)
        for member in members
        if isinstance(member, Mapping) and (key := _key(member, algorithm)) is not None
    ]
    if len(found) > MAX_KEYS:
        raise ValueError(f"more than {MAX_KEYS} keys")
    return found


def _kid(member: Mapping[str, Any]) -> str | None:
    kid = member.get("kid")
    return kid if isinstance(kid, str) else None


def _key(member: Mapping[str, Any], algorithm: str) -> Key | None:
    """Return a member's key; one that cannot be read hurts only itself (RFC 7517 §5)."""
    try:
        return jwk_key(member, algorithm)
    except Exception as error:  # noqa: BLE001 - python-jose lets KeyError, struct.error… escape
        log.warning("a key of the issuer's is passed over: %s", type(error).__name__)
        return None
