"""What can go wrong, as one tree.

::

TidingsError
├── Ended              a subscriber may not come back by itself
│   ├── Unauthorized   its token is not believed, and there is no better one; or it is not allowed
│   └── Closed         it was sent away, or what it asks for makes no sense
├── CommandFailed      the service has refused a command, or its connection was lost
├── Refused            the service has refused an event; sending it again would not help
└── Unconfirmed        nobody has answered in time: the event may be in the log, or not
"""

from collections.abc import Mapping
from typing import Any


class TidingsError(Exception):
    """The base of all errors of this package."""


class Ended(TidingsError):
    """A subscriber has ended, with a close code of the service."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed: {code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class Unauthorized(Ended):
    """The service does not believe the token (4001), or does not allow what was asked for (4003)."""


class Closed(Ended):
    """The service has sent this client away (4010), or the query makes no sense (1008)."""


class CommandFailed(TidingsError):
    """A command was not carried out.

    ``code`` is one of the protocol, or ``disconnected``: the connection was lost before the answer came.
    ``retry_after_ms`` is how long to wait, where the service says so.
    """

    def __init__(self, code: str, message: str, retry_after_ms: int | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.retry_after_ms = retry_after_ms


class Refused(TidingsError):
    """The service has refused an event, or a request; ``problem`` says why (RFC 9457)."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.code = str(problem.get("code", "unknown"))
        self.problem = problem
        told = problem.get("detail") or problem.get("title") or "no reason was given"
        super().__init__(f"{self.code}: {told} ({status})")


class Unconfirmed(TidingsError):
    """Nobody has answered in time; sending again is safe with the same ``id`` only."""
