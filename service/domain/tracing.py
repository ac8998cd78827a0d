"""A caller's place in a distributed trace (https://www.w3.org/TR/trace-context/). Pure code."""

import re
from typing import Final, NamedTuple

from service.domain.request import Headers

HEADER: Final = b"traceparent"

# Version ff is forbidden, and ids of zeros are none (§3.2.2). A version above 00 may go on after a dash.
_TRACEPARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", re.DOTALL
)


class Trace(NamedTuple):
    """The ids of a trace and of the caller's span in it, in hexadecimal."""

    trace_id: str
    span_id: str


def trace_of(headers: Headers) -> Trace | None:
    """Return what a request's ``traceparent`` says; None without one, with two, or where it is not valid.

    Names of headers are in lower case.
    """
    given = [value.strip(b" \t") for name, value in headers if name == HEADER]
    found = _TRACEPARENT.fullmatch(given[0]) if len(given) == 1 else None
    if found is None or (found[1] == b"00" and found[4] is not None):
        return None
    return Trace(found[2].decode(), found[3].decode())
