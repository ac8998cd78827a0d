"""What scenarios run on: servers, their subscribers, rounds in which they take turns."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from bench.generator import TIMEOUT, Load, Run
from bench.processes import NotStarted
from bench.results import TIDINGS, WITH_DATABASE, Metric, Results
from bench.targets import Cost, Target, started
from bench.tidings import Tidings
from bench.tools import Tools

MICRO: Final = 1e6
CPU_PER_DELIVERY: Final = "µs CPU per delivery"
_TIMEOUT_WITH_STORE = 5
"""Seconds for any one command: what a store has lost is waited for as long."""

Pair = tuple[Target, Load]


class Stage:
    """The machine's part of a scenario: starts servers, keeps rounds, and takes what was measured."""

    def __init__(self, tools: Tools, directory: Path, results: Results, *, rounds: int, quick: bool) -> None:
        self.tools = tools
        self.results = results
        self.rounds = rounds
        self.quick = quick
        self._directory = directory

    def scaled(self, count: int) -> int:
        """Return ``count``, or a quarter of it in a quick run."""
        return max(1, count // 4) if self.quick else count

    def tidings(self, name: str = TIDINGS, log: str = "log", **settings: str) -> Tidings:
        """Return Tidings, on a log that scenarios share unless they name their own."""
        return Tidings(self._directory / log, name, **settings)

    @contextmanager
    def serving(self, *targets: Target) -> Iterator[list[Target]]:
        """Run these servers, as far as this machine has them."""
        with ExitStack() as stack:
            yield [target for target in targets if self._has(target) and self._starts(target, stack)]

    def _has(self, target: Target) -> bool:
        return target.name in self.tools.peers or isinstance(target, Tidings)

    def _starts(self, target: Target, stack: ExitStack) -> bool:
        """Start a server; a peer that does not come up is left out, and the report says so."""
        try:
            stack.enter_context(started(target, self.tools, self._directory))
        except NotStarted as error:
            if isinstance(target, Tidings):
                raise
            self.results.flaw("left out", target.name, str(error))
            return False
        return True

    def load(self, target: Target, paths: Sequence[str]) -> Load:
        """Return subscribers that are not connected yet; a context."""
        timeout = _TIMEOUT_WITH_STORE if target.store else TIMEOUT
        return Load(self.tools.load, target.port, target.dialect, paths, timeout=timeout)

    @contextmanager
    def connected(
        self, scenario: str, targets: Sequence[Target], paths: Callable[[Target], list[str]]
    ) -> Iterator[list[Pair]]:
        """Connect subscribers to each of the servers, and close them in the end."""
        with ExitStack() as stack:
            pairs = []
            for target in targets:
                load = stack.enter_context(self.load(target, paths(target)))
                self.check(scenario, target, load.connect())
                pairs.append((target, load))
            yield pairs
            for _, load in pairs:
                load.close()

    def warm_up(self, scenario: str, pairs: Sequence[Pair], publishers: int, fan: int, posts: int) -> None:
        """POST to those with a store first, whose bursts are short: Node.js compiles what has run often."""
        for target, load in pairs:
            if target.store:
                load.publishers(publishers, target.to_room())
                self.check(scenario, target, load.saturate(fan, self.scaled(posts)))

    def turns(self, pairs: Sequence[Pair]) -> Iterator[Pair]:
        """Yield every server once a round, each round beginning with the next one."""
        for turn in range(self.rounds):
            yield from rotated(pairs, turn)

    def burst(self, scenario: str, target: Target, act: Callable[[], Run]) -> tuple[Run, Cost]:
        """Do something with a server; return what happened, and what it cost the server."""
        before = target.cost()
        run = act()
        cost = target.cost().since(before)
        self.check(scenario, target, run)
        return run, cost

    def check(self, scenario: str, target: Target, run: Run) -> None:
        """Keep what went wrong."""
        for flaw in run.flaws():
            self.results.flaw(scenario, target.name, flaw)

    def add_cost(self, metric: Metric, target: Target, cost: Cost, divisor: float) -> None:
        """Keep a cost in microseconds for each of ``divisor``: Tidings' alone and in sum, a peer's in sum."""
        if target.name == TIDINGS:
            self.results.add(metric, TIDINGS, cost.service / divisor * MICRO)
            self.results.add(metric, WITH_DATABASE, cost.total / divisor * MICRO)
        else:
            self.results.add(metric, target.name, cost.total / divisor * MICRO)


def rotated(pairs: Sequence[Pair], turn: int) -> list[Pair]:
    """Return them all, another one first each turn."""
    at = turn % len(pairs)
    return [*pairs[at:], *pairs[:at]]
