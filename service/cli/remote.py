"""Talks to a running service over HTTP, as whoever has a key."""

from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Final, Self

import httpx
import typer

from service.cli import development
from service.domain.errors import TidingsError
from service.settings import load

Url = Annotated[
    str, typer.Option("--url", envvar="TIDINGS_URL", help="Where the service is.", rich_help_panel="Service")
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="TIDINGS_KEY",
        help="An API key; default: the admin key that is configured here.",
        show_default=False,
        rich_help_panel="Service",
    ),
]
DEFAULT_URL: Final = "http://127.0.0.1:8000"
_TIMEOUT: Final = 15.0


class Refused(TidingsError):
    """The service said no; the message is its own."""

    code = "refused"


class Unreachable(TidingsError):
    """Nobody answers there, or nothing that makes sense."""

    code = "unreachable"


class Remote:
    """A running service; raises Refused and Unreachable."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url.rstrip("/")
        key = key or default_key()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def get(self, path: str, **parameters: str | int) -> Any:
        """Return the answer to a GET."""
        return self._call("GET", path, params=parameters)

    def every(self, path: str) -> list[dict[str, Any]]:
        """Return all entries of a list, page by page."""
        page = self.get(path, limit=100)
        entries: list[dict[str, Any]] = page["data"]
        while page["has_more"]:
            page = self.get(path, limit=100, after=page["next_cursor"])
            entries += page["data"]
        return entries

    def post(self, path: str, body: object) -> Any:
        """Return the answer to a POST."""
        return self._call("POST", path, json=body)

    def delete(self, path: str) -> None:
        """Delete what is at ``path``."""
        self._call("DELETE", path)

    def _call(self, method: str, path: str, **more: Any) -> Any:
        try:
            answer = self._http.request(method, path, **more)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            raise Unreachable(f"{self.url} is not the URL of a service") from None
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise Unreachable(f"cannot reach {self.url} ({reason}): does it run?") from None
        if answer.is_error:
            raise Refused(_problem(answer))
        return answer.json() if answer.content else None


def default_key() -> str | None:
    """Return the admin key of this directory's configuration, if there is one."""
    settings = load()
    if settings.admin_key is not None:
        return settings.admin_key.get_secret_value()
    data_dir = settings.data_dir or development.DATA_DIR
    return development.known_secrets(Path(data_dir)).get("TIDINGS_ADMIN_KEY")


def _problem(answer: httpx.Response) -> str:
    """Return one line from a problem document (RFC 9457), or from whatever came instead."""
    try:
        problem = answer.json()
        told = problem.get("detail") or problem.get("title")
        return f"{problem['code']}: {told} ({answer.status_code})"
    except (ValueError, AttributeError, KeyError):
        return f"the service answered {answer.status_code} {answer.reason_phrase}"
