"""The goals: a row each, with what was measured for it."""

from collections.abc import Iterator
from typing import NamedTuple

from bench.results import TIDINGS, WITH_DATABASE, Results
from bench.scenarios import connections, fanout, ingest, replay, unicast

_PEERS = ("nchan", "socketio", "ws")


class Goal(NamedTuple):
    """What was to be reached, and what was. ``also`` is the same with the database's share."""

    scenario: str
    what: str
    unit: str
    value: float | None
    also: float | None
    goal: float | None
    stretch: float | None
    higher: bool = False

    def reaches(self, bound: float | None) -> bool:
        """Tell whether the value is on the right side of a bound."""
        if self.value is None or bound is None:
            return False
        return self.value >= bound if self.higher else self.value <= bound

    def verdict(self, results: Results) -> str:
        """Say whether it is met; what was not measured, or with events missing, is not."""
        if self.value is None:
            return "not measured"
        if self.goal is None and self.stretch is None:
            return "for comparison"
        if results.is_flawed(self.scenario):
            return "NO: flawed"
        if self.reaches(self.stretch):
            return "yes, stretch too"
        if self.goal is None:
            return "no (stretch only)"
        return "yes" if self.reaches(self.goal) else "NO"


def goals(results: Results) -> list[Goal]:
    """Return all rows."""
    return [
        *_fanout(results),
        *_ingest(results),
        *_latency(results),
        *_connections(results),
        *_replay(results),
    ]


def _fanout(results: Results) -> Iterator[Goal]:
    one = fanout.one_at_a_time(fanout.MANY)
    for peer, goal, stretch in (("socketio", 0.5, None), ("nchan", 1.0, 0.8), ("floor", 1.5, 1.3)):
        both = results.ratio(one, peer, ours=WITH_DATABASE)
        ours = results.ratio(one, peer)
        what = f"1,000 subscribers, one at a time: CPU per delivery by {peer}'s"
        yield Goal(fanout.FANOUT, what, "×", ours, both, goal, stretch)
    yield Goal(
        fanout.FANOUT,
        "32 publishers: CPU per delivery by our own one at a time",
        "×",
        results.ratio(fanout.SATURATED, TIDINGS, to=one),
        results.ratio(fanout.SATURATED, WITH_DATABASE, ours=WITH_DATABASE, to=one),
        0.5,
        None,
    )
    yield Goal(
        fanout.FANOUT,
        "32 publishers: CPU per delivery by floor's",
        "×",
        results.ratio(fanout.SATURATED, "floor"),
        results.ratio(fanout.SATURATED, "floor", ours=WITH_DATABASE),
        None,
        0.2,
    )
    most = fanout.one_at_a_time(fanout.MOST)
    yield Goal(
        fanout.FANOUT,
        "10,000 subscribers: CPU per delivery by that at 1,000",
        "×",
        results.ratio(most, TIDINGS, to=one),
        results.ratio(most, WITH_DATABASE, ours=WITH_DATABASE, to=one),
        1.2,
        None,
    )
    grown = results.ratio(most, "floor", ours="floor", to=one)
    yield Goal(fanout.FANOUT, "10,000 subscribers: the same of floor", "×", grown, None, None, None)
    batched = fanout.BATCHED
    both = results.median(batched, WITH_DATABASE)
    yield Goal(
        fanout.BATCH,
        "50 events in a batch (stretch: the cheapest peer's)",
        "µs/delivery",
        results.median(batched),
        both,
        0.3,
        _least(results),
    )


def _least(results: Results) -> float | None:
    """Return what the cheapest peer pays for the same deliveries."""
    costs = (results.median(fanout.BATCHED, peer) for peer in _PEERS)
    return min((cost for cost in costs if cost is not None), default=None)


def _ingest(results: Results) -> Iterator[Goal]:
    single = results.ratio(ingest.SINGLE, ingest.PLAIN, ours=WITH_DATABASE)
    yield Goal(
        ingest.INGEST,
        "single events: CPU per POST, PostgreSQL included, by plain's",
        "×",
        single,
        None,
        2.5,
        1.7,
    )
    rate = results.ratio(ingest.BATCHED_RATE, ingest.RAW)
    yield Goal(ingest.INGEST, "batches of 200: rate by raw asyncpg's", "×", rate, None, 0.5, 0.7, higher=True)
    cost = results.median(ingest.BATCHED, WITH_DATABASE)
    yield Goal(ingest.INGEST, "batches of 200: CPU, PostgreSQL included", "µs/event", cost, None, 25, 18)


def _latency(results: Results) -> Iterator[Goal]:
    p50, p99 = results.median(unicast.P50), results.median(unicast.P99)
    yield Goal(unicast.LATENCY, "1,000 events a second: median", "ms", p50, None, 3, None)
    yield Goal(unicast.LATENCY, "1,000 events a second: 99th percentile", "ms", p99, None, 15, None)
    beside = results.ratio(unicast.P99, "nchan")
    yield Goal(unicast.LATENCY, "99th percentile by nchan's", "×", beside, None, None, 2)


def _connections(results: Results) -> Iterator[Goal]:
    memory, rest = results.median(connections.MEMORY), results.median(connections.REST)
    both = results.median(connections.REST, WITH_DATABASE)
    yield Goal(connections.IDLE, "memory of an idle connection", "kB", memory, None, 5, 3)
    yield Goal(connections.IDLE, "10,000 connections at rest", "% CPU", rest, both, 2, 1)
    connect = results.ratio(connections.CONNECTED, ingest.PLAIN)
    both = results.ratio(connections.CONNECTED, ingest.PLAIN, ours=WITH_DATABASE)
    yield Goal(connections.CONNECT, "CPU per connect by plain's", "×", connect, both, 0.7, 0.5)
    missing = results.median(connections.STORM_MISSING)
    yield Goal(connections.CONNECT, "storm: missed events that did not arrive", "", missing, None, 0, None)


def _replay(results: Results) -> Iterator[Goal]:
    memory, database = results.median(replay.FROM_MEMORY), results.median(replay.FROM_DATABASE)
    unit = "events/CPU s"
    yield Goal(replay.REPLAY, "backlog from memory", unit, memory, None, 200_000, 400_000, higher=True)
    yield Goal(replay.REPLAY, "backlog from PostgreSQL", unit, database, None, 60_000, 120_000, higher=True)
