"""What the tests stand on: a real PostgreSQL, a fresh database for each, a real server on port 0."""

import asyncio
import functools
import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import uvloop
from hypothesis import settings as hypothesis_settings
from sqlalchemy import make_url

from service.store import database, embedded
from service.stream import follower
from tests.harness import Server, serving
from tests.redis import RedisServer

hypothesis_settings.register_profile("tidings", deadline=None)
hypothesis_settings.load_profile("tidings")


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Test on the loop that production runs on."""
    return {"uvloop": uvloop.new_event_loop}


LIMIT = 110.0
"""Seconds for a coroutine of a test, which is then told where it hangs."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let no test hang: what pytest-timeout raises may be raised in a callback of the loop, and be lost."""
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        item.obj = _within_limit(item.obj)


def _within_limit(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def bounded(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(LIMIT):
            await test(*args, **kwargs)

    return bounded


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The server under test: the one that is named, or an embedded one."""
    given = os.environ.get("TIDINGS_TEST_DATABASE_URL")
    if given:
        yield given
        return
    # Not pytest's own folder: it keeps three of those, and another run would delete this one.
    with TemporaryDirectory(prefix="tidings-test-", dir=_in_memory()) as folder:
        yield embedded.start(Path(folder))
        embedded.stop(Path(folder))


def _in_memory() -> str | None:
    """Return a folder in memory, if there is room: no disk then makes a commit wait."""
    folder = Path("/dev/shm")
    return str(folder) if folder.is_dir() and shutil.disk_usage(folder).free > 4 * 2**30 else None


@pytest.fixture(scope="session")
def template(postgres: str) -> Iterator[str]:
    """A migrated database that every test's own is cloned from."""
    name = f"template_{uuid4().hex[:12]}"
    asyncio.run(_administer(postgres, f"create database {name}"))
    url = _named(postgres, name)
    # In a process of its own: Alembic keeps module state that tests of migrations also use.
    code = "import asyncio, sys; from service.store import schema; asyncio.run(schema.upgrade(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, url], check=True, cwd=Path(__file__).parent.parent)
    yield name
    asyncio.run(_administer(postgres, f"drop database {name} with (force)"))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with TemporaryDirectory(prefix="tidings-redis-") as folder, RedisServer(Path(folder)) as server:
        yield server


@pytest.fixture(scope="module")
def lasting_database_url(postgres: str, template: str) -> Iterator[str]:
    """A database for all tests of a module."""
    name = f"test_{uuid4().hex[:12]}"
    asyncio.run(_administer(postgres, f"create database {name} template {template}"))
    yield _named(postgres, name)
    asyncio.run(_administer(postgres, f"drop database {name} with (force)"))


@pytest.fixture
async def database_url(postgres: str, template: str) -> AsyncIterator[str]:
    name = f"test_{uuid4().hex[:12]}"
    await _administer(postgres, f"create database {name} template {template}")
    yield _named(postgres, name)
    await _administer(postgres, f"drop database {name} with (force)")


@pytest.fixture
async def empty_database_url(postgres: str) -> AsyncIterator[str]:
    name = f"empty_{uuid4().hex[:12]}"
    await _administer(postgres, f"create database {name}")
    yield _named(postgres, name)
    await _administer(postgres, f"drop database {name} with (force)")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse nothing for the reason that a machine is slow: to confirm the log, or in a statement."""
    monkeypatch.setattr(follower, "TRUSTED_FOR", 10.0)
    monkeypatch.setattr(database, "STATEMENT_TIMEOUT", 10.0)


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the test's database, to look and to meddle; as in the service, nothing is compiled."""
    connection = await asyncpg.connect(_plain(database_url), server_settings={"jit": "off"})
    yield connection
    await connection.close()


@pytest.fixture
async def start(database_url: str) -> AsyncIterator[Callable[..., Awaitable[Server]]]:
    """Start servers on the test's database; they are stopped at its end."""
    async with AsyncExitStack() as stack:

        async def start_one(**settings: Any) -> Server:
            return await stack.enter_async_context(serving(**({"database_url": database_url} | settings)))

        yield start_one


@pytest.fixture
async def server(start: Callable[..., Awaitable[Server]]) -> Server:
    return await start()


async def _administer(url: str, statement: str) -> None:
    connection = await asyncpg.connect(_plain(url))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _plain(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def _named(url: str, database: str) -> str:
    return make_url(url).set(database=database).render_as_string(hide_password=False)
