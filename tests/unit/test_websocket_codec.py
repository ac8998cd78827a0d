"""The framing against the standard's rules, against another implementation, and against noise.

The names of sections in comments ("like Autobahn 6.4") say which part of that well-known suite a
test stands in for; the cases themselves are generated here from RFC 6455 and the Unicode standard.
"""

import base64
import random
import sys
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from service.domain.upgrade import BadHandshake, Upgrade, accept_key, check_upgrade, switching_protocols
from service.domain.websocket import (
    Close,
    FrameReader,
    Message,
    Ping,
    Pong,
    ProtocolViolation,
    close_frame,
    ping_frame,
    pong_frame,
    text_frame,
    whole_messages,
)

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN, RSV1, RSV2, RSV3 = 0x80, 0x40, 0x20, 0x10
KEY = b"\xa1\x5c\x00\xf7"
LIMIT = 4096
SIZES = [0, 1, 2, 3, 4, 5, 20, 124, 125, 126, 127, 128, 511, 512, 513, 65535, 65536]

Outcome = list[Message | int]
"""Messages, then perhaps the close code of the violation that ended them."""


def masked(payload: bytes, key: bytes = KEY) -> bytes:
    return bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


def header(first: int, length: int, *, mask: int = 0x80, width: int | None = None) -> bytes:
    """A frame up to its key, with ``width`` bytes of extended length, or else as few as will do."""
    if width is None:
        width = 0 if length < 126 else 2 if length < 65536 else 8
    if width == 0:
        return bytes((first, mask | length))
    return bytes((first, mask | (126 if width == 2 else 127))) + length.to_bytes(width, "big")


def frame(first: int, payload: bytes = b"", key: bytes = KEY) -> bytes:
    return header(first, len(payload)) + key + masked(payload, key)


def final(opcode: int, payload: bytes = b"", key: bytes = KEY) -> bytes:
    return frame(FIN | opcode, payload, key)


class Connection:
    """Reads as the module's docstring tells a connection to: a reader only while it is needed."""

    def __init__(self, max_size: int = LIMIT, *, short_path: bool = True) -> None:
        self.max_size = max_size
        self.short_path = short_path
        self.reader: FrameReader | None = None

    def feed(self, data: bytes) -> list[Message]:
        messages = whole_messages(data) if self.reader is None and self.short_path else None
        if messages is None:
            self.reader = self.reader or FrameReader(self.max_size)
            messages = self.reader.feed(data)
            if self.reader.idle:
                self.reader = None
        return messages


def read(chunks: Iterable[bytes], max_size: int = LIMIT, *, short_path: bool = True) -> Outcome:
    connection = Connection(max_size, short_path=short_path)
    outcome: Outcome = []
    for chunk in chunks:
        try:
            outcome += connection.feed(chunk)
        except ProtocolViolation as violation:
            outcome += violation.messages
            outcome.append(violation.code)
    return outcome


def octets(data: bytes) -> Iterator[bytes]:
    return (data[i : i + 1] for i in range(len(data)))


def chopped(data: bytes, size: int) -> Iterator[bytes]:
    return (data[i : i + size] for i in range(0, len(data), size))


def read_every_way(stream: bytes, max_size: int = LIMIT) -> Outcome:
    """The outcome, which must be one and the same for one chunk, for bytes, and without haste."""
    outcome = read([stream], max_size)
    assert read([stream], max_size, short_path=False) == outcome
    assert read(octets(stream), max_size) == outcome
    assert read(chopped(stream, 7), max_size) == outcome
    return outcome


# --- Outbound frames


@pytest.mark.parametrize("size", SIZES)
def test_a_text_frame_is_unmasked_and_has_the_shortest_length(size: int) -> None:
    payload = b"x" * size
    assert text_frame(payload) == header(FIN | TEXT, size, mask=0) + payload


def test_control_frames_are_the_bytes_of_the_standard() -> None:
    assert ping_frame(b"Hello") == b"\x89\x05Hello"  # §5.7
    assert pong_frame(b"Hello") == b"\x8a\x05Hello"
    assert close_frame(1000) == b"\x88\x02\x03\xe8"
    assert close_frame(1001, "bye") == b"\x88\x05\x03\xe9bye"
    assert close_frame(None) == b"\x88\x00"


def test_a_control_frame_holds_125_bytes_and_no_more() -> None:
    for build in (ping_frame, pong_frame):
        assert len(build(b"x" * 125)) == 127
        with pytest.raises(ValueError, match="125"):
            build(b"x" * 126)


@pytest.mark.parametrize(
    ("reason", "sent"),
    [
        ("x" * 123, b"x" * 123),
        ("x" * 124, b"x" * 123),
        ("x" * 122 + "é", b"x" * 122),
        ("x" * 121 + "é", b"x" * 121 + "é".encode()),
        ("\U0001f389" * 40, "\U0001f389".encode() * 30),
        ("lone \ud800", b"lone ?"),
    ],
)
def test_a_close_reason_is_cut_between_characters(reason: str, sent: bytes) -> None:
    built = close_frame(1008, reason)
    assert built[4:] == sent
    assert built[1] == len(sent) + 2 <= 125


