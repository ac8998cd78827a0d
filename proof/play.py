"""Plays scenarios: load on a stage, faults meanwhile, and then the checker."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from random import Random
from typing import Any, Final

from proof.checker import Bounds, Violation, check
from proof.figures import figures, percentile
from proof.history import Fault, History, read
from proof.index import Index
from proof.instance import ADMIN_KEY, SECRET
from proof.results import Figure, Results
from proof.stage import Stage, Workshop
from proof.workload import Size, Workload

HEALED: Final = 2.0
"""Seconds within which all is delivered but one of a hundred events, once nothing is broken any more."""
BOUND: Final = 20.0
"""Seconds that settling may take; C10's own bound is less."""
QUICK: Final = Bounds(flush=8.0, revocation=10.0, delivery=18.0)
"""Of a quick run, on whatever machine."""


class Load:
    """A workload on a stage, and the record of what is done to the stage."""

    def __init__(self, stage: Stage, history: History, work: Workload) -> None:
        self.stage = stage
        self.history = history
        self.work = work

    async def go(self, seconds: float) -> None:
        """Let it act for so long."""
        await self.work.run(seconds)

    @contextmanager
    def broken(self, kind: str, detail: str = "", *, lost_from: int | None = None) -> Iterator[None]:
        """Write down that something is broken, until the context ends."""
        self.history.add(Fault(kind=kind, detail=detail, lost_from=lost_from))
        try:
            yield
        finally:
            self.history.add(Fault(kind=kind, detail=detail, begins=False))


class Play:
    """One scenario's way to stages, load and results. ``quick`` is the version for every commit."""

    def __init__(
        self, name: str, workshop: Workshop, results: Results, keep: Path, *, seed: int, quick: bool
    ) -> None:  # fmt: skip
        self.name = name
        self.quick = quick
        self.rng = Random(f"{seed} {name}")
        self._workshop = workshop
        self._results = results
        self._keep = keep
        self._runs = 0

    def count(self, long: int, quick: int) -> int:
        """Return how often, or how many."""
        return quick if self.quick else long

    def stage(
        self, instances: int = 2, *, disk: int | None = None, **settings: str
    ) -> AbstractAsyncContextManager[Stage]:
        """Return a stage of one's own."""
        return self._workshop.stage(instances, disk=disk, **settings)

    def figure(
        self,
        what: str,
        value: float,
        unit: str = "",
        *,
        most: float | None = None,
        least: float | None = None,
    ) -> None:
        """Keep a number of this scenario."""
        self._results.figure(Figure(self.name, what, value, unit, most, least))

    def conclude(self) -> None:
        """Keep what all runs together say."""
        row = self._results.rows.get(self.name)
        if row is not None and row.delays:
            most = None if self.quick else HEALED
            self.figure("healed to delivered, p99", percentile(row.delays, 0.99), "s", most=most)

    @asynccontextmanager
    async def load(self, stage: Stage, **size: Any) -> AsyncIterator[Load]:
        """Run the workload; in the end heal, settle, and check what everyone has seen."""
        self._runs += 1
        path = stage.folder / "history.jsonl"
        with History(path) as history:
            work = Workload(
                stage.urls, SECRET, ADMIN_KEY, self.rng.getrandbits(64), history, Size(**size)
            )  # fmt: skip
            async with work:
                yield Load(stage, history, work)
                await stage.heal()
                await work.settle(BOUND)
        violations = await asyncio.to_thread(self._judge, history)
        violations += [
            Violation("alive", f"{instance.name} ended by itself: {instance.process.last_words}")
            for instance in stage.instances
            if instance.process.deaths
        ]
        self.accuse(stage, violations)

    def accuse(self, stage: Stage, violations: Sequence[Violation]) -> None:
        """Keep what was not as promised, and with it what is known of the run."""
        if violations:
            self._results.row(self.name).violations += violations
            self._save(stage)

    def _judge(self, history: History) -> list[Violation]:
        index = Index(history.records)
        faults = [fault.kind for fault in index.faults if fault.begins and fault.lost_from is None]
        self._results.row(self.name).add(faults, figures(index))
        return check(history.records, QUICK if self.quick else Bounds())

    def _save(self, stage: Stage) -> None:
        """Keep the history, by which it can be checked again, and what the processes said."""
        for file in stage.folder.glob("*.[jl]*"):
            self._keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, self._keep / f"{self.name}-{self._runs}-{file.name}")


def check_again(path: Path, bounds: Bounds = Bounds()) -> list[Violation]:  # noqa: B008 - it cannot be changed
    """Check a history that was kept."""
    return check(read(path), bounds)
