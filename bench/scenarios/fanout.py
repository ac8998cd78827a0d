"""One event to many: by the number of subscribers, one at a time, paced, from many publishers, in batches."""

from typing import Final

from bench.results import Metric
from bench.stage import CPU_PER_DELIVERY, MICRO, Pair, Stage
from bench.targets import backed, floor, naive, nchan, socketio, ws
from bench.tidings import Tidings

FANOUT: Final = "fanout"
BATCH: Final = "batch50"
MANY: Final = 1_000
MOST: Final = 10_000
PUBLISHERS: Final = 32
EVENTS: Final = 50
"""In a batch; and how many publishers a peer has instead, which takes no batches."""
_DELIVERIES = 100_000
_POSTS = 300
_RATE = 30
_PACED_POSTS = 20
_FEWER_SERVERS = 4
"""How many of the servers are measured at other numbers of subscribers too."""


def one_at_a_time(subscribers: int) -> Metric:
    """Return the metric of a POST only after the last one has arrived everywhere."""
    return Metric(
        FANOUT, f"{subscribers:,} subscriber{'s' if subscribers > 1 else ''}, one at a time", CPU_PER_DELIVERY
    )


GENERATOR: Final = Metric(
    FANOUT, f"{MANY:,} subscribers, one at a time: the load generator's own", CPU_PER_DELIVERY
)
PACED: Final = Metric(FANOUT, f"{MANY:,} subscribers, {_RATE} a second", CPU_PER_DELIVERY)
PACED_P50: Final = Metric(FANOUT, f"{MANY:,} subscribers, {_RATE} a second: median", "ms")
SATURATED: Final = Metric(FANOUT, f"{MANY:,} subscribers, {PUBLISHERS} publishers", CPU_PER_DELIVERY)
SATURATED_RATE: Final = Metric(FANOUT, f"{MANY:,} subscribers, {PUBLISHERS} publishers: rate", "deliveries/s")
BATCHED: Final = Metric(
    BATCH, f"{MANY:,} subscribers, {EVENTS} events in a batch (peers: at once)", CPU_PER_DELIVERY
)


def fanout(stage: Stage) -> None:
    """Measure all but batches."""
    servers = (stage.tidings(), floor(), nchan(), socketio(), ws(), naive(), *backed())
    with stage.serving(*servers) as targets:
        for subscribers in (1, 100, MANY, MOST):
            some = targets if subscribers == MANY else targets[:_FEWER_SERVERS]
            with stage.connected(FANOUT, some, lambda t, n=subscribers: t.room(n)) as pairs:  # type: ignore[misc]
                for pair in stage.turns(pairs):
                    _one_at_a_time(stage, pair, subscribers)
                    if subscribers == MANY and pair[0].name != "naive":
                        if pair[0].store is None:
                            _paced(stage, pair)
                        _saturated(stage, pair)


def _one_at_a_time(stage: Stage, pair: Pair, subscribers: int) -> None:
    target, load = pair
    posts = stage.scaled(min(_POSTS, _DELIVERIES // subscribers) // (4 if target.store else 1))
    load.publishers(1, target.to_room())
    run, cost = stage.burst(FANOUT, target, lambda: load.one(subscribers, posts))
    if run.deliveries:
        stage.add_cost(one_at_a_time(subscribers), target, cost, run.deliveries)
    if run.deliveries and subscribers == MANY:
        stage.results.add(GENERATOR, target.name, run.cpu / run.deliveries * MICRO)


def _paced(stage: Stage, pair: Pair) -> None:
    target, load = pair
    load.publishers(4, target.to_room())
    run, cost = stage.burst(FANOUT, target, lambda: load.paced(MANY, stage.scaled(_PACED_POSTS), _RATE))
    if run.deliveries:
        stage.add_cost(PACED, target, cost, run.deliveries)
        stage.results.add(PACED_P50, target.name, run.p50 * 1e3)


def _saturated(stage: Stage, pair: Pair) -> None:
    target, load = pair
    load.publishers(PUBLISHERS, target.to_room())
    share = 2 if isinstance(target, Tidings) else 0.5 if target.store else 1
    posts = stage.scaled(int(share * _DELIVERIES / MANY))
    run, cost = stage.burst(FANOUT, target, lambda: load.saturate(MANY, posts))
    if run.deliveries:
        stage.add_cost(SATURATED, target, cost, run.deliveries)
        stage.results.add(SATURATED_RATE, target.name, run.deliveries / run.seconds)


def batch50(stage: Stage) -> None:
    """Measure batches against as many POSTs at once."""
    with stage.serving(stage.tidings(), floor(), nchan(), socketio(), ws()) as targets:
        tidings = targets[0]
        if isinstance(tidings, Tidings) and not tidings.has_batches():
            stage.results.flaw(BATCH, tidings.name, "NOT AVAILABLE: POST /v1/events/batch answers 404")
            del targets[0]
        with stage.connected(BATCH, targets, lambda target: target.room(MANY)) as pairs:
            for pair in stage.turns(pairs):
                _batched(stage, pair)


def _batched(stage: Stage, pair: Pair) -> None:
    target, load = pair
    if isinstance(target, Tidings):
        load.publishers(1, target.batch_to_room(EVENTS))
        run, cost = stage.burst(BATCH, target, lambda: load.one(EVENTS * MANY, stage.scaled(80)))
    else:
        load.publishers(EVENTS, target.to_room())
        run, cost = stage.burst(BATCH, target, lambda: load.saturate(MANY, stage.scaled(3 * EVENTS)))
    if run.deliveries:
        stage.add_cost(BATCHED, target, cost, run.deliveries)
