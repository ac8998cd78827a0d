"""What the proof has found: a row for each scenario under the workload, figures, and what went wrong."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from proof.checker import Violation
from proof.figures import Figures


@dataclass(slots=True)
class Row:
    """What one scenario found, over all of its runs."""

    scenario: str
    faults: Counter[str] = field(default_factory=Counter)
    """How many there were, by kind."""
    acknowledged: int = 0
    failed: int = 0
    delivered: int = 0
    repeated: int = 0
    delays: list[float] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)

    def add(self, faults: Sequence[str], figures: Figures) -> None:
        """Add a run."""
        self.faults.update(faults)
        self.acknowledged += figures.acknowledged
        self.failed += figures.failed
        self.delivered += figures.delivered
        self.repeated += figures.repeated
        self.delays += figures.delays

    def join(self, other: "Row") -> None:
        """Add what another scenario found."""
        self.faults.update(other.faults)
        self.acknowledged += other.acknowledged
        self.failed += other.failed
        self.delivered += other.delivered
        self.repeated += other.repeated
        self.delays += other.delays
        self.violations += other.violations

    def against(self, *claims: str) -> int:
        """Return how often one of these claims was contradicted."""
        return sum(violation.claim in claims for violation in self.violations)

    @property
    def per_million(self) -> float:
        """Return how many of a million deliveries were repeated after a reconnect."""
        return self.repeated * 1e6 / self.delivered if self.delivered else 0.0


@dataclass(slots=True, frozen=True)
class Figure:
    """A number; with ``most`` or ``least`` it is a goal, and met or not."""

    scenario: str
    what: str
    value: float
    unit: str = ""
    most: float | None = None
    least: float | None = None

    @property
    def met(self) -> bool:
        """Tell whether it is within its bounds."""
        return not (
            (self.most is not None and self.value > self.most)
            or (self.least is not None and self.value < self.least)
        )


class Results:
    """Fills up while the scenarios run."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.figures: list[Figure] = []
        self.left_out: dict[str, str] = {}
        """Scenarios that this machine has not what it takes for, and what that is."""
        self.broken: dict[str, str] = {}
        """Scenarios that broke off, and why."""

    def row(self, scenario: str) -> Row:
        """Return the row of a scenario."""
        return self.rows.setdefault(scenario, Row(scenario))

    def figure(self, figure: Figure) -> None:
        """Keep a number."""
        self.figures.append(figure)

    def wrong(self, scenario: str) -> list[str]:
        """Return what went wrong in a scenario."""
        row = self.rows.get(scenario)
        said = [] if row is None else [str(violation) for violation in row.violations]
        said += [f"{f.what}: {f.value:g} {f.unit}".strip() for f in self.figures_of(scenario) if not f.met]
        if scenario in self.broken:
            said.append(self.broken[scenario])
        return said

    def figures_of(self, scenario: str) -> list[Figure]:
        """Return the numbers of a scenario."""
        return [figure for figure in self.figures if figure.scenario == scenario]
