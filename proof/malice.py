"""Inputs that nobody means well with: heads, targets, headers, JSON, tokens and WebSocket frames.

All are drawn from one ``random.Random``, so that a seed gives the same ones again. ``CANARY`` stands in
whatever ought to be kept secret: it must never be seen in a log line, or in an answer.
"""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

CANARY: Final = "cAnArY0123456789"

_ODD: Final[list[Any]] = [
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, 2**64, 10**400, -(10**400), 0.1, 1e308, "", "\x00", "a",
    "\ud800", "é" * 40, "💥", "x" * 5000, [], {}, [[]], {"": ""}, "2026-01-01T00:00:00Z",
    "0000-00-00T25:00:00Z",
    "9999-12-31T23:59:59Z", "user:", "room:*", "everyone", "user:a\nb", "../..", "' or 1=1 --", "%00", "%s",
]  # fmt: skip
_RAW: Final = [
    b"NaN", b"Infinity", b"1e999", b"-0", b"01", b"'x'", b'"\xff"', b'"\xed\xa0\x80"', b'"\\ud800"',
    b"[" * 3000, b'{"a":' * 3000, b"9" * 4500, b'"' + b"\\" * 501, b"", b"\xef\xbb\xbf{}",
]  # fmt: skip

EVENT: Final = {"to": "user:nobody", "type": "t", "data": 1}
_BODIES: Final[list[tuple[str, str, dict[str, Any]]]] = [
    ("POST", "/v1/events", EVENT | {"id": "i", "ttl": 5, "collapse_key": "k", "exclude": ["user:b"]}),
    ("POST", "/v1/events", EVENT | {"deliver_at": "2030-01-01T00:00:00Z", "ephemeral": False}),
    ("POST", "/v1/events", EVENT | {"to": ["user:a", "room:r", "everyone"], "undelivered_after": 60}),
    ("POST", "/v1/events/batch", {"events": [EVENT, EVENT], "mode": "partial", "validate_only": True}),
    ("POST", "/v1/tokens", {"user": "alice", "ttl": 5, "rooms": ["r*"], "join": ["r"], "publish": ["*"]}),
    ("POST", "/v1/revocations", {"user": "nobody", "issued_before": 5, "ban": False}),
    ("POST", "/v1/rooms/r/members", {"add": ["a"], "remove": ["b"]}),
    ("POST", "/v1/keys", {"name": "n", "scopes": ["read"], "addresses": ["room:a*"], "rate": 1, "burst": 5}),
]  # fmt: skip
_TARGETS: Final = [
    "/v1/events/{}", "/v1/events/{}/deliveries", "/v1/scheduled?after={}", "/v1/revocations?limit={}",
    "/v1/rooms/{}/members?after={}", "/v1/rooms/{}/presence", "/v1/users/{}/rooms",
    "/v1/keys?after={}&limit={}",
    "/v1/rooms/{}/events?before={}&after={}&limit={}", "/v1/connections?user={}", "/v1/users/{}/devices",
    "/v1/audit?after={}&actor={}", "/stats?{}", "/healthz?{}", "/{}", "/v1/keys/{}",
]  # fmt: skip
_HEADERS: Final = [
    "X-Request-Id", "Idempotency-Key", "traceparent", "Content-Type", "Origin", "Cookie", "Last-Event-ID",
    "Accept", "Accept-Encoding", "Range", "If-None-Match", "X-Forwarded-For", "Forwarded", "Te", "Connection",
    "ce-specversion", "ce-id", "ce-type", "Access-Control-Request-Method", "Host", "User-Agent", "X-Odd",
]  # fmt: skip
_ALGORITHMS: Final[list[Any]] = [
    "none", "None", "HS384", "HS512", "RS256", "ES256", "PS256", "EdDSA", "dir", None, 5, {},
]  # fmt: skip
_COMMANDS: Final[list[dict[str, Any]]] = [
    {"type": "join_room", "room": "r", "durable": False, "presence": True},
    {"type": "leave_room", "room": "r"},
    {"type": "publish", "to": "user:x", "event": "e", "data": 1, "id": "i", "echo": False, "ephemeral": True},
    {"type": "room_message", "room": "r", "content": 1},
    {"type": "direct_message", "to": "b", "content": {}},
    {"type": "ack", "position": 5}, {"type": "ping", "ts": 1}, {"type": "pong", "ts": 1}, {"type": "rooms"},
    {"type": "room_members", "room": "r"}, {"type": "refresh_token", "token": CANARY}, {"type": "?"},
]  # fmt: skip


