"""The scenarios by name, in the order in which they run."""

from collections.abc import Callable
from typing import Final

from bench.scenarios.connections import connect, idle
from bench.scenarios.fanout import batch50, fanout
from bench.scenarios.ingest import ingest
from bench.scenarios.replay import growth, replay
from bench.scenarios.unicast import latency, unicast
from bench.stage import Stage

SCENARIOS: Final[dict[str, Callable[[Stage], None]]] = {
    scenario.__name__: scenario
    for scenario in (fanout, batch50, unicast, ingest, latency, idle, connect, replay, growth)
}