VALID_CODES = [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999]
INVALID_CODES = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]


def test_a_close_frame_refuses_codes_that_must_not_be_sent() -> None:
    for code in VALID_CODES:
        assert close_frame(code)[2:] == code.to_bytes(2, "big")
    for code in [*INVALID_CODES, -1, 65536]:
        with pytest.raises(ValueError, match="no code"):
            close_frame(code)


# --- Whole messages (like Autobahn 1, 2 and 9)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chop", [1, 997, 1 << 20])
def test_data_of_any_size_arrives_in_chunks_of_any_size(size: int, chop: int) -> None:
    payload = bytes(range(256)) * (size // 256 + 1)
    text = ("tide" * (size // 4 + 1))[:size]
    stream = final(BINARY, payload[:size]) + final(TEXT, text.encode())
    assert read(chopped(stream, chop), 65536) == [payload[:size], text]


@pytest.mark.parametrize("size", [64 << 10, 1 << 20, 4 << 20])
@pytest.mark.parametrize("fragment", [4 << 10, 1 << 20, 8 << 20])
def test_big_messages_whole_and_in_fragments(size: int, fragment: int) -> None:
    payload = random.Random(size).randbytes(size)
    pieces = list(chopped(payload, fragment))
    stream = bytearray()
    for i, piece in enumerate(pieces):
        first = (FIN if i == len(pieces) - 1 else 0) | (CONT if i else BINARY)
        # Under the key 0 a payload is what it looks like, which keeps the test quick.
        stream += header(first, len(piece)) + bytes(4) + piece
    assert read(chopped(bytes(stream), 65536), size) == [payload]


def test_pings_and_pongs_carry_their_payload() -> None:
    for size in (0, 1, 20, 124, 125):
        payload = bytes(range(131, 131 + size)) if size < 125 else b"\xfe" * size
        stream = final(PING, payload) + final(PONG, payload)
        assert read_every_way(stream) == [Ping(payload), Pong(payload)]


def test_ten_pings_in_one_chunk_are_ten_pings() -> None:
    stream = b"".join(final(PING, b"payload-%d" % i) for i in range(10))
    assert read_every_way(stream) == [Ping(b"payload-%d" % i) for i in range(10)]


def test_a_ping_is_not_a_pong_and_neither_is_its_bytes() -> None:
    assert len({Ping(b"x"), Pong(b"x"), b"x"}) == 3


@given(st.binary(max_size=2000), st.binary(min_size=4, max_size=4))
def test_any_payload_comes_back_from_under_any_key(payload: bytes, key: bytes) -> None:
    assert read([final(BINARY, payload, key)]) == [payload]
    assert read([final(PONG, payload[:125], key)]) == [Pong(payload[:125])]


# --- The short path


def test_the_short_path_takes_small_whole_frames() -> None:
    stream = final(PONG, b"17") + final(TEXT, "größer".encode()) + final(PING)
    assert whole_messages(stream) == [Pong(b"17"), "größer", Ping(b"")]
    assert whole_messages(b"") == []


@pytest.mark.parametrize(
    "stream",
    [
        final(PONG, b"17")[:-1],
        final(PONG, b"17")[:5],
        final(PONG, b"17") + b"\x8a",
        final(TEXT, b"x" * 126),
        # As long as if 126 and 127 in the second byte were lengths like any other.
        header(FIN | PONG, 124, width=2) + KEY + b"x" * 124,
        header(FIN | PONG, 119, width=8) + KEY + b"x" * 119,
        frame(TEXT, b"x"),
        final(CONT, b"x"),
        final(BINARY, b"x"),
        final(CLOSE),
        final(TEXT, b"\xff"),
        final(PONG, b"17") + final(3),
        frame(FIN | RSV1 | TEXT, b"x"),
        pong_frame(b"unmasked"),
        final(PONG, b"x" * 100) * 10,
    ],
)
def test_the_short_path_leaves_everything_else_to_the_reader(stream: bytes) -> None:
    assert whole_messages(stream) is None


# --- Violations (like Autobahn 3, 4, 5 and 7)

VIOLATIONS: list[tuple[str, bytes]] = [
    *(
        (f"rsv {bits:#x} with opcode {opcode}", frame(FIN | bits | opcode, b"x"))
        for bits in range(RSV3, FIN, RSV3)
        for opcode in (TEXT, BINARY, PING, PONG)
    ),
    *(
        (f"reserved opcode {opcode} with {len(payload)} bytes", final(opcode, payload))
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
        for payload in (b"", b"payload")
    ),
    *(
        (f"unmasked opcode {opcode}", header(FIN | opcode, 1, mask=0) + b"x")
        for opcode in (TEXT, BINARY, CLOSE, PING, PONG)
    ),
    *((f"fragmented control {op}", frame(op, b"")) for op in (CLOSE, PING, PONG)),
    *((f"long control {op}", final(op, b"\x03\xe8" + b"x" * 124)) for op in (CLOSE, PING, PONG)),
    *((f"64-bit control {op}", final(op, b"x" * 65536)) for op in (CLOSE, PING, PONG)),
    ("continuation of nothing", final(CONT, b"x")),
    ("unfinished continuation of nothing", frame(CONT, b"x")),
    ("continuation after the end", frame(TEXT, b"a") + final(CONT, b"b") + final(CONT, b"c")),
    ("continuation after a whole message", final(TEXT, b"a") + final(CONT, b"b")),
    *(
        (f"opcode {op} within a message", frame(TEXT, b"a") + frame(fin | op, b"b"))
        for op in (TEXT, BINARY)
        for fin in (0, FIN)
    ),
    ("close with one byte", final(CLOSE, b"\x03")),
    *((f"close code {code}", final(CLOSE, code.to_bytes(2, "big"))) for code in INVALID_CODES),
    ("close code with a reason", final(CLOSE, b"\x03\xedreason")),
    *((f"16-bit length {n}", header(FIN | BINARY, n, width=2)) for n in (0, 1, 125)),
    *((f"64-bit length {n}", header(FIN | BINARY, n, width=8)) for n in (0, 125, 126, 65535)),
    *((f"length {n:#x}", header(FIN | BINARY, n, width=8)) for n in (1 << 63, (1 << 64) - 1)),
]


@pytest.mark.parametrize("stream", [v[1] for v in VIOLATIONS], ids=[v[0] for v in VIOLATIONS])
def test_a_violation_of_the_framing_is_1002(stream: bytes) -> None:
    before = final(TEXT, b"before") + final(PONG, b"7")
    after = final(TEXT, b"after")
    outcome = read_every_way(before + stream + after)
    assert outcome[:2] == ["before", Pong(b"7")]
    assert [item for item in outcome if isinstance(item, int)] == [1002]
    assert outcome[-1] == 1002


def test_a_violation_says_what_was_wrong_in_words_fit_for_a_close_frame() -> None:
    for name, stream in VIOLATIONS:
        with pytest.raises(ProtocolViolation) as caught:
            FrameReader(LIMIT).feed(stream)
        sent = close_frame(caught.value.code, caught.value.reason)
        assert sent[4:].decode("ascii") == caught.value.reason != "", name


def test_a_violation_in_the_first_two_bytes_waits_for_no_third() -> None:
    for start in (b"\x83\x80", b"\xc1\x80", b"\x81\x01", b"\x09\x80", b"\x89\xfe"):
        assert read([start]) == [1002]


# --- Fragments (like Autobahn 5)


def test_fragments_become_one_message_with_control_frames_between() -> None:
    stream = (
        frame(TEXT, b"one ")
        + final(PING, b"p")
        + frame(CONT)
        + final(PONG, b"q")
        + frame(CONT, b"two ")
        + final(CONT, b"three")
        + frame(BINARY)
        + final(CONT)
    )
    assert read_every_way(stream) == [Ping(b"p"), Pong(b"q"), "one two three", b""]


def test_a_character_may_be_cut_by_fragments() -> None:
    text = "κόσμε \U0001f30a"
    pieces = list(octets(text.encode()))
    stream = frame(TEXT) + b"".join(frame(CONT, piece) for piece in pieces) + final(CONT)
    assert read_every_way(stream) == [text]


def test_binary_is_not_decoded() -> None:
    stream = frame(BINARY, b"\xff") + final(CONT, b"\xc0\x80")
    assert read_every_way(stream) == [b"\xff\xc0\x80"]


def test_a_close_may_stand_within_a_fragmented_message() -> None:
    stream = frame(TEXT, b"a") + final(CLOSE, b"\x03\xe8") + final(CONT, b"b")
    assert read_every_way(stream) == [Close(1000, "")]


# --- Close (like Autobahn 7)


def test_a_close_says_what_it_carries() -> None:
    assert read_every_way(final(CLOSE)) == [Close(None, "")]
    assert read_every_way(final(CLOSE, b"\x03\xe9" + "größe".encode())) == [Close(1001, "größe")]
    assert read_every_way(final(CLOSE, b"\x03\xe8" + b"x" * 123)) == [Close(1000, "x" * 123)]
    for code in VALID_CODES:
        assert read_every_way(final(CLOSE, code.to_bytes(2, "big"))) == [Close(code, "")]


def test_whatever_follows_a_close_is_swallowed() -> None:
    rest = final(TEXT, b"late") + final(PING) + final(CLOSE) + b"\xff\xff\xff"
    assert read_every_way(final(CLOSE) + rest) == [Close(None, "")]


def test_whatever_follows_a_violation_is_swallowed() -> None:
    reader = FrameReader(LIMIT)
    with pytest.raises(ProtocolViolation):
        reader.feed(b"\x01\x00")
    assert reader.feed(final(TEXT, b"late")) == []
    assert not reader.idle


# --- Size


def test_a_message_may_have_just_the_bound() -> None:
    assert read([final(BINARY, b"x" * LIMIT)]) == [b"x" * LIMIT]
    halves = frame(BINARY, b"x" * 4000) + final(CONT, b"x" * 96)
    assert read_every_way(halves) == [b"x" * LIMIT]


@pytest.mark.parametrize("length", [LIMIT + 1, 65535, 65536, 1 << 40, (1 << 63) - 1])
def test_too_big_a_frame_is_refused_by_its_header(length: int) -> None:
    assert read_every_way(header(FIN | TEXT, length) + KEY) == [1009]
    assert read_every_way(header(TEXT, length) + KEY) == [1009]


def test_the_bound_holds_for_all_fragments_together() -> None:
    stream = frame(BINARY, b"x" * 4000) + frame(CONT, b"x" * 96) + header(FIN | CONT, 1) + KEY
    assert read_every_way(stream) == [1009]


def test_control_frames_do_not_count_as_part_of_the_message() -> None:
    stream = frame(BINARY, b"x" * LIMIT) + final(PING, b"p" * 125) + final(CONT)
    assert read([stream]) == [Ping(b"p" * 125), b"x" * LIMIT]


def test_each_message_has_the_whole_bound() -> None:
    stream = (frame(BINARY, b"x" * 4000) + final(CONT, b"x" * 96)) * 3
    assert read([stream]) == [b"x" * LIMIT] * 3


@given(st.data())
def test_a_reader_never_holds_more_than_the_bound(data: st.DataObject) -> None:
    stream = data.draw(streams())
    reader = FrameReader(LIMIT)
    try:
        for chunk in split(data, stream):
            reader.feed(chunk)
            assert len(reader._head) <= 130
            assert len(reader._body) <= LIMIT
            assert sys.getsizeof(reader._body) <= LIMIT * 9 // 8 + 128
    except ProtocolViolation:
        assert not reader._body


def test_an_unfinished_control_frame_is_held_up_to_130_bytes() -> None:
    reader = FrameReader(LIMIT)
    for octet in octets(final(PING, b"x" * 125)[:-1]):
        assert reader.feed(octet) == []
    assert len(reader._head) == 130


# --- At rest


def test_a_reader_is_idle_exactly_between_messages() -> None:
    reader = FrameReader(LIMIT)
    stream = frame(TEXT, b"ab") + final(PING, b"p") + final(CONT, b"c") + final(PONG) + final(TEXT)
    ends = {len(stream), len(stream) - 6, len(stream) - 12}
    for at, octet in enumerate(octets(stream), 1):
        reader.feed(octet)
        assert reader.idle == (at in ends)


def test_a_connection_at_rest_keeps_no_reader() -> None:
    connection = Connection()
    for stream in (final(PONG, b"1"), final(BINARY, b"x" * 500), frame(TEXT) + final(CONT)):
        connection.feed(stream)
        assert connection.reader is None
    assert not hasattr(FrameReader(LIMIT), "__dict__")


def test_an_empty_chunk_changes_nothing() -> None:
    for stream in (b"", b"\x81", frame(TEXT), frame(TEXT, b"abc")[:-1], frame(TEXT, b"\xc3")):
        reader = FrameReader(LIMIT)
        reader.feed(stream)
        idle = reader.idle
        assert reader.feed(b"") == []
        assert reader.idle is idle


# --- UTF-8 (like Autobahn 6)


def raw_utf8(code: int, length: int) -> bytes:
    """The scheme behind UTF-8, without its rules: any number in 2 to 6 bytes, valid or not."""
    tail = bytes(0x80 | code >> 6 * i & 0x3F for i in reversed(range(length - 1)))
    lead = (0xFF00 >> length & 0xFF) | code >> 6 * (length - 1)
    return bytes((lead,)) + tail


def natural_length(code: int) -> int:
    return next(n for n, top in enumerate((7, 11, 16, 21, 26, 31), 1) if code < 1 << top)


def _lawful(sequence: bytes) -> int:
    """How many bytes come before the first that no well-formed continuation could allow.

    Written from table 3-7 of the Unicode standard, so as not to ask Python about itself.
    """
    at = 0
    while at < len(sequence):
        lead = sequence[at]
        low, high = {0xE0: (0xA0, 0xBF), 0xED: (0x80, 0x9F), 0xF0: (0x90, 0xBF)}.get(
            lead, (0x80, 0x8F) if lead == 0xF4 else (0x80, 0xBF)
        )
        if lead <= 0x7F:
            needed = 0
        elif 0xC2 <= lead <= 0xF4:
            needed = 1 + (lead >= 0xE0) + (lead >= 0xF0)
        else:
            return at
        for i in range(at + 1, min(at + 1 + needed, len(sequence))):
            if not low <= sequence[i] <= high:
                return i
            low, high = 0x80, 0xBF
        at += 1 + needed
    return len(sequence)


def utf8_samples() -> list[bytes]:
    limits = [0, 0x7F, 0x80, 0x7FF, 0x800, 0xFFFF, 0x10000, 0x10FFFF, 0x110000, 0x1FFFFF]
    limits += [0x200000, 0x3FFFFFF, 0x4000000, 0x7FFFFFFF]
    samples = [bytes((code,)) if code < 0x80 else raw_utf8(code, natural_length(code)) for code in limits]
    # Surrogates, alone and in pairs, their neighbours, and the noncharacters (which are valid).
    surrogates = [0xD7FF, 0xD800, 0xDB7F, 0xDB80, 0xDBFF, 0xDC00, 0xDF80, 0xDFFF, 0xE000, 0xFFFD]
    samples += [raw_utf8(code, 3) for code in surrogates]
    samples += [raw_utf8(a, 3) + raw_utf8(b, 3) for a in surrogates[1:5] for b in surrogates[5:8]]
    samples += [raw_utf8(code, 3) for code in (0xFFFE, 0xFFFF, 0xFDD0, 0xFDEF)]
    samples += [raw_utf8(plane << 16 | low, 4) for plane in range(1, 17) for low in (0xFFFE, 0xFFFF)]
    # Overlong forms: of "/", of NUL, and of the last code that a shorter form could hold.
    for code in (0x2F, 0x00, 0x7F, 0x7FF, 0xFFFF, 0x1FFFFF, 0x3FFFFFF):
        samples += [raw_utf8(code, n) for n in range(max(2, natural_length(code) + 1), 7)]
    # Continuations without a lead, leads without continuations, bytes that never occur.
    samples += [bytes((0x80,)) * n for n in range(1, 8)] + [b"\xbf", b"\x80\xbf" * 3]
    samples += [bytes((lead,)) for lead in range(0xC0, 0x100)]
    samples += [bytes((lead, 0x20)) for lead in range(0xC0, 0x100)]
    samples += [bytes(range(0x80, 0xC0)), b"\xfe\xfe\xff\xff"]
    # Sequences that lack their last byte, alone and run together.
    cut = [raw_utf8(top, n)[:-1] for n in range(2, 7) for top in (0, (1 << 5 * n + 1) - 1)]
    samples += [*cut, b"".join(cut), *(piece + b"a" for piece in cut)]
    # Good text around and after.
    samples += [text.encode() for text in ("κόσμε", "Hello-µ@ßöä", "\U0001f30a\u0301", "\x00")]
    around = "κ".encode()
    return samples + [around + sample + around for sample in samples]


UTF8_SAMPLES = utf8_samples()


def test_the_samples_hold_enough_of_both_kinds() -> None:
    valid = sum(_lawful(sample + b"a") == len(sample) + 1 for sample in UTF8_SAMPLES)
    assert valid > 100
    assert len(UTF8_SAMPLES) - valid > 250


@pytest.mark.parametrize("sample", UTF8_SAMPLES, ids=bytes.hex)
def test_text_and_close_reasons_are_utf_8_or_1007(sample: bytes) -> None:
    try:
        text = sample.decode()
    except UnicodeDecodeError:
        text = None
    wanted: Outcome = [1007] if text is None else [text]
    assert read_every_way(final(TEXT, sample)) == wanted
    fragments = frame(TEXT) + b"".join(frame(CONT, octet) for octet in octets(sample)) + final(CONT)
    assert read_every_way(fragments) == wanted
    if len(sample) <= 123:
        close = read_every_way(final(CLOSE, b"\x03\xe8" + sample))
        assert close == ([1007] if text is None else [Close(1000, text)])


def first_refusal(chunks: Iterable[bytes]) -> int | None:
    """The number of the chunk that is refused, from 0."""
    reader = FrameReader(LIMIT)
    for number, chunk in enumerate(chunks):
        try:
            reader.feed(chunk)
        except ProtocolViolation as violation:
            if violation.code != 1007:
                raise
            return number
    return None


@pytest.mark.parametrize("sample", UTF8_SAMPLES, ids=bytes.hex)
def test_invalid_utf_8_is_refused_at_its_first_wrong_byte(sample: bytes) -> None:
    lawful = _lawful(sample)
    wanted = lawful if lawful < len(sample) else None
    # More is announced than comes, so nothing but the byte itself can be the reason.
    whole = final(TEXT, sample + b"never comes")[: 6 + len(sample)]
    assert first_refusal([whole[:6], *octets(whole[6:])]) == (None if wanted is None else wanted + 1)
    fragments = [frame(TEXT), *(frame(CONT, octet) for octet in octets(sample))]
    assert first_refusal(fragments) == (None if wanted is None else wanted + 1)


def test_the_second_text_of_a_reader_is_refused_as_early_as_the_first() -> None:
    chunks = [frame(TEXT, b"abc"), final(CONT), frame(TEXT, b"\xff")]
    assert first_refusal(chunks) == 2


def test_every_pair_of_bytes_is_judged_as_the_unicode_standard_says() -> None:
    for pair in (bytes((a, b)) for a in range(0x7E, 0x100) for b in range(0x100)):
        refused = first_refusal([frame(TEXT, pair[:1]), frame(CONT, pair[1:])])
        lawful = _lawful(pair)
        assert refused == (lawful if lawful < 2 else None), pair.hex()


@given(st.text(max_size=300), st.binary(min_size=1, max_size=3), st.integers(0, 300), st.data())
def test_noise_in_text_is_refused_where_it_stands(
    text: str, noise: bytes, place: int, data: st.DataObject
) -> None:
    good = text.encode()
    sample = good[: place % (len(good) + 1)] + noise + good[place % (len(good) + 1) :]
    chunks = list(split(data, sample))
    lawful = _lawful(sample)
    arrived = 0
    wanted = None
    for number, chunk in enumerate(chunks):
        arrived += len(chunk)
        if wanted is None and arrived > lawful:
            wanted = number
    assert first_refusal(frame(CONT if i else TEXT, c) for i, c in enumerate(chunks)) == wanted


# --- Any split


def split(data: st.DataObject, stream: bytes) -> Iterator[bytes]:
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12).map(sorted))
    start = 0
    for cut in [*cuts, len(stream)]:
        yield stream[start:cut]
        start = cut


keys = st.binary(min_size=4, max_size=4)
payloads = st.one_of(
    st.text(max_size=60).map(str.encode),
    st.binary(max_size=60),
    st.integers(100, 600).map(lambda n: b"x" * n),
)
# At most one fault in each: which of two is named is left open by the standard.
closes = st.one_of(
    st.just(b""),
    st.builds(
        lambda code, reason: code.to_bytes(2, "big") + reason,
        st.sampled_from(INVALID_CODES),
        st.text(max_size=20).map(str.encode),
    ),
    st.builds(
        lambda code, reason: code.to_bytes(2, "big") + reason,
        st.sampled_from(VALID_CODES),
        st.binary(max_size=20),
    ),
    st.binary(max_size=1),
)


@st.composite
def proper_frames(draw: st.DrawFn) -> list[bytes]:
    """Up to six frames in an order that the standard allows, now and then with a bad payload."""
    frames: list[bytes] = []
    opened = False
    for _ in range(draw(st.integers(0, 6))):
        opcode = draw(st.sampled_from([TEXT, BINARY, CONT, CONT, PING, PONG, PONG]))
        if opcode in (PING, PONG):
            frames.append(final(opcode, draw(payloads)[:125], draw(keys)))
            continue
        fin = draw(st.booleans())
        frames.append(frame((FIN if fin else 0) | (CONT if opened else opcode or TEXT), draw(payloads)))
        opened = not fin
    return frames


wrong_frames = st.one_of(
    st.builds(
        frame,
        st.integers(0, 255).filter(lambda first: first != FIN | CLOSE),
        st.binary(max_size=125),
        keys,
    ),
    st.builds(final, st.just(CLOSE), closes, keys),
    st.builds(lambda first: frame(first, b"x" * 126), st.integers(0x88, 0x8A)),
    st.builds(lambda opcode: bytes((FIN | opcode, 0)), st.integers(1, 2)),
    st.builds(lambda n: final(BINARY, b"x" * n), st.sampled_from([LIMIT, LIMIT + 1, 5000])),
    st.builds(lambda n: final(CONT, b"x" * n), st.sampled_from([LIMIT, LIMIT + 1, 5000])),
)


@st.composite
def frame_sequences(draw: st.DrawFn) -> list[bytes]:
    """Proper frames, in most cases with a stranger among them."""
    frames = draw(proper_frames())
    for wrong in draw(st.lists(wrong_frames, max_size=2)):
        frames.insert(draw(st.integers(0, len(frames))), wrong)
    return frames


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Frames, noise, and frames that do not end or have a byte turned over."""
    stream = bytearray(b"".join(draw(frame_sequences())))
    if stream and draw(st.booleans()):
        stream[draw(st.integers(0, len(stream) - 1))] ^= draw(st.integers(1, 255))
    stream += draw(st.one_of(st.just(b""), st.binary(max_size=20)))
    return bytes(stream[: draw(st.integers(0, len(stream)))] if draw(st.booleans()) else stream)


@settings(max_examples=500, deadline=None)
@given(streams(), st.data())
def test_the_split_into_chunks_makes_no_difference(stream: bytes, data: st.DataObject) -> None:
    outcome = read([stream])
    assert read(split(data, stream)) == outcome
    assert read(split(data, stream), short_path=False) == outcome
    assert read(octets(stream)) == outcome


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 300))
def test_noise_ends_in_messages_or_in_a_violation(noise: bytes, max_size: int) -> None:
    for item in read([noise], max_size):
        assert not isinstance(item, int) or item in (1002, 1007, 1009)


# --- Against another implementation


class Peer:
    """What the ``websockets`` package makes of a stream, told in our terms.

    Its sans-I/O layer leaves text undecoded, so that is done here, fragment by fragment.
    """

    def __init__(self) -> None:
        self.protocol = ServerProtocol(state=OPEN, max_size=LIMIT)
        self.outcome: Outcome = []
        self.kind = CONT
        self.body = b""

    def read(self, stream: bytes) -> Outcome:
        self.protocol.receive_data(stream)
        for event in self.protocol.events_received():
            assert isinstance(event, Frame)
            if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self.data(event)
            else:
                self.control(event)
            if self.outcome and isinstance(self.outcome[-1], int):
                return self.outcome
        if self.protocol.parser_exc is not None:
            assert self.protocol.close_sent is not None
            self.outcome.append(int(self.protocol.close_sent.code))
        return self.outcome

    def data(self, event: Frame) -> None:
        self.kind = event.opcode or self.kind
        self.body += bytes(event.data)
        if self.kind == TEXT and _lawful(self.body) < len(self.body):
            self.outcome.append(1007)
        elif event.fin:
            try:
                self.outcome.append(self.body.decode() if self.kind == TEXT else self.body)
            except UnicodeDecodeError:
                self.outcome.append(1007)
            self.body = b""

    def control(self, event: Frame) -> None:
        payload = bytes(event.data)
        if event.opcode is Opcode.CLOSE:
            code = int.from_bytes(payload[:2], "big") if payload else None
            self.outcome.append(Close(code, payload[2:].decode()))
        else:
            self.outcome.append((Ping if event.opcode is Opcode.PING else Pong)(payload))


@settings(max_examples=1000, deadline=None)
@given(frame_sequences())
def test_another_server_reads_the_same(frames: list[bytes]) -> None:
    stream = b"".join(frames)
    ours, theirs = read([stream]), Peer().read(stream)
    if ours != theirs and ours and isinstance(ours[-1], Close):
        # It refuses a close within a fragmented message, which §5.4 allows ("control frames MAY").
        assert theirs == [*ours[:-1], 1002]
    elif ours != theirs and any(len(piece) > LIMIT for piece in frames):
        # A frame too big that may not come here at all: it looks at the size first, and we last.
        assert (ours[-1], theirs) == (1002, [*ours[:-1], 1009])
    else:
        assert ours == theirs


@given(st.lists(payloads, max_size=8), st.binary(max_size=125), st.sampled_from(VALID_CODES))
def test_another_client_reads_what_we_write(texts: list[bytes], payload: bytes, code: int) -> None:
    client = ClientProtocol(parse_uri("ws://example.org/"), state=OPEN)
    stream = b"".join(text_frame(text) for text in texts)
    client.receive_data(stream + ping_frame(payload) + pong_frame(payload) + close_frame(code, "so"))
    *data, ping, pong, close = client.events_received()
    assert [event.data for event in data if isinstance(event, Frame)] == texts
    assert (ping, pong) == (Frame(Opcode.PING, payload), Frame(Opcode.PONG, payload))
    assert close == Frame(Opcode.CLOSE, code.to_bytes(2, "big") + b"so")
    assert client.parser_exc is None


@given(st.text(max_size=300), st.binary(max_size=125), st.data())
def test_we_read_what_another_client_writes(text: str, payload: bytes, data: st.DataObject) -> None:
    client = ClientProtocol(parse_uri("ws://example.org/"), state=OPEN)
    client.send_text(text.encode(), fin=False)
    client.send_ping(payload)
    client.send_continuation(text.encode(), fin=True)
    client.send_pong(payload)
    client.send_binary(payload)
    client.send_close(4000, "done")
    stream = b"".join(client.data_to_send())
    wanted = [Ping(payload), text + text, Pong(payload), payload, Close(4000, "done")]
    assert read(split(data, stream)) == wanted


# --- The opening handshake

HeaderList = list[tuple[bytes, bytes]]
SAMPLE_KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # §1.3


def request(**changes: bytes | None) -> HeaderList:
    """A good request; a keyword with underscores replaces a header, or with None drops it."""
    fields: dict[bytes, bytes | None] = {
        b"host": b"example.org",
        b"upgrade": b"websocket",
        b"connection": b"Upgrade",
        b"sec-websocket-key": SAMPLE_KEY.encode(),
        b"sec-websocket-version": b"13",
    }
    fields |= {name.replace("_", "-").encode(): value for name, value in changes.items()}
    return [(name, value) for name, value in fields.items() if value is not None]


def test_the_accept_key_is_the_one_of_the_standard() -> None:
    assert accept_key(SAMPLE_KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_a_good_request_is_an_upgrade() -> None:
    assert check_upgrade("GET", request()) == Upgrade(SAMPLE_KEY, (), None)
    asked = request(origin=b"https://example.org", sec_websocket_protocol=b"tidings.v1, other")
    wanted = Upgrade(SAMPLE_KEY, ("tidings.v1", "other"), "https://example.org")
    assert check_upgrade("GET", asked) == wanted


def test_lists_may_be_spread_padded_and_in_any_case() -> None:
    asked = request(upgrade=b"h2c, WebSocket", connection=b"keep-alive,  uPgrade ,")
    asked += [(b"sec-websocket-protocol", b"a"), (b"sec-websocket-protocol", b" b ,,c")]
    assert check_upgrade("GET", asked).subprotocols == ("a", "b", "c")
    spread = [*request(connection=b"keep-alive"), (b"connection", b"Upgrade")]
    assert check_upgrade("GET", spread).key == SAMPLE_KEY


REFUSED: dict[str, HeaderList] = {
    "no host": request(host=None),
    "empty host": request(host=b" "),
    "two hosts": [*request(), (b"host", b"example.org")],
    "no upgrade": request(upgrade=None),
    "other upgrade": request(upgrade=b"websockets"),
    "no connection": request(connection=None),
    "other connection": request(connection=b"keep-alive"),
    "no key": request(sec_websocket_key=None),
    "two keys": [*request(), (b"sec-websocket-key", SAMPLE_KEY.encode())],
    "short key": request(sec_websocket_key=base64.b64encode(b"x" * 15)),
    "long key": request(sec_websocket_key=base64.b64encode(b"x" * 17)),
    "unpadded key": request(sec_websocket_key=SAMPLE_KEY.encode()[:-2]),
    "key with a line break": request(sec_websocket_key=SAMPLE_KEY.encode() + b"\n"),
    "key of other letters": request(sec_websocket_key=b"-_" + SAMPLE_KEY.encode()[2:]),
    "no version": request(sec_websocket_version=None),
    "two versions": [*request(), (b"sec-websocket-version", b"13")],
    "two origins": [*request(origin=b"http://a"), (b"origin", b"http://b")],
    "origin not ascii": request(origin="http://ä".encode()),
    "subprotocol twice": request(sec_websocket_protocol=b"a, a"),
    "subprotocol with a space": request(sec_websocket_protocol=b"a b"),
    "subprotocol not ascii": request(sec_websocket_protocol=b"\xe4"),
}


@pytest.mark.parametrize("headers", REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_request_is_400(headers: HeaderList) -> None:
    with pytest.raises(BadHandshake) as refused:
        check_upgrade("GET", headers)
    assert refused.value.status == 400
    assert refused.value.message
    assert refused.value.headers == ()


@pytest.mark.parametrize("method", ["POST", "get", "HEAD", ""])
def test_another_method_is_400(method: str) -> None:
    with pytest.raises(BadHandshake) as refused:
        check_upgrade(method, request())
    assert refused.value.status == 400


@pytest.mark.parametrize("version", [b"8", b"7", b"0", b"14", b"013", b"13, 8", b""])
def test_another_version_is_426_and_told_ours(version: bytes) -> None:
    with pytest.raises(BadHandshake) as refused:
        check_upgrade("GET", request(sec_websocket_version=version))
    assert refused.value.status == 426
    assert dict(refused.value.headers) == {
        b"upgrade": b"websocket",
        b"connection": b"upgrade",
        b"sec-websocket-version": b"13",
    }


@given(
    st.text(max_size=5),
    st.lists(st.tuples(st.sampled_from([name for name, _ in request()]), st.binary(max_size=30))),
)
def test_noise_is_a_bad_handshake(method: str, noise: HeaderList) -> None:
    for headers in (noise, request() + noise):
        try:
            check_upgrade(method, headers)
        except BadHandshake as refused:
            if refused.status not in (400, 426):
                raise


def test_the_response_is_switching_protocols() -> None:
    assert switching_protocols("abc=", None) == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: abc=\r\n\r\n"
    )
    built = switching_protocols("abc=", "tidings.v1", [(b"x-request-id", b"7")])
    assert b"\r\nsec-websocket-protocol: tidings.v1\r\nx-request-id: 7\r\n\r\n" in built


@pytest.mark.parametrize("bad", ["a\r\nb", "a\nb", "a\rb", "a\x00b"])
def test_the_response_cannot_be_split(bad: str) -> None:
    for arguments in (
        (bad, None, ()),
        ("abc=", bad, ()),
        ("abc=", None, [(b"x", bad.encode())]),
        ("abc=", None, [(bad.encode(), b"x")]),
    ):
        with pytest.raises(ValueError, match="line break"):
            switching_protocols(*arguments)


@pytest.mark.parametrize("subprotocol", [None, "tidings.v1"])
def test_another_client_is_content_with_the_handshake(subprotocol: str | None) -> None:
    offered = [Subprotocol(subprotocol)] if subprotocol else None
    client = ClientProtocol(parse_uri("ws://example.org/"), subprotocols=offered)
    asked = client.connect()
    headers = [(name.lower().encode(), value.encode()) for name, value in asked.headers.raw_items()]
    upgrade = check_upgrade("GET", headers)
    assert upgrade.subprotocols == tuple(offered or ())
    client.send_request(asked)
    client.receive_data(switching_protocols(accept_key(upgrade.key), subprotocol))
    (response,) = client.events_received()
    assert isinstance(response, Response)
    assert client.handshake_exc is None
    assert client.state is OPEN
    assert client.subprotocol == subprotocol


def test_another_server_gives_the_same_accept_key() -> None:
    for seed in range(50):
        key = base64.b64encode(random.Random(seed).randbytes(16)).decode()
        headers = Headers()
        for name, value in request(sec_websocket_key=key.encode()):
            headers[name.decode()] = value.decode()
        answer = ServerProtocol().accept(Request("/", headers))
        assert answer.headers["Sec-WebSocket-Accept"] == accept_key(key)
