"""A backlog: how fast one device gets it, from memory or from the database, and out of how large a log."""

from typing import Final, NamedTuple

from bench.results import TIDINGS, Metric
from bench.stage import Stage
from bench.tidings import Tidings

REPLAY: Final = "replay"
GROWTH: Final = "growth"
_BACKLOG = 60_000
_SHORT_BACKLOG = 1_000
_FULL_BATCH = 1_000
_PUBLISHERS = 4

FROM_MEMORY: Final = Metric(REPLAY, f"{_BACKLOG:,} events from memory", "events per s of CPU")
FROM_DATABASE: Final = Metric(REPLAY, f"{_BACKLOG:,} events from PostgreSQL", "events per s of CPU")


class _Growth(NamedTuple):
    """Batches that make the log grow; ``ours`` of the events of each are for the one who comes back."""

    batches: int
    events: int
    ours: int


_GROWTH: Final = {
    10_000: _Growth(10, 1_000, 100),
    100_000: _Growth(100, 900, 10),
    1_000_000: _Growth(1_000, 900, 1),
}
SIZES: Final = tuple(_GROWTH)


def growth_at(size: int) -> Metric:
    """Return the metric of a short replay out of a log of this size."""
    return Metric(GROWTH, f"{_SHORT_BACKLOG:,} events out of a log of {size:,}", "events/s")


def replay(stage: Stage) -> None:
    """Measure a long backlog, read by a new device each round."""
    memory, database = stage.tidings(), stage.tidings("tidings-without-window", RECENT_BYTES="1")
    with stage.serving(memory, database):
        _fill(stage, REPLAY, memory, _Growth(_BACKLOG // _FULL_BATCH, _FULL_BATCH, _FULL_BATCH), "replay")
        database.wait_for(memory.position())
        for turn in range(stage.rounds):
            for service in (memory, database) if turn % 2 else (database, memory):
                metric = FROM_MEMORY if service is memory else FROM_DATABASE
                _, cpu = _replay(stage, REPLAY, service, "replay", turn, _BACKLOG)
                stage.results.add(metric, TIDINGS, _BACKLOG / cpu)


def growth(stage: Stage) -> None:
    """Measure a short backlog that is spread over what the log has grown by."""
    service = stage.tidings(log="growing-log", RECENT_BYTES="1")
    with stage.serving(service):
        for size in SIZES[:2] if stage.quick else SIZES:
            user = f"growth-{size}"
            _fill(stage, GROWTH, service, _GROWTH[size], user)
            for turn in range(2 * stage.rounds):
                seconds, _ = _replay(stage, GROWTH, service, user, turn, _SHORT_BACKLOG)
                if turn >= stage.rounds:  # as many before, so that all caches and connections are warm
                    stage.results.add(growth_at(size), TIDINGS, _SHORT_BACKLOG / seconds)


def _fill(stage: Stage, scenario: str, service: Tidings, grown: _Growth, user: str) -> None:
    """Append to the log; its events are for ``user`` and for people who never come."""
    others = [f"user:other-{n}" for n in range(grown.events - grown.ours)]
    with stage.load(service, []) as load:
        load.publishers(_PUBLISHERS, service.batch([f"user:{user}"] * grown.ours + others))
        stage.check(scenario, service, load.saturate(0, grown.batches))


def _replay(
    stage: Stage, scenario: str, service: Tidings, user: str, turn: int, expected: int
) -> tuple[float, float]:
    """Return how long a new device took to get everything, and the CPU of the service, in seconds."""
    path = service.path(user, device=f"{service.name}-{turn}", after=0)
    with stage.load(service, [path]) as load:
        run, cost = stage.burst(scenario, service, lambda: load.connect(each=expected))
        load.close()
    return run.seconds, cost.service
