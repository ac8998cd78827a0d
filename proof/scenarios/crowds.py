"""Many plain clients: cut off, coming all at once, orphaned, not reading."""

import asyncio
from contextlib import AbstractAsyncContextManager
from time import monotonic
from typing import Final, cast

from proof.crowd import Crowd, crowd
from proof.play import Play
from proof.stage import Stage

CUT: Final = 2.0
"""Seconds without a link."""
BETWEEN: Final = 2.0
BACK: Final = 10.0
"""Seconds until all are live and have caught up."""
BOUND: Final = 30.0
"""Seconds that this is waited for; a quick run may take them all, on whatever machine."""
MEGABYTE: Final = 1024 * 1024
WINDOW: Final = 64
"""Megabytes of the log that an instance keeps in memory (``TIDINGS_RECENT_BYTES``)."""
BUFFER: Final = 0.25
"""Megabytes that wait for one socket (``TIDINGS_WRITE_BUFFER``)."""


async def cuts(play: Play) -> None:
    """Cut every client's link for two seconds, again and again, while events go on."""
    async with play.stage() as stage, _through(play, stage, play.count(200, 50)) as fans:
        async with fans.published_to(every=0.05):
            for _ in range(play.count(15, 2)):
                _let_in(stage, on=False)
                await asyncio.sleep(CUT)
                _let_in(stage, on=True)
                await asyncio.sleep(BETWEEN)
        await fans.caught_up(BOUND)
        play.figure("delivered through repeated cuts of 2 s of every client", fans.delivered, "%", least=100)
        _order(play, fans)


def _let_in(stage: Stage, *, on: bool) -> None:
    for links in stage.links:
        links.clients.refuse = not on
        if not on:
            links.clients.cut()


async def storm(play: Play) -> None:
    """Cut all connections at the same moment, again and again."""
    size = play.count(1000, 200)
    async with play.stage() as stage, _through(play, stage, size) as fans:
        took = []
        for _ in range(play.count(10, 2)):
            for links in stage.links:
                links.clients.cut()
            await fans.publish(count=20)
            took.append(await fans.caught_up(BOUND))
        play.figure(f"all {size} clients back and caught up, at worst", max(took), "s", most=_back(play))
        play.figure("delivered through the storms", fans.delivered, "%", least=100)
        _order(play, fans)


async def survivors(play: Play) -> None:
    """SIGKILL of one of two instances, whose clients all come to the other."""
    size = play.count(2000, 300)
    async with play.stage() as stage:
        first, second = (instance.url for instance in stage.instances)
        homes = ((first, second), (second,))
        async with crowd(size, lambda number: homes[number % 2], second, play.rng) as fans:
            async with fans.published_to(every=0.2):
                await asyncio.sleep(1)
                stage.instances[0].kill()
                begun = monotonic()
                await fans.publish()
                took = monotonic() - begun + await fans.caught_up(BOUND)
            await fans.caught_up(BOUND)
            most = _back(play)
            play.figure(f"all {size} clients live on the other, and caught up", took, "s", most=most)
            play.figure("delivered over the SIGKILL", fans.delivered, "%", least=100)
            _order(play, fans)


async def silent(play: Play) -> None:
    """Send to clients that do not read, and see what they cost; then let them read."""
    size, seconds = play.count(200, 50), play.count(60, 4)
    async with play.stage(1) as stage:
        [instance] = stage.instances
        async with crowd(size, lambda _: [instance.url], instance.url, play.rng) as fans:
            before = instance.process.memory
            _read(fans, on=False)
            for _ in range(seconds * 5):
                await fans.publish(size=2000, count=10)
                await asyncio.sleep(0.2)
            grown = (instance.process.memory - before) / MEGABYTE
            play.figure(
                f"memory that {size} clients cost that do not read, after {seconds} s", grown, "MB",
                most=WINDOW + BUFFER * size,
            )  # fmt: skip
            stats = await instance.get("/stats")
            total = cast("dict[str, dict[str, int]]", (stats or {})["total"])
            # The others have fallen behind by more than their buffers, or were dead for two heartbeats.
            play.figure("of them still taken for live", total["connections"]["live"], most=0)
            _read(fans, on=True)
            await fans.publish()
            await fans.caught_up(2 * BOUND)
            play.figure("delivered once they read", fans.delivered, "%", least=100)
            _order(play, fans)


def _back(play: Play) -> float:
    return BOUND if play.quick else BACK


def _read(fans: Crowd, *, on: bool) -> None:
    for client in fans.clients:
        if client.wire is not None:
            client.wire.read(on=on)


def _through(play: Play, stage: Stage, size: int) -> AbstractAsyncContextManager[Crowd]:
    """Have a crowd come by way of the proxies; its producer does not."""
    homes = [[*stage.urls], [*reversed(stage.urls)]]
    return crowd(size, lambda number: homes[number % 2], stage.instances[0].url, play.rng)


def _order(play: Play, fans: Crowd) -> None:
    """Keep what came out of order, and what came again."""
    repeated = disordered = came = 0
    for client in fans.clients:
        had: set[int] = set()
        greatest = 0
        for position in client.positions:
            repeated += position in had
            disordered += position < greatest and position not in had
            had.add(position)
            greatest = max(greatest, position)
        came += len(client.positions)
    play.figure("events out of order", disordered, most=0)
    play.figure("repeated after reconnects", repeated * 1e6 / max(1, came), "per million")
