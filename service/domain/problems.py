"""How an error is told over HTTP: RFC 9457 problem details, one table for both edges."""

from typing import Final

import msgspec

from service.domain.errors import (
    Conflict,
    Forbidden,
    InFlight,
    Invalid,
    Malformed,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    TidingsError,
    TooLarge,
    Unauthorized,
    Unavailable,
)  # fmt: skip

CONTENT_TYPE: Final = "application/problem+json"

# The first that fits: a subclass stands before its parent.
_TABLE: Final[tuple[tuple[type[TidingsError], int, str], ...]] = (
    (Malformed, 400, "The request cannot be read"),
    (TooLarge, 413, "Too large"),
    (Invalid, 422, "The request is not valid"),
    (Unauthorized, 401, "Not believed"),
    (Forbidden, 403, "Not allowed"),
    (NotFound, 404, "Not found"),
    (Conflict, 409, "Conflict"),
    (RateLimited, 429, "Over a limit"),
    (OutcomeUnknown, 503, "The outcome is unknown"),
    (Unavailable, 503, "Not available just now"),
)


def status_of(error: TidingsError) -> int:
    """Return the HTTP status that tells of ``error``."""
    return next((status for kind, status, _ in _TABLE if isinstance(error, kind)), 500)


def problem_headers(error: TidingsError) -> dict[str, str]:
    """Return the headers that go with a problem (RFC 9110 §10.2.3, §11.6.1)."""
    if isinstance(error, Unavailable | RateLimited | InFlight) and error.retry_after is not None:
        return {"retry-after": str(max(1, round(error.retry_after)))}
    if isinstance(error, Unauthorized):
        return {"www-authenticate": "Bearer"}
    return {}


def problem_body(error: TidingsError, request_id: str | None = None, status: int | None = None) -> bytes:
    """Return the problem as JSON: ``type title status code detail`` and, where known, ``errors``."""
    title = next((title for kind, _, title in _TABLE if isinstance(error, kind)), "Internal error")
    body: dict[str, object] = {
        "type": f"urn:tidings:problem:{error.code}",
        "title": title,
        "status": status or status_of(error),
        "code": error.code,
        "detail": str(error),
    }
    if isinstance(error, Invalid) and error.pointer is not None:
        body["errors"] = [{"pointer": error.pointer, "detail": str(error)}]
    if request_id is not None:
        body["instance"] = f"urn:tidings:request:{request_id}"
    return msgspec.json.encode(body)
