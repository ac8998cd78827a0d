"""Types of fields, with what a client needs to know of their rules; ``service.domain`` checks them.

So each rule is enforced in one place, with one message, and the description only tells of it.
"""

from typing import Annotated, Any, Final

from pydantic import AwareDatetime, BeforeValidator, Field, Strict, WithJsonSchema

from service.domain.recent import FOREVER

# ECMA-262, as JSON Schema wants it (draft 2020-12 §6.4)
_ROOM: Final = "[A-Za-z0-9_.:-]{1,128}"
_PRINTABLE: Final = r"[^\x00-\x1f\x7f-\x9f]"


PLAIN: Final = f"^{_PRINTABLE}*$"
"""Matches text without control characters."""


def text(limit: int, **more: Any) -> dict[str, Any]:
    """Return the schema of 1 to ``limit`` characters without controls."""
    return {"type": "string", "minLength": 1, "maxLength": limit, "pattern": PLAIN, **more}


ROOM: Final = {"type": "string", "pattern": f"^{_ROOM}$", "examples": ["orders"]}
USER: Final = text(256, examples=["alice"])
ADDRESS: Final = {
    "type": "string",
    "pattern": rf"^(everyone|room:{_ROOM}|user:{_PRINTABLE}{{1,256}})$",
    "examples": ["user:alice", "room:orders", "everyone"],
}
PATTERN: Final = {
    "type": "string",
    "minLength": 1,
    "maxLength": 261,
    "pattern": r"^[^*\x00-\x1f\x7f-\x9f]*\*?$",
    "description": "A name, or the beginning of one with a `*` as its last character",
    "examples": ["orders.*"],
}
POSITION: Final = {"type": "integer", "minimum": 0, "maximum": 2**53 - 1}
DEVICE: Final = text(128, examples=["laptop"])


def _number(value: Any) -> Any:
    if isinstance(value, str | bool):
        raise ValueError("must be an integer")  # noqa: TRY004 - the one that pydantic tells of
    return value


def _rfc3339(value: Any) -> Any:
    if value is not None and not isinstance(value, str):
        raise ValueError("must be a time as RFC 3339 writes it")
    return value


# Pydantic by itself would take 0 for false, "7" for 7 and 0 for 1970; a query has nothing but strings.
Flag = Annotated[bool, Strict()]
WHOLE: Final = BeforeValidator(_number)
"""Stands behind a field's bounds: before them it would hide them from the description."""
Whole = Annotated[int, WHOLE]
Number = Annotated[float, Strict()]
Instant = Annotated[AwareDatetime, BeforeValidator(_rfc3339)]

RoomName = Annotated[str, WithJsonSchema(ROOM)]
UserId = Annotated[str, WithJsonSchema(USER)]
Address = Annotated[str, WithJsonSchema(ADDRESS)]
Pattern = Annotated[str, WithJsonSchema(PATTERN)]
Position = Annotated[int, WithJsonSchema(POSITION)]
DeviceName = Annotated[str, WithJsonSchema(DEVICE)]
Bound = Annotated[int, Field(ge=0, le=FOREVER), WHOLE]
"""A position in a body; beyond the log's end is all there is."""
