import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.observe.metrics import MULTIPROCESS, Metrics


@pytest.fixture(autouse=True)
def _single(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MULTIPROCESS, raising=False)


def samples(body: bytes) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_everything_is_ours_by_name() -> None:
    body, content_type = Metrics().render()
    assert content_type.startswith("text/plain")
    parsed = text_string_to_metric_families(body.decode())
    families = {family.name for family in parsed if not family.name.endswith("_created")}
    assert {name for name in families if not name.startswith("process_")} == {
        "tidings_append_seconds",
        "tidings_append_entries",
        "tidings_append_outcomes",
        "tidings_pending_outcomes",
        "tidings_pending_late_seconds",
        "tidings_tail_lag_positions",
        "tidings_head_confirmed_age_seconds",
        "tidings_connections",
        "tidings_deliveries",
        "tidings_catch_up_pages",
        "tidings_refusals",
        "tidings_closes",
        "tidings_slow_connections",
        "tidings_cursor_write_age_seconds",
        "tidings_cursors_waiting",
        "tidings_callbacks",
        "tidings_notifier_outcomes",
        "tidings_notifier_listening",
        "tidings_pool_in_use",
        "tidings_http_requests",
        "tidings_partition_room_positions",
        "tidings_retention_floor_position",
        "tidings_log_bytes",
        "tidings_log_oldest_age_seconds",
    }


def test_two_of_them_do_not_share_numbers() -> None:
    one, other = Metrics(), Metrics()
    one.deliveries.inc(3)
    assert samples(one.render()[0])["tidings_deliveries_total",] == 3
    assert samples(other.render()[0])["tidings_deliveries_total",] == 0


def test_requests_that_clients_make_up_share_a_label() -> None:
    metrics = Metrics()
    for number in range(50):
        metrics.count_request(f"BREW{number}", None, 405)
    metrics.count_request("GET", "/v1/events/{position}", 200)
    counted = [key for key in samples(metrics.render()[0]) if key[0].endswith("requests_total")]
    assert sorted(key[1:] for key in counted) == [
        ("GET", "/v1/events/{position}", "200"),
        ("other", "unmatched", "405"),
    ]


WORKER = """
from service.observe.metrics import Metrics
metrics = Metrics()
metrics.deliveries.inc(2)
metrics.connections.labels("live").set(5)
metrics.tail_lag_positions.set(7)
print("ready", flush=True)
input()
print(metrics.render()[0].decode())
"""


def test_any_worker_answers_for_all(tmp_path: Path) -> None:
    environment = {MULTIPROCESS: str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for worker in workers:
        assert worker.stdout
        assert worker.stdout.readline() == "ready\n"
    told, _ = workers[0].communicate("\n")
    workers[1].communicate("\n")
    assert [worker.returncode for worker in workers] == [0, 0]
    seen = samples(told.encode())
    assert seen["tidings_deliveries_total",] == 4
    assert seen["tidings_connections", "live"] == 10
    assert seen["tidings_tail_lag_positions",] == 7
