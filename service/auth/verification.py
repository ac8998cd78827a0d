"""The keys that client tokens are verified with: made once, each for one algorithm."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    load_der_public_key,
    load_pem_public_key,
)
from jose import jwk
from jose.backends.base import Key
from jose.backends.native import HMACKey
from jose.exceptions import JWKError

from service.settings import HMAC

MIN_SECRET: Final = 32
"""Bytes (RFC 7518 §3.2, for HS256)."""
MIN_RSA: Final = 2048
"""Bits (RFC 7518 §3.3)."""
CURVES: Final = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}


class KeySource(Protocol):
    """Says which keys are believed now. Every key it gives out is for the configured algorithm."""

    async def keys(self, kid: str | None) -> Sequence[Key]:
        """Return the keys that a token with this ``kid`` may be signed with, perhaps none.

        Raises Unavailable where that cannot be known.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections and tasks."""
        ...


class PinnedKeys:
    """The keys of the configuration, whatever ``kid`` a token names."""

    def __init__(self, *keys: Key) -> None:
        self._keys = keys

    async def keys(self, kid: str | None) -> Sequence[Key]:
        """Return them."""
        return self._keys

    async def aclose(self) -> None:
        """Nothing to let go of."""


def hmac_key(secret: bytes, algorithm: str) -> Key:
    """Return the key of a shared secret; raises ValueError where it would protect nothing.

    A public key is no secret, in whatever form: taken for one, it lets anyone sign who can read it.
    """
    if algorithm not in HMAC:
        raise ValueError("a secret goes with HS256, HS384 or HS512")
    if len(secret) < MIN_SECRET:
        raise ValueError(f"the secret must have at least {MIN_SECRET} bytes")
    if _is_public_key(secret):
        raise ValueError("a public key cannot be used as a secret")
    try:
        # Of python-jose's two it is the quicker one: 3 µs a token instead of 18.
        return HMACKey(secret, algorithm)
    except JWKError:  # PEM and OpenSSH keys are refused there
        raise ValueError("a public key cannot be used as a secret") from None


def _is_public_key(secret: bytes) -> bool:
    """Tell whether ``secret`` is DER, a PEM's body without its header lines, or a JWK."""
    if secret.lstrip().startswith(b"{") and b'"kty"' in secret:
        return True
    return _is_der(secret) or _is_der(_unbase64(secret))


def _unbase64(text: bytes) -> bytes:
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error:
        return b""


def _is_der(data: bytes) -> bool:
    for load in (load_der_public_key, x509.load_der_x509_certificate):
        try:
            load(data)
        except Exception:  # noqa: BLE001, S112 - whatever it is, it is not that
            continue
        return True
    return False


def public_key(pem: bytes, algorithm: str) -> Key:
    """Return the key of a PEM; raises ValueError if it is no public key, or none for ``algorithm``."""
    try:
        key = load_pem_public_key(pem)
    except Exception:  # noqa: BLE001 - the cause may quote what may be a private key
        raise ValueError("this is not the PEM of a public key") from None
    _check_fit(key, algorithm)
    return jwk.construct(pem, algorithm)


def jwk_key(member: Mapping[str, Any], algorithm: str) -> Key | None:
    """Return the key of a JWK (RFC 7517 §4), or None if it is not one to verify ``algorithm`` with.

    Raises ValueError, or whatever python-jose lets escape, for one that is broken, or private:
    published by mistake, it lets anyone sign.
    """
    if (
        member.get("kty") != ("EC" if algorithm in CURVES else "RSA")
        or member.get("use", "sig") != "sig"
        or member.get("alg", algorithm) != algorithm
        or "verify" not in member.get("key_ops", ["verify"])
    ):
        return None
    key: Any = jwk.construct(dict(member), algorithm)
    _check_fit(key.prepared_key, algorithm)
    return key  # type: ignore[no-any-return]


def _check_fit(key: object, algorithm: str) -> None:
    """Check type, size and curve, which python-jose does not do for a key that it only verifies with."""
    if algorithm in CURVES:
        fits = isinstance(key, EllipticCurvePublicKey) and key.curve.name == CURVES[algorithm]
    else:
        fits = algorithm.startswith("RS") and isinstance(key, RSAPublicKey) and key.key_size >= MIN_RSA
    if not fits:
        raise ValueError(f"this key cannot be used with {algorithm}")
