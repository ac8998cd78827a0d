"""Everything that can be refused, as one tree.

::

    TidingsError
    ├── Invalid                what was asked for breaks a rule (names the field)
    │   ├── Malformed          not even readable: bad JSON, bad UTF-8, too deep
    │   ├── TooLarge           over a size limit
    │   ├── KeyReused          an Idempotency-Key that came with another request
    │   └── UnknownCommand     a frame of a type that does not exist
    ├── Unauthorized           no token or key, or one that is not believed
    │   └── Revoked            believed once, and taken back
    ├── Forbidden              known, but without the right
    ├── NotFound
    ├── Conflict               contradicts what is there already
    │   └── InFlight           the same request is being carried out
    ├── RateLimited            over a limit of number or rate
    └── Unavailable            not now: nothing was done, try again
        └── OutcomeUnknown     not now, and it may or may not have been done

Each carries a stable ``code`` (it goes into problems and ``error`` frames alike) and knows no HTTP:
the edges map it to a status or a close code.
"""

from typing import ClassVar


class TidingsError(Exception):
    """The root: ``str(error)`` is a sentence that may be shown to the caller."""

    code: ClassVar[str] = "internal"


class Invalid(TidingsError):
    """A rule is broken; ``pointer`` is the JSON pointer of the field (RFC 6901), if there is one."""

    code = "invalid"

    def __init__(self, message: str, pointer: str | None = None) -> None:
        super().__init__(message)
        self.pointer = pointer


class Malformed(Invalid):
    """The bytes cannot be read as what they ought to be."""

    code = "malformed"


class TooLarge(Invalid):
    """Over a size limit."""

    code = "too_large"


class KeyReused(Invalid):
    """An ``Idempotency-Key`` was used before, for a request with another body."""

    code = "idempotency_key_reused"


class UnknownCommand(Invalid):
    """A client's frame names a command that does not exist."""

    code = "unknown_command"


class Unauthorized(TidingsError):
    """No credentials, or none that are believed."""

    code = "unauthorized"


class Revoked(Unauthorized):
    """The credentials were good once and have been taken back."""


class Forbidden(TidingsError):
    """The caller is known and has no right to this."""

    code = "forbidden"


class NotFound(TidingsError):
    """There is no such thing."""

    code = "not_found"


class Conflict(TidingsError):
    """The request contradicts what is there already."""

    code = "conflict"


class InFlight(Conflict):
    """The same request is being carried out; after ``retry_after`` s its answer can be had."""

    retry_after: ClassVar[float] = 1.0


class RateLimited(TidingsError):
    """Over a limit of rate or number; ``retry_after`` in seconds, where waiting helps."""

    code = "rate_limited"

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(TidingsError):
    """Nothing was done and nothing is wrong with the request; try again after ``retry_after`` s."""

    code = "unavailable"

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OutcomeUnknown(Unavailable):
    """The database went away during the commit, so the request may or may not have taken effect."""

    code = "outcome_unknown"
