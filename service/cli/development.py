"""The development profile: what ``tidings serve --dev`` fills in, and what it tells.

Its secrets are made once for each data directory and kept there, readable by their owner only.
"""

import json
import os
import secrets
import shlex
import sys
import tempfile
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path
from time import time
from typing import Final

from dotenv import dotenv_values

from service.auth.tokens import minter_from
from service.settings import Settings

DATA_DIR: Final = Path(".tidings")
TOKEN_TTL: Final = 86400
_KEYS: Final = ("TIDINGS_JWT_SECRET", "TIDINGS_JWT_PUBLIC_KEY", "TIDINGS_JWKS_URL")


def fill_in(environment: MutableMapping[str, str]) -> None:
    """Set what neither ``environment`` nor ``.env`` sets; override nothing."""
    given = {**_non_empty(dotenv_values(".env")), **_non_empty(environment)}
    data_dir = Path(given.get("TIDINGS_DATA_DIR", DATA_DIR))
    defaults = {
        "TIDINGS_DATA_DIR": str(data_dir),
        "TIDINGS_METRICS_PUBLIC": "1",
        "TIDINGS_DEV": "1",
        "TIDINGS_DRAIN_TIMEOUT": "1",
        **_ensure_secrets(data_dir),
    }
    if any(name in given for name in _KEYS):
        del defaults["TIDINGS_JWT_SECRET"]
    environment.update({name: value for name, value in defaults.items() if name not in given})


def known_secrets(data_dir: Path) -> dict[str, str]:
    """Return the profile's secrets by the names of their variables; empty where there are none."""
    return _non_empty(dotenv_values(data_dir / "secrets.env"))


def _ensure_secrets(data_dir: Path) -> dict[str, str]:
    """Return the secrets of the data directory, made if this is the first time."""
    data_dir.mkdir(parents=True, exist_ok=True)
    path = data_dir / "secrets.env"
    if not path.exists():
        (data_dir / ".gitignore").write_text("*\n")
        text = (
            f"TIDINGS_JWT_SECRET={secrets.token_urlsafe(48)}\n"
            f"TIDINGS_ADMIN_KEY=admin-{secrets.token_urlsafe(32)}\n"
        )
        _create(path, text)
    return known_secrets(data_dir)


def _create(path: Path, text: str) -> None:
    """Make a file that only its owner can read; one that is there meanwhile stays."""
    # Complete before it has its name: another process may be starting at this moment.
    with tempfile.NamedTemporaryFile("w", dir=path.parent) as new:  # its mode is 0600
        new.write(text)
        new.flush()
        with suppress(FileExistsError):
            os.link(new.name, path)


def _non_empty(values: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}


def welcome(settings: Settings, url: str) -> str:
    """Return what a newcomer can paste to see the first event arrive."""
    command = _command()
    parts = [f"Tidings is ready: {url} (data in {settings.data_dir})"]
    if token := _token(settings):
        parts.append(f"Open {_from_here(url)}/demo")
        parts.append(f"A client token for alice, good for a day:\n  {token}")
    if settings.admin_key is not None:
        key = settings.admin_key.get_secret_value()
        body = json.dumps({"to": "user:alice", "type": "hello", "data": {"text": "It works"}})
        headers = (f"Authorization: Bearer {key}", "Content-Type: application/json")
        shown = " ".join(f"-H {shlex.quote(header)}" for header in headers)
        curl = f"curl -sS {url}/v1/events {shown} -d {shlex.quote(body)}"
        parts.append(f"The admin key:\n  {key}")
        parts.append(f"Send alice an event, whether she is there or not:\n  {curl}")
    parts.append(f"Be alice, in another terminal:\n  {command} listen --user alice --url {url}")
    return "\n" + "\n\n".join(parts) + "\n"


def _from_here(url: str) -> str:
    """Return the URL by which this machine reaches a service that listens on all its addresses."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//127.0.0.1:")


def _token(settings: Settings) -> str | None:
    minter, now = minter_from(settings), int(time())
    if minter is None:
        return None
    grants = {"rooms": ["*"], "publish": ["room:*", "user:*"], "presence": True}
    return minter.mint({"sub": "alice", "iat": now, "exp": now + TOKEN_TTL, **grants})


def _command() -> str:
    """Return how this command was called, as a path from here."""
    called = Path(sys.argv[0])
    if called.name != "tidings":
        return "python -m service"
    return os.path.relpath(called) if called.exists() else "tidings"
