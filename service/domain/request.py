"""The head of an HTTP/1.1 request in its plain form (RFC 9112 §3, §5), read in one go. Pure code.

Plain is what nearly every client sends: a whole head, one line for each field, nothing folded, no
white space before a colon. Whatever else may be right or wrong: it is for a general server to say.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

Headers = Sequence[tuple[bytes, bytes]]

MAX_HEAD: Final = 64 * 1024
"""Bytes."""
MAX_FIELDS: Final = 256
"""Each takes some hundred bytes of memory, however short it is."""

# Possessive, so that no input makes it try twice.
_HEAD = re.compile(
    rb"([A-Z]++) ([!-~]++) HTTP/1\.1\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[\t -~\x80-\xff]*+\r\n)*+)\r\n"
)


_SOUND_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Request(NamedTuple):
    """A request's head; names of headers are in lower case. It ends before ``end``."""

    method: str
    target: str
    headers: Headers
    end: int


def read_request(data: bytes, at: int = 0) -> Request | None:
    """Return the head that begins at ``at``, or None if it is not there whole and plain."""
    found = _HEAD.match(data, at)
    if found is None or found.end() - at > MAX_HEAD:
        return None
    method, target, fields = found.groups()
    if fields.count(b"\n") > MAX_FIELDS:
        return None
    pairs = (line.partition(b":") for line in fields.split(b"\r\n")[:-1])
    headers = [(name.lower(), value.strip(b" \t")) for name, _, value in pairs]
    return Request(method.decode(), target.decode(), headers, found.end())


def is_sound_id(given: str) -> bool:
    """Tell whether a caller may give its request this id: 1 to 128 printable characters of ASCII."""
    return _SOUND_ID.fullmatch(given) is not None
