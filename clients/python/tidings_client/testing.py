"""A service of one's own for tests with pytest: ``pytest_plugins = ["tidings_client.testing"]``.

It needs ``tidings[embedded]``, and takes a few seconds once in a run.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest

from tidings_client.publisher import Publisher

PATIENCE: Final = 60.0
"""Seconds in which it has to start, and to end."""
_READY: Final = re.compile(r"Tidings is ready: (http://\S+)")


class NotStarted(Exception):
    """The service did not come up; the message has its last words."""


class Server:
    """A service that runs: ``url`` is where, and ``admin_key`` may do everything."""

    def __init__(self, url: str, admin_key: str, secret: str) -> None:
        self.url = url
        self.admin_key = admin_key
        self._secret = secret.encode()

    def token(self, user: str, **claims: Any) -> str:
        """Return a token for a user, good for an hour and for all rooms, unless ``claims`` say otherwise."""
        now = int(time.time())
        payload = {"sub": user, "iat": now, "exp": now + 3600, "rooms": ["*"], **claims}
        text = f"{_part({'alg': 'HS256', 'typ': 'JWT'})}.{_part(payload)}"
        return f"{text}.{_base64(hmac.digest(self._secret, text.encode(), hashlib.sha256))}"

    def publisher(self) -> Publisher:
        """Return a publisher that may send to everybody; it is to be opened by ``async with``."""
        return Publisher(self.url, self.admin_key)


@pytest.fixture(scope="session")
def tidings_server() -> Iterator[Server]:
    """Run a service with a database of its own, for all tests of a run: let each have users of its own."""
    with TemporaryDirectory(prefix="tidings-") as folder, serving(Path(folder)) as server:
        yield server


@contextmanager
def serving(folder: Path, **settings: str) -> Iterator[Server]:
    """Run a service in this folder; ``settings`` are variables without their prefix. Raises NotStarted."""
    secret, admin_key = secrets.token_urlsafe(48), f"admin-{secrets.token_urlsafe(32)}"
    ours = {"DATA_DIR": str(folder / "data"), "JWT_SECRET": secret, "ADMIN_KEY": admin_key} | settings
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
    environment |= {f"TIDINGS_{name}": value for name, value in ours.items()}
    command = [sys.executable, "-m", "service", "serve", "--dev", "--port", "0"]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - of our own making
            command, cwd=folder, env=environment, stdout=output, stderr=output
        )
    try:
        yield Server(_ready(process, log), admin_key, secret)
    finally:
        _end(process)


def _ready(process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait until it says where it is."""
    patience = time.monotonic() + PATIENCE
    while (ready := _READY.search(log.read_text())) is None:
        if process.poll() is not None or time.monotonic() > patience:
            raise NotStarted(f"is tidings[embedded] installed? {log.read_text()[-1000:]}")
        time.sleep(0.02)
    return ready[1]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _part(claims: dict[str, Any]) -> str:
    return _base64(json.dumps(claims).encode())


def _base64(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()
