"""``tidings send`` and ``stats``."""

import json
import sys
from typing import Annotated, Any

import typer

from service.cli.remote import DEFAULT_URL, Key, Remote, Url


def send(
    to: Annotated[str, typer.Argument(help="user:<id>, room:<name> or everyone.")],
    type_: Annotated[str, typer.Argument(metavar="TYPE", help="Such as order.shipped.")],
    data: Annotated[str, typer.Argument(help="JSON; - reads it from stdin.")] = "null",
    event_id: Annotated[str | None, typer.Option("--id", help="Makes a retry safe: accepted once.")] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Send an event and print its position."""
    event: dict[str, Any] = {"to": to, "type": type_, "data": _json(data)}
    if event_id is not None:
        event["id"] = event_id
    with Remote(url, key) as remote:
        for appended in remote.post("/v1/events", event)["events"]:
            typer.echo(appended["position"])


def stats(url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Print what the service holds and has done, as JSON."""
    with Remote(url, key) as remote:
        typer.echo(json.dumps(remote.get("/stats"), indent=2))


def _json(text: str) -> object:
    text = sys.stdin.read() if text == "-" else text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise typer.BadParameter("DATA is not JSON (a text needs quotes: '\"text\"')") from None
