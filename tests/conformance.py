"""The cases of Autobahn's test suite that are about RFC 6455 itself, as data.

Sections 1 to 7 and 10: 247 cases of what a client sends to a server that echoes messages, each under
its number there. Left out are speed (9) and compression (12 and 13). The suite needs Python 2, so the
cases are written anew; frames, pieces and outcomes are the suite's. Where it lets more than one
outcome pass, the strictest is demanded: messages that were complete before a fault are echoed,
invalid UTF-8 is refused before its message ends, a Close is answered with its own code or with none,
and what the suite only takes note of (7.1.6, 7.13) has an outcome too.
"""

from collections.abc import Iterator, Sequence
from enum import Enum, auto
from random import Random
from typing import Final, NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


class Frame(NamedTuple):
    """What the server answers with; it does not fragment, so a message is one frame."""

    opcode: int
    payload: bytes = b""


class Closing(Enum):
    """Who says Close first, and when."""

    AFTERWARDS = auto()
    """The client, once everything has been answered."""
    WITHIN = auto()
    """The client, by what the case itself sends."""
    FAILED = auto()
    """The server: the client has broken a rule."""


class Stage(NamedTuple):
    """What is sent before the next stage may begin, and what must have come back by then."""

    pieces: Sequence[bytes]
    """Each is read by the server before the next one is sent."""
    answers: Sequence[Frame] = ()


class Case(NamedTuple):
    """What a client sends, and what must come back: the answers, this close code, and the end."""

    number: str
    stages: Sequence[Stage]
    closing: Closing = Closing.AFTERWARDS
    code: int | None = 1000


# --- Frames from a client

_KEYS: Final = Random(6455)

# How much of a stream is one piece: a number of bytes, or None for all of it, or:
OCTETS: Final = 1
FRAME_BY_FRAME: Final = -1


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """Return a frame under a mask of its own, whatever rule that breaks."""
    head, key = _start(opcode, len(payload), fin=fin, rsv=rsv)
    return head + _masked(payload, key)


def _start(opcode: int, length: int, *, fin: bool, rsv: int = 0) -> tuple[bytes, bytes]:
    """Return all of a frame that precedes its payload, and its key."""
    first = fin << 7 | rsv << 4 | opcode
    key = _KEYS.randbytes(4)
    if length <= 125:
        return bytes((first, 0x80 | length)) + key, key
    if length <= 0xFFFF:
        return bytes((first, 0xFE)) + length.to_bytes(2) + key, key
    return bytes((first, 0xFF)) + length.to_bytes(8) + key, key


def _masked(payload: bytes, key: bytes) -> bytes:
    mask = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload) ^ int.from_bytes(mask)).to_bytes(len(payload))


def client_close(code: int, reason: bytes = b"") -> bytes:
    """Return a Close frame, with a code that may be none."""
    return frame(CLOSE, code.to_bytes(2) + reason)


def fragments(opcode: int, payload: bytes, size: int) -> bytes:
    """Return a message in frames of ``size`` bytes."""
    starts = range(0, len(payload), size)
    return b"".join(
        frame(CONTINUATION if at else opcode, payload[at : at + size], fin=at == starts[-1]) for at in starts
    )


def chopped(data: bytes, size: int) -> list[bytes]:
    """Return the same bytes in pieces."""
    return [data[at : at + size] for at in range(0, len(data), size)]


# --- Cases


def _stage(frames: Sequence[bytes], answers: Sequence[Frame], chop: int | None) -> Stage:
    if chop == FRAME_BY_FRAME:
        return Stage(frames, answers)
    stream = b"".join(frames)
    return Stage([stream] if chop is None else chopped(stream, chop), answers)


def _good(number: str, *frames: bytes, answers: Sequence[Frame], chop: int | None = None) -> Case:
    return Case(number, [_stage(frames, answers, chop)])


def _closing(number: str, *frames: bytes, code: int | None = 1000, answers: Sequence[Frame] = ()) -> Case:
    return Case(number, [_stage(frames, answers, None)], Closing.WITHIN, code)


def _bad(
    number: str, *frames: bytes, code: int = 1002, answers: Sequence[Frame] = (), chop: int | None = None
) -> Case:
    return Case(number, [_stage(frames, answers, chop)], Closing.FAILED, code)


HELLO: Final = b"Hello, world!"
ECHOED: Final = [Frame(TEXT, HELLO)]
NOT_TEXT: Final = b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff"


def _messages() -> Iterator[Case]:
    """1: text and binary messages around the sizes where a header grows."""
    for section, opcode, octet in ((1, TEXT, b"*"), (2, BINARY, b"\xfe")):
        for i, length in enumerate((0, 125, 126, 127, 128, 65535, 65536, 65536), 1):
            message = Frame(opcode, octet * length)
            chop = 997 if i == 8 else None
            yield _good(f"1.{section}.{i}", frame(*message), answers=[message], chop=chop)


