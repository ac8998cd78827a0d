"""Which tokens are believed: real keys, real signatures, and every known way around them."""

import base64
import hashlib
import hmac
import json
import os
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from jose import jws
from jose.backends.base import Key
from jose.backends.native import HMACKey
from pydantic import SecretStr

from service.auth.jwks import JwksKeys
from service.auth.tokens import (
    MAX_TOKEN,
    TokenMinter,
    TokenVerifier,
    minter_from,
    verifier_from,
)
from service.auth.verification import PinnedKeys, hmac_key, public_key
from service.domain.addresses import Patterns
from service.domain.claims import ClaimNames, Claims
from service.domain.errors import TooLarge, Unauthorized, Unavailable
from service.settings import InvalidSettings, Settings

NOW = 1_800_000_000.0
HOUR = 3600.0
SECRET = b"a secret of more than thirty-two bytes, for tests only"
GOOD: dict[str, object] = {"sub": "alice", "exp": NOW + HOUR, "iat": NOW}
HASHES = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}
HS256 = {"alg": "HS256", "typ": "JWT"}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep out the variables and the ``.env`` of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("TIDINGS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


class Pair(NamedTuple):
    """A private key with its public half, as PEM."""

    private: str
    public: bytes


def pair(private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> Pair:
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return Pair(pem.decode(), public)


@pytest.fixture(scope="module")
def rsa_pair() -> Pair:
    return pair(rsa.generate_private_key(65537, 2048))


@pytest.fixture(scope="module")
def ec_pair() -> Pair:
    return pair(ec.generate_private_key(ec.SECP256R1()))


def verifier(key: Key | None = None, algorithm: str = "HS256", **rest: Any) -> TokenVerifier:
    expected: dict[str, Any] = {"audience": None, "issuer": None, "max_age": 30 * 86400.0} | rest
    return TokenVerifier(PinnedKeys(key or hmac_key(SECRET, algorithm)), algorithm, ClaimNames(), **expected)


def at_once(coroutine: Coroutine[Any, Any, Claims]) -> Claims:
    """Run what has nothing to wait for, with no event loop: a pinned key is there at once."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        found = ended.value
        assert isinstance(found, Claims)
        return found
    raise AssertionError("it waits")


def verify(token: str, by: TokenVerifier | None = None, now: float = NOW) -> Claims:
    return at_once((by or verifier()).verify(token, now=now))


def refusal(token: str, by: TokenVerifier | None = None, now: float = NOW) -> str:
    with pytest.raises(Unauthorized) as refused:
        verify(token, by, now)
    message = str(refused.value)
    assert not any(part in message for part in token.split(".") if len(part) > 8)
    assert refused.value.__cause__ is None
    return message


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header: object, payload: object, secret: bytes = SECRET, algorithm: str = "HS256") -> str:
    """Sign whatever it is; bytes go in as they are."""
    parts = [p if isinstance(p, bytes) else json.dumps(p).encode() for p in (header, payload)]
    start = ".".join(b64(part) for part in parts)
    return f"{start}.{b64(hmac.digest(secret, start.encode(), HASHES[algorithm]))}"


@pytest.mark.parametrize("algorithm", sorted(HASHES))
def test_a_shared_secret(algorithm: str) -> None:
    token = signed({"alg": algorithm}, GOOD, algorithm=algorithm)
    assert verify(token, verifier(algorithm=algorithm)).user == "alice"


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512"])
def test_an_rsa_key(algorithm: str, rsa_pair: Pair) -> None:
    token = jws.sign(GOOD, rsa_pair.private, algorithm=algorithm)
    believes = verifier(public_key(rsa_pair.public, algorithm), algorithm)
    assert verify(token, believes).user == "alice"
    stranger = pair(rsa.generate_private_key(65537, 2048))
    refusal(jws.sign(GOOD, stranger.private, algorithm=algorithm), believes)


CURVES: dict[str, ec.EllipticCurve] = {
    "ES256": ec.SECP256R1(),
    "ES384": ec.SECP384R1(),
    "ES512": ec.SECP521R1(),
}


@pytest.mark.parametrize("algorithm", sorted(CURVES))
def test_an_elliptic_curve_key(algorithm: str) -> None:
    ours, stranger = (pair(ec.generate_private_key(CURVES[algorithm])) for _ in range(2))
    believes = verifier(public_key(ours.public, algorithm), algorithm)
    assert verify(jws.sign(GOOD, ours.private, algorithm=algorithm), believes).user == "alice"
    refusal(jws.sign(GOOD, stranger.private, algorithm=algorithm), believes)


class TestAlgorithm:
    @pytest.mark.parametrize("alg", ["none", "None", "NONE", "", "HS384", "RS256", "hs256", None])
    def test_is_the_configured_one_whatever_the_header_says(self, alg: str | None) -> None:
        assert "algorithm" in refusal(signed({"alg": alg}, GOOD))

    @pytest.mark.parametrize("alg", [["HS256"], {"HS256": 1}, 7, True])
    def test_is_a_string(self, alg: object) -> None:
        refusal(signed({"alg": alg}, GOOD))

    def test_is_required(self) -> None:
        refusal(signed({"typ": "JWT"}, GOOD))

    def test_none_needs_a_signature_all_the_same(self) -> None:
        start = signed({"alg": "none"}, GOOD).rpartition(".")[0]
        refusal(start + ".")
        refusal(start)

    def test_a_public_key_is_no_secret_of_ours(self, rsa_pair: Pair) -> None:
        forged = signed({"alg": "HS256"}, GOOD, secret=rsa_pair.public)
        refusal(forged, verifier(public_key(rsa_pair.public, "RS256"), "RS256"))

    def test_relabelled_the_forgery_fails_too(self, rsa_pair: Pair) -> None:
        forged = signed({"alg": "RS256"}, GOOD, secret=rsa_pair.public)
        refusal(forged, verifier(public_key(rsa_pair.public, "RS256"), "RS256"))

    def test_it_cannot_be_switched_within_a_family(self, rsa_pair: Pair) -> None:
        token = jws.sign(GOOD, rsa_pair.private, algorithm="RS512")
        refusal(token, verifier(public_key(rsa_pair.public, "RS256"), "RS256"))


class TestSecret:
    @pytest.mark.parametrize("secret", [b"", b" ", b"short", b"x" * 31])
    def test_is_long_enough(self, secret: bytes) -> None:
        with pytest.raises(ValueError, match="32 bytes"):
            hmac_key(secret, "HS256")

    @pytest.mark.parametrize("form", ["pem", "pkcs1", "der", "der pkcs1", "body", "ssh", "jwk"])
    def test_is_no_public_key_in_any_form(self, form: str) -> None:
        public = rsa.generate_private_key(65537, 2048).public_key()
        spki, pkcs1 = PublicFormat.SubjectPublicKeyInfo, PublicFormat.PKCS1
        forms = {
            "pem": public.public_bytes(Encoding.PEM, spki),
            "pkcs1": public.public_bytes(Encoding.PEM, pkcs1),
            "der": public.public_bytes(Encoding.DER, spki),
            "der pkcs1": public.public_bytes(Encoding.DER, pkcs1),
            "body": base64.encodebytes(public.public_bytes(Encoding.DER, spki)),
            "ssh": public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
            "jwk": b'{"kty": "RSA", "e": "AQAB", "n": "' + b"x" * 342 + b'"}',
        }
        with pytest.raises(ValueError, match="public key cannot be used as a secret"):
            hmac_key(forms[form], "HS256")

    def test_is_no_certificate(self) -> None:
        certificate = self_signed(ec.generate_private_key(ec.SECP256R1()))
        for encoding in (Encoding.PEM, Encoding.DER):
            with pytest.raises(ValueError, match="public key"):
                hmac_key(certificate.public_bytes(encoding), "HS256")

    def test_goes_with_hmac_only(self) -> None:
        with pytest.raises(ValueError, match="HS256"):
            hmac_key(SECRET, "RS256")


def self_signed(private: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")])
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=3650))
        .sign(private, hashes.SHA256())
    )


class TestPublicKey:
    def test_fits_its_algorithm(self, rsa_pair: Pair, ec_pair: Pair) -> None:
        for pem, algorithm in (
            (ec_pair.public, "RS256"),
            (rsa_pair.public, "ES256"),
            (ec_pair.public, "ES384"),
            (rsa_pair.public, "HS256"),
            (pair(rsa.generate_private_key(65537, 1024)).public, "RS256"),
        ):
            with pytest.raises(ValueError, match=algorithm):
                public_key(pem, algorithm)

    def test_is_not_the_private_one_and_the_message_does_not_show_it(self, rsa_pair: Pair) -> None:
        for pem in (rsa_pair.private.encode(), b"", b"MIIB", SECRET):
            with pytest.raises(ValueError, match="not the PEM") as refused:
                public_key(pem, "RS256")
            assert refused.value.__suppress_context__


class TestHeader:
    @pytest.mark.parametrize(
        "extra",
        [
            {"crit": ["exp"], "exp": NOW},
            {"crit": ["b64"], "b64": False},
            {"crit": []},
            {"crit": None},
            {"b64": False},
            {"b64": True},
            {"enc": "A256GCM"},
            {"zip": "DEF"},
        ],
    )
    def test_extensions_are_refused(self, extra: dict[str, object]) -> None:
        assert "header" in refusal(signed(HS256 | extra, GOOD))

    @pytest.mark.parametrize("kid", [7, [], {}, True])
    def test_a_kid_is_a_string(self, kid: object) -> None:
        assert "kid" in refusal(signed(HS256 | {"kid": kid}, GOOD))

    def test_keys_that_it_brings_are_not_looked_at(self) -> None:
        mine = {"kty": "oct", "k": b64(b"m" * 32)}
        header = HS256 | {"jwk": mine, "jku": "https://evil.example/jwks", "x5u": "x", "kid": "/x"}
        refusal(signed(header, GOOD, secret=b"m" * 32))
        assert verify(signed(header, GOOD)).user == "alice"

    @pytest.mark.parametrize("deep", [b'{"a":' * 1000, b"[" * 5000, b'{"alg":' + b"[" * 5000])
    def test_a_deep_one_is_unauthorized_and_no_recursion_error(self, deep: bytes) -> None:
        refusal(signed(deep, GOOD))
        refusal(signed(HS256, deep))

    @pytest.mark.parametrize(
        "header",
        [
            b'{"alg":"HS256","alg":"none"}',
            b'{"alg":"none","alg":"HS256"}',
            b'{"alg":"HS256","a":{"b":1,"b":2}}',
            b'{"alg":"HS256","a":NaN}',
            b'{"alg":"HS256"',
            b"\xff\xfe",
            b"\xef\xbb\xbf{}",
            b"7",
            b'"alg"',
            b'["alg"]',
            b"null",
        ],
    )
    def test_it_is_one_sound_json_object(self, header: bytes) -> None:
        refusal(signed(header, GOOD))


class TestPayload:
    @pytest.mark.parametrize(
        "payload",
        [
            b'{"sub":"alice","sub":"root","exp":1800003600}',
            b'{"sub":"alice","exp":1,"exp":1800003600}',
            b'{"sub":"alice","exp":1e400}',
            b'{"sub":"alice","exp":Infinity}',
            b'{"sub":"alice","exp":NaN}',
            b'{"sub":"alice","exp":null}',
            b'{"sub":"alice","exp":' + b"9" * 5000 + b"}",
            b'{"sub":"\\ud800","exp":1800003600}',
            b'{"sub":"\xff","exp":1800003600}',
            b"null",
            b"[]",
            b'"x"',
            b"{}",
            b"eyJhbGciOiJIUzI1NiJ9.e30.x",
        ],
    )
    def test_what_cannot_be_believed_though_it_is_signed(self, payload: bytes) -> None:
        refusal(signed(HS256, payload))

    def test_audience_and_issuer_are_passed_on(self) -> None:
        strict = verifier(audience="tidings", issuer="us")
        assert verify(signed(HS256, GOOD | {"aud": ["tidings"], "iss": "us"}), strict)
        assert "aud" in refusal(signed(HS256, GOOD | {"iss": "us"}), strict)
        assert "iss" in refusal(signed(HS256, GOOD | {"aud": "tidings"}), strict)

    def test_so_is_the_maximum_age(self) -> None:
        assert "exp" in refusal(signed(HS256, GOOD), verifier(max_age=HOUR - 1))


class TestForm:
    def test_the_size_is_limited_before_anything_is_read(self) -> None:
        fits = signed(HS256, GOOD | {"x": "y" * 5900})
        assert len(fits) <= MAX_TOKEN
        assert verify(fits).user == "alice"
        long = signed(HS256, GOOD | {"x": "y" * 6200})
        assert len(long) > MAX_TOKEN
        assert "too long" in refusal(long)

    @pytest.mark.parametrize("token", ["", ".", "..", "a.b", "a.b.c", "....", "Bearer x", "é.é.é"])
    def test_what_is_no_token(self, token: str) -> None:
        refusal(token)

    def test_a_jwe_is_refused(self) -> None:
        header = b64(b'{"alg":"dir","enc":"A256GCM"}')
        assert "not a signed" in refusal(f"{header}..aXY.Y2lwaGVy.dGFn")
        assert "not a signed" in refusal(signed(HS256, GOOD) + ".dGFn.dGFn")

    @pytest.mark.parametrize("change", ["{} ", " {}", "{}\n", "{}=", "{}==", "{}.", "\ufeff{}"])
    def test_nothing_stands_around_it(self, change: str) -> None:
        refusal(change.format(signed(HS256, GOOD)))

    def test_the_standard_alphabet_of_base64_is_not_the_urls(self) -> None:
        header, payload, signature = signed(HS256, GOOD).split(".")
        for spelt in (f"{header}\n", f"{header[:4]}+{header[4:]}", f"{header}!"):
            refusal(f"{spelt}.{payload}.{signature}")

    def test_any_changed_character_is_seen(self) -> None:
        token, by = signed(HS256, GOOD), verifier()
        for index, character in enumerate(token):
            for other in "AQg-_z.":
                if other != character:
                    refusal(token[:index] + other + token[index + 1 :], by)

    def test_a_second_spelling_of_the_same_bytes_is_refused(self) -> None:
        start, _, signature = signed(HS256, GOOD).rpartition(".")
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        # 32 bytes leave two bits of the last character unused (RFC 4648 §3.5).
        spelt = signature[:-1] + alphabet[alphabet.index(signature[-1]) + 1]
        assert base64.urlsafe_b64decode(spelt + "=") == base64.urlsafe_b64decode(signature + "=")
        refusal(f"{start}.{spelt}")

    def test_parts_of_two_tokens_do_not_make_one(self) -> None:
        mine = signed(HS256, GOOD).split(".")
        theirs = signed(HS256, GOOD | {"sub": "root"}).split(".")
        refusal(".".join([mine[0], theirs[1], mine[2]]))

    def test_an_error_that_python_jose_lets_through_is_unauthorized(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for error in (TypeError, OverflowError, RecursionError, KeyError):
            monkeypatch.setattr(HMACKey, "verify", raiser(error))
            assert "signature" in refusal(signed(HS256, GOOD))


def raiser(error: type[Exception]) -> Callable[..., bytes]:
    def verify(*_: object) -> bytes:
        raise error

    return verify


class CountedKeys:
    """A key source that can change its mind, and counts how often it is asked."""

    def __init__(self, *believed: Key) -> None:
        self.believed: Sequence[Key] = believed
        self.available = True

    async def keys(self, kid: str | None) -> Sequence[Key]:
        if not self.available:
            raise Unavailable("not now")
        return self.believed

    async def aclose(self) -> None:
        self.available = False


class TestRemembered:
    @pytest.fixture
    def keys(self) -> CountedKeys:
        return CountedKeys(hmac_key(SECRET, "HS256"))

    @pytest.fixture
    def by(self, keys: CountedKeys) -> TokenVerifier:
        return TokenVerifier(
            keys, "HS256", ClaimNames(), audience=None, issuer=None, max_age=1e6, remembered=3
        )

    @pytest.fixture
    def checked(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """What was signed of the tokens whose signature was really looked at."""
        seen: list[str] = []
        original = HMACKey.verify

        def verify(key: HMACKey, signed: bytes, signature: bytes) -> bool:
            seen.append(signed.decode())
            return original(key, signed, signature)

        monkeypatch.setattr(HMACKey, "verify", verify)
        return seen

    def test_a_signature_is_checked_once(self, by: TokenVerifier, checked: list[str]) -> None:
        token = signed(HS256, GOOD)
        assert verify(token, by) is verify(token, by, NOW + 5)
        assert checked == [token.rpartition(".")[0]]

    def test_but_no_longer_than_it_is_valid(self, by: TokenVerifier) -> None:
        token = signed(HS256, GOOD)
        verify(token, by, NOW + HOUR - 0.001)
        assert "expired" in refusal(token, by, NOW + HOUR)
        assert len(by._verified) == 0

    def test_what_was_refused_is_not_kept(self, by: TokenVerifier) -> None:
        for n in range(10):
            refusal(signed(HS256, GOOD | {"n": n}, secret=b"x" * 32), by)
            refusal(signed(HS256, {"sub": "alice", "n": n}), by)
        assert len(by._verified) == 0

    def test_the_one_used_longest_ago_makes_room(self, by: TokenVerifier, checked: list[str]) -> None:
        first, second, *rest = (signed(HS256, GOOD | {"n": n}) for n in range(4))
        for token in (first, second, rest[0], first, rest[1]):
            verify(token, by)
        assert len(by._verified) == 3
        checked.clear()
        verify(first, by)
        assert checked == []
        verify(second, by)
        assert checked == [second.rpartition(".")[0]]

    def test_a_withdrawn_key_takes_its_tokens_with_it(self, by: TokenVerifier, keys: CountedKeys) -> None:
        token = signed(HS256, GOOD)
        verify(token, by)
        keys.believed = ()
        assert "signature" in refusal(token, by)
        keys.believed = (hmac_key(b"another secret of thirty-two bytes", "HS256"),)
        assert "signature" in refusal(token, by)
        keys.believed = (hmac_key(SECRET, "HS256"),)
        assert verify(token, by).user == "alice"

    def test_no_token_itself_is_kept(self, by: TokenVerifier) -> None:
        token = signed(HS256, GOOD)
        verify(token, by)
        assert list(by._verified) == [hashlib.sha256(token.encode()).digest()]

    def test_keys_that_cannot_be_had_are_unavailable_and_not_unauthorized(
        self, by: TokenVerifier, keys: CountedKeys
    ) -> None:
        keys.available = False
        with pytest.raises(Unavailable):
            verify(signed(HS256, GOOD), by)


class TestMinter:
    @pytest.mark.parametrize("algorithm", sorted(HASHES))
    def test_what_it_mints_is_believed(self, algorithm: str) -> None:
        minter = TokenMinter(SECRET, algorithm, "tidings", "us")
        token = minter.mint(GOOD | {"rooms": ["orders.*"], "aud": "else", "name": "Ædä"})
        strict = verifier(algorithm=algorithm, audience="tidings", issuer="us")
        claims = verify(token, strict)
        assert claims.user == "alice"
        assert claims.rooms == Patterns(["orders.*"])
        assert claims.info == '{"name":"Ædä"}'

    def test_it_puts_claims_where_the_verifier_looks(self) -> None:
        names = ClaimNames(
            audience="for", user="uid", rooms="https://a.example/rooms", join="a.join", publish="p"
        )
        said = GOOD | {"rooms": ["r"], "join": ["r"], "publish": ["everyone"]}
        token = TokenMinter(SECRET, "HS256", "tidings", None, names).mint(said)
        foreign = TokenVerifier(
            PinnedKeys(hmac_key(SECRET, "HS256")), "HS256", names,
            audience="tidings", issuer=None, max_age=HOUR,
        )  # fmt: skip
        claims = verify(token, foreign)
        assert (claims.user, claims.join) == ("alice", ("r",))
        assert claims.rooms == Patterns(["r"])
        assert claims.publish == Patterns(["everyone"])

    def test_it_mints_nothing_that_would_be_refused_for_its_size(self) -> None:
        with pytest.raises(TooLarge):
            TokenMinter(SECRET, "HS256", None, None).mint(GOOD | {"rooms": ["r" * 200] * 40})

    @pytest.mark.parametrize(("secret", "algorithm"), [(b"", "HS256"), (SECRET, "RS256")])
    def test_it_signs_with_secrets_only(self, secret: bytes, algorithm: str) -> None:
        with pytest.raises(ValueError, match=r"HS256|32 bytes"):
            TokenMinter(secret, algorithm, None, None)


class TestConfiguration:
    secret = SecretStr(SECRET.decode())

    def test_a_secret(self) -> None:
        settings = Settings(jwt_secret=self.secret, jwt_issuer="us", claim_user="uid")
        minter = minter_from(settings)
        assert minter is not None
        assert verify(minter.mint(GOOD), verifier_from(settings)).user == "alice"
        refusal(signed(HS256, GOOD), verifier_from(settings))

    def test_another_secret_is_believed_and_not_signed_with(self) -> None:
        former, new = SecretStr("former" * 8), self.secret
        before = Settings(jwt_secret=former)
        during = Settings(jwt_secret=new, jwt_other_secret=former)
        after = Settings(jwt_secret=new)
        old, current = (minter_from(s).mint(GOOD) for s in (before, during))  # type: ignore[union-attr]
        for token in (old, current):
            assert verify(token, verifier_from(during)).user == "alice"
        assert verify(current, verifier_from(after)).user == "alice"
        refusal(old, verifier_from(after))
        refusal(current, verifier_from(before))

    def test_a_public_key(self, ec_pair: Pair) -> None:
        settings = Settings(jwt_public_key=ec_pair.public.decode(), jwt_algorithm="ES256")
        token = jws.sign(GOOD, ec_pair.private, algorithm="ES256")
        assert verify(token, verifier_from(settings)).user == "alice"
        assert minter_from(settings) is None

    async def test_a_jwks_url(self) -> None:
        url = "https://issuer.example/jwks"
        settings = Settings(jwks_url=url, jwt_algorithm="RS256", jwt_audience="us")
        by = verifier_from(settings)
        assert isinstance(by._keys, JwksKeys)
        assert minter_from(settings) is None
        await by.aclose()

    def test_a_public_key_as_a_secret_is_named_by_its_variable(self, rsa_pair: Pair) -> None:
        body = "".join(rsa_pair.public.decode().splitlines()[1:-1])
        settings = Settings(jwt_secret=SecretStr(body))
        for build in (verifier_from, minter_from):
            with pytest.raises(InvalidSettings, match="TIDINGS_JWT_SECRET") as refused:
                build(settings)
            assert body[:20] not in str(refused.value)
        with pytest.raises(InvalidSettings, match="TIDINGS_JWT_OTHER_SECRET"):
            verifier_from(Settings(jwt_secret=self.secret, jwt_other_secret=SecretStr(body)))

    def test_no_key_at_all_is_refused(self) -> None:
        with pytest.raises(InvalidSettings, match="TIDINGS_JWKS_URL"):
            verifier_from(Settings())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
SEGMENTS = st.binary(max_size=60).map(b64) | st.text("AZaz09-_=+/. ", max_size=20)


def believed_or_unauthorized(token: str) -> Claims | None:
    try:
        return verify(token)
    except Unauthorized:
        return None


@given(st.text() | st.lists(SEGMENTS, max_size=6).map(".".join))
def test_any_text_is_unauthorized(token: str) -> None:
    assert believed_or_unauthorized(token) is None


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_header_that_is_signed(header: bytes) -> None:
    if believed_or_unauthorized(signed(header, GOOD)) is not None:
        assert json.loads(header)["alg"] == "HS256"  # what chance may come upon


@given(st.dictionaries(st.sampled_from(["alg", "typ", "kid", "cty", "crit", "b64"]), JSON))
def test_any_members_of_a_header_that_is_signed(members: dict[str, object]) -> None:
    claims = believed_or_unauthorized(signed(HS256 | members, GOOD))
    assert claims is None or members.get("alg", "HS256") == "HS256"


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_payload_that_is_signed(payload: bytes) -> None:
    believed_or_unauthorized(signed(HS256, payload))


@given(st.binary(max_size=80))
def test_any_signature(signature: bytes) -> None:
    start = signed(HS256, GOOD).rpartition(".")[0]
    assert believed_or_unauthorized(f"{start}.{b64(signature)}") is None
