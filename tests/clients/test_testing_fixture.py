"""The fixture that gives other people's tests a service: used as they would, in a run of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

ROOT = Path(__file__).parents[2]

THEIRS = """
import os
from tidings_client import Tidings

pytest_plugins = ["tidings_client.testing"]


async def hear(server, user):
    async with server.publisher() as publisher:
        sent = await publisher.send(f"user:{user}", "greeting", {"text": "hello"})
    async for event in Tidings(server.url, server.token(user, presence=True)):
        assert event.position == sent.position
        return event.data["text"]


def test_one(tidings_server):
    import asyncio
    assert asyncio.run(hear(tidings_server, "alice")) == "hello"


def test_another_uses_the_same_service(tidings_server):
    import asyncio, pathlib
    assert asyncio.run(hear(tidings_server, "bob")) == "hello"
    pathlib.Path("url").write_text(tidings_server.url)


def test_that_fails(tidings_server):
    raise SystemExit("leaves nothing behind either")
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short name: PostgreSQL has its socket in there, whose path must have less than 108 bytes."""
    with TemporaryDirectory(prefix="tt-") as name:
        yield Path(name)


def test_a_run_of_other_tests_has_a_service_and_leaves_nothing_behind(folder: Path) -> None:
    (folder / "test_theirs.py").write_text(THEIRS)
    marker = f"tidings-fixture-{os.getpid()}"
    environment = {
        **os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/clients/python", "TIDINGS_ADMIN_KEY": "of somebody else",
        "TMPDIR": str(folder), "MARKER": marker,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:schemathesis", "-p", "no:cacheprovider"],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert "1 failed" in done.stdout
    left = [pid for pid in processes() if f"MARKER={marker}".encode() in environment_of(pid)]
    assert left == []
    assert list(folder.glob("tidings-*")) == []


def processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def environment_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
