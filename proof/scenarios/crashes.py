"""Processes that are killed, stopped, restarted or frozen, under load."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final

from proof.play import Load, Play
from proof.stage import Stage

IN_A_ROUND: Final = 20
"""Faults on one stage, before everybody is asked what they have; then comes a fresh one."""
LEASE: Final = 10.0
"""Seconds after which others take an instance that says nothing for dead."""

Strike = Callable[[Load, int, Random], Awaitable[None]]


async def sigkill(play: Play) -> None:
    """SIGKILL of an instance, again and again."""
    await _rounds(play, play.count(200, 4), _kill_instance)


async def _kill_instance(load: Load, number: int, rng: Random) -> None:
    instance = load.stage.instances[number % len(load.stage.instances)]
    with load.broken("SIGKILL of an instance", instance.name):
        instance.kill()
        await asyncio.sleep(rng.uniform(0, 0.2))
        await instance.start()


async def postgres_stop(play: Play) -> None:
    """Immediate stops of PostgreSQL, and its starts."""
    await _rounds(play, play.count(50, 3), _crash_postgres)


async def _crash_postgres(load: Load, _: int, rng: Random) -> None:
    with load.broken("immediate stop of PostgreSQL"):
        await load.stage.postgres.crash()
        await asyncio.sleep(rng.uniform(0, 1.0))
        await load.stage.postgres.start()
        await _all_ready(load.stage)


async def redis_kill(play: Play) -> None:
    """SIGKILL of Redis, and its start with nothing in it."""
    await _rounds(play, play.count(50, 3), _kill_redis)


async def _kill_redis(load: Load, _: int, rng: Random) -> None:
    with load.broken("SIGKILL of Redis"):
        load.stage.redis.kill()
        await asyncio.sleep(rng.uniform(0, 1.0))
        await load.stage.redis.start()


async def rolling_restart(play: Play) -> None:
    """SIGTERM of each instance in turn, as a deployment does it."""
    await _rounds(play, play.count(10, 2), _restart_instance)


async def _restart_instance(load: Load, number: int, _: Random) -> None:
    instance = load.stage.instances[number % len(load.stage.instances)]
    with load.broken("SIGTERM of an instance", instance.name):
        await instance.terminate()
        await instance.start()


async def frozen(play: Play) -> None:
    """SIGSTOP of an instance for longer than its lease."""
    await _rounds(play, play.count(2, 1), _freeze_instance)


async def _freeze_instance(load: Load, number: int, _: Random) -> None:
    instance = load.stage.instances[number % len(load.stage.instances)]
    with load.broken("SIGSTOP of an instance", instance.name):
        instance.freeze()
        await load.go(LEASE + 2)
        instance.thaw()
        await _all_ready(load.stage)


async def _rounds(play: Play, strikes: int, strike: Strike) -> None:
    """Strike so often, between them some load; nobody knows more of the other rounds."""
    for begin in range(0, strikes, IN_A_ROUND):
        async with play.stage() as stage, play.load(stage, posts=100.0) as load:
            await load.go(1.0)
            for number in range(begin, min(begin + IN_A_ROUND, strikes)):
                await strike(load, number, play.rng)
                await load.go(play.rng.uniform(0.2, 0.8))


async def _all_ready(stage: Stage) -> None:
    await asyncio.gather(*[instance.start() for instance in stage.instances])
