"""What a client token grants, and how its claims are read."""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from msgspec import UNSET

from service.domain.addresses import Patterns, check_pattern, check_room, check_text, check_user
from service.domain.errors import Invalid, Unauthorized
from service.domain.payload import check_data

LEEWAY: Final = 30.0
"""Seconds by which an issuer's clock may be ahead of ours. An expired token gets none of it."""
MAX_GRANTS: Final = 1_000
"""Entries in each of ``rooms``, ``join`` and ``publish``."""
MAX_INFO: Final = 1024
"""Bytes of JSON text."""
LATEST: Final = 2**53
"""Seconds since the epoch that still count as a time; it also keeps out infinities and NaN."""


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """The believed content of a client token. No grant, no right.

    Times are seconds since the epoch, by the issuer's clock.
    """

    user: str
    expires_at: float
    issued_at: float | None = None
    jti: str | None = None
    rooms: Patterns = Patterns()
    """Rooms that may be joined and received."""
    join: tuple[str, ...] = ()
    """Rooms to join at connect."""
    publish: Patterns = Patterns()
    """Addresses that the client itself may publish to."""
    presence: bool = False
    """May see who is connected."""
    info: str | None = None
    """Shown in presence and in the list of connections: JSON text of at most 1 KiB."""


class ClaimNames(msgspec.Struct, frozen=True, kw_only=True):
    """Where an identity provider puts what we need: a claim's name, or a dotted path into objects.

    The name is tried as it stands first, since namespaced claims (``https://app.example/rooms``)
    have dots of their own.
    """

    audience: str = "aud"
    user: str = "sub"
    rooms: str = "rooms"
    join: str = "join"
    publish: str = "publish"


def read_claims(
    payload: Mapping[str, object],
    names: ClaimNames,
    *,
    now: float,
    max_age: float,
    audience: str | None = None,
    issuer: str | None = None,
    leeway: float = LEEWAY,
) -> Claims:
    """Return what a token says whose signature has been verified (RFC 7519 §4.1).

    Times are in seconds. A token that is accepted at all is dead ``max_age + leeway`` after now at
    the latest: that is how long its revocation has to be kept. Raises Unauthorized, which names the
    claim and shows nothing of the token.
    """
    _check_audience(names.audience, _find(payload, names.audience), audience)
    if issuer is not None and payload.get("iss") != issuer:
        raise _refused("iss", "is not the issuer that is believed")
    expires_at, issued_at = _lifetime(payload, now, leeway, max_age)
    return Claims(
        user=_checked(names.user, check_user, _string(names.user, _find(payload, names.user))),
        expires_at=expires_at,
        issued_at=issued_at,
        jti=_jti(payload),
        rooms=_patterns(payload, names.rooms),
        join=tuple(dict.fromkeys(_strings(payload, names.join, check_room))),
        publish=_patterns(payload, names.publish),
        presence=_presence(payload),
        info=_info(payload),
    )


def _refused(claim: str, problem: str) -> Unauthorized:
    return Unauthorized(f"the token's claim {claim} {problem}")


def _find(payload: Mapping[str, object], name: str) -> object:
    if name in payload:
        return payload[name]
    value: object = payload
    for step in name.split("."):
        if not isinstance(value, Mapping):
            return UNSET
        value = value.get(step, UNSET)
    return value


def _check_audience(claim: str, meant: object, audience: str | None) -> None:
    if audience is not None and audience not in (meant if isinstance(meant, list) else [meant]):
        raise _refused(claim, "does not name this service")


def _lifetime(
    payload: Mapping[str, object], now: float, leeway: float, max_age: float
) -> tuple[float, float | None]:
    expires_at, issued_at = _time(payload, "exp"), _time(payload, "iat")
    if expires_at is None:
        raise _refused("exp", "is missing")
    if expires_at <= now:
        raise Unauthorized("the token has expired")
    if (_time(payload, "nbf") or 0) > now + leeway:
        raise Unauthorized("the token is not valid yet")
    if issued_at is not None and issued_at > now + leeway:
        # It would survive every revocation until then.
        raise _refused("iat", "is in the future")
    start = now if issued_at is None else issued_at
    if expires_at - start > max_age:
        raise _refused("exp", f"is more than {max_age:.0f} s after the token's issue")
    return expires_at, issued_at


def _time(payload: Mapping[str, object], claim: str) -> float | None:
    value = payload.get(claim, UNSET)
    if value is UNSET:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refused(claim, "must be a number of seconds")
    # Compared before it is converted: a huge integer does not fit a float, and NaN is in no range.
    if not -LATEST <= value <= LATEST:
        raise _refused(claim, "is not a time")
    return float(value)


def _string(claim: str, value: object) -> str:
    if not isinstance(value, str):
        raise _refused(claim, "is missing" if value is UNSET else "must be a string")
    return value


def _checked(claim: str, check: Callable[[str], str], value: str) -> str:
    try:
        return check(value)
    except Invalid as error:
        raise _refused(claim, f"is refused: {error}") from None


def _jti(payload: Mapping[str, object]) -> str | None:
    if "jti" not in payload:
        return None
    # No longer than what a revocation can name.
    return _checked("jti", lambda jti: check_text(jti, 256), _string("jti", payload["jti"]))


def _strings(payload: Mapping[str, object], claim: str, check: Callable[[str], str]) -> list[str]:
    """Return a list of strings, or a string split at its spaces, as OAuth's ``scope`` is."""
    value = _find(payload, claim)
    if value is UNSET:
        return []
    given = value.split() if isinstance(value, str) else value
    if not isinstance(given, list):
        raise _refused(claim, "must be a list of strings")
    if len(given) > MAX_GRANTS:
        raise _refused(claim, f"has more than {MAX_GRANTS} entries")
    return [_checked(claim, check, _string(claim, each)) for each in given]


def _patterns(payload: Mapping[str, object], claim: str) -> Patterns:
    names = _strings(payload, claim, check_pattern)
    return Patterns(names) if names else _NO_PATTERNS


_NO_PATTERNS: Final = Patterns()


def _presence(payload: Mapping[str, object]) -> bool:
    value = payload.get("presence", False)
    if not isinstance(value, bool):
        raise _refused("presence", "must be true or false")
    return value


def _info(payload: Mapping[str, object]) -> str | None:
    """Return ``info`` as JSON text; without it ``name``, as an object of that one member."""
    if "info" in payload:
        return _json_text("info", payload["info"])
    if "name" in payload:
        return _json_text("name", {"name": _string("name", payload["name"])})
    return None


def _json_text(claim: str, value: object) -> str:
    try:
        return check_data(msgspec.Raw(msgspec.json.encode(value)), MAX_INFO, claim)
    except Invalid as error:
        raise _refused(claim, f"is refused: {error}") from None
    except (ValueError, OverflowError, RecursionError):  # a lone surrogate is no text; too deep
        raise _refused(claim, "cannot be written as JSON") from None
