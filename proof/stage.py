"""The stage: PostgreSQL, Redis and instances of the service, with a proxy on every link between them."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from proof.instance import Instance, Redis
from proof.postgres import Postgres, clone, make_template, small_disk, url
from proof.proxy import Ends, Proxy, proxying


class Links(NamedTuple):
    """The proxies of one instance: from its clients, and to its stores."""

    clients: Proxy
    database: Proxy
    redis: Proxy


class Stage:
    """What runs; ``urls`` lead to the instances by way of their clients' proxies, and stay the same."""

    def __init__(self, folder: Path, postgres: Postgres, redis: Redis) -> None:
        self.folder = folder
        self.postgres = postgres
        """The primary, whichever server that is; all instances are led to it."""
        self.redis = redis
        self.instances: list[Instance] = []
        self.links: list[Links] = []

    @property
    def urls(self) -> Sequence[str]:
        """Return where clients connect."""
        return [f"http://127.0.0.1:{links.clients.port}" for links in self.links]

    @property
    def proxies(self) -> Sequence[Proxy]:
        """Return all proxies."""
        return [proxy for links in self.links for proxy in links]

    async def heal(self) -> None:
        """Let everything through, start what is down, and wait until every instance can serve."""
        for proxy in self.proxies:
            proxy.heal()
        for instance in self.instances:
            instance.thaw()
        await self.postgres.start()
        await self.redis.start()
        await asyncio.gather(*[instance.start() for instance in self.instances])

    def end(self) -> None:
        """End every process."""
        for instance in self.instances:
            instance.kill()
        self.redis.kill()
        self.postgres.kill()


class Workshop:
    """Makes stages: a folder for everything, and in it a cluster with the schema to copy."""

    def __init__(self, folder: Path, template: Path) -> None:
        self.folder = folder
        self._template = template

    @asynccontextmanager
    async def stage(
        self, instances: int = 2, *, disk: int | None = None, **settings: str
    ) -> AsyncIterator[Stage]:
        """Run so many instances; with ``disk`` PostgreSQL has a disk of so many megabytes.

        Raises Missing where this machine lacks what it takes, NotStarted where something fails.
        """
        folder = Path(tempfile.mkdtemp(prefix="stage-", dir=self.folder))
        folder.chmod(0o711)
        async with AsyncExitStack() as stack:
            stack.callback(shutil.rmtree, folder)
            home = folder if disk is None else stack.enter_context(small_disk(folder / "disk", disk))
            postgres = Postgres(await clone(self._template, home / "data"), folder)
            stage = Stage(folder, postgres, Redis(folder))
            stack.callback(stage.end)
            for number in range(1, instances + 1):
                await _add(stage, number, settings, stack)
            await stage.heal()
            yield stage


async def _add(stage: Stage, number: int, settings: dict[str, str], stack: AsyncExitStack) -> None:
    """Add an instance with its links; it is not started."""
    database = await stack.enter_async_context(proxying(connector(lambda: stage.postgres.port)))
    redis = await stack.enter_async_context(proxying(connector(lambda: stage.redis.port)))
    stores = {"DATABASE_URL": url(database.port), "REDIS_URL": f"redis://127.0.0.1:{redis.port}"}
    instance = Instance(stage.folder, number, **stores | settings)
    clients = await stack.enter_async_context(proxying(connector(lambda: instance.port)))
    stage.instances.append(instance)
    stage.links.append(Links(clients, database, redis))


def connector(port: Callable[[], int]) -> Callable[[], Awaitable[Ends]]:
    """Return what connects to a port, which is asked for each time."""

    async def connect() -> Ends:
        return await asyncio.open_connection("127.0.0.1", port())

    return connect


@asynccontextmanager
async def workshop() -> AsyncIterator[Workshop]:
    """Make a workshop, whose folder is removed in the end."""
    with tempfile.TemporaryDirectory(prefix="tidings-proof-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        template = await make_template(folder / "template")
        yield Workshop(folder, template)
