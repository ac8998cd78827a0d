"""The frames of RFC 6455 as a server speaks them: pure code, no extensions.

Outbound, a function per frame returns finished bytes. They are unmasked (§5.1), so that the same
bytes serve every socket.

Inbound, a connection at rest keeps nothing. A chunk of bytes goes to ``whole_messages``, which
reads the usual case, a few small whole frames, without any state. Where that returns None a
``FrameReader`` takes the same chunk and whatever follows, until it is ``idle`` again::

    messages = whole_messages(data) if reader is None else None
    if messages is None:
        reader = reader or FrameReader(max_size)
        messages = reader.feed(data)
        if reader.idle:
            reader = None

A text message is a ``str``, a binary one is ``bytes``; ``Ping``, ``Pong`` and ``Close`` are types.

``ProtocolViolation`` stands outside the tree of ``errors``: it is about bytes and not about what
somebody asked for, and the numbers that it carries are the standard's own.
"""

from codecs import utf_8_decode
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

# The first byte of a frame: FIN and the opcode (§5.2).
_FIN: Final = 0x80
_RSV: Final = 0x70
_OPCODE: Final = 0x0F
_CONTROL: Final = 0x08  # the bit that control opcodes share (§5.5)
_TEXT: Final = 0x81
_CLOSE: Final = 0x88
_PING: Final = 0x89
_PONG: Final = 0x8A
_OPCODES: Final = frozenset((0x0, 0x1, 0x2, 0x8, 0x9, 0xA))

_MASKED: Final = 0x80  # the top bit of the second byte
_SMALL: Final = 125  # bytes: the longest length that fits the second byte, and a control frame

_SHORT_CHUNK: Final = 1024
"""Bytes: a longer chunk is not tried by ``whole_messages``, so that nobody makes it work twice."""

AT_ONCE: Final = 64
"""Frames that one call of ``feed`` reads: 43,000 pings fit a chunk, and all others would wait for them."""

_FEW: Final = 512
"""Bytes: from here on four strided translations beat one XOR of long integers (measured)."""


class Ping(msgspec.Struct, frozen=True, gc=False):
    """A ping with 0 to 125 bytes, to be answered by a pong with the same bytes (§5.5.2)."""

    payload: bytes


class Pong(msgspec.Struct, frozen=True, gc=False):
    """A pong with 0 to 125 bytes, asked for or not (§5.5.3)."""

    payload: bytes


class Close(msgspec.Struct, frozen=True, gc=False):
    """The peer's last frame (§5.5.1); ``code`` is None where it gave none (§7.1.5)."""

    code: int | None
    reason: str


Message = str | bytes | Ping | Pong | Close


