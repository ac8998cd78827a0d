"""``tidings token``, ``key``, ``revoke`` and ``audit``: who may what, and who did."""

import json
import re
from time import time
from typing import Annotated, Any
from urllib.parse import quote

import typer
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from service.auth.tokens import TokenMinter, minter_from
from service.cli import development
from service.cli.remote import DEFAULT_URL, Key, Remote, Url
from service.domain.addresses import check_pattern, check_room, check_user
from service.settings import load

_TTL = re.compile(r"([0-9]{1,9})([smhd]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}

keys = typer.Typer(help="API keys, for producers and admins.", no_args_is_help=True)


def duration(text: str) -> int:
    """Return the seconds in ``90``, ``90s``, ``15m``, ``12h`` or ``7d``."""
    match = _TTL.fullmatch(text)
    if not match or int(match[1]) == 0:
        raise typer.BadParameter("must be like 90, 15m, 12h or 7d")
    return int(match[1]) * _SECONDS[match[2]]


def overlap(text: str) -> int:
    """Return the seconds in a duration, or 0."""
    return 0 if text == "0" else duration(text)


Ttl = Annotated[
    int, typer.Option(parser=duration, metavar="TIME", help="How long it is good: 90, 15m, 12h, 7d.")
]


def token(
    user: Annotated[str, typer.Argument(help="The user's id.")],
    rooms: Annotated[
        list[str] | None, typer.Option(help="A pattern of rooms to join and receive; repeat it.")
    ] = None,
    join: Annotated[list[str] | None, typer.Option(help="A room to join at connect; repeat it.")] = None,
    publish: Annotated[
        list[str] | None, typer.Option(help="A pattern of addresses to publish to; repeat it.")
    ] = None,
    presence: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--presence", help="May see who is connected.")
    ] = False,
    ttl: Ttl = "1h",  # type: ignore[assignment] # the parser makes a number of it
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Print a client token for USER: signed here, or by the service if the secret is not here."""
    order = {
        "rooms": [check_pattern(room) for room in rooms or ()],
        "join": [check_room(room) for room in join or ()],
        "publish": [check_pattern(address) for address in publish or ()],
        "presence": presence,
    }
    grants = {name: value for name, value in order.items() if value}
    typer.echo(client_token(check_user(user), ttl, grants, url, key))


def client_token(user: str, ttl: int, grants: dict[str, Any], url: str, key: str | None) -> str:
    """Return a token for ``user``, good for ``ttl`` seconds."""
    minter = local_minter()
    if minter is None:
        with Remote(url, key) as remote:
            minted = remote.post("/v1/tokens", {"user": user, "ttl": ttl, **grants})
            return str(minted["token"])
    now = int(time())
    return minter.mint({"sub": user, "iat": now, "exp": now + ttl, **grants})


def local_minter() -> TokenMinter | None:
    """Return what signs tokens here: by the configuration, or as the development profile does."""
    settings = load()
    minter = minter_from(settings)
    if minter is not None or settings.jwt_public_key or settings.jwks_url:
        return minter
    data_dir = settings.data_dir or development.DATA_DIR
    secret = development.known_secrets(data_dir).get("TIDINGS_JWT_SECRET")
    if secret is None:
        return None
    return minter_from(settings.model_copy(update={"jwt_secret": SecretStr(secret)}))


@keys.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scope: Annotated[list[str], typer.Option(help="publish, read, tokens or admin; repeat it.")],
    address: Annotated[
        list[str] | None, typer.Option(help="A pattern it may publish to; repeat it. [default: any]")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Events a second.", show_default="the service's")] = None,
    quota: Annotated[int | None, typer.Option(help="Events a day.", show_default="any")] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Make an API key and print it; it is shown this once."""
    given = {"addresses": address or None, "rate": rate, "quota": quota}
    order = {"name": name, "scopes": scope, **{k: v for k, v in given.items() if v is not None}}
    with Remote(url, key) as remote:
        typer.echo(remote.post("/v1/keys", order)["key"])


@keys.command("list")
def list_(url: Url = DEFAULT_URL, key: Key = None) -> None:
    """List the API keys, without their secrets."""
    with Remote(url, key) as remote:
        table = Table("id", "name", "scopes", "addresses", "expires", "last used", box=None)
        for one in remote.every("/v1/keys"):
            lists = (one.get("scopes") or (), one.get("addresses") or ("any",))
            times = (one.get("expires_at") or "never", one.get("last_used_at") or "never")
            table.add_row(one["id"], one["name"], *(" ".join(x) for x in lists), *times)
    Console(markup=False).print(table)


@keys.command("rotate")
def rotate(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")],
    overlap: Annotated[
        int, typer.Option(parser=overlap, metavar="TIME", help="How long the former secret stays good.")
    ] = "24h",  # type: ignore[assignment] # the parser makes a number of it
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Give an API key another secret and print it; it is shown this once."""
    with Remote(url, key) as remote:
        done = remote.post(f"/v1/keys/{quote(key_id, safe='')}/rotate", {"overlap": overlap})
    typer.echo(done["key"])


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")],
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Delete an API key; it is refused from then on."""
    with Remote(url, key) as remote:
        remote.delete(f"/v1/keys/{quote(key_id, safe='')}")


def revoke(
    jti: Annotated[str | None, typer.Option(help="The token with this id.")] = None,
    user: Annotated[str | None, typer.Option(help="Every token of the user until now.")] = None,
    ban: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--ban", help="And every later one.")
    ] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Take client tokens back; their connections are closed at once."""
    if (jti is None) == (user is None) or (ban and user is None):
        raise typer.BadParameter("give either --jti, or --user with or without --ban")
    order = {"jti": jti} if user is None else {"user": user, **({"ban": True} if ban else {})}
    with Remote(url, key) as remote:
        done = remote.post("/v1/revocations", order)
    more = "" if done["complete"] else " (and perhaps more on other instances)"
    typer.echo(f"revocation {done['id']}: {done['closed']} connections closed{more}")


def audit(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 20,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """List what admins did, newest first."""
    with Remote(url, key) as remote:
        table = Table("at", "actor", "action", "subject", "detail", box=None)
        for one in remote.get("/v1/audit", limit=limit)["data"]:
            table.add_row(one["at"], one["actor"], one["action"], one["subject"], json.dumps(one["detail"]))
    Console(markup=False).print(table)
