"""An instance whose wall clock jumps, under load."""

from typing import Final

from proof.clock import Clock
from proof.play import Play

JUMPS: Final = (3600, -1800, 7200, 1, -3000, 0)
"""Seconds ahead of the time, one after the other."""


async def clock(play: Play) -> None:
    """Let the wall clock of one of two instances jump, to and fro."""
    async with play.stage() as stage:
        first = stage.instances[0]
        wall = Clock(stage.folder / "clock")
        await first.terminate()
        first.process.environment |= wall.environment
        await first.start()
        async with play.load(stage) as load:
            await load.go(1.0)
            with load.broken("jumps of a wall clock", first.name):
                for seconds in JUMPS[: play.count(len(JUMPS), 3)]:
                    wall.jump(seconds)
                    await load.go(play.count(3, 1))
                wall.jump(0)
