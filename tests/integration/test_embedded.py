import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs

import asyncpg
import pytest

from service.store import embedded
from service.store.embedded import EmbeddedPostgresFailed

HOLDER = """
import sys
from pathlib import Path
from service.store import embedded
print(embedded.start(Path(sys.argv[1])), flush=True)
input()
embedded.stop(Path(sys.argv[1]))
"""


# Not pytest's own folders: each of its runs closes them all to other users, such as the server's.
@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="tidings-test-") as path:
        yield Path(path)


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    """One cluster for all: making it takes most of the time. It is stopped after each test."""
    with TemporaryDirectory(prefix="tidings-test-") as path:
        yield Path(path)


@pytest.fixture(autouse=True)
def _stopped(data_dir: Path) -> Iterator[None]:
    yield
    embedded.stop(data_dir)
    assert embedded.running(data_dir) is None


def holder(data_dir: Path) -> "subprocess.Popen[str]":
    """Start another process that uses the server, and wait until it does."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(data_dir)],
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline().startswith("postgresql://")
    return process


def postmaster(data_dir: Path) -> int:
    return int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0])


async def ask(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def test_the_url_is_understood_by_psql(data_dir: Path) -> None:
    url = embedded.start(data_dir)
    psql = embedded._binaries() / "psql"
    ask = [psql, url, "-Atc", "select 42"]
    assert subprocess.run(ask, check=True, capture_output=True).stdout == b"42\n"


async def test_it_is_safe_and_has_room_for_several_workers(data_dir: Path) -> None:
    url = embedded.start(data_dir)
    assert embedded.running(data_dir) == url
    assert await ask(url, "select current_setting('fsync')") == "on"
    assert await ask(url, "select current_setting('max_connections')::int") == 200
    assert await ask(url, "select current_setting('listen_addresses')") == ""


async def test_what_was_written_is_there_after_a_restart(data_dir: Path) -> None:
    url = embedded.start(data_dir)
    await ask(url, "create table kept as select 7 as n")
    embedded.stop(data_dir)
    assert embedded.running(data_dir) is None
    assert await ask(embedded.start(data_dir), "select n from kept") == 7


async def test_the_last_of_its_users_stops_it(data_dir: Path) -> None:
    other = holder(data_dir)
    first = postmaster(data_dir)
    url = embedded.start(data_dir)
    assert postmaster(data_dir) == first
    other.communicate("\n")
    assert await ask(url, "select 1") == 1
    embedded.stop(data_dir)
    assert embedded.running(data_dir) is None


async def test_stopping_leaves_it_to_the_others(data_dir: Path) -> None:
    embedded.start(data_dir)
    other = holder(data_dir)
    embedded.stop(data_dir)
    url = embedded.running(data_dir)
    assert url
    assert await ask(url, "select 1") == 1
    other.communicate("\n")
    assert other.returncode == 0
    assert embedded.running(data_dir) is None


async def test_a_server_that_a_killed_process_left_is_used_and_stopped(data_dir: Path) -> None:
    killed = holder(data_dir)
    killed.kill()
    killed.communicate()
    left = postmaster(data_dir)
    assert await ask(embedded.start(data_dir), "select 1") == 1
    assert postmaster(data_dir) == left
    embedded.stop(data_dir)
    assert embedded.running(data_dir) is None


async def test_it_recovers_from_a_killed_server(data_dir: Path) -> None:
    url = embedded.start(data_dir)
    await ask(url, "create table durable as select 1 as n")
    os.kill(postmaster(data_dir), signal.SIGKILL)
    assert await ask(embedded.start(data_dir), "select n from durable") == 1


def test_a_stale_pid_that_is_somebody_elses_by_now_is_no_server(data_dir: Path) -> None:
    embedded.start(data_dir)
    embedded.stop(data_dir)
    pid_file = data_dir / "postgres" / "postmaster.pid"
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        sockets = data_dir / "postgres"
        pid_file.write_text(f"{sleeper.pid}\n{sockets}\n1\n5432\n{sockets}\n\n  1 1\nready\n")
        assert asyncio.run(ask(embedded.start(data_dir), "select 1")) == 1
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


async def test_a_path_too_long_for_a_socket(folder: Path) -> None:
    deep = folder / ("deep, " * 12) / ("deeper" * 12)
    try:
        url = embedded.start(deep)
        assert str(deep) not in url
        assert await ask(url, "select 1") == 1
        sockets = Path(parse_qs(url.partition("?")[2])["host"][0])
    finally:
        embedded.stop(deep)
    assert sockets.name not in os.listdir(sockets.parent)  # noqa: PTH208 - Path would count as blocking


def test_an_interrupted_first_start_is_made_good(folder: Path) -> None:
    (folder / "postgres.new").mkdir()
    (folder / "postgres.new" / "PG_VERSION").write_text("18\n")
    try:
        embedded.start(folder)
    finally:
        embedded.stop(folder)


def test_what_the_server_complains_of_is_told(folder: Path) -> None:
    embedded.start(folder)
    embedded.stop(folder)
    (folder / "postgres" / "PG_VERSION").write_text("11\n")
    with pytest.raises(EmbeddedPostgresFailed, match=r"version 11.*server\.log"):
        embedded.start(folder)


def test_a_directory_that_cannot_be_made(folder: Path) -> None:
    (folder / "file").write_text("")
    with pytest.raises(EmbeddedPostgresFailed, match="cannot use"):
        embedded.start(folder / "file" / "in it")


def test_without_the_package_it_says_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(embedded, "find_spec", lambda _: None)
        with pytest.raises(EmbeddedPostgresFailed, match=r"tidings\[embedded\].*DATABASE_URL"):
            embedded.start(folder)
