"""A backlog: how fast one device gets it, from memory and from the database, and how the log's size matters."""

import asyncio
from typing import Final

import asyncpg

from bench.results import TIDINGS, Metric
from bench.stage import Stage
from bench.tidings import Tidings

REPLAY: Final = "replay"
GROWTH: Final = "growth"
SIZES: Final = (10_000, 100_000, 1_000_000)
_BACKLOG = 60_000
_SHORT_BACKLOG = 1_000
_GROUP = 5_000

FROM_MEMORY: Final = Metric(REPLAY, f"{_BACKLOG:,} events from memory", "events per s of CPU")
FROM_DATABASE: Final = Metric(REPLAY, f"{_BACKLOG:,} events from PostgreSQL", "events per s of CPU")

# A group of the log, made by the database itself. Every `$2`th event from the `$3`th on is for the user
# `$4`; the others are for users who never come.
_APPEND = """
select last from tidings.append(
    gen_random_uuid(), 0, false, '0', array_fill(0, array[$5::int]), array_fill('event'::text, array[$5::int]),
    array(select case when i % $2 = $3 then 'user:' || $4 else 'user:other-' || i % 1000 end
          from generate_series($1::bigint, $1::bigint + $5::int - 1) i),
    array_fill('bench'::text, array[$5::int]), array_fill($6::text, array[$5::int]),
    array_fill(0, array[$5::int]), array_fill(null::text, array[$5::int]),
    array_fill(null::text, array[$5::int]), array_fill(null::text, array[$5::int]),
    '{}', '{}', '{}', '{}', '{}')
"""


def growth_at(size: int) -> Metric:
    """Return the metric of a short replay out of a log of this size."""
    return Metric(GROWTH, f"{_SHORT_BACKLOG:,} events out of a log of {size:,}", "events/s")


def replay(stage: Stage) -> None:
    """Measure a long backlog, read by a new device each round."""
    memory, database = stage.tidings(), stage.tidings("tidings-without-window", RECENT_BYTES="1")
    with stage.serving(memory, database):
        last = asyncio.run(_fill(memory, 0, _BACKLOG, 1, 0, "replay"))
        for service in (memory, database):
            service.wait_for(last)
        for turn in range(stage.rounds):
            for service in (memory, database) if turn % 2 else (database, memory):
                metric = FROM_MEMORY if service is memory else FROM_DATABASE
                _, cpu = _replay(stage, REPLAY, service, "replay", turn, _BACKLOG)
                stage.results.add(metric, TIDINGS, _BACKLOG / cpu)


def growth(stage: Stage) -> None:
    """Measure a short backlog that is spread over ever larger logs."""
    service = stage.tidings(log="growing-log", RECENT_BYTES="1")
    filled = 0
    with stage.serving(service):
        for size in SIZES[:2] if stage.quick else SIZES:
            # Spread over the last nine tenths: the user did not exist before.
            step = (size - filled) // _SHORT_BACKLOG
            last = asyncio.run(_fill(service, filled, size, step, filled % step, f"growth-{size}"))
            service.wait_for(last)
            filled = size
            # Once for the caches of the database, which has just been written to.
            _replay(stage, GROWTH, service, f"growth-{size}", stage.rounds, _SHORT_BACKLOG)
            for turn in range(stage.rounds):
                seconds, _ = _replay(stage, GROWTH, service, f"growth-{size}", turn, _SHORT_BACKLOG)
                stage.results.add(growth_at(size), TIDINGS, _SHORT_BACKLOG / seconds)


async def _fill(service: Tidings, first: int, end: int, step: int, at: int, user: str) -> int:
    """Append events up to the ``end``th, each ``step``th for the user; return the last position."""
    data = service.data().replace("@T@", "1")
    connection = await asyncpg.connect(service.database_url)
    try:
        last = 0
        for n in range(first, end, _GROUP):
            last = await connection.fetchval(_APPEND, n, step, at, user, min(_GROUP, end - n), data)
        await connection.execute("analyze")
        return last
    finally:
        await connection.close()


def _replay(
    stage: Stage, scenario: str, service: Tidings, user: str, turn: int, expected: int
) -> tuple[float, float]:
    """Return how long a new device took to get everything, and the CPU of the service, in seconds."""
    path = service.path(user, device=f"{service.name}-{turn}", after=0)
    with stage.load(service, [path]) as load:
        run, cost = stage.burst(scenario, service, lambda: load.connect(each=expected))
        load.close()
    return run.seconds, cost.service