def _pings() -> Iterator[Case]:
    """2: pings, and pongs that nobody asked for."""
    for i, payload in enumerate((b"", HELLO, NOT_TEXT, b"\xfe" * 125), 1):
        yield _good(f"2.{i}", frame(PING, payload), answers=[Frame(PONG, payload)])
    yield _bad("2.5", frame(PING, b"\xfe" * 126))
    payload = b"\xfe" * 125
    yield _good("2.6", frame(PING, payload), answers=[Frame(PONG, payload)], chop=OCTETS)
    unsolicited = b"unsolicited pong payload"
    yield _closing("2.7", frame(PONG), client_close(1000))
    yield _closing("2.8", frame(PONG, unsolicited), client_close(1000))
    ping = frame(PING, b"ping payload")
    yield _good("2.9", frame(PONG, unsolicited), ping, answers=[Frame(PONG, b"ping payload")])
    payloads = [b"payload-%d" % i for i in range(10)]
    pongs = [Frame(PONG, payload) for payload in payloads]
    for i, chop in ((10, None), (11, OCTETS)):
        yield _good(f"2.{i}", *(frame(PING, p) for p in payloads), answers=pongs, chop=chop)


def _reserved_bits() -> Iterator[Case]:
    """3: reserved bits, which only an extension could give a meaning."""
    yield _bad("3.1", frame(TEXT, HELLO, rsv=1))
    for rsv, chop in ((2, None), (3, FRAME_BY_FRAME), (4, OCTETS)):
        sent = frame(TEXT, HELLO), frame(TEXT, HELLO, rsv=rsv), frame(PING)
        yield _bad(f"3.{rsv}", *sent, answers=ECHOED, chop=chop)
    yield _bad("3.5", frame(BINARY, NOT_TEXT, rsv=5))
    yield _bad("3.6", frame(BINARY, HELLO, rsv=6))  # described as a ping there, but sent as this
    yield _bad("3.7", frame(CLOSE, rsv=7))


def _reserved_opcodes() -> Iterator[Case]:
    """4: opcodes without a meaning, of data and of control frames."""
    for section, opcode in ((1, 3), (2, 11)):
        yield _bad(f"4.{section}.1", frame(opcode))
        yield _bad(f"4.{section}.2", frame(opcode + 1, b"reserved opcode payload"))
        for i, payload, chop in ((3, b"", None), (4, HELLO, None), (5, HELLO, OCTETS)):
            sent = frame(TEXT, HELLO), frame(opcode + i - 1, payload), frame(PING)
            yield _bad(f"4.{section}.{i}", *sent, answers=ECHOED, chop=chop)


_CHOPS: Final = (None, FRAME_BY_FRAME, OCTETS)


def _fragmentation() -> Iterator[Case]:
    """5: fragments, control frames between them, and fragments of nothing."""
    one, two, three, four = (b"fragment%d" % i for i in range(1, 5))
    for i, opcode in ((1, PING), (2, PONG)):
        yield _bad(f"5.{i}", frame(opcode, one, fin=False), frame(CONTINUATION, two))
    begin, end, whole = frame(TEXT, one, fin=False), frame(CONTINUATION, two), Frame(TEXT, one + two)
    for i, chop in enumerate(_CHOPS, 3):
        yield _good(f"5.{i}", begin, end, answers=[whole], chop=chop)
    ping, pong = frame(PING, b"ping payload"), Frame(PONG, b"ping payload")
    for i, chop in enumerate(_CHOPS, 6):
        yield _good(f"5.{i}", begin, ping, end, answers=[pong, whole], chop=chop)
    for i, fin in ((9, True), (12, False)):
        for j, chop in enumerate(_CHOPS, i):
            nothing = frame(CONTINUATION, b"non-continuation payload", fin=fin)
            yield _bad(f"5.{j}", nothing, frame(TEXT, HELLO), chop=chop)
    yield _bad("5.15", begin, end, frame(CONTINUATION, three, fin=False), frame(TEXT, four), answers=[whole])
    for i, fin in ((16, False), (17, True)):
        nothing = frame(CONTINUATION, one, fin=fin)
        yield _bad(f"5.{i}", *[nothing, frame(TEXT, two, fin=False), frame(CONTINUATION, three)] * 2)
    yield _bad("5.18", begin, frame(TEXT, two))
    yield _slow_fragments("5.19", None)
    yield _slow_fragments("5.20", FRAME_BY_FRAME)


