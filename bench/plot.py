"""The plot: what a delivery costs by the number of connections, and a replay by the size of the log."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.results import Results
from bench.scenarios.fanout import MANY, MOST, one_at_a_time
from bench.scenarios.replay import SIZES, growth_at

_SERVERS = {"tidings": "C0", "floor": "0.5", "nchan": "C2", "ws": "C4", "socketio": "C1", "naive": "C3"}


def draw(results: Results, file: Path) -> None:
    """Draw what there is."""
    mpl.rcParams["svg.hashsalt"] = "tidings"
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    _deliveries(results, left)
    _replays(results, right)
    figure.savefig(file, metadata={"Date": None})


def _deliveries(results: Results, axes: Any) -> None:
    for server, colour in _SERVERS.items():
        costs = {n: results.median(one_at_a_time(n), server) for n in (1, 100, MANY, MOST)}
        points = {n: cost for n, cost in costs.items() if cost is not None}
        if points:
            axes.plot(list(points), list(points.values()), "o-", color=colour, label=server)
            axes.legend()
    axes.set(xscale="log", yscale="log", xlabel="subscribers", ylabel="µs CPU per delivery")
    axes.set_title("One event to a room")


def _replays(results: Results, axes: Any) -> None:
    rates = {size: results.median(growth_at(size)) for size in SIZES}
    points = {size: rate for size, rate in rates.items() if rate is not None}
    if points:
        axes.plot(list(points), list(points.values()), "o-", color=_SERVERS["tidings"])
    axes.set(xscale="log", xlabel="events in the log", ylabel="events/s")
    axes.set_ylim(bottom=0)
    axes.set_title("Replay of 1,000 events from PostgreSQL")
