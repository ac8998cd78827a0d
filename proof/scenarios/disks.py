"""What happens to PostgreSQL itself: a disk that is full, a primary that is lost with its last commits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from proof import postgres
from proof.checker import Violation
from proof.figures import lost, untold
from proof.index import Index
from proof.play import Load, Play
from proof.postgres import Postgres
from proof.processes import NotStarted
from proof.proxy import Proxy, proxying
from proof.stage import Stage, connector

DISK: Final = 320
"""Megabytes: the cluster, some write-ahead log, and little more."""


async def full_disk(play: Play) -> None:
    """Take all room that PostgreSQL has left, and give it back after a while.

    Without room for data it refuses; without room for its write-ahead log it ends.
    """
    async with play.stage(disk=DISK) as stage, play.load(stage, posts=100.0) as load:
        await load.go(1.0)
        for number in range(play.count(6, 2)):
            kind = "full disk, no write-ahead log left" if number % 2 else "full disk"
            with load.broken(kind):
                ballast = await asyncio.to_thread(postgres.fill, stage.postgres.folder.parent)
                if number % 2:
                    await stage.postgres.use_up_log()
                await load.go(play.count(6, 3))
                ballast.unlink()
                await _recovered(load)
            await load.go(1.0)


async def _recovered(load: Load) -> None:
    """Wait until all is well; a server that gave up meanwhile is started again."""
    try:
        await load.stage.heal()
    except NotStarted:
        await load.stage.heal()


async def failover(play: Play) -> None:
    """Lose the primary, and go on with an asynchronous standby that lacks the last commits."""
    for _ in range(play.count(3, 1)):
        async with play.stage() as stage, _standby(stage) as (standby, link):
            async with play.load(stage, posts=100.0) as load:
                await _fail_over(load, standby, link)
            index = Index(load.history.records)
            play.figure("acknowledged events that the failover lost", len(lost(index)), least=1)
            said = "{} came back with a position that was lost, and was not told by a gap"
            play.accuse(stage, [Violation("C4", said.format(one.name)) for one in untold(index)])


@asynccontextmanager
async def _standby(stage: Stage) -> AsyncIterator[tuple[Postgres, Proxy]]:
    """Give a standby that runs, and the link by which it streams."""
    async with proxying(connector(lambda: stage.postgres.port)) as link:
        standby = await stage.postgres.standby(stage.folder / "standby", link.port)
        try:
            await standby.start()
            yield standby, link
        finally:
            standby.kill()


async def _fail_over(load: Load, standby: Postgres, link: Proxy) -> None:
    await load.go(2.0)
    link.refuse = True
    link.cut()
    await load.go(2.0)  # what is committed now is lost
    with load.broken("failover"):
        await load.stage.postgres.crash()
        await standby.promote()
        kept = await standby.run("select coalesce(max(position), 0) from tidings.events")
        # From here on what was known of later positions is void.
        with load.broken("lost commits", lost_from=int(str(kept))):
            load.stage.postgres = standby
            for links in load.stage.links:
                links.database.cut()
            await load.stage.heal()
    await load.go(2.0)
