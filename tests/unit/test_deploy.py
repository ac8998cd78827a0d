"""What is in ``deploy`` names only what the code has."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.observe.metrics import MULTIPROCESS, Metrics
from service.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
DASHBOARD = json.loads((DEPLOY / "grafana.json").read_text())
_SELECTED = re.compile(r"(tidings_\w+)(?:\{([^}]*)\})?")
_GROUPED = re.compile(r"by \(([^)]*)\)")


@pytest.fixture(scope="module")
def samples() -> dict[str, set[str]]:
    """The labels of each series by its name, as Prometheus will store it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(MULTIPROCESS, raising=False)
        metrics = Metrics()
    of_target = {"job", "instance"}
    found = {}
    for collector in metrics._registry._collector_to_names:
        labels = {*of_target, *getattr(collector, "_labelnames", ())}
        for name in metrics._registry._collector_to_names[collector]:
            found[name] = labels | ({"le"} if name.endswith("_bucket") else set())
    return found


def rules() -> list[dict[str, Any]]:
    return [rule for group in ALERTS["groups"] for rule in group["rules"]]


def queries() -> Iterator[str]:
    yield from (target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"])


def check(query: str, samples: dict[str, set[str]]) -> None:
    grouped = {label.strip() for labels in _GROUPED.findall(query) for label in labels.split(",")}
    for name, matchers in _SELECTED.findall(query):
        assert name in samples, query
        assert {*re.findall(r"(\w+)=", matchers), *grouped} <= samples[name], query
    assert query.count("(") == query.count(")"), query


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_goes_by_metrics_that_exist(rule: dict[str, Any], samples: dict[str, set[str]]) -> None:
    check(rule["expr"], samples)
    assert "tidings_" in rule["expr"] or rule["alert"] == "TidingsDown"
    assert rule["annotations"]["summary"]


def test_every_outcome_that_is_waited_for_can_come() -> None:
    source = "".join(path.read_text() for path in (DEPLOY.parent / "service").rglob("*.py"))
    for rule in rules():
        for outcomes in re.findall(r'outcome=~?"([^"]+)"', rule["expr"]):
            for outcome in outcomes.split("|"):
                assert f'"{outcome}"' in source, outcome


def test_the_dashboard_goes_by_metrics_that_exist(samples: dict[str, set[str]]) -> None:
    asked = list(queries())
    assert len(asked) > 15
    for query in asked:
        check(query.replace("$__rate_interval", "1m"), samples)


def test_every_alert_can_be_looked_at_on_the_dashboard() -> None:
    shown = {re.sub("_(bucket|sum|count)$", "", name) for q in queries() for name, _ in _SELECTED.findall(q)}
    watched = {
        re.sub("_(bucket|sum|count)$", "", n) for r in rules() for n, _ in _SELECTED.findall(r["expr"])
    }
    assert watched - shown <= {"tidings_callbacks_total", "tidings_partition_room_positions"}


def test_the_dashboard_can_be_imported() -> None:
    panels = DASHBOARD["panels"]
    assert {"uid", "title", "schemaVersion", "templating", "time"} <= DASHBOARD.keys()
    assert max(Counter(panel["id"] for panel in panels).values()) == 1
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    variables = {f"${{{v['name']}}}" for v in DASHBOARD["templating"]["list"]}
    sources = [p["datasource"]["uid"] for p in panels] + [
        t["datasource"]["uid"] for p in panels for t in p["targets"]
    ]
    assert set(sources) == {"${datasource}"} <= variables


def test_the_unit_allows_more_descriptors_than_connections() -> None:
    [limit] = re.findall(r"^LimitNOFILE=(\d+)$", (DEPLOY / "tidings.service").read_text(), re.MULTILINE)
    assert int(limit) > Settings.model_fields["max_connections"].default + 30


def test_the_unit_waits_for_the_drain() -> None:
    [patience] = re.findall(r"^TimeoutStopSec=(\d+)$", (DEPLOY / "tidings.service").read_text(), re.MULTILINE)
    fields = Settings.model_fields
    assert int(patience) >= 2 * fields["drain_timeout"].default + fields["drain_grace"].default + 10


@pytest.mark.parametrize("file", ["nginx.conf", "haproxy.cfg"])
def test_a_proxy_waits_longer_than_a_heartbeat(file: str) -> None:
    text = (DEPLOY / file).read_text()
    waits = re.findall(r"(?:proxy_(?:read|send)_timeout|timeout (?:client|server|tunnel)) +(\d+)s", text)
    assert len(waits) >= 2
    assert min(map(int, waits)) > 2 * Settings.model_fields["heartbeat"].default
