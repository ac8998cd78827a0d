"""What was measured: values by metric and server, one for each round, and what went wrong."""

from statistics import median
from typing import Final, NamedTuple

TIDINGS: Final = "tidings"
WITH_DATABASE: Final = "tidings + PostgreSQL"


class Metric(NamedTuple):
    """A row of a scenario's table."""

    scenario: str
    case: str
    unit: str


class Results:
    """Fills up while the scenarios run."""

    def __init__(self) -> None:
        self.values: dict[Metric, dict[str, list[float]]] = {}
        self.flaws: dict[str, list[str]] = {}

    def add(self, metric: Metric, server: str, value: float) -> None:
        """Keep the value of one more round."""
        self.values.setdefault(metric, {}).setdefault(server, []).append(value)

    def flaw(self, scenario: str, server: str, what: str) -> None:
        """Keep what a server did wrong; Tidings has not met a goal in a scenario with a flaw of its own."""
        said = self.flaws.setdefault(f"{scenario}: {server}", [])
        if what not in said:
            said.append(what)

    def is_flawed(self, scenario: str) -> bool:
        """Tell whether Tidings did something wrong, by whichever name it ran."""
        return any(where.startswith(f"{scenario}: {TIDINGS}") for where in self.flaws)

    def median(self, metric: Metric, server: str = TIDINGS) -> float | None:
        """Return the median of the rounds, if there were any."""
        values = self.values.get(metric, {}).get(server)
        return median(values) if values else None

    def ratio(
        self, metric: Metric, other: str, *, ours: str = TIDINGS, to: Metric | None = None
    ) -> float | None:
        """Return the median of ours by theirs, each pair from the same round.

        ``to`` is the metric that theirs is taken from, where it is another one.
        """
        mine = self.values.get(metric, {}).get(ours)
        theirs = self.values.get(to or metric, {}).get(other)
        if not mine or not theirs:
            return None
        return median(a / b for a, b in zip(mine, theirs, strict=False) if b)
