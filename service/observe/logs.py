"""Log lines, for people on a terminal and as JSON elsewhere, in which no secret ever shows.

What is hidden is hidden in the finished line, so that it does not matter how it got there: in a
message, an argument, an ``extra`` field or a traceback.
"""

import json
import logging
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

from service.observe.requests import mark

Format = Literal["auto", "human", "json"]

HIDDEN: Final = "[hidden]"

_VALUE = r"""(?:[^\s&"\\]|\\[^nrt])+"""
_SECRET = re.compile(
    rf"""
    # What stands after a label, but for the id of an API key
    (?P<label> (?: bearer (?: [.:] | \s | %20 )+ | (?: token | password ) = )
               (?: tk_[A-Za-z0-9-]{{1,64}}_ )? ) {_VALUE}
    # An API key, after its id
    | (?P<key> tk_[A-Za-z0-9-]{{1,64}}_ ) [A-Za-z0-9_-]+
    # A JWT (RFC 7515 §3.1), its dots percent-encoded or not
    | (?: eyJ[A-Za-z0-9_-]* | e[yw][A-Za-z0-9_-]{{12,}} ) (?: (?: \. | %2E ) [A-Za-z0-9_-]* ){{2,4}}
    # The password in a URL
    | (?P<url> (?: postgres(?:ql)? | redis | rediss ) (?: \+\w+ )? :// [^\s:/@"]* : )
      (?: [^\s"\\] | \\[^nrt] )* (?= @ )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PLAIN = re.compile(r"[^\s\"=]+")
_RECORD: Final = frozenset(
    [*vars(logging.LogRecord("", 0, "", 0, "", (), None)), "message", "asctime", "color_message"]
)


def redact(text: str) -> str:
    """Return ``text`` without tokens, passwords and the secret part of API keys."""
    return _SECRET.sub(lambda found: f"{''.join(filter(None, found.groups()))}{HIDDEN}", text)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return what the caller gave as ``extra``."""
    return {name: value for name, value in vars(record).items() if name not in _RECORD}


class Redacting(logging.Formatter):
    """Hides secrets in what a subclass renders: by their looks, and those known by their value."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        spellings = {spelling for secret in secrets for spelling in (secret, _quoted(secret))}
        # The longest first, so that no secret shows the rest of one that it begins.
        longest = sorted(filter(None, spellings), key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest))) if longest else None

    def format(self, record: logging.LogRecord) -> str:
        """Return the finished line; it can be written in any encoding that has ASCII."""
        return self.redact(self.render(record)).encode(errors="backslashreplace").decode()

    def redact(self, text: str) -> str:
        """Return ``text`` without secrets."""
        return redact(self._known.sub(HIDDEN, text) if self._known else text)

    def render(self, record: logging.LogRecord) -> str:
        """Return the line with everything in it."""
        raise NotImplementedError

    def traceback(self, record: logging.LogRecord) -> str:
        """Return the record's exception and stack as text, or nothing."""
        parts = [self.formatException(record.exc_info) if record.exc_info else record.exc_text]
        parts.append(self.formatStack(record.stack_info) if record.stack_info else None)
        return "\n".join(filter(None, parts))


class Human(Redacting):
    """``12:00:00.000 INFO    tidings.app: connection opened user=alice``, then the traceback."""

    def render(self, record: logging.LogRecord) -> str:
        """Return the line; a line break in what is told cannot forge another one."""
        clock = datetime.fromtimestamp(record.created).astimezone()
        start = f"{clock:%H:%M:%S}.{record.msecs:03.0f} {record.levelname:<7} {record.name}: "
        told = " ".join([record.getMessage(), *(f"{k}={_shown(v)}" for k, v in fields(record).items())])
        traceback = self.traceback(record)
        return start + _CONTROL.sub(_escaped, told) + (f"\n{traceback}" if traceback else "")


class Json(Redacting):
    """One JSON object a line: ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``, extras."""

    def render(self, record: logging.LogRecord) -> str:
        """Return the line; an extra cannot take the place of a field that is always there."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if traceback := self.traceback(record):
            line["exception"] = traceback
        extra = {name: value for name, value in fields(record).items() if name not in line}
        return json.dumps({**line, **extra}, default=str)


class Calm(logging.Filter):
    """Lets a warning through once in so many seconds, and then says how many there were since.

    While the database is away, each part of the service warns of it at each of its attempts. What is told
    of a request is always told.
    """

    def __init__(self, seconds: float = 10.0) -> None:
        super().__init__()
        self._seconds = seconds
        self._last: dict[tuple[str, int], tuple[str, float, int]] = {}
        """For each place in the code: its last warning, when it was let through, and how many more came."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the line is to be written."""
        if record.levelno != logging.WARNING or hasattr(record, "request_id"):
            return True
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - the handler tells of it
            return True
        place = record.pathname, record.lineno
        before, since, more = self._last.get(place, ("", 0.0, 0))
        if message == before and 0 <= record.created - since < self._seconds:
            self._last[place] = before, since, more + 1
            return False
        if message == before and more:
            record.repeated = more
        self._last[place] = message, record.created, 0
        return True


class Lines(logging.StreamHandler[TextIO]):
    """Writes lines; what cannot be rendered is told without showing it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Replace logging's own report, which prints the arguments as they are."""
        error = sys.exc_info()[1]
        with suppress(Exception):
            place = f"{record.pathname}:{record.lineno}"
            self.stream.write(f"a log line at {place} was lost: {type(error).__name__}\n")


def configure(
    level: str, log_format: Format, *, secrets: Iterable[str] = (), stream: TextIO | None = None
) -> None:
    """Send everything that is logged in this process, uvicorn's lines too, to ``stream`` (stderr).

    Lines about a request carry its id and trace.
    ``secrets`` are values that no line may show, whatever they look like.
    """
    stream = stream or sys.stderr
    human = log_format == "human" or (log_format == "auto" and stream.isatty())
    handler = Lines(stream)
    handler.setFormatter((Human if human else Json)(secrets))
    handler.addFilter(mark)
    handler.addFilter(Calm())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)  # a request is no line of its own
    for name in ("alembic", "httpx", "httpcore", "asyncio"):
        logging.getLogger(name).setLevel(max(logging.getLevelName(level), logging.WARNING))


def _shown(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _quoted(text: str) -> str:
    """Return ``text`` as it looks inside JSON."""
    return json.dumps(text)[1:-1]


def _escaped(control: re.Match[str]) -> str:
    return control[0].encode("unicode_escape").decode()