class ProtocolViolation(Exception):
    """The peer broke the framing: fail the connection with the close code ``code`` (§7.1.7).

    ``code`` is 1002 (protocol error), 1007 (invalid UTF-8) or 1009 (too big); ``reason`` is a few
    words of ASCII for the close frame. ``messages`` are those that the same chunk completed before
    the fault.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.messages: list[Message] = []


# --- Outbound frames


def text_frame(payload: bytes) -> bytes:
    """Return ``payload``, which must be UTF-8 (§5.6; not checked), as one text frame."""
    length = len(payload)
    if length <= _SMALL:
        return bytes((_TEXT, length)) + payload
    if length < 0x10000:
        return b"\x81\x7e" + length.to_bytes(2) + payload
    return b"\x81\x7f" + length.to_bytes(8) + payload


def texts(frames: bytes) -> Iterator[bytes]:
    """Yield the payloads that ``text_frame`` made these frames of."""
    at = 0
    while at < len(frames):
        length, begin = frames[at + 1], at + 2
        if length > _SMALL:
            begin += 2 if length == 0x7E else 8
            length = int.from_bytes(frames[at + 2 : begin])
        at = begin + length
        yield frames[begin:at]


def ping_frame(payload: bytes) -> bytes:
    """Return a ping; raises ValueError over 125 bytes (§5.5)."""
    return _control_frame(_PING, payload)


def pong_frame(payload: bytes) -> bytes:
    """Return a pong; raises ValueError over 125 bytes (§5.5)."""
    return _control_frame(_PONG, payload)


def close_frame(code: int | None, reason: str = "") -> bytes:
    """Return a close frame; ``code`` None gives an empty one, the echo of one that had no code.

    ``reason`` is cut to 123 bytes of UTF-8, never inside a character (§5.5, §5.5.1). Raises
    ValueError for a code that must not be sent (§7.4).
    """
    if code is None:
        return _control_frame(_CLOSE, b"")
    if not _may_be_sent(code):
        raise ValueError(f"{code} is no code for a close frame")
    text = reason.encode("utf-8", "replace")[: _SMALL - 2].decode("utf-8", "ignore")
    return _control_frame(_CLOSE, code.to_bytes(2) + text.encode())


def _control_frame(first: int, payload: bytes) -> bytes:
    if len(payload) > _SMALL:
        raise ValueError("a control frame holds at most 125 bytes")
    return bytes((first, len(payload))) + payload


def _may_be_sent(code: int) -> bool:
    """Say whether ``code`` may stand in a close frame (§7.4.1, §7.4.2 and IANA's registry).

    1004 has no meaning; 1005, 1006 and 1015 are for local use; 1012 to 1014 were registered later.
    """
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


# --- Masks (§5.3)


def _xor_tables() -> tuple[bytes, ...]:
    """Return the 256 tables for ``bytes.translate`` that XOR with a constant (64 KiB in all)."""
    identity = int.from_bytes(range(256))
    ones = int.from_bytes(b"\x01" * 256)
    return tuple((identity ^ ones * key).to_bytes(256) for key in range(256))


_XOR: Final = _xor_tables()


def _unmask(masked: bytes, key: bytes) -> bytes | bytearray:
    """Return the payload under ``key`` (4 bytes), whose first byte belongs to the first one."""
    length = len(masked)
    if length < _FEW:
        mask = (key * (length // 4 + 1))[:length]
        return (int.from_bytes(masked) ^ int.from_bytes(mask)).to_bytes(length)
    plain = bytearray(masked)
    for lane in range(4):
        plain[lane::4] = plain[lane::4].translate(_XOR[key[lane]])
    return plain


# --- Inbound frames


def whole_messages(data: bytes) -> list[Message] | None:
    """Return the messages of a chunk that is nothing but small whole valid frames, else None.

    Small means up to 125 bytes of text, ping or pong in one fragment. None says nothing about the
    chunk: a ``FrameReader`` shall read it from its first byte. Only for a chunk that begins where a
    frame may begin and no fragmented message is open, and where 125 bytes are not too big. Never
    raises.
    """
    messages: list[Message] = []
    at, end = 0, len(data)
    if end > _SHORT_CHUNK:
        return None
    while end - at >= 6:
        length = data[at + 1] - _MASKED
        stop = at + 6 + length
        build = _SMALL_FRAMES.get(data[at])
        if build is None or not 0 <= length <= _SMALL:
            return None
        # _unmask, written out: this is the path of every pong, and a call would be felt.
        mask = (data[at + 2 : at + 6] * (length // 4 + 1))[:length]
        plain = int.from_bytes(data[at + 6 : stop]) ^ int.from_bytes(mask)
        try:
            messages.append(build(plain.to_bytes(length)))
        except UnicodeDecodeError:
            return None
        at = stop
    # An unfinished frame has left ``at`` on this side of the end or on the other.
    return messages if at == end else None


_SMALL_FRAMES: Final[dict[int, Callable[[bytes], Message]]] = {
    _TEXT: bytes.decode,
    _PING: Ping,
    _PONG: Pong,
}


class FrameReader:
    """Reads one client's bytes, in chunks of any size, into messages.

    Holds at most ``max_size`` bytes of an unfinished message (and what a bytearray allocates ahead,
    an eighth), 130 of an unfinished header or control frame, and what it was given beyond ``AT_ONCE``
    frames. Every rule is applied as early as its bytes are there: the size from the header, UTF-8 up
    to the last byte that came (§8.1).
    """

    __slots__ = (
        "_body", "_checked", "_ended", "_first", "_head", "_key", "_kind", "_left", "_max", "waiting",
    )  # fmt: skip

    def __init__(self, max_size: int) -> None:
        """Take ``max_size``, the bytes that a message may have over all its fragments."""
        self._max = max_size
        self._head = b""  # an unfinished header, or an unfinished control frame
        self._kind = 0  # the opcode of the message that is under way, or 0
        self._body = bytearray()  # what has come of that message, unmasked
        self._checked = 0  # how much of the body is known to be UTF-8
        self._first = 0  # the first byte of the data frame that is under way
        self._left = 0  # bytes of its payload that are still to come
        self._key = b""  # its masking key, turned to the next byte of the payload
        self._ended = False
        self.waiting = False
        """Whether frames wait to be read by another ``feed``, of nothing or of more."""

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, so that a new reader could take this one's place.

        Not so after a close frame or a violation: then the rest of the stream has no meaning, and
        this reader is what swallows it.
        """
        return not (self._kind or self._head or self._ended)

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that ``data`` completes; after a ``Close`` there will be no more.

        Raises ProtocolViolation, once; it carries what was completed before the fault.
        """
        messages: list[Message] = []
        if self._ended:
            return messages
        if self._head:
            data = self._head + data
            self._head = b""
        try:
            self._read(data, messages)
        except ProtocolViolation as violation:
            self._end()
            violation.messages = messages
            raise
        return messages

    def _end(self) -> None:
        self._ended, self.waiting = True, False
        self._body = bytearray()

    def _read(self, data: bytes, messages: list[Message]) -> None:
        at = self._take(data, 0, messages) if self._left else 0
        self.waiting = False
        for _ in range(AT_ONCE):
            if at >= len(data) or self._ended:
                return
            header = _read_header(data, at)
            if header is None:
                self._head = data[at:]
                return
            first, length, start = header
            key = data[start - 4 : start]
            if first & _CONTROL:
                at = start + length
                messages.append(self._control(first, bytes(_unmask(data[start:at], key))))
            else:
                self._begin(first, length, key)
                at = self._take(data, start, messages)
        self._head = data[at:]
        self.waiting = bool(self._head) and not self._ended

    def _control(self, first: int, payload: bytes) -> Message:
        """Control frames may stand between the fragments of a message (§5.4)."""
        if first == _PONG:
            return Pong(payload)
        if first == _PING:
            return Ping(payload)
        close = _read_close(payload)
        self._end()
        return close

    def _begin(self, first: int, length: int, key: bytes) -> None:
        """Begin a data frame, if one may come here (§5.4) and fits (§7.4.1, code 1009)."""
        opcode = first & _OPCODE
        if opcode and self._kind:
            raise ProtocolViolation(1002, "a new message within a fragmented one")
        if not opcode and not self._kind:
            raise ProtocolViolation(1002, "a continuation of nothing")
        if len(self._body) + length > self._max:
            raise ProtocolViolation(1009, f"message over {self._max} bytes")
        self._kind = opcode or self._kind
        self._first, self._left, self._key = first, length, key

    def _take(self, data: bytes, at: int, messages: list[Message]) -> int:
        """Take what is there of the frame's payload; return where it ends in ``data``."""
        masked = data[at : at + self._left]
        size = len(masked)
        self._body += _unmask(masked, self._key)
        self._left -= size
        if self._left:
            turn = size % 4
            self._key = self._key[turn:] + self._key[:turn]
        if self._first & _FIN and not self._left:
            messages.append(self._finish())
        elif self._kind == _TEXT & _OPCODE:
            self._check_text()
        return at + size

    def _check_text(self) -> None:
        """Refuse a text as soon as no continuation could make it UTF-8 (§8.1)."""
        try:
            with memoryview(self._body) as body:
                self._checked += utf_8_decode(body[self._checked :], "strict", False)[1]  # noqa: FBT003
        except UnicodeDecodeError:
            raise ProtocolViolation(1007, "invalid UTF-8") from None
        # The decoder waits for the third byte of a surrogate, for the sake of "surrogatepass".
        if b"\xed\xa0" <= self._body[self._checked :] < b"\xee":
            raise ProtocolViolation(1007, "invalid UTF-8")

    def _finish(self) -> Message:
        body, kind = self._body, self._kind
        self._body, self._checked, self._kind = bytearray(), 0, 0
        return _decode(body) if kind == _TEXT & _OPCODE else bytes(body)


def _read_header(data: bytes, at: int) -> tuple[int, int, int] | None:
    """Return a header's first byte, payload length and end, or None where more must come first.

    A control frame is whole or counts as not yet there.
    """
    if len(data) - at < 2:
        return None
    first, length = data[at], data[at + 1] & ~_MASKED
    _check_start(first, data[at + 1])
    start = at + 6
    if length > _SMALL:
        width = 2 if length == 126 else 8
        start += width
        if len(data) < at + 2 + width:
            return None
        length = _long_length(data[at + 2 : at + 2 + width])
    needed = start + length if first & _CONTROL else start
    return (first, length, start) if len(data) >= needed else None


def _check_start(first: int, second: int) -> None:
    """Apply the rules of §5.1, §5.2 and §5.5 that a frame's first two bytes can break."""
    if first & _RSV:
        raise ProtocolViolation(1002, "reserved bits without an extension")
    if first & _OPCODE not in _OPCODES:
        raise ProtocolViolation(1002, "reserved opcode")
    if not second & _MASKED:
        raise ProtocolViolation(1002, "unmasked frame")
    if first & _CONTROL and not first & _FIN:
        raise ProtocolViolation(1002, "fragmented control frame")
    if first & _CONTROL and second & ~_MASKED > _SMALL:
        raise ProtocolViolation(1002, "control frame over 125 bytes")


def _long_length(extended: bytes) -> int:
    """Return the length in 2 or 8 bytes, which must be its shortest form (§5.2)."""
    length = int.from_bytes(extended)
    if length >> 63:
        raise ProtocolViolation(1002, "length with its top bit set")
    if length <= (_SMALL if len(extended) == 2 else 0xFFFF):
        raise ProtocolViolation(1002, "length not in its shortest form")
    return length


def _read_close(payload: bytes) -> Close:
    """Return what a close frame says: nothing, or a code with an optional reason (§5.5.1)."""
    if not payload:
        return Close(None, "")
    if len(payload) == 1:
        raise ProtocolViolation(1002, "half a close code")
    code = int.from_bytes(payload[:2])
    if not _may_be_sent(code):
        raise ProtocolViolation(1002, "invalid close code")
    return Close(code, _decode(payload[2:]))


def _decode(text: bytes | bytearray) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise ProtocolViolation(1007, "invalid UTF-8") from None
