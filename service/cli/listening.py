"""``tidings listen``: prints events as they come, and comes back after every break."""

import asyncio
import json
import random
import socket
import sys
from collections.abc import Callable
from typing import Annotated, Any, Final
from urllib.parse import urlencode

import typer
from rich.console import Console
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from service.cli.credentials import client_token
from service.cli.remote import DEFAULT_URL, Key, Unreachable, Url
from service.domain.errors import Forbidden, TidingsError, Unauthorized

_TOKEN_TTL: Final = 86400
_LONGEST_PAUSE: Final = 30.0
_FINAL: Final[dict[int, type[TidingsError]]] = {4001: Unauthorized, 4003: Forbidden}
"""Close codes after which it is no use to come back."""

Frame = dict[str, Any]


def listen(
    user: Annotated[str | None, typer.Option(help="Be this user, with a new token.")] = None,
    token: Annotated[
        str | None, typer.Option(envvar="TIDINGS_TOKEN", help="Be whoever this token is for.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Which receiver this is. [default: by this machine's name]")
    ] = None,
    after: Annotated[int | None, typer.Option(min=0, help="Start after this position.")] = None,
    ack_client: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--ack-client", help="Acknowledge only what has been printed.")
    ] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Print events as they come: lines on a terminal, JSON where the output goes elsewhere."""
    if (user is None) == (token is None):
        raise typer.BadParameter("give either --user or --token")
    grants = {"rooms": ["*"]}

    def fresh() -> str:
        return token or client_token(str(user), _TOKEN_TTL, grants, url, key)

    query = {"device": device or f"cli-{socket.gethostname()}"}
    if ack_client:
        query["ack"] = "client"
    listener = Listener(url, fresh, query, after, acknowledge=ack_client)
    try:
        asyncio.run(listener.run())
    except KeyboardInterrupt:
        typer.echo(f"stopped at position {listener.after}", err=True)


class Listener:
    """One receiver of events over any number of connections.

    ``token`` is called before each connection. Ends by raising Unauthorized or Forbidden.
    """

    def __init__(
        self,
        url: str,
        token: Callable[[], str],
        query: dict[str, str],
        after: int | None,
        *,
        acknowledge: bool,
    ) -> None:
        self.after = after
        self._url = f"ws{url.rstrip('/').removeprefix('http')}/v1/ws"
        self._token = token
        self._query = query
        self._acknowledge = acknowledge
        self._log: str | None = None
        self._failures = 0
        self._pause: float | None = None
        self._print = print_event if sys.stdout.isatty() else print_json

    async def run(self) -> None:
        """Connect, print what comes, and do so again after every break."""
        while True:
            try:
                await self._listen_once()
            except InvalidURI:
                raise Unreachable(f"{self._url} is not the URL of a service") from None
            except InvalidHandshake as error:
                _say(f"refused: {error}")
            except (OSError, TimeoutError) as error:
                _say(f"no connection: {error or type(error).__name__}")
            await asyncio.sleep(self._next_pause())

    def _next_pause(self) -> float:
        """Return how long to wait: as the server said, or else with full jitter."""
        longest = min(_LONGEST_PAUSE, 0.5 * 2**self._failures)
        pause = random.uniform(0, longest) if self._pause is None else self._pause  # noqa: S311 - only spread
        self._failures, self._pause = self._failures + 1, None
        return pause

    async def _listen_once(self) -> None:
        query = {**self._query, **({} if self.after is None else {"after": str(self.after)})}
        bearer = f"bearer.{self._token()}"
        # With tidings.v1 a refusal comes as a close code, which tells whether to come back.
        async with connect(
            f"{self._url}?{urlencode(query)}",
            subprotocols=["tidings.v1", bearer],  # type: ignore[list-item] # a NewType of str
            max_size=None,
        ) as connection:
            try:
                async for message in connection:
                    await self._take(connection, json.loads(message))
            except ConnectionClosed:
                pass
            except asyncio.CancelledError:
                await connection.close()  # as one who leaves, not as one who failed
                raise
            self._closed(connection.close_code, connection.close_reason)

    def _closed(self, code: int | None, reason: str | None) -> None:
        told = f"{code} {reason or ''}".strip()
        if code in _FINAL:
            raise _FINAL[code](f"closed: {told}")
        _say(f"closed: {told}")

    async def _take(self, connection: ClientConnection, frame: Frame) -> None:
        match frame["type"]:
            case "welcome":
                await self._welcome(connection, frame)
            case "event":
                self._print(frame)
                await self._received(connection, frame.get("position"))
            case "joined_room" | "left_room" | "recalled":
                _say(json.dumps(frame))
                await self._received(connection, frame["position"])
            case "gap":
                _say(json.dumps(frame))
                self.after = None  # what follows comes after its end, also where that lies before ours
                await self._received(connection, frame["to"])
            case "live":
                _say(f"live at {frame['position']}")
            case "disconnect" if "retry_after_ms" in frame:
                self._pause = frame["retry_after_ms"] / 1000

    async def _welcome(self, connection: ClientConnection, frame: Frame) -> None:
        self._failures = 0
        known, self._log = self._log, frame["log"]
        if known not in {None, self._log}:
            _say("this is another log: starting afresh")
            self.after = None
            await connection.close()
            return
        _say(f"connected as {frame['user']} ({frame['device']}), from {frame['position']}")

    async def _received(self, connection: ClientConnection, position: int | None) -> None:
        if position is None:  # an ephemeral event
            return
        self.after = max(position, self.after or 0)
        if self._acknowledge:
            await connection.send(json.dumps({"type": "ack", "position": position}))


def print_json(frame: Frame) -> None:
    """Print a frame as one line of JSON."""
    sys.stdout.write(json.dumps(frame, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_event(frame: Frame) -> None:
    """Print an event for people."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(str(frame.get("position", "~")).rjust(8), style="dim", end="  ")
    console.print(frame["event"], style="bold green", end="  ")
    console.print(frame["to"], style="cyan", end="  ")
    console.print(json.dumps(frame["data"]))


def _say(text: str) -> None:
    typer.echo(text, err=True)
