"""Client tokens: JSON Web Tokens (RFC 7519), verified and minted.

python-jose's part is the signature alone. What it takes too lightly (RFC 8725 lists it) is settled
before it sees a token: size, form, header, the one algorithm, the key. What a token says is read
by ``service.domain.claims``.
"""

import base64
import json
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, NamedTuple, NoReturn

import msgspec
from jose import jws
from jose.backends.base import Key

from service.auth.jwks import JwksKeys
from service.auth.verification import KeySource, PinnedKeys, hmac_key, public_key
from service.domain.claims import ClaimNames, Claims, read_claims
from service.domain.errors import TooLarge, Unauthorized
from service.settings import InvalidSettings, Settings

MAX_TOKEN: Final = 8 * 1024
"""Bytes."""
REMEMBERED: Final = 8 * 1024
"""Verified tokens that are kept; the one used longest ago makes room."""

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_REFUSED_HEADERS: Final = frozenset({"crit", "b64", "enc", "zip"})
"""Extensions that change what is signed or how it is read; none is known here (RFC 7515 §4.1.11)."""


class _Parts(NamedTuple):
    """Of a token: what is signed, and with which key, what it says, and the signature."""

    signed: bytes
    kid: str | None
    payload: bytes
    signature: bytes


class _Verified(NamedTuple):
    claims: Claims
    kid: str | None
    key: Key


class TokenVerifier:
    """Says what a token grants, if it is believed.

    Tokens that were verified are remembered by their SHA-256, for as long as they are valid and
    their key is believed. Revocation is not asked here: that is the caller's, every time.
    """

    def __init__(
        self,
        keys: KeySource,
        algorithm: str,
        names: ClaimNames,
        *,
        audience: str | None,
        issuer: str | None,
        max_age: float,
        remembered: int = REMEMBERED,
    ) -> None:
        """``max_age`` is in seconds, ``remembered`` in tokens."""
        self._keys = keys
        self._algorithm = algorithm
        self._names = names
        self._audience = audience
        self._issuer = issuer
        self._max_age = max_age
        self._remembered = remembered
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()

    async def verify(self, token: str, *, now: float) -> Claims:
        """Return the claims of a token; ``now`` in seconds since the epoch.

        Raises Unauthorized, whatever is wrong with the token, and Unavailable where the keys to
        verify it with cannot be had.
        """
        if len(token) > MAX_TOKEN or not token.isascii():
            raise Unauthorized("the token is too long or has characters that no token has")
        digest = sha256(token.encode()).digest()
        known = self._verified.get(digest)
        if known is None or known.key not in await self._keys.keys(known.kid):
            known = await self._read(token, now)
        if known.claims.expires_at <= now:
            self._verified.pop(digest, None)
            raise Unauthorized("the token has expired")
        self._remember(digest, known)
        return known.claims

    async def aclose(self) -> None:
        """Let go of the key source's connections."""
        await self._keys.aclose()

    async def _read(self, token: str, now: float) -> _Verified:
        parts = _take_apart(token, self._algorithm)
        key = _believe(parts, await self._keys.keys(parts.kid))
        claims = read_claims(
            _json_object(parts.payload),
            self._names,
            now=now,
            max_age=self._max_age,
            audience=self._audience,
            issuer=self._issuer,
        )
        return _Verified(claims, parts.kid, key)

    def _remember(self, digest: bytes, verified: _Verified) -> None:
        self._verified[digest] = verified
        self._verified.move_to_end(digest)
        if len(self._verified) > self._remembered:
            self._verified.popitem(last=False)


def _take_apart(token: str, algorithm: str) -> _Parts:
    """Check form and header (RFC 7515 §5.2); the rest is not believed yet."""
    if not _COMPACT.fullmatch(token):
        raise Unauthorized("the token is not a signed JSON Web Token")
    signed, _, signature = token.rpartition(".")
    header, _, payload = signed.partition(".")
    return _Parts(signed.encode(), _key_id(header, algorithm), _decoded(payload), _decoded(signature))


@lru_cache(maxsize=64)  # an issuer's tokens all begin alike
def _key_id(header: str, algorithm: str) -> str | None:
    """Check a header (RFC 7515 §4.1); return its ``kid``, None where there is none."""
    fields = _json_object(_decoded(header))
    if fields.get("alg") != algorithm:
        raise Unauthorized("the token is not signed with the algorithm that is configured")
    if not _REFUSED_HEADERS.isdisjoint(fields):
        raise Unauthorized("the token's header asks for what is not supported")
    kid = fields.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise Unauthorized("the token's kid must be a string")
    return kid


def _decoded(segment: str) -> bytes:
    """Return what a segment encodes; refuses a second spelling of it (RFC 4648 §3.5)."""
    try:
        data = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except ValueError:
        raise Unauthorized("the token is not a signed JSON Web Token") from None
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != segment:
        raise Unauthorized("the token is not a signed JSON Web Token")
    return data


