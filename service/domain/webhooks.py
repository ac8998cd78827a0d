"""Calls to a producer's own server: how they are signed, when they are tried again, where they may go.

Signed by Standard Webhooks 1.0 (https://www.standardwebhooks.com).
"""

import hmac
from base64 import b64decode, b64encode
from binascii import Error
from email.utils import parsedate_to_datetime
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

PREFIX: Final = "whsec_"
DELAYS: Final = (5.0, 30.0, 120.0, 600.0, 3600.0, *[6 * 3600.0] * 4)
"""Seconds from one attempt to the next; after the last one, a day or so, it is given up."""
MAX_DELAY: Final = 6 * 3600.0
JITTER: Final = 0.2
"""By how much of a delay it may be longer, so that what failed together does not come back together."""

_NAT64: Final = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_COMPATIBLE: Final = IPv6Network("::/96")


def signing_key(secret: str) -> bytes:
    """Return the key that a secret stands for; raises ValueError where it stands for none."""
    try:
        key = b64decode(secret.removeprefix(PREFIX), validate=True)
    except (Error, ValueError):
        key = b""
    if not secret.startswith(PREFIX) or not 24 <= len(key) <= 64:
        raise ValueError(f"must be {PREFIX} and the base64 of 24 to 64 random bytes")
    return key


def signed(key: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers that say what a message is, and that we sent it at ``timestamp``."""
    content = f"{message_id}.{timestamp}.".encode() + body
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{b64encode(hmac.digest(key, content, 'sha256')).decode()}",
    }


def next_delay(attempts: int, chance: float, asked: float | None = None) -> float | None:
    """Return the seconds until the next attempt after so many; None where it is given up.

    ``chance`` is random in [0, 1). ``asked`` is what the receiver asked for: it is waited for, but no
    longer than ``MAX_DELAY``.
    """
    if attempts > len(DELAYS):
        return None
    return max(DELAYS[attempts - 1] * (1 + JITTER * chance), min(asked or 0.0, MAX_DELAY))


def retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds that a Retry-After asks for: a number or a date (RFC 9110 §10.2.3)."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def is_public(address: str) -> bool:
    """Tell whether an IP address belongs to the Internet, and to no private network behind it.

    An IPv6 address that stands for an IPv4 one is judged by that.
    """
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        inner = _inner(found)
        if inner is not None:
            return is_public(str(inner))
    return found.is_global and not found.is_multicast


def _inner(address: IPv6Address) -> IPv4Address | None:
    if address.ipv4_mapped or address.sixtofour:
        return address.ipv4_mapped or address.sixtofour
    if address in _COMPATIBLE or any(address in network for network in _NAT64):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None