def mangled(rng: Random, data: bytes) -> bytes:
    """Return bytes with a few changed, put in, taken out or repeated."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(5):
            case 0:
                out[at : at + 1] = rng.randbytes(1)
            case 1:
                out[at:at] = rng.choice(
                    (b"\x00", b"\r\n", b"\n", b"\r", b":", b" ", b"\t", b"\xff", b'"', b"{")
                )
            case 2:
                del out[at : at + rng.randrange(1, 9)]
            case 3:
                out[at:at] = out[at : at + rng.randrange(1, 60)] * rng.choice((1, 2, 30))
            case _:
                out[at:at] = rng.randbytes(rng.randrange(1, 20))
    return bytes(out)


def odd(rng: Random, depth: int = 0) -> Any:
    """Return some value that JSON may hold, mostly one at an edge."""
    if depth > 3 or rng.random() < 0.8:
        return rng.choice(_ODD)
    if rng.random() < 0.5:
        return [odd(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {str(odd(rng, 9))[:9]: odd(rng, depth + 1) for _ in range(rng.randrange(4))}


def changed(rng: Random, sample: dict[str, Any]) -> bytes:
    """Return a JSON object with some members made odd, or text that is nearly one."""
    value = dict(sample)
    for name in rng.sample(sorted(value), rng.randrange(len(value))):
        if rng.random() < 0.2:
            del value[name]
        else:
            value[name] = odd(rng)
    if rng.random() < 0.1:
        value[str(odd(rng, 9))[:50]] = odd(rng)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")
    luck = rng.random()
    if luck < 0.1:
        return mangled(rng, text)
    return text.replace(b"null", rng.choice(_RAW)) if luck < 0.3 else text


class Asked(NamedTuple):
    """A request as it goes over the wire; with ``granted`` False, an answer of 2xx would be a breach."""

    data: bytes
    granted: bool = True


def request(method: str, target: str, body: bytes = b"", *headers: tuple[str, bytes]) -> bytes:
    """Return a request that is framed well, whatever else is wrong with it."""
    lines = [
        f"{method} {target} HTTP/1.1".encode(errors="replace"),
        b"Host: x",
        b"Content-Length: %d" % len(body),
    ]
    return b"\r\n".join([*lines, *(name.encode() + b": " + value for name, value in headers), b"", body])


Keys = tuple[rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey]


def make_keys() -> Keys:
    """Return keys that the service does not know."""
    return rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())


class Malice:
    """Makes inputs for a service whose secrets are known."""

    def __init__(self, rng: Random, secret: str, admin_key: str, keys: Keys) -> None:
        self._rng = rng
        self._secret = secret.encode()
        self._admin = ("Authorization", b"Bearer " + admin_key.encode())
        self._rsa, self._ec = keys

    # Requests

    def body(self) -> Asked:
        """Return a request whose body is odd."""
        method, target, sample = self._rng.choice(_BODIES)
        return Asked(request(method, target, changed(self._rng, sample), self._admin))

    def target(self) -> Asked:
        """Return a request whose path and query are odd."""
        rng = self._rng
        target = rng.choice(_TARGETS)
        while "{}" in target:
            target = target.replace("{}", self._in_target(), 1)
        method = rng.choice(("GET", "GET", "GET", "HEAD", "PUT", "OPTIONS", "PATCH", "DELETE"))
        # Not what takes away the key that all others come with.
        return Asked(
            request("GET" if method == "DELETE" and "users" in target else method, target, b"", self._admin)
        )

    def _in_target(self) -> str:
        text = self._rng.choice(
            (str(odd(self._rng, 9))[:300], "%00", "%ff%fe", "%ed%a0%80", "1", "%", "%2F", "+")
        )
        return "".join(c if "!" <= c <= "~" and c != "#" else f"%{ord(c) & 255:02X}" for c in text)

    def header(self) -> Asked:
        """Return a request with odd headers."""
        rng = self._rng
        some = [(rng.choice(_HEADERS), self._value()) for _ in range(rng.randrange(1, 5))]
        body = json.dumps(EVENT | {"data": rng.random()}).encode()
        method, target, body = rng.choice((("POST", "/v1/events", body), ("GET", "/v1/keys", b"")))
        if rng.random() < 0.2:
            some = [("Cookie", b"sid=" + CANARY.encode()), *(pair for pair in some if pair[0] != "Cookie")]
        return Asked(request(method, target, body, self._admin, *some))

    def _value(self) -> bytes:
        rng = self._rng
        value = rng.choice((
            str(odd(rng, 9)).encode(errors="replace")[:2000], rng.randbytes(30), b"x" * 8000, b"a,b;c=d,,",
            b"\xff" * 20, b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01", b"close", b"bytes=0-", b"1.0",
            b"application/cloudevents+json",
        ))  # fmt: skip
        return bytes(c for c in value if c not in b"\r\n\x00" and (c >= 32 or c == ord("\t")) and c != 127)

    def head(self) -> bytes:
        """Return a request whose head is broken somewhere; it may end anywhere."""
        asked = self._rng.choice((self.body, self.target, self.header, self.token))()
        begin = asked.data[: asked.data.find(b"\r\n\r\n") + 4]
        extra = self._rng.choice(
            (b"", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 7\r\n", b"Upgrade: websocket\r\n")
        )
        return mangled(self._rng, begin.replace(b"Host: x\r\n", b"Host: x\r\n" + extra, 1)) + b"\r\n\r\n"

    # Tokens

    def token(self) -> Asked:
        """Return a request with a token that is nearly right, or not at all, or (seldom) is."""
        token, good = self._token()
        ways: list[tuple[str, tuple[str, bytes]]] = [
            ("/v1/inbox/unread", ("Authorization", b"Bearer " + token)),
            ("/v1/keys", ("Authorization", b"Bearer tk_" + CANARY[:4].encode() + b"_" + CANARY.encode())),
            ("/v1/inbox/unread", ("Authorization", b"Basic " + token)),
        ]
        target, header = self._rng.choice((ways[0],) * 8 + tuple(ways))
        return Asked(request("GET", target, b"", header), good and header is ways[0][1])

    def _token(self) -> tuple[bytes, bool]:
        """Return a token, and whether it may be believed."""
        rng, now = self._rng, int(time.time())
        claims: Any = {"sub": f"u{rng.randrange(100)}", "exp": now + 300, "iat": now, "canary": CANARY}
        header: Any = {"alg": "HS256", "typ": "JWT"}
        luck = rng.randrange(12)
        foreign: list[Callable[[bytes], bytes]] = [
            self._foreign, self._none, self._rs256, self._es256, self._public_key,
        ]  # fmt: skip
        sign = rng.choice(foreign) if luck == 0 else self._hmac
        good = luck > 9
        if luck == 1:
            header["alg"] = rng.choice(_ALGORITHMS)
        elif luck == 2:
            claims["exp"] = rng.choice((None, 0, -1, "9", True, now - 1, [], {}, 10**400, 1e308, "x"))
        elif luck == 3:
            header[rng.choice(("crit", "b64", "enc", "kid"))] = rng.choice((7, [], {}, True))
        elif luck == 4:
            claims["sub"] = rng.choice(("", None, 5, "x" * 300, "a\nb", [], {}, "\x00"))
        elif luck == 5:
            claims = rng.choice(([], "x", None, 5, {}, {"sub": "a"}))
        parts = [_b64(self._text(header)), _b64(self._text(claims))]
        if luck == 6:
            parts[rng.randrange(2)] = _b64(rng.choice(_RAW))
        token = _cut(rng, luck, b".".join([*parts, _b64(sign(b".".join(parts)))]))
        return bytes(c for c in token if 32 < c < 127), good

    def _text(self, value: object) -> bytes:
        return json.dumps(value).encode()

    def _hmac(self, signed: bytes) -> bytes:
        return hmac.digest(self._secret, signed, hashlib.sha256)

    def _foreign(self, signed: bytes) -> bytes:
        return hmac.digest(b"another secret of more than 32 bytes", signed, hashlib.sha256)

    def _none(self, _: bytes) -> bytes:
        return b""

    def _rs256(self, signed: bytes) -> bytes:
        return self._rsa.sign(signed, padding.PKCS1v15(), hashes.SHA256())

    def _es256(self, signed: bytes) -> bytes:
        return self._ec.sign(signed, ec.ECDSA(hashes.SHA256()))

    def _public_key(self, signed: bytes) -> bytes:
        """Sign with a public key as if it were a secret."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        pem = self._rsa.public_key().public_bytes(serialization.Encoding.PEM, form)
        return hmac.digest(pem, signed, hashlib.sha256)

    # Frames

    def frames(self, most: int) -> Iterator[bytes]:
        """Yield frames for a live WebSocket; one that must be refused is the last."""
        rng = self._rng
        for _ in range(most):
            luck = rng.random()
            if luck < 0.002:
                yield self._violation()
                return
            if luck < 0.5:
                yield from self._message(changed(rng, rng.choice(_COMMANDS)))
            elif luck < 0.8:
                yield frame(rng.choice((0x89, 0x8A)), rng.randbytes(rng.randrange(126)), rng)
            else:
                yield frame(0x82, rng.randbytes(rng.randrange(300)), rng)

    def _message(self, text: bytes) -> Iterator[bytes]:
        """Yield a message in one frame or in several, with control frames in between; always UTF-8."""
        rng, text = self._rng, text.decode(errors="replace").encode()
        cuts = sorted(rng.randrange(len(text) + 1) for _ in range(rng.choice((0, 0, 1, 3))))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        for n, piece in enumerate(pieces):
            yield frame((1 if n == 0 else 0) | (0x80 if n == len(pieces) - 1 else 0), piece, rng)
            if rng.random() < 0.1 and n < len(pieces) - 1:
                yield frame(0x89, b"between", rng)

    def _violation(self) -> bytes:
        rng = self._rng
        make: list[Callable[[], bytes]] = [
            lambda: rng.randbytes(rng.randrange(2, 200)),
            lambda: frame(0x81, b"\xff\xfe", rng),
            lambda: frame(rng.choice((0x83, 0x8B, 0xC1, 0xF1, 0x80, 0x09)), b"x", rng),
            lambda: b"\x81\x05hello",
            lambda: b"\x81\xff" + rng.choice((b"\xff" * 8, b"\x00" * 8, (2**40).to_bytes(8))) + b"mask",
            lambda: frame(0x81, b"x" * 70_000, rng),
            lambda: frame(
                0x88, rng.choice((b"\x03", b"\x03\xec", b"\x00\x00", b"\x03\xe8\xff", b"\xff\xff", b"")), rng
            ),
            lambda: mangled(rng, frame(0x81, b'{"type":"ping"}', rng)),
        ]
        return rng.choice(make)()


