"""Connections themselves: what one costs to make, to hold, and to bring back after an outage."""

import time
from typing import Final

from bench.results import TIDINGS, Metric
from bench.stage import Stage
from bench.targets import Target, naive, nchan, plain, socketio, ws
from bench.tidings import MAX_MEMBERS, Tidings

IDLE: Final = "idle"
CONNECT: Final = "connect"
_IDLE_USERS = 10_000
_REST = 25
"""Seconds: as long as a heartbeat, so that each connection has one."""
_CONNECTS = 1_500
_STORM = 5_000
_MISSED = 20

MEMORY: Final = Metric(IDLE, f"{_IDLE_USERS:,} connections: memory (PSS) of each", "kB")
REST: Final = Metric(IDLE, f"{_IDLE_USERS:,} connections at rest, {_REST} s with heartbeats", "% of a core")
CONNECTED: Final = Metric(
    CONNECT, f"{_CONNECTS:,} known users, new tokens, 64 at a time", "µs CPU per connect"
)
FIRST: Final = Metric(CONNECT, f"{_CONNECTS:,} users who come for the first time", "µs CPU per connect")
STORM_TIME: Final = Metric(
    CONNECT, f"storm: {_STORM:,} at once, {_MISSED} missed events each", "s until live"
)
STORM_CPU: Final = Metric(CONNECT, f"storm: {_STORM:,} at once, {_MISSED} missed events each: CPU", "s CPU")
STORM_MISSING: Final = Metric(CONNECT, "storm: events that did not arrive", "events")


def idle(stage: Stage) -> None:
    """Measure memory for a connection, and the CPU of having them."""
    with stage.serving(stage.tidings(), nchan(), socketio(), ws(), naive()) as targets:
        users = stage.scaled(_IDLE_USERS)
        # First, because memberships are entries of the log, which stays in memory without connections too.
        paths = {target.name: target.room(users) for target in targets}
        empty = {target.name: target.memory() for target in targets}
        with stage.connected(IDLE, targets, lambda target: paths[target.name]) as pairs:
            before = {target.name: target.cost() for target, _ in pairs}
            time.sleep(_REST)  # the time over which rest is measured
            for target in targets:
                held = target.memory() - empty[target.name]
                stage.results.add(MEMORY, target.name, held / users / 1e3)
                # In microseconds a second, of which 10,000 are a percent.
                stage.add_cost(REST, target, target.cost().since(before[target.name]), _REST * 10_000)


def connect(stage: Stage) -> None:
    """Measure connects against uvicorn's own, then a storm of them."""
    tidings = stage.tidings()
    count = stage.scaled(_CONNECTS)
    with stage.serving(tidings, plain()) as targets:
        for _ in range(stage.rounds):
            _connect(stage, FIRST, tidings, tidings.users(count))
        _introduce(stage, tidings, count)
        for turn in range(stage.rounds):
            for target in targets if turn % 2 else reversed(targets):
                known = tidings.again(count) if target is tidings else target.users(count)
                _connect(stage, CONNECTED, target, known)
        _storm(stage, tidings)


def _connect(stage: Stage, metric: Metric, target: Target, paths: list[str]) -> None:
    with stage.load(target, paths) as load:
        run, cost = stage.burst(CONNECT, target, load.connect)
        if run.ready:
            stage.add_cost(metric, target, cost, run.ready)
        load.close()


def _introduce(stage: Stage, tidings: Tidings, count: int) -> None:
    """Make users who have been here: connected, received something, gone."""
    with stage.load(tidings, tidings.users(count)) as load:
        stage.check(CONNECT, tidings, load.connect())
        for first in range(0, count, MAX_MEMBERS):
            size = min(MAX_MEMBERS, count - first)
            load.publishers(1, tidings.to_many(first, size))
            stage.check(CONNECT, tidings, load.one(size, 1))
        load.settle()
        load.close()


def _storm(stage: Stage, tidings: Tidings) -> None:
    users = stage.scaled(_STORM)
    _introduce(stage, tidings, users)
    with stage.load(tidings, []) as load:
        for first in range(0, users, MAX_MEMBERS):
            load.publishers(1, tidings.to_many(first, min(MAX_MEMBERS, users - first)))
            stage.check(CONNECT, tidings, load.saturate(0, _MISSED))
    with stage.load(tidings, tidings.again(users)) as load:
        run, cost = stage.burst(CONNECT, tidings, lambda: load.connect(users, _MISSED))
        stage.results.add(STORM_TIME, TIDINGS, run.seconds)
        stage.results.add(STORM_CPU, TIDINGS, cost.service)
        stage.results.add(STORM_MISSING, TIDINGS, users * _MISSED - run.deliveries)
        load.close()
