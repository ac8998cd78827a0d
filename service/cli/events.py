"""``tidings send`` and ``stats``."""

import asyncio
import json
import sys
from typing import Annotated, Final

import typer

from service.cli.remote import DEFAULT_URL, Key, Remote, Unreachable, Url, default_key
from tidings_client import Options, Publisher, Sent, Unconfirmed

_RETRY_FOR: Final = 3.0
"""Seconds: long enough for a moment's break, and not so long that one wonders."""


def send(
    to: Annotated[str, typer.Argument(help="user:<id>, room:<name> or everyone.")],
    type_: Annotated[str, typer.Argument(metavar="TYPE", help="Such as order.shipped.")],
    data: Annotated[str, typer.Argument(help="JSON; - reads it from stdin.")] = "null",
    event_id: Annotated[str | None, typer.Option("--id", help="Makes a retry safe: accepted once.")] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Send an event and print its position."""
    options: Options = {} if event_id is None else {"id": event_id}
    sent = asyncio.run(_sent(url, key, to, type_, _json(data), options))
    for position in sent.positions:
        typer.echo(position)


async def _sent(url: str, key: str | None, to: str, type_: str, data: object, options: Options) -> Sent:
    try:
        async with Publisher(url, key or default_key() or "", retry_for=_RETRY_FOR) as publisher:
            return await publisher.send(to, type_, data, **options)
    except Unconfirmed as error:
        raise Unreachable(f"cannot reach {url} ({error}): does it run?") from None


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
