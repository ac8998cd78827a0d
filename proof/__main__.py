"""``python -m proof``: break the service in every way, and check what its clients have seen.

``python -m proof check FILE…`` checks histories that were kept.
"""

import argparse
import asyncio
import signal
import sys
import traceback
from pathlib import Path
from time import monotonic
from typing import Final

import uvloop

from proof import report
from proof.faults import SCENARIOS
from proof.play import Play, check_again
from proof.postgres import Missing
from proof.results import Results
from proof.stage import Workshop, workshop

HERE: Final = Path(__file__).parent
KEEP: Final = HERE / "results"


def main() -> int:
    """Do what the arguments say; the status is 1 where anything was not as promised."""
    arguments = _arguments()
    if arguments.scenarios[:1] == ["check"]:
        return _check(arguments.scenarios[1:])
    begun = monotonic()
    try:
        results = uvloop.run(_play_all(arguments))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    print("\n" + report.text(results))
    if arguments.document:
        how = f"{'the quick version, ' if arguments.quick else ''}seed {arguments.seed}"
        report.write(results, how=f"{how}, {(monotonic() - begun) / 60:.0f} minutes")
    return 1 if any(map(results.wrong, SCENARIOS)) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m proof", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="scenario", help=f"out of: {', '.join(SCENARIOS)}")
    parser.add_argument("--quick", action="store_true", help="what fits into three minutes")
    parser.add_argument("--seed", type=int, default=1, help="of the dice (default: 1)")
    parser.add_argument("--document", action="store_true", help=f"write the figures into {report.DOCUMENT}")
    arguments = parser.parse_args()
    unknown = set(arguments.scenarios) - set(SCENARIOS)
    if unknown and arguments.scenarios[0] != "check":
        parser.error(f"there is no scenario {', '.join(unknown)}")
    return arguments


def _check(files: list[str]) -> int:
    violations = [violation for file in files for violation in check_again(Path(file))]
    for violation in violations:
        print(violation)
    return 1 if violations else 0


async def _play_all(arguments: argparse.Namespace) -> Results:
    _end_by_the_contexts()
    results = Results()
    async with workshop() as shop:
        for name in arguments.scenarios or SCENARIOS:
            await _play(name, shop, results, arguments)
    return results


def _end_by_the_contexts() -> None:
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


async def _play(name: str, shop: Workshop, results: Results, arguments: argparse.Namespace) -> None:
    """Play a scenario and say how it went; one that breaks off does not keep the others from it."""
    play = Play(name, shop, results, KEEP, seed=arguments.seed, quick=arguments.quick)
    begun = monotonic()
    try:
        await SCENARIOS[name](play)
        play.conclude()
    except Missing as missing:
        results.left_out[name] = str(missing)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other scenarios are worth having
        traceback.print_exc()
        results.broken[name] = f"the scenario broke off: {error!r}"
    print(report.line(results, name, monotonic() - begun), flush=True)


if __name__ == "__main__":
    sys.exit(main())