def _slow_fragments(number: str, chop: int | None) -> Case:
    """The first ping is answered while the message is still open."""
    parts = [b"fragment%d" % i for i in range(1, 6)]
    first, *middle, last = (
        frame(CONTINUATION if i else TEXT, part, fin=i == 4) for i, part in enumerate(parts)
    )
    pings = [b"pongme 1!", b"pongme 2!"]
    answers = [[Frame(PONG, pings[0])], [Frame(PONG, pings[1]), Frame(TEXT, b"".join(parts))]]
    early = [first, middle[0], frame(PING, pings[0])]
    late = [middle[1], middle[2], frame(PING, pings[1]), last]
    return Case(number, [_stage(early, answers[0], chop), _stage(late, answers[1], chop)])


GREEK: Final = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5"  # five characters of 2, 3, 2, 2 and 2 bytes
SURROGATE: Final = b"\xed\xa0\x80"
TOO_FAR: Final = b"\xf4\x90\x80\x80"  # what U+110000 would be
EDITED: Final = b"edited"


def _utf8() -> Iterator[Case]:
    """6.1 to 6.4: valid texts and others, in fragments of any size."""
    parts = [b"", b"middle frame payload", b""]
    for i, payloads in enumerate(([b""], [b"", b"", b""], parts), 1):
        last = len(payloads) - 1
        sent = [frame(CONTINUATION if j else TEXT, p, fin=j == last) for j, p in enumerate(payloads)]
        yield _good(f"6.1.{i}", *sent, answers=[Frame(TEXT, b"".join(payloads))])
    one, two = "Hello-µ@ßöä".encode(), "üàá-UTF-8!!".encode()
    whole = [Frame(TEXT, one + two)]
    yield _good("6.2.1", frame(TEXT, one + two), answers=whole)
    yield _good("6.2.2", frame(TEXT, one, fin=False), frame(CONTINUATION, two), answers=whole)
    yield _good("6.2.3", fragments(TEXT, one + two, 1), answers=whole)
    yield _good("6.2.4", fragments(TEXT, GREEK, 1), answers=[Frame(TEXT, GREEK)])
    yield _bad("6.3.1", frame(TEXT, GREEK + SURROGATE + EDITED), code=1007)
    yield _bad("6.3.2", fragments(TEXT, GREEK + SURROGATE + EDITED, 1), code=1007)
    yield from _failed_fast()


def _failed_fast() -> Iterator[Case]:
    """6.4: the connection ends although the rest of the message never comes.

    Up to the cut all is valid or could become so, which is proved by a pause there; by frames and
    then by pieces of one frame.
    """
    payload = GREEK + TOO_FAR + EDITED
    # The second part is the whole impossible character, or only the byte that makes it impossible.
    cuts = [(len(GREEK), len(GREEK) + 4), (len(GREEK) + 1, len(GREEK) + 2)]
    for i, (cut, end) in enumerate(cuts, 1):
        begin = frame(TEXT, payload[:cut], fin=False)
        go_on = frame(CONTINUATION, payload[cut:end], fin=False)
        yield Case(f"6.4.{i}", [Stage([begin]), Stage([go_on])], Closing.FAILED, 1007)
    for i, (cut, end) in enumerate(cuts, 3):
        head, key = _start(TEXT, len(payload), fin=False)
        body = _masked(payload, key)
        stages = [Stage([head + body[:cut]]), Stage([body[cut:end]])]
        yield Case(f"6.4.{i}", stages, Closing.FAILED, 1007)


_INCOMPLETE: Final = [
    b"\xc0", b"\xe0\x80", b"\xf0\x80\x80", b"\xf8\x80\x80\x80", b"\xfc\x80\x80\x80\x80",
    b"\xdf", b"\xef\xbf", b"\xf7\xbf\xbf", b"\xfb\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf",
]  # fmt: skip


def _form(code_point: int, length: int) -> bytes:
    """Return a code point in 2 to 6 bytes by UTF-8's first scheme, be that too long or a surrogate."""
    tail = [0x80 | code_point >> 6 * i & 0x3F for i in reversed(range(length - 1))]
    return bytes((0x100 - (0x100 >> length) | code_point >> 6 * (length - 1), *tail))


