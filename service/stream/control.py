"""What the instances themselves take from the log: revocations, disconnects, keys, erasures.

Each of these acts once, on all connections in whatever state: when the hub gets to it, or ahead of
that where the head was confirmed and the hub is not there yet.
"""

import logging
from collections.abc import Callable
from time import time

import msgspec

from service.auth.keys import ApiKey, Keyring
from service.domain.addresses import Patterns
from service.domain.events import Entry
from service.domain.limits import Quota, limit_of
from service.domain.revocations import Revocation, Revocations
from service.stream.cursors import Cursors
from service.stream.hub import Hub

log = logging.getLogger("tidings.control")

Count = Callable[[str, int], None]
"""Is told what an order was about, and how many connections it closed here."""


class KeyRecord(msgspec.Struct):
    """An API key as the log carries it; ``expires_at`` and ``former_until`` in seconds since the epoch."""

    id: str
    name: str
    secret_hash: str
    scopes: list[str]
    addresses: list[str] | None = None
    expires_at: float | None = None
    former_hash: str | None = None
    former_until: float | None = None
    rate: float | None = None
    burst: int | None = None
    quota: int | None = None

    def as_key(self) -> ApiKey:
        """Return the key that the ring holds."""
        return ApiKey(
            id=self.id,
            name=self.name,
            secret_hash=bytes.fromhex(self.secret_hash),
            scopes=frozenset(self.scopes),
            addresses=None if self.addresses is None else Patterns(self.addresses),
            expires_at=self.expires_at,
            former_hash=None if self.former_hash is None else bytes.fromhex(self.former_hash),
            former_until=self.former_until or 0.0,
            limit=limit_of(self.rate, self.burst),
            quota=None if self.quota is None else Quota(self.quota),
        )


class Control:
    """Applies control entries to this instance."""

    count: Count
    """Set before the first entry comes."""

    def __init__(self, revocations: Revocations, keyring: Keyring, cursors: Cursors) -> None:
        self.revocations = revocations
        self.keyring = keyring
        self._cursors = cursors
        self.applied = 0
        """Entries up to here have been applied, in their place or ahead of it; none acts twice."""

    def __call__(self, hub: Hub, entry: Entry) -> None:
        """Apply one entry."""
        if entry.position <= self.applied:
            return
        self.applied = entry.position
        match entry.kind:
            case "revoked":
                self._revoke(hub, msgspec.json.decode(entry.data, type=Revocation))
            case "lifted":
                self.revocations.lift(entry.type)
            case "disconnect":
                self._disconnect(hub, entry.type)
            case "erased":
                # What memory holds was read before: it still has what the log has no more.
                hub.recent.forget(entry.position)
            case "forgotten":
                self._forget(hub, entry.type, entry.data)
            case "key":
                self.keyring.put(msgspec.json.decode(entry.data, type=KeyRecord).as_key())
            case "key_deleted":
                self.keyring.remove(entry.type)
            case _:
                # A newer version beside this one may write kinds that this one does not know.
                log.warning("unknown control entry", extra={"kind": entry.kind})

    def _revoke(self, hub: Hub, revocation: Revocation) -> None:
        self.revocations.add(revocation, time())
        # A user's connections are found by name; a token's may be anyone's.
        suspects = hub if revocation.user is None else hub.users.get(revocation.user, ())
        dead = [c for c in suspects if revocation.refuses(c.claims)]
        for connection in dead:
            connection.end(4001, "token revoked")
        self.count(revocation.id, len(dead))

    def _disconnect(self, hub: Hub, connection_id: str) -> None:
        dead = [c for c in hub if c.id == connection_id]
        for connection in dead:
            connection.end(4010, "disconnected by an admin")
        self.count(connection_id, len(dead))

    def _forget(self, hub: Hub, user: str, device: str) -> None:
        for connection in [c for c in hub.users.get(user, ()) if c.device == device]:
            connection.end(4010, "the device was forgotten")
        self._cursors.forget(user, device)
