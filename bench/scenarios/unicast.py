"""One event to one of many users: what it costs at full speed, and how long it takes at a steady rate."""

from typing import Final

from bench.measure import ANY_CORE, SERVER_CORE
from bench.results import Metric
from bench.stage import Pair, Stage
from bench.targets import backed, nchan, socketio, ws

UNICAST: Final = "unicast"
LATENCY: Final = "latency"
_USERS = 10_000
_FEWER = 1_000
_PUBLISHERS = 64
_RATE = 1_000
_SECONDS = 2

CPU: Final = Metric(UNICAST, f"{_USERS:,} users, {_PUBLISHERS} publishers", "µs CPU per POST")
RATE: Final = Metric(UNICAST, f"{_USERS:,} users, {_PUBLISHERS} publishers: rate", "deliveries/s")
P50: Final = Metric(LATENCY, f"{_FEWER:,} users, {_RATE:,} events a second: median", "ms")
P99: Final = Metric(LATENCY, f"{_FEWER:,} users, {_RATE:,} events a second: 99th percentile", "ms")


def unicast(stage: Stage) -> None:
    """Measure POSTs to random users."""
    with (
        stage.serving(stage.tidings(), nchan(), socketio(), ws()) as targets,
        stage.connected(UNICAST, targets, lambda target: target.users(_USERS)) as pairs,
    ):
        for pair in stage.turns(pairs):
            _unicast(stage, pair)


def _unicast(stage: Stage, pair: Pair) -> None:
    target, load = pair
    load.publishers(_PUBLISHERS, target.to_user())
    run, cost = stage.burst(UNICAST, target, lambda: load.saturate(1, stage.scaled(4000)))
    if run.deliveries:
        stage.add_cost(CPU, target, cost, run.posts)
        stage.results.add(RATE, target.name, run.deliveries / run.seconds)


def latency(stage: Stage) -> None:
    """Measure the time from when a POST was due to the arrival, with both cores for the server."""
    with (
        stage.serving(stage.tidings(), nchan(), socketio(), ws(), *backed()) as targets,
        stage.connected(LATENCY, targets, lambda target: target.users(_FEWER)) as pairs,
    ):
        for pair in stage.turns(pairs):
            _latency(stage, pair)


def _latency(stage: Stage, pair: Pair) -> None:
    target, load = pair
    load.publishers(_PUBLISHERS, target.to_user())
    target.place(ANY_CORE)
    count = stage.scaled(_RATE * _SECONDS // (2 if target.store else 1))
    run, _ = stage.burst(LATENCY, target, lambda: load.paced(1, count, _RATE))
    target.place(SERVER_CORE)
    if run.deliveries:
        stage.results.add(P50, target.name, run.p50 * 1e3)
        stage.results.add(P99, target.name, run.p99 * 1e3)
