"""What Prometheus may ask about. Every label takes its values from a fixed set."""

import os
from typing import Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

MULTIPROCESS: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Names the directory in which the workers of one service add their numbers up."""
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_ENTRIES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class Metrics:
    """The service's metrics; built once and passed down.

    Where ``PROMETHEUS_MULTIPROC_DIR`` is set, ``render`` answers for all workers, whichever is asked.
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        if MULTIPROCESS not in os.environ:
            ProcessCollector(registry=registry)
        self.append_seconds = Histogram(
            "tidings_append_seconds",
            "Time of one append to the log, commit included",
            buckets=_SECONDS,
            registry=registry,
        )
        self.append_entries = Histogram(
            "tidings_append_entries",
            "Entries committed together",
            buckets=_ENTRIES,
            registry=registry,
        )
        self.append_outcomes = Counter(
            "tidings_append_outcomes",
            "Requests to append, by what became of them",
            ["outcome"],  # appended, replayed, or the code of an error
            registry=registry,
        )
        self.pending_outcomes = Counter(
            "tidings_pending_outcomes",
            "Events that were put off or published by SQL, by what became of them",
            ["outcome"],  # moved, repeated, failed
            registry=registry,
        )
        self.pending_late_seconds = Gauge(
            "tidings_pending_late_seconds",
            "How long the oldest event has been due that is not in the log",
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.tail_lag_positions = Gauge(
            "tidings_tail_lag_positions",
            "How far the slowest worker's hub is behind the log's head",
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.head_confirmed_age_seconds = Gauge(
            "tidings_head_confirmed_age_seconds",
            "How long ago a worker last knew the log's head, the worst of them",
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.connections = Gauge(
            "tidings_connections",
            "Open connections",
            ["state"],  # catching_up, live
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.deliveries = Counter("tidings_deliveries", "Events written to connections", registry=registry)
        self.catch_up_pages = Counter(
            "tidings_catch_up_pages",
            "Pages of the log written to connections that were behind",
            ["source"],  # memory, log
            registry=registry,
        )
        self.refusals = Counter(
            "tidings_refusals", "What was refused, by error code", ["code"], registry=registry
        )
        self.closes = Counter(
            "tidings_closes", "Connections that ended, by code, whoever closed", ["code"], registry=registry
        )
        self.slow_connections = Counter(
            "tidings_slow_connections",
            "Times a connection fell behind its write buffer",
            registry=registry,
        )
        self.cursor_write_age_seconds = Gauge(
            "tidings_cursor_write_age_seconds",
            "Age of the oldest cursor that waits to be stored",
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.cursors_waiting = Gauge(
            "tidings_cursors_waiting",
            "Cursors that wait to be stored",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.callbacks = Counter(
            "tidings_callbacks",
            "Calls to the producers' URL, by what became of them",
            ["outcome"],  # called, put_off, given_up
            registry=registry,
        )
        self.pool_in_use = Gauge(
            "tidings_pool_in_use",
            "Database connections in use",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.notifier_outcomes = Counter(
            "tidings_notifier_outcomes",
            "What instances tell each other, by what became of it",
            ["outcome"],  # sent, dropped, heard, late, refused
            registry=registry,
        )
        self.notifier_listening = Gauge(
            "tidings_notifier_listening",
            "Whether the other instances are heard",
            multiprocess_mode="livemin",
            registry=registry,
        )
        self.http_requests = Counter(
            "tidings_http_requests",
            "HTTP requests by method, route template and status",
            ["method", "route", "status"],
            registry=registry,
        )
        self._ended: dict[tuple[str, str, int], Counter] = {}
        """What ``labels`` returned: to look it up there again costs five times as much."""
        self.partition_room_positions = Gauge(
            "tidings_partition_room_positions",
            "Positions for which there is a partition",
            multiprocess_mode="livemin",
            registry=registry,
        )
        self.retention_floor_position = Gauge(
            "tidings_retention_floor_position",
            "Entries up to here have been deleted",
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.log_bytes = Gauge(
            "tidings_log_bytes",
            "What the log takes in the database, with its indexes",
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.log_oldest_age_seconds = Gauge(
            "tidings_log_oldest_age_seconds",
            "Age of the oldest entry of the log",
            multiprocess_mode="livemostrecent",
            registry=registry,
        )

    def count_request(self, method: str, route: str | None, status: int) -> None:
        """Count an HTTP request; ``route`` is the template, None where no route matched.

        A method or path that a client made up does not become a label.
        """
        ended = (method if method in _METHODS else "other", route or "unmatched", status)
        counter = self._ended.get(ended)
        if counter is None:
            counter = self._ended[ended] = self.http_requests.labels(*map(str, ended))
        counter.inc()

    def render(self) -> tuple[bytes, str]:
        """Return everything in Prometheus' text format, and its content type."""
        registry = self._registry
        if MULTIPROCESS in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry), CONTENT_TYPE_LATEST