def frame(first: int, payload: bytes, rng: Random) -> bytes:
    """Return a masked frame."""
    size, key = len(payload), rng.randbytes(4)
    length = (
        bytes([0x80 | size])
        if size < 126
        else b"\xfe" + size.to_bytes(2)
        if size < 65536
        else b"\xff" + size.to_bytes(8)
    )
    mask = (key * (size // 4 + 1))[:size]
    masked = (int.from_bytes(payload) ^ int.from_bytes(mask)).to_bytes(size)
    return bytes([first]) + length + key + masked


def _cut(rng: Random, luck: int, token: bytes) -> bytes:
    """Return a finished token, or what is left of it."""
    if luck == 7:
        return token + rng.choice((b"=", b".", b"x" * 9000, b".a.b", token))
    if luck == 8:
        at = rng.randrange(len(token) - 2)
        return token[:at] + bytes([token[at] ^ 1]) + token[at + 1 :]
    if luck == 9:
        return rng.choice((CANARY.encode(), b"", b"..", b"." * 5000, rng.randbytes(40).hex().encode()))
    return token


def _b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def good_token(secret: str, user: str) -> str:
    """Return a token that is believed, with rights to everything."""
    now = int(time.time())
    claims = {"sub": user, "iat": now, "exp": now + 3000, "rooms": ["*"], "publish": ["*"], "presence": True}
    signed = _b64(b'{"alg":"HS256"}') + b"." + _b64(json.dumps(claims).encode())
    return (signed + b"." + _b64(hmac.digest(secret.encode(), signed, hashlib.sha256))).decode()
