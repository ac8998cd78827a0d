"""Inputs that nobody ought to send, in great number."""

from typing import Final

from proof.checker import Violation
from proof.hostile import Run, hostile
from proof.instance import ADMIN_KEY, SECRET
from proof.play import Play

GROWTH: Final = 100.0
"""Megabytes that the service may grow by."""
MEGABYTE: Final = 1024 * 1024


async def hostility(play: Play) -> None:
    """Send mutated heads, bodies, tokens and frames; nothing of it may be more than refused."""
    count = play.count(1_000_000, 20_000)
    async with play.stage(
        1, COMMANDS_PER_SECOND="1000000", USER_RATE="0", LOG_LEVEL="DEBUG", COOKIE="sid", ORIGINS="https://a"
    ) as stage:
        [instance] = stage.instances
        before = instance.process.memory
        run = Run("127.0.0.1", instance.port, SECRET, ADMIN_KEY, play.rng.getrandbits(32), count)
        failures = await hostile(run, stage.folder / f"{instance.name}.log")
        play.figure("inputs tried", run.tried.total(), least=count)
        for kind, number in sorted(run.tried.items()):
            play.figure(f"of them: {kind}", number)
        play.figure("answers of 500 and above, errors in the log, secrets in it", len(failures), most=0)
        play.figure("memory grown by", (instance.process.memory - before) / MEGABYTE, "MB", most=GROWTH)
        play.accuse(stage, [Violation("hostility", failure) for failure in failures])
