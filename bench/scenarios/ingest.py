"""How many events can be taken in, committed: one in a POST, many in a POST, and what the database allows."""

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

import asyncpg
import uvloop

from bench.measure import SERVER_CORE, running_on
from bench.results import TIDINGS, Metric
from bench.stage import MICRO, Pair, Stage, rotated
from bench.targets import Target, backed, nchan, plain, socketio
from bench.tidings import Tidings

INGEST: Final = "ingest"
BATCH: Final = 200
PLAIN: Final = "plain"
RAW: Final = "raw asyncpg"
_CONNECTIONS = 64
_POSTS = 8_000
_BATCH_CONNECTIONS = 4

SINGLE: Final = Metric(INGEST, f"single events, {_CONNECTIONS} connections", "µs CPU per POST")
SINGLE_RATE: Final = Metric(INGEST, f"single events, {_CONNECTIONS} connections: rate", "events/s")
BATCHED: Final = Metric(INGEST, f"batches of {BATCH}, {_BATCH_CONNECTIONS} connections", "µs CPU per event")
BATCHED_RATE: Final = Metric(
    INGEST, f"batches of {BATCH}, {_BATCH_CONNECTIONS} connections: rate", "events/s"
)
COPIED_RATE: Final = Metric(INGEST, "limit: COPY", "events/s")
COMMITTED_RATE: Final = Metric(INGEST, "limit: one row in a commit, one connection", "events/s")

_TABLE = """
create table bench_raw (
    position bigint not null primary key, address text not null, type text not null,
    data text not null, time timestamptz not null);
create index on bench_raw (address, position);
"""
_COLUMNS = ("position", "address", "type", "data", "time")
_INSERT_MANY = """
insert into bench_raw (position, address, type, data, time)
select * from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
"""
_INSERT_ONE = "insert into bench_raw (position, address, type, data, time) values ($1, $2, $3, $4, $5)"

_Row = tuple[int, str, str, str, datetime]


def ingest(stage: Stage) -> None:
    """Measure events that nobody receives."""
    tidings = stage.tidings()
    with (
        stage.serving(tidings, plain(), nchan(), socketio(), *backed()) as targets,
        stage.connected(INGEST, targets, lambda _: []) as pairs,
    ):
        batches = tidings.has_batches()
        if not batches:
            stage.results.flaw(
                f"{INGEST}, batches", TIDINGS, "NOT AVAILABLE: POST /v1/events/batch answers 404"
            )
        stage.warm_up(INGEST, pairs, _CONNECTIONS, 0, 3_000)
        raw = _Raw(tidings.database_url, tidings.data())
        for turn in range(stage.rounds):
            for target, load in rotated(pairs, turn):
                _single(stage, (target, load))
                if target is tidings and batches:
                    _batched(stage, tidings, (target, load))
            _raw(stage, tidings, raw)


def _single(stage: Stage, pair: Pair) -> None:
    target, load = pair
    body = target.to_nobody() if isinstance(target, Tidings) else target.to_room()
    load.publishers(_CONNECTIONS, body)
    posts = _POSTS // 8 if target.store else _POSTS
    run, cost = stage.burst(INGEST, target, lambda: load.saturate(0, stage.scaled(posts)))
    stage.add_cost(SINGLE, target, cost, run.posts)
    stage.results.add(SINGLE_RATE, target.name, run.posts / run.seconds)


def _batched(stage: Stage, tidings: Tidings, pair: Pair) -> None:
    target, load = pair
    load.publishers(_BATCH_CONNECTIONS, tidings.to_nobody(BATCH))
    run, cost = stage.burst(INGEST, target, lambda: load.saturate(0, stage.scaled(600)))
    stage.add_cost(BATCHED, target, cost, run.posts * BATCH)
    stage.results.add(BATCHED_RATE, target.name, run.posts * BATCH / run.seconds)


class _Raw:
    """The same rows, straight into an equal table of the same database."""

    def __init__(self, url: str, data: str) -> None:
        self._url = url
        self._data = data.replace("@T@", str(time.time_ns()))
        self._position = 0

    def rows(self, count: int) -> list[_Row]:
        """Return rows that are not there yet."""
        first = self._position
        self._position += count
        now = datetime.now(UTC)
        return [(n, "user:nobody", "bench", self._data, now) for n in range(first, first + count)]

    def timed(self, work: Callable[[asyncpg.Connection], Awaitable[None]]) -> float:
        """Return the seconds that some work takes, from the servers' core."""

        async def connected() -> float:
            connection = await asyncpg.connect(self._url)
            try:
                if await connection.fetchval("select to_regclass('bench_raw')") is None:
                    await connection.execute(_TABLE)
                begun = time.perf_counter()
                await work(connection)
                return time.perf_counter() - begun
            finally:
                await connection.close()

        with running_on(SERVER_CORE):
            return uvloop.run(connected())


def _raw(stage: Stage, target: Target, raw: _Raw) -> None:
    batches = [raw.rows(BATCH) for _ in range(stage.scaled(400))]
    copied, single = raw.rows(stage.scaled(40_000)), raw.rows(stage.scaled(800))

    async def insert(connection: asyncpg.Connection) -> None:
        for rows in batches:
            await connection.execute(_INSERT_MANY, *map(list, zip(*rows, strict=True)))

    async def copy(connection: asyncpg.Connection) -> None:
        await connection.copy_records_to_table("bench_raw", records=copied, columns=_COLUMNS)

    async def commit(connection: asyncpg.Connection) -> None:
        for row in single:
            await connection.execute(_INSERT_ONE, *row)

    before, own = target.cost(), time.process_time()
    stage.results.add(BATCHED_RATE, RAW, len(batches) * BATCH / raw.timed(insert))
    client, database = time.process_time() - own, target.cost().since(before).database
    stage.results.add(BATCHED, RAW, (client + database) / (len(batches) * BATCH) * MICRO)
    stage.results.add(COPIED_RATE, RAW, len(copied) / raw.timed(copy))
    stage.results.add(COMMITTED_RATE, RAW, len(single) / raw.timed(commit))
