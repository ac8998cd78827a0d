"""Reading JSON that strangers sent: sound UTF-8, bounded depth, problems that name the field."""

import re
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from service.domain.errors import Invalid, Malformed, TooLarge

MAX_DEPTH: Final = 64
T = TypeVar("T")
_FIELD = re.compile(r"(?:unknown|missing required) field `([^`]*)`")


def pointer_of(message: str) -> str | None:
    """Return the JSON pointer of the place that a msgspec message names (``$.to[2]`` → ``#/to/2``)."""
    before, found, path = message.rpartition(" - at `")
    if named := _FIELD.search(before or message):
        path = f"{path.rstrip('`') if found else '$'}.{named[1]}"
    elif not found:
        return None
    return "#" + path.rstrip("`").removeprefix("$").replace("[", ".").replace("]", "").replace(".", "/")


def decode(decoder: Callable[[str], T], text: str) -> T:
    """Run a msgspec decoder; raises Malformed or Invalid with the field's pointer."""
    try:
        return decoder(text)
    except msgspec.ValidationError as error:
        raise Invalid(str(error).partition(" - at ")[0], pointer_of(str(error))) from None
    except (msgspec.DecodeError, RecursionError):
        raise Malformed("the body is not valid JSON") from None


def utf8(body: bytes) -> str:
    """Return the text of ``body``; raises Malformed where it is not UTF-8.

    msgspec's Raw takes bad bytes as they are, and one such event would close every client with 1007.
    """
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise Malformed("the body is not valid UTF-8") from None


def check_data(data: msgspec.Raw, limit: int, pointer: str) -> str:
    """Return an event's data as JSON text, if it is within ``limit`` bytes and not too deep."""
    raw = bytes(data)
    if len(raw) > limit:
        raise TooLarge(f"must be at most {limit} bytes", pointer)
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _depth(raw) > MAX_DEPTH:
        raise Malformed(f"must not be nested deeper than {MAX_DEPTH}", pointer)
    return utf8(raw)


def _depth(raw: bytes) -> int:
    depth = deepest = 0
    in_string = escaped = False
    for byte in raw:
        if escaped:
            escaped = False
        elif in_string:
            escaped = byte == 0x5C
            in_string = byte != 0x22
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest
