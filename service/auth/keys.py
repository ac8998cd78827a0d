"""API keys: ``tk_<id>_<secret>``, of which only the SHA-256 of the secret is kept.

The secret has 256 random bits, so a fast hash is enough: there is nothing to guess.
"""

import re
import secrets
from collections.abc import Iterable, Mapping
from hashlib import sha256
from hmac import compare_digest
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from service.domain.addresses import Patterns
from service.domain.errors import Forbidden, Unauthorized
from service.domain.limits import Limit, Quota

SCOPES: Final = frozenset({"publish", "read", "tokens", "admin"})
ADMIN: Final = "admin"
MAX_PRESENTED: Final = 1024
"""Characters of a key as it is presented."""

_PRESENTED = re.compile(r"tk_([A-Za-z0-9]{1,64})_([A-Za-z0-9_-]{1,256})")
_NOBODY = bytes(32)


class NewKey(NamedTuple):
    """A key that has just been made; ``presented`` is shown once and kept nowhere."""

    id: str
    presented: str
    secret_hash: bytes

    def __repr__(self) -> str:
        return f"NewKey({self.id!r})"  # what ends up in a log by accident


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that may be believed; ``expires_at`` in seconds since the epoch."""

    id: str
    name: str
    secret_hash: bytes
    scopes: frozenset[str]
    addresses: Patterns | None = None
    """What it may publish to, read and let others publish to; None is anything."""
    expires_at: float | None = None
    former_hash: bytes | None = None
    """The secret before the last rotation, which is believed until ``former_until``."""
    former_until: float = 0.0
    limit: Limit | None = None
    quota: Quota | None = None

    @property
    def producer(self) -> str:
        """Return the name under which what it publishes is its own."""
        return f"key:{self.id}"

    def require(self, scope: str) -> None:
        """Raise Forbidden unless the key has the scope; ``admin`` implies them all."""
        if scope not in self.scopes and "admin" not in self.scopes:
            raise Forbidden(f"the key does not have the scope {scope}")
        if scope == "admin" and self.addresses is not None:
            raise Forbidden("the key is limited to addresses, and what admins do has no such bounds")

    def may_publish(self, address: str) -> None:
        """Raise Forbidden unless the key may publish to ``address``."""
        self.require("publish")
        self.reach(address)

    def reach(self, address: str) -> None:
        """Raise Forbidden unless ``address`` is within what the key is limited to."""
        if not self.reaches(address):
            raise Forbidden("the key is limited to other addresses")

    def reaches(self, address: str) -> bool:
        """Tell whether ``address`` is within what the key is limited to."""
        return self.addresses is None or self.addresses.match(address)

    def may_grant(self, addresses: Iterable[str]) -> None:
        """Raise Forbidden where a client would reach an address or pattern that the key itself does not."""
        if self.addresses is not None and not all(map(self.addresses.cover, addresses)):
            raise Forbidden("the key is limited to other addresses")


def generate(key_id: str | None = None) -> NewKey:
    """Make a key, or another secret for the one with this id."""
    key_id = key_id or secrets.token_hex(8)
    secret = secrets.token_urlsafe(32)
    return NewKey(key_id, f"tk_{key_id}_{secret}", hash_of(secret))


def parse(presented: str) -> tuple[str, str]:
    """Return id and secret of a presented key; raises Unauthorized where it is not one."""
    found = _PRESENTED.fullmatch(presented)
    if found is None:
        raise _unknown()
    return found[1], found[2]


def hash_of(secret: str) -> bytes:
    """Return the SHA-256 of a secret."""
    return sha256(secret.encode(errors="surrogatepass")).digest()


def _unknown() -> Unauthorized:
    # The same for a wrong id and a wrong secret: neither shall be learnt.
    return Unauthorized("the API key is not known")


class Keyring:
    """The API keys in force, in memory: as many as the database has.

    How long a refusal takes says nothing about a secret: digests are compared in constant time,
    and an unknown id costs what a known one does.
    """

    def __init__(self, admin_key: str | None = None) -> None:
        """``admin_key`` is the bootstrap admin's, as presented; an empty one lets nobody in."""
        self._keys: dict[str, ApiKey] = {}
        self._admin = ApiKey(
            id=ADMIN,
            name="bootstrap admin",
            secret_hash=hash_of(admin_key) if admin_key else _NOBODY,
            scopes=SCOPES,
        )
        self._last_used: dict[str, float] = {}
        self._unsaved: dict[str, float] = {}

    @property
    def last_used(self) -> Mapping[str, float]:
        """When each key was last used here, in seconds since the epoch."""
        return MappingProxyType(self._last_used)

    @property
    def has_quotas(self) -> bool:
        """Tell whether any key has a quota."""
        return any(key.quota is not None for key in self._keys.values())

    def put(self, key: ApiKey) -> None:
        """Put a key in force, in place of one with its id."""
        self._keys[key.id] = key

    def remove(self, key_id: str) -> None:
        """Take a key out of force, if it is."""
        for known in (self._keys, self._last_used, self._unsaved):
            known.pop(key_id, None)

    def authenticate(self, presented: str, *, now: float) -> ApiKey:
        """Return the key that is presented; raises Unauthorized. ``now``: seconds since the epoch."""
        if len(presented) > MAX_PRESENTED:
            raise _unknown()
        if compare_digest(hash_of(presented), self._admin.secret_hash):
            return self._admin
        key_id, secret = parse(presented)
        key = self._keys.get(key_id)
        digest = hash_of(secret)
        current = compare_digest(digest, _NOBODY if key is None else key.secret_hash)
        former = compare_digest(digest, _NOBODY if key is None else key.former_hash or _NOBODY)
        if key is None or not (current or (former and now < key.former_until)):
            raise _unknown()
        if key.expires_at is not None and key.expires_at <= now:
            raise Unauthorized("the API key has expired")
        self._last_used[key_id] = self._unsaved[key_id] = now
        return key

    def used(self) -> dict[str, float]:
        """Return when keys were last used, as far as that has not been saved."""
        return dict(self._unsaved)

    def saved(self, used: Mapping[str, float]) -> None:
        """Know that this has been written down."""
        for key_id, at in used.items():
            if self._unsaved.get(key_id) == at:
                del self._unsaved[key_id]
