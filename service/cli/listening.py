"""``tidings listen``: prints events as they come, and comes back after every break."""

import asyncio
import json
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from service.cli.credentials import client_token
from service.cli.remote import DEFAULT_URL, Key, Unreachable, Url
from tidings_client import Event, Tidings

_TOKEN_TTL: Final = 86400

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
    ack_client: Annotated[  # noqa: ARG001, FBT002 - a flag of the command line, from when there was a choice
        bool, typer.Option("--ack-client", help="Acknowledge only what has been printed: it is always so.")
    ] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Print events as they come: lines on a terminal, JSON where the output goes elsewhere."""
    if (user is None) == (token is None):
        raise typer.BadParameter("give either --user or --token")

    def fresh() -> str:
        return client_token(str(user), _TOKEN_TTL, {"rooms": ["*"]}, url, key)

    tokens = token or _beginning_with(fresh(), fresh)
    try:
        tidings = Tidings(url, tokens, device=device or f"cli-{socket.gethostname()}", after=after)
    except ValueError as error:
        raise Unreachable(str(error)) from None
    tidings.watch("state", State().tell)
    for kind in ("gap", "recalled", "room"):
        tidings.watch(kind, lambda frame: _say(json.dumps(frame)))
    try:
        asyncio.run(_print(tidings))
    except KeyboardInterrupt:
        typer.echo(f"stopped at position {tidings.position}", err=True)


def _beginning_with(first: str, fresh: Callable[[], str]) -> Callable[[], str]:
    """Return what gives this token once: what is wrong with making one is told before anything begins."""
    given = [first]
    return lambda: given.pop() if given else fresh()


async def _print(tidings: Tidings) -> None:
    show = print_event if sys.stdout.isatty() else print_json
    async for event in tidings:
        show(frame_of(event))


class State:
    """Says on stderr how the connection stands."""

    def __init__(self) -> None:
        self._log: str | None = None

    def tell(self, notice: Mapping[str, Any]) -> None:
        """Say what has changed."""
        match notice["state"]:
            case "catching-up":
                if self._log not in {None, notice["log"]}:
                    _say("this is another log: starting afresh")
                self._log = notice["log"]
                _say(f"connected as {notice['user']} ({notice['device']}), from {notice['position']}")
            case "live":
                _say(f"live at {notice['position']}")
            case "offline" if notice.get("code") is not None:
                _say(f"closed: {notice['code']} {notice['reason']}".rstrip())
            case "offline":
                _say(f"no connection: {notice['reason']}")


def frame_of(event: Event) -> Frame:
    """Return an event as the protocol has it."""
    frame = {
        "type": "event", "position": event.position, "id": event.id, "to": event.to, "event": event.type,
        "data": event.data, "time": event.time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "from": event.from_, "ephemeral": event.ephemeral or None,
    }  # fmt: skip
    return {name: value for name, value in frame.items() if value is not None or name == "data"}


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