def _sequences() -> Iterator[tuple[bool, list[bytes]]]:
    """6.5 to 6.23: which byte sequences are UTF-8, after a test file by Markus Kuhn."""
    words = [b"\x24", b"\xc2\xa2", b"\xe2\x82\xac", b"\xf0\xa4\xad\xa2"]
    yield True, [*(b"hello" + word + b"world" for word in words), GREEK]
    yield True, [GREEK[:end] for end in range(1, len(GREEK) + 1)]  # but see _CUT
    yield True, [b"\x00", b"\xc2\x80", b"\xe0\xa0\x80", b"\xf0\x90\x80\x80"]
    yield False, [b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80"]
    yield True, [b"\x7f", b"\xdf\xbf", b"\xef\xbf\xbf", b"\xf4\x8f\xbf\xbf"]
    yield False, [b"\xf7\xbf\xbf\xbf", b"\xfb\xbf\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf\xbf"]
    yield True, [b"\xed\x9f\xbf", b"\xee\x80\x80", b"\xef\xbf\xbd", b"\xf4\x8f\xbf\xbf", TOO_FAR]
    alternating = [(b"\x80\xbf" * 3)[:length] for length in range(2, 7)]
    yield False, [b"\x80", b"\xbf", *alternating, bytes(range(0x80, 0xBF))]
    lonely = [(0xC0, 0xDF), (0xE0, 0xEF), (0xF0, 0xF7), (0xF8, 0xFB), (0xFC, 0xFD)]
    yield False, [b"".join(bytes((first, 0x20)) for first in range(*ends)) for ends in lonely]
    yield False, _INCOMPLETE
    yield False, [b"".join(_INCOMPLETE)]
    yield False, [b"\xfe", b"\xff", b"\xfe\xfe\xff\xff"]
    yield False, [_form(ord("/"), length) for length in range(2, 7)]
    limits = (0x7F, 0x7FF, 0xFFFF, 0x1FFFFF, 0x3FFFFFF)
    yield False, [_form(limit, length) for length, limit in enumerate(limits, 2)]
    yield False, [_form(0, length) for length in range(2, 7)]
    singles = [0xD800, 0xDB7F, 0xDB80, 0xDBFF, 0xDC00, 0xDF80, 0xDFFF]
    yield False, [_form(surrogate, 3) for surrogate in singles]
    pairs = [(high, low) for high in singles[:4] for low in (0xDC00, 0xDFFF)]
    yield False, [_form(high, 3) + _form(low, 3) for high, low in pairs]
    yield True, [chr(plane << 16 | low).encode() for plane in range(17) for low in (0xFFFE, 0xFFFF)]
    yield True, [chr(special).encode() for special in range(0xFFF9, 0x10000)]


_CUT: Final = {f"6.6.{end}" for end in (1, 3, 4, 6, 8, 10)} | {"6.11.5"}
"""The invalid ones in groups of valid ones: texts that end within a character, and U+110000."""


def _utf8_sequences() -> Iterator[Case]:
    for section, (valid, payloads) in enumerate(_sequences(), 5):
        for i, payload in enumerate(payloads, 1):
            number = f"6.{section}.{i}"
            if valid and number not in _CUT:
                yield _good(number, frame(TEXT, payload), answers=[Frame(TEXT, payload)])
            else:
                yield _bad(number, frame(TEXT, payload), code=1007)


def _closes() -> Iterator[Case]:
    """7: who closes, with which code and reason, and that nothing counts after it."""
    message = Frame(TEXT, b"Hello World!")
    yield _good("7.1.1", frame(*message), answers=[message])
    for i, late in enumerate((frame(CLOSE), frame(PING), frame(*message)), 2):
        yield _closing(f"7.1.{i}", client_close(1000), late)
    begin, end = frame(TEXT, b"fragment1", fin=False), frame(CONTINUATION, b"fragment2")
    yield _closing("7.1.5", begin, client_close(1000), end)
    big = Frame(TEXT, (b"BAsd7&jh23" * 26215)[: 256 * 1024])
    sent = frame(*big), frame(*message), client_close(1000), frame(PING)
    yield _closing("7.1.6", *sent, answers=[big, message])
    yield _closing("7.3.1", frame(CLOSE), code=None)
    yield _bad("7.3.2", frame(CLOSE, b"a"))
    for i, reason in enumerate((b"", b"Hello World!", b"*" * 123), 3):
        yield _closing(f"7.3.{i}", client_close(1000, reason))
    yield _bad("7.3.6", client_close(1000, b"*" * 124))
    yield _bad("7.5.1", client_close(1000, GREEK + SURROGATE + EDITED), code=1007)
    codes = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999]
    for i, code in enumerate(codes, 1):
        yield _closing(f"7.7.{i}", client_close(code), code=code)
    for i, code in enumerate((0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999), 1):
        yield _bad(f"7.9.{i}", client_close(code))
    for i, code in enumerate((5000, 65535), 1):
        yield _bad(f"7.13.{i}", client_close(code))  # the standard leaves these open


def _many_fragments() -> Iterator[Case]:
    """10: what a stack sends that cuts messages by itself."""
    message = Frame(TEXT, b"*" * 65536)
    yield _good("10.1.1", fragments(TEXT, message.payload, 1300), answers=[message])


CASES: Final = [
    *_messages(),
    *_pings(),
    *_reserved_bits(),
    *_reserved_opcodes(),
    *_fragmentation(),
    *_utf8(),
    *_utf8_sequences(),
    *_closes(),
    *_many_fragments(),
]
