"""An issuer's keys, from a real HTTP server on this machine."""

import asyncio
import base64
import gzip
import json
import logging
from collections.abc import AsyncIterator
from typing import Any, Self

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jose import jws
from jose.backends import ECKey, RSAKey

from service.auth import jwks
from service.auth.jwks import MAX_KEYS, MIN_INTERVAL, RETRY, STALE_FOR, TTL, JwksKeys
from service.auth.tokens import TokenVerifier
from service.domain.claims import ClaimNames
from service.domain.errors import Unauthorized, Unavailable

NOW = 1_800_000_000.0
Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class Issuer:
    """Answers every GET with what it is told to, on a port of its own, and counts."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.status = "200 OK"
        self.headers: dict[str, str] = {}
        self.body = b'{"keys": []}'
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/jwks"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.gate.set()
        self._server.close()
        await self._server.wait_closed()

    def publish(self, *members: object) -> None:
        self.body = json.dumps({"keys": members}).encode()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
            self.asked.set()
            await self.gate.wait()
            headers = {"Content-Length": str(len(self.body)), "Connection": "close"} | self.headers
            lines = [f"HTTP/1.1 {self.status}", *(f"{k}: {v}" for k, v in headers.items())]
            writer.write("\r\n".join([*lines, "", ""]).encode() + self.body)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has given up
        finally:
            writer.close()


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with Issuer() as issuer:
        yield issuer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def keys(issuer: Issuer, clock: Clock) -> AsyncIterator[JwksKeys]:
    keys = JwksKeys(issuer.url, "ES256", clock=clock)
    yield keys
    await keys.aclose()


@pytest.fixture(scope="module")
def rsa_private() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def new_ec() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def member(private: Private, kid: str | None = None, **rest: object) -> dict[str, object]:
    assert ECKey is not None
    assert RSAKey is not None
    key: Any = (
        RSAKey(private.public_key(), "RS256")
        if isinstance(private, rsa.RSAPrivateKey)
        else ECKey(private.public_key(), "ES256")
    )
    found: dict[str, object] = key.to_dict() | rest
    return found if kid is None else found | {"kid": kid}


def token(private: Private, kid: str | None = None, **claims: object) -> str:
    assert ECKey is not None
    assert RSAKey is not None
    is_rsa = isinstance(private, rsa.RSAPrivateKey)
    key = RSAKey(private, "RS256") if is_rsa else ECKey(private, "ES256")
    said = {"sub": "alice", "exp": NOW + 3600, "aud": "tidings"} | claims
    headers = None if kid is None else {"kid": kid}
    return jws.sign(said, key, headers, "RS256" if is_rsa else "ES256")


def verifier(keys: JwksKeys, algorithm: str = "ES256") -> TokenVerifier:
    return TokenVerifier(keys, algorithm, ClaimNames(), audience="tidings", issuer=None, max_age=86400)


async def test_a_token_is_verified_with_the_key_it_names(issuer: Issuer, keys: JwksKeys) -> None:
    one, two, stranger = new_ec(), new_ec(), new_ec()
    issuer.publish(member(one, "1"), member(two, "2"))
    by = verifier(keys)
    assert (await by.verify(token(one, "1"), now=NOW)).user == "alice"
    assert (await by.verify(token(two, "2"), now=NOW)).user == "alice"
    for forged in (token(one, "2"), token(stranger, "1"), token(stranger, "3"), token(stranger)):
        with pytest.raises(Unauthorized):
            await by.verify(forged, now=NOW)
    assert len(issuer.requests) == 1


async def test_a_token_without_kid_may_be_signed_with_any(issuer: Issuer, keys: JwksKeys) -> None:
    one, two = new_ec(), new_ec()
    issuer.publish(member(one, "1"), member(two))
    assert (await verifier(keys).verify(token(two), now=NOW)).user == "alice"
    assert (await verifier(keys).verify(token(one), now=NOW)).user == "alice"


async def test_rsa(issuer: Issuer, clock: Clock, rsa_private: rsa.RSAPrivateKey) -> None:
    keys = JwksKeys(issuer.url, "RS256", clock=clock)
    issuer.publish(member(new_ec(), "1"), member(rsa_private, "1"))
    by = verifier(keys, "RS256")
    assert (await by.verify(token(rsa_private, "1"), now=NOW)).user == "alice"
    await by.aclose()


async def test_a_new_kid_is_fetched(issuer: Issuer, keys: JwksKeys, clock: Clock) -> None:
    old, new = new_ec(), new_ec()
    issuer.publish(member(old, "old"))
    by = verifier(keys)
    await by.verify(token(old, "old"), now=NOW)
    issuer.publish(member(old, "old"), member(new, "new"))
    clock.now += MIN_INTERVAL
    assert (await by.verify(token(new, "new"), now=NOW)).user == "alice"
    assert len(issuer.requests) == 2


async def test_made_up_kids_fetch_at_most_once_in_30_seconds(
    issuer: Issuer, keys: JwksKeys, clock: Clock
) -> None:
    issuer.publish(member(new_ec(), "1"))
    await keys.keys("1")
    for second in range(60):
        clock.now += 1
        assert await keys.keys(f"made up {second}") == ()
    assert len(issuer.requests) == 3


async def test_a_known_kid_does_not_fetch_until_the_ttl_is_over(
    issuer: Issuer, keys: JwksKeys, clock: Clock
) -> None:
    issuer.publish(member(new_ec(), "1"))
    await keys.keys("1")
    clock.now += TTL - 1
    await keys.keys("1")
    assert len(issuer.requests) == 1
    clock.now += 1
    await keys.keys("1")
    assert len(issuer.requests) == 2


async def test_a_withdrawn_key_is_believed_no_longer_than_the_ttl(
    issuer: Issuer, keys: JwksKeys, clock: Clock
) -> None:
    stolen = new_ec()
    issuer.publish(member(stolen, "1"), member(new_ec(), "2"))
    by, held = verifier(keys), token(stolen, "1")
    await by.verify(held, now=NOW)
    issuer.publish(member(new_ec(), "2"))
    clock.now += TTL
    with pytest.raises(Unauthorized):  # though this very token was verified and remembered
        await by.verify(held, now=NOW)


async def test_who_asks_at_the_same_time_shares_one_fetch(issuer: Issuer, keys: JwksKeys) -> None:
    issuer.publish(member(new_ec(), "1"))
    issuer.gate.clear()
    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(keys.keys("1")) for _ in range(50)]
        await issuer.asked.wait()
        issuer.gate.set()
    assert all(len(task.result()) == 1 for task in asking)
    assert len(issuer.requests) == 1


async def test_one_who_gives_up_does_not_end_the_fetch_of_others(issuer: Issuer, keys: JwksKeys) -> None:
    issuer.publish(member(new_ec(), "1"))
    issuer.gate.clear()
    first, second = (asyncio.create_task(keys.keys("1")) for _ in range(2))
    await issuer.asked.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    issuer.gate.set()
    assert len(await second) == 1


async def test_without_keys_it_is_unavailable_and_heals(issuer: Issuer, keys: JwksKeys, clock: Clock) -> None:
    issuer.status = "503 Service Unavailable"
    for _ in range(3):
        with pytest.raises(Unavailable):
            await keys.keys("1")
    assert len(issuer.requests) == 1
    issuer.status = "200 OK"
    issuer.publish(member(new_ec(), "1"))
    clock.now += RETRY
    assert len(await keys.keys("1")) == 1


async def test_an_issuer_that_is_not_there_is_unavailable(clock: Clock) -> None:
    async with Issuer() as gone:
        url = gone.url
    keys = JwksKeys(url, "ES256", clock=clock)
    with pytest.raises(Unavailable):
        await verifier(keys).verify(token(new_ec(), "1"), now=NOW)
    await keys.aclose()


async def test_old_keys_outlive_an_outage_for_a_bounded_time(
    issuer: Issuer, keys: JwksKeys, clock: Clock
) -> None:
    issuer.publish(member(new_ec(), "1"))
    await keys.keys("1")
    issuer.status = "500 Internal Server Error"
    clock.now += STALE_FOR
    assert len(await keys.keys("1")) == 1
    clock.now += MIN_INTERVAL
    with pytest.raises(Unavailable):
        await keys.keys("1")
    issuer.status = "200 OK"
    clock.now += MIN_INTERVAL
    assert len(await keys.keys("1")) == 1


async def test_an_outage_is_asked_about_only_now_and_then(
    issuer: Issuer, keys: JwksKeys, clock: Clock
) -> None:
    issuer.publish(member(new_ec(), "1"))
    await keys.keys("1")
    issuer.status = "500 Internal Server Error"
    clock.now += TTL
    for _ in range(100):
        await keys.keys("1")
    assert len(issuer.requests) == 2


def in_vain(issuer: Issuer, case: str) -> None:
    """Make the issuer answer with what is no key set, though a good one hides in it."""
    good = json.dumps({"keys": [member(new_ec(), "1")]}).encode()
    match case:
        case "not found":
            issuer.status, issuer.body = "404 Not Found", good
        case "redirect":
            issuer.status, issuer.headers = "302 Found", {"Location": issuer.url + "?elsewhere"}
            issuer.body = good
        case "too big":
            issuer.body = good + b" " * jwks.MAX_BYTES
        case "too many":
            issuer.publish(*[member(new_ec(), "1")] * (MAX_KEYS + 1))
        case "packed":
            issuer.body, issuer.headers = gzip.compress(good), {"Content-Encoding": "gzip"}
        case "cut short":
            issuer.body, issuer.headers = good, {"Content-Length": "100000"}
        case "deep":
            issuer.body = b"[" * 100_000
        case _:
            issuer.body = case.encode("latin-1")


WORTHLESS = [
    "not found", "redirect", "too big", "too many", "packed", "cut short", "deep",
    "", "null", "[]", '"keys"', "{}", '{"keys": {}}', '{"keys": [', "\xff\xfe", '{"keys": []}',
    '{"keys": [null, 7, "x", [], {}]}',
]  # fmt: skip


@pytest.mark.parametrize("case", WORTHLESS)
async def test_an_answer_that_is_no_key_set(case: str, issuer: Issuer, keys: JwksKeys) -> None:
    in_vain(issuer, case)
    with pytest.raises(Unavailable):
        await keys.keys("1")
    assert len(issuer.requests) == 1
    assert "accept-encoding: identity" in issuer.requests[0].lower()


@pytest.mark.parametrize("case", [case for case in WORTHLESS if '{"keys": [' not in case])
async def test_it_does_not_cost_the_keys_that_are_held(
    case: str, issuer: Issuer, keys: JwksKeys, clock: Clock
) -> None:
    issuer.publish(member(new_ec(), "1"))
    held = await keys.keys("1")
    in_vain(issuer, case)
    clock.now += TTL
    assert await keys.keys("1") == held
    assert len(issuer.requests) == 2


async def test_an_issuer_that_withdraws_every_key_is_obeyed(
    issuer: Issuer, keys: JwksKeys, clock: Clock
) -> None:
    issuer.publish(member(new_ec(), "1"))
    await keys.keys("1")
    issuer.publish()
    clock.now += TTL
    with pytest.raises(Unavailable):
        await keys.keys("1")


async def test_a_fetch_has_an_end(issuer: Issuer, keys: JwksKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "TIMEOUT", 1)
    issuer.gate.clear()
    with pytest.raises(Unavailable):
        await keys.keys("1")
    assert issuer.asked.is_set()


UNFIT: dict[str, dict[str, object]] = {
    "for encryption": {"use": "enc"},
    "for another algorithm": {"alg": "ES384"},
    "of no known algorithm": {"alg": None},
    "not for verifying": {"key_ops": ["sign"]},
    "of nonsensical operations": {"key_ops": 7},
    "with a senseless private part": {"d": "AQ"},
    "of another type": {"kty": "RSA"},
    "symmetric": {"kty": "oct", "k": "c2VjcmV0"},
    "of another curve": {"crv": "P-384"},
    "of an unknown curve": {"crv": "P-0"},
    "off the curve": {"x": "AQ"},
    "without a coordinate": {"y": None},
    "of nonsensical coordinates": {"x": 7, "y": []},
}


@pytest.mark.parametrize("why", UNFIT)
async def test_a_key_that_does_not_fit_hurts_only_itself(why: str, issuer: Issuer, keys: JwksKeys) -> None:
    unfit, fit = new_ec(), new_ec()
    issuer.publish(member(unfit, "1", **UNFIT[why]), member(fit, "2"))
    assert await keys.keys("1") == ()
    assert len(await keys.keys("2")) == 1
    with pytest.raises(Unauthorized):
        await verifier(keys).verify(token(unfit, "1"), now=NOW)


async def test_a_private_key_that_was_published_is_not_believed(
    issuer: Issuer, clock: Clock, rsa_private: rsa.RSAPrivateKey
) -> None:
    d = rsa_private.private_numbers().d.to_bytes(256, "big")
    issuer.publish(member(rsa_private, "1", d=b64(d)))
    keys = JwksKeys(issuer.url, "RS256", clock=clock)
    with pytest.raises(Unavailable):
        await verifier(keys, "RS256").verify(token(rsa_private, "1"), now=NOW)
    await keys.aclose()


async def test_a_kid_that_is_no_string_is_none(issuer: Issuer, keys: JwksKeys) -> None:
    issuer.publish(member(new_ec()) | {"kid": ["1"]})
    assert await keys.keys("1") == ()
    assert len(await keys.keys(None)) == 1


async def test_a_short_rsa_key_is_passed_over(issuer: Issuer, clock: Clock) -> None:
    issuer.publish(member(rsa.generate_private_key(65537, 1024), "1"))
    keys = JwksKeys(issuer.url, "RS256", clock=clock)
    with pytest.raises(Unavailable):
        await keys.keys("1")
    await keys.aclose()


async def test_closing_ends_a_fetch_and_leaves_nobody_waiting(issuer: Issuer) -> None:
    keys = JwksKeys(issuer.url, "ES256")
    issuer.gate.clear()
    asking = asyncio.create_task(keys.keys("1"))
    await issuer.asked.wait()
    await keys.aclose()
    with pytest.raises(Unavailable):
        await asking


async def test_a_failed_fetch_is_told_of(
    issuer: Issuer, keys: JwksKeys, caplog: pytest.LogCaptureFixture
) -> None:
    issuer.status = "418 I'm a teapot"
    with caplog.at_level(logging.WARNING), pytest.raises(Unavailable):
        await keys.keys("1")
    assert "cannot fetch the issuer's keys: ValueError: status 418" in caplog.text


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_published_secret_is_none(algorithm: str) -> None:
    with pytest.raises(ValueError, match="published"):
        JwksKeys("https://issuer.example/jwks", algorithm)


@pytest.mark.parametrize("url", ["", "jwks.json", "file:///etc/passwd", "ftp://issuer.example/"])
def test_a_url_is_http(url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        JwksKeys(url, "ES256")
