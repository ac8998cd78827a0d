"""``python -m bench``: measure, print tables, keep the raw values and a plot in ``bench/results``."""

import argparse
import os
import signal
import sys
import tempfile
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn

from bench import plot, report
from bench.catalogue import SCENARIOS
from bench.measure import OTHER_CORE
from bench.results import TIDINGS, Results
from bench.stage import Stage
from bench.tools import HERE, Missing, prepare

RESULTS: Final = HERE / "results"
LIMIT: Final = 600
"""Seconds for everything; what has not run by then is reported as missing."""


class OutOfTime(Exception):
    """The whole has taken too long."""


def main() -> int:
    """Run what the arguments name; the status is 1 where a scenario broke off."""
    arguments = _arguments()
    try:
        tools, missing = prepare(arguments.tidings)
    except Missing as error:
        print(error, file=sys.stderr)
        return 2
    about = report.about(tools, missing, arguments.rounds)
    results = Results()
    os.sched_setaffinity(0, OTHER_CORE)
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.alarm(LIMIT)
    with tempfile.TemporaryDirectory(prefix="tidings-bench-") as directory:
        stage = Stage(tools, Path(directory), results, rounds=arguments.rounds, quick=arguments.quick)
        begun = time.monotonic()
        broken = [name for name in arguments.scenarios if not _completes(name, stage, begun + LIMIT)]
        signal.alarm(0)
    _keep(results, about)
    return 1 if broken else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="scenario", help=f"out of: {', '.join(SCENARIOS)}")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds of each (default: 5)")
    parser.add_argument("--quick", action="store_true", help="a quarter of the counts, to try things out")
    beside = Path(sys.executable).with_name("tidings")
    parser.add_argument(
        "--tidings", default=str(beside), help="the command to measure (default: beside Python)"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.scenarios) - set(SCENARIOS):
        parser.error(f"there is no scenario {', '.join(unknown)}")
    arguments.scenarios = arguments.scenarios or list(SCENARIOS)
    return arguments


def _completes(name: str, stage: Stage, deadline: float) -> bool:
    """Run a scenario; one that breaks off says so in the report, and the others go on."""
    begun = time.monotonic()
    try:
        _run(name, stage, deadline)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other scenarios are worth having
        traceback.print_exc()
        stage.results.flaw(name, TIDINGS, f"the scenario broke off: {error!r}")
        return False
    finally:
        print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return True


def _run(name: str, stage: Stage, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise OutOfTime
    SCENARIOS[name](stage)


def _out_of_time(*_: object) -> NoReturn:
    raise OutOfTime


def _terminated(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)  # by way of the contexts, which end what they started


def _keep(results: Results, about: list[str]) -> None:
    text = report.text(results, about)
    print(text)
    name = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text + "\n")
    (RESULTS / f"{name}.json").write_text(report.raw(results, about) + "\n")
    plot.draw(results, RESULTS / f"{name}.svg")
    print(f"\nkept as {RESULTS / name}.md, .json, .svg", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
