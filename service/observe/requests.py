"""Which request a log line is about: its id, and the trace that its caller follows.

Only a request that something is logged about pays for it: until then its headers are only kept.
"""

import logging
from contextvars import ContextVar
from typing import Final, NamedTuple

from service.domain.request import Headers
from service.domain.tracing import trace_of


class Asked(NamedTuple):
    """A request, as far as its log lines go."""

    request_id: str
    headers: Headers

    def fields(self) -> dict[str, str]:
        """Return ``request_id`` and, where the caller sent a sound ``traceparent``, its ids."""
        trace = trace_of(self.headers)
        return {"request_id": self.request_id, **({} if trace is None else trace._asdict())}


current: Final[ContextVar[Asked | None]] = ContextVar("request", default=None)
"""The request that the running task is about."""


def mark(record: logging.LogRecord) -> bool:
    """Add the current request's fields to a record, as a filter does; what the caller gave stays."""
    if (asked := current.get()) is not None:
        for name, value in asked.fields().items():
            vars(record).setdefault(name, value)
    return True
