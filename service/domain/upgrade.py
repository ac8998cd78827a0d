"""The opening handshake of RFC 6455, §4.2: what a request has to say, and the answer. Pure code."""

import base64
import hashlib
import re
from collections.abc import Callable
from typing import Final

import msgspec

from service.domain.request import Headers

Fields = dict[bytes, list[bytes]]
"""All values of each header, by its name."""

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")  # what decodes to 16 bytes (§4.2.1)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
_UNSAFE = re.compile(rb"[\r\n\x00]")


class BadHandshake(Exception):
    """The request opens no WebSocket: answer with ``status``, ``headers`` and ``message``."""

    def __init__(self, status: int, message: str, headers: Headers = ()) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.headers = headers


class Upgrade(msgspec.Struct, frozen=True):
    """What a valid opening handshake asks for; ``subprotocols`` in the client's order."""

    key: str
    subprotocols: tuple[str, ...] = ()
    origin: str | None = None


def accept_key(key: str) -> str:
    """Return the Sec-WebSocket-Accept that proves that ``key`` was read (§4.2.2)."""
    digest = hashlib.sha1(key.encode("ascii") + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")


def check_upgrade(method: str, headers: Headers) -> Upgrade:
    """Return what the request asks for, by the rules of §4.2.1; header names are lower case.

    Raises BadHandshake: 426 where the client speaks another version (§4.4), else 400. Two rules are
    the caller's: that the request is at least HTTP/1.1, and which origins are welcome.
    """
    fields: Fields = {}
    for name, value in headers:
        fields.setdefault(name, []).append(value)
    if method != "GET":
        raise BadHandshake(400, "a WebSocket is opened with GET")
    if not _only(fields, b"host"):
        raise BadHandshake(400, "Host is missing")
    if "websocket" not in _listed(fields, b"upgrade", str.lower):
        raise BadHandshake(400, "Upgrade must name websocket")
    if "upgrade" not in _listed(fields, b"connection", str.lower):
        raise BadHandshake(400, "Connection must name upgrade")
    _check_version(fields)
    key = _only(fields, b"sec-websocket-key")
    if key is None or not _KEY.fullmatch(key):
        raise BadHandshake(400, "Sec-WebSocket-Key must be 16 bytes in base64")
    return Upgrade(key, _subprotocols(fields), _only(fields, b"origin"))


def _check_version(fields: Fields) -> None:
    version = _only(fields, b"sec-websocket-version")
    if version is None:
        raise BadHandshake(400, "Sec-WebSocket-Version is missing")
    if version != "13":
        # A 426 names what to upgrade to, as a hop-by-hop option (RFC 9110 §15.5.22, §7.8).
        upgrade = (b"upgrade", b"websocket"), (b"connection", b"upgrade")
        answer = (*upgrade, (b"sec-websocket-version", b"13"))
        raise BadHandshake(426, "only version 13 of WebSocket is spoken here", answer)


def _subprotocols(fields: Fields) -> tuple[str, ...]:
    """Return the offered subprotocols: tokens, each once (§4.1)."""
    offered = tuple(_listed(fields, b"sec-websocket-protocol"))
    if len(set(offered)) < len(offered) or not all(map(_TOKEN.fullmatch, offered)):
        raise BadHandshake(400, "Sec-WebSocket-Protocol must list different tokens")
    return offered


def _values(fields: Fields, name: bytes) -> list[str]:
    if name not in fields:
        return []
    try:
        return [value.decode("ascii").strip(" \t") for value in fields[name]]
    except UnicodeDecodeError:
        raise BadHandshake(400, f"{name.decode().title()} must be ASCII") from None


def _only(fields: Fields, name: bytes) -> str | None:
    """Return the one value of a header that may not come twice, or None."""
    values = _values(fields, name)
    if len(values) > 1:
        raise BadHandshake(400, f"{name.decode().title()} must come once")
    return values[0] if values else None


def _listed(fields: Fields, name: bytes, fold: Callable[[str], str] = str) -> list[str]:
    """Return the elements of a header that is a list, over all its lines (RFC 9110 §5.6.1)."""
    elements = [part.strip(" \t") for value in _values(fields, name) for part in value.split(",")]
    return [fold(element) for element in elements if element]


def switching_protocols(accept: str, subprotocol: str | None, extra: Headers = ()) -> bytes:
    """Return the 101 response (§4.2.2); ``subprotocol`` must be one that was offered, or None.

    Raises ValueError for a line break or a NUL in any part, which would end a header early.
    """
    lines = [(b"upgrade", b"websocket"), (b"connection", b"Upgrade")]
    lines.append((b"sec-websocket-accept", accept.encode("ascii")))
    if subprotocol is not None:
        lines.append((b"sec-websocket-protocol", subprotocol.encode("ascii")))
    lines += extra
    if any(_UNSAFE.search(part) for line in lines for part in line):
        raise ValueError("a header must not contain a line break")
    fields = b"".join(b"%b: %b\r\n" % line for line in lines)
    return b"HTTP/1.1 101 Switching Protocols\r\n" + fields + b"\r\n"