def _believe(parts: _Parts, keys: Sequence[Key]) -> Key:
    """Return the key that signed a token. A key knows its own algorithm, and that is the configured one."""
    for key in keys:
        try:
            if key.verify(parts.signed, parts.signature) is True:
                return key
        except Exception:  # noqa: BLE001, S112 - whatever escapes from python-jose
            continue
    raise Unauthorized("the token's signature is not believed")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")  # two readers could believe different ones
    return found


def _no_json(_: str) -> NoReturn:
    raise ValueError("not JSON")


_decode = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_json).decode


def _json_object(text: bytes) -> dict[str, Any]:
    """Read a JSON object strictly: no name twice (RFC 8259 §4), no NaN, no Infinity."""
    try:
        found = _decode(text.decode())
    except (ValueError, RecursionError):
        raise Unauthorized("the token's JSON cannot be read") from None
    if not isinstance(found, dict):
        raise Unauthorized("the token's JSON must be an object")
    return found


class TokenMinter:
    """Signs client tokens with the shared secret that they are verified with."""

    def __init__(
        self,
        secret: bytes,
        algorithm: str,
        audience: str | None,
        issuer: str | None,
        names: ClaimNames | None = None,
    ) -> None:
        """Take the secret; raises ValueError where it or the algorithm would protect nothing."""
        self._key = hmac_key(secret, algorithm)
        self._algorithm = algorithm
        names = names or ClaimNames()
        parties = {names.audience: audience, "iss": issuer}
        self._parties = {name: value for name, value in parties.items() if value is not None}
        self._names = {
            "sub": names.user,
            "rooms": names.rooms,
            "join": names.join,
            "publish": names.publish,
        }

    def mint(self, claims: dict[str, object]) -> str:
        """Return a token that says ``claims``, under the names that the verifier looks for.

        Audience and issuer are those of the configuration. Raises TooLarge where the token would be
        longer than what is accepted.
        """
        said = {self._names.get(name, name): value for name, value in claims.items()}
        payload = msgspec.json.encode({**said, **self._parties})
        token = jws.sign(payload, self._key, algorithm=self._algorithm)
        if len(token) > MAX_TOKEN:
            raise TooLarge(f"the token would be longer than {MAX_TOKEN} bytes")
        return token


def verifier_from(settings: Settings) -> TokenVerifier:
    """Return the verifier that is configured; raises InvalidSettings, naming the variable."""
    return TokenVerifier(
        _key_source(settings),
        settings.jwt_algorithm,
        _names(settings),
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
        max_age=settings.token_max_age,
    )


def minter_from(settings: Settings) -> TokenMinter | None:
    """Return the minter, or None where tokens are somebody else's to sign; raises InvalidSettings."""
    if settings.jwt_secret is None:
        return None
    with _blaming("TIDINGS_JWT_SECRET"):
        return TokenMinter(
            settings.jwt_secret.get_secret_value().encode(),
            settings.jwt_algorithm,
            settings.jwt_audience,
            settings.jwt_issuer,
            _names(settings),
        )


def _names(settings: Settings) -> ClaimNames:
    return ClaimNames(
        audience=settings.claim_audience,
        user=settings.claim_user,
        rooms=settings.claim_rooms,
        join=settings.claim_join,
        publish=settings.claim_publish,
    )


def _key_source(settings: Settings) -> KeySource:
    """Return where the keys come from; that only one place is given, the settings have checked."""
    algorithm = settings.jwt_algorithm
    if settings.jwt_secret is not None:
        return PinnedKeys(*_secret_keys(settings))
    if settings.jwt_public_key is not None:
        with _blaming("TIDINGS_JWT_PUBLIC_KEY"):
            return PinnedKeys(public_key(settings.jwt_public_key.encode(), algorithm))
    if settings.jwks_url is None:
        raise InvalidSettings("TIDINGS_JWT_SECRET, TIDINGS_JWT_PUBLIC_KEY, TIDINGS_JWKS_URL: set one")
    with _blaming("TIDINGS_JWKS_URL"):
        return JwksKeys(settings.jwks_url, algorithm)


def _secret_keys(settings: Settings) -> Iterator[Key]:
    """Yield the key that tokens are signed with here, and the other that is believed beside it."""
    secrets = {
        "TIDINGS_JWT_SECRET": settings.jwt_secret,
        "TIDINGS_JWT_OTHER_SECRET": settings.jwt_other_secret,
    }
    for variable, secret in secrets.items():
        if secret is not None:
            with _blaming(variable):
                yield hmac_key(secret.get_secret_value().encode(), settings.jwt_algorithm)


@contextmanager
def _blaming(variable: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise InvalidSettings(f"{variable}: {error}") from None
