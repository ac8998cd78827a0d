"""Addresses, and the patterns that grant them.

An address is ``user:<id>``, ``room:<name>`` or ``everyone``. A pattern is an address or a room name,
exact or with one ``*`` as its last character, which matches any rest (the empty one too).
"""

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Final, Self

from service.domain.errors import Invalid

EVERYONE: Final = "everyone"
CONTROL: Final = "control"
"""Where entries go that are for the instances and for no client; not an address anyone can name."""

FEW: Final = 8
"""Names that are searched one by one as quickly as in a set."""

_ROOM = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_CONTROL_CHARACTER = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def check_text(text: str, limit: int, pointer: str | None = None) -> str:
    """Return ``text`` if it has 1 to ``limit`` characters and neither controls nor surrogates."""
    if not 1 <= len(text) <= limit:
        raise Invalid(f"must have 1 to {limit} characters", pointer)
    if _CONTROL_CHARACTER.search(text):
        raise Invalid("must not contain control characters", pointer)
    return text


def check_user(user: str, pointer: str | None = None) -> str:
    """Return ``user`` if it is a user id: 1 to 256 characters, no control characters."""
    return check_text(user, 256, pointer)


def check_room(room: str, pointer: str | None = None) -> str:
    """Return ``room`` if it is a room name: 1 to 128 of ``A-Z a-z 0-9 _ . : -``."""
    if not _ROOM.fullmatch(room):
        raise Invalid("a room name has 1 to 128 characters out of A-Z a-z 0-9 _ . : -", pointer)
    return room


def check_address(address: str, pointer: str | None = None) -> str:
    """Return ``address`` if it is one of the three forms."""
    kind, _, rest = address.partition(":")
    if kind == "user":
        check_user(rest, pointer)
    elif kind == "room":
        check_room(rest, pointer)
    elif address != EVERYONE:
        raise Invalid("an address is user:<id>, room:<name> or everyone", pointer)
    return address


class Patterns:
    """A set of patterns, ready to be asked. Immutable; equal where the patterns are equal."""

    __slots__ = ("_exact", "_prefixes")

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        given = frozenset(patterns)
        for pattern in given:
            check_pattern(pattern)
        exact = tuple(sorted(p for p in given if not p.endswith("*")))
        # Most have none or one, and there are as many of these as connections: a set takes 216 bytes.
        self._exact: Collection[str] = exact if len(exact) <= FEW else frozenset(exact)
        self._prefixes = tuple(sorted(p[:-1] for p in given if p.endswith("*")))

    @classmethod
    def all(cls) -> Self:
        """Return the patterns that match anything."""
        return cls(["*"])

    def match(self, name: str) -> bool:
        """Tell whether any pattern matches ``name``."""
        return name in self._exact or name.startswith(self._prefixes)

    def cover(self, pattern: str) -> bool:
        """Tell whether everything that ``pattern`` matches is matched here too."""
        if pattern.endswith("*"):
            return pattern[:-1].startswith(self._prefixes)
        return self.match(pattern)

    def __iter__(self) -> Iterator[str]:
        yield from sorted(self._exact)
        yield from (f"{prefix}*" for prefix in self._prefixes)

    def __bool__(self) -> bool:
        return bool(self._exact or self._prefixes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Patterns) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash((self._exact, self._prefixes))

    def __repr__(self) -> str:
        return f"Patterns({list(self)!r})"


def check_pattern(pattern: str, pointer: str | None = None) -> str:
    """Return ``pattern`` if it is a name of at most 261 characters with ``*`` only as the last one."""
    check_text(pattern, 261, pointer)
    if "*" in pattern[:-1]:
        raise Invalid("a pattern has at most one *, as its last character", pointer)
    return pattern
