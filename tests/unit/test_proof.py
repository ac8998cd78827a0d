"""The pure parts of the proof: what its figures and its report say."""

from math import inf
from pathlib import Path

import pytest

from proof import report
from proof.checker import Violation
from proof.figures import Figures, calm, figures, lost, percentile, spans, untold
from proof.history import (
    Answered,
    Connecting,
    Fault,
    Placed,
    Posted,
    Received,
    Record,
    Sent,
    Token,
)  # fmt: skip
from proof.index import Index
from proof.results import Figure, Results

TOKEN = Token(user="u", jti="j", iat=0)


def posted(mark: str, position: int, at: float) -> list[Record]:
    event = Sent(mark, ("user:u",))
    return [
        Posted(post=mark, attempt=1, producer="p", url="", events=(event,), at=at),
        Answered(post=mark, attempt=1, status=202, placed=(Placed("user:u", position, mark),), at=at),
    ]  # fmt: skip


def visit(name: str, at: float, after: int | None = None, position: int = 0) -> list[Record]:
    return [
        Connecting(connection=name, url="", device="d", token=TOKEN, after=after, at=at),
        Received(connection=name, frame="welcome", position=position, head=position, at=at),
    ]  # fmt: skip


def came(connection: str, mark: str, position: int, at: float) -> Record:
    return Received(
        connection=connection, frame="event", position=position, to="user:u", mark=mark, id=mark, at=at
    )


def broken(begin: float, end: float, detail: str = "", **known: int) -> list[Record]:
    return [
        Fault(kind="k", detail=detail, at=begin, **known),
        Fault(kind="k", detail=detail, begins=False, at=end),
    ]  # fmt: skip


def test_what_came_again_on_another_connection_is_counted() -> None:
    index = Index([
        *visit("a", 1), *posted("x", 1, 2), came("a", "x", 1, 3), *visit("b", 4), came("b", "x", 1, 5),
    ])  # fmt: skip
    assert figures(index) == Figures(acknowledged=1, failed=0, delivered=2, repeated=1, delays=[])


def test_a_delay_counts_from_the_heal_and_leaves_out_what_was_broken_again() -> None:
    index = Index([
        *visit("a", 1), Fault(kind="k", at=2), *posted("x", 1, 3), Fault(kind="k", begins=False, at=4),
        *broken(5, 8), came("a", "x", 1, 10),
    ])  # fmt: skip
    assert figures(index).delays == [3]


def test_what_came_before_the_heal_has_no_delay() -> None:
    index = Index([
        *visit("a", 1), Fault(kind="k", at=2), *posted("x", 1, 3), came("a", "x", 1, 3.5),
        Fault(kind="k", begins=False, at=4),
    ])  # fmt: skip
    assert figures(index).delays == []


def test_faults_that_overlap_are_one_span() -> None:
    faults = [f for f in [*broken(1, 5), *broken(6, 7)] if isinstance(f, Fault)]
    faults.insert(1, Fault(kind="k", detail="other", at=2))
    faults.insert(2, Fault(kind="k", detail="other", begins=False, at=3))
    assert spans(faults) == [(1, 5), (6, 7)]
    assert calm(spans(faults), 4, 10) == 4


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert percentile([7.0], 0.99) == 7
    assert percentile([], 0.5) == 0


def test_a_failover_s_losses_and_those_it_did_not_tell_are_found() -> None:
    leap = 2**32
    index = Index([
        *posted("kept", 1, 1), *posted("gone", 2, 1), *broken(2, 3, lost_from=1), *posted("new", leap, 6),
        *visit("told", 4, after=2, position=1), Received(connection="told", frame="gap", since=2, at=4),
        *visit("untold", 5, after=2, position=2), came("untold", "new", leap, 7),
        *visit("cut off", 5, after=2, position=2), *visit("knows", 8, after=leap, position=leap),
    ])  # fmt: skip
    assert [entry.position for entry in lost(index)] == [2]
    assert [connection.name for connection in untold(index)] == ["untold"]


def results() -> Results:
    made = Results()
    made.row("kill").add(["SIGKILL", "SIGKILL"], Figures(10, 3, 1_000_000, 5, [0.1, 0.3]))
    made.figure(Figure("kill", "memory", 80.0, "MB", most=100))
    return made


def test_a_scenario_holds_in_one_line() -> None:
    line = report.line(results(), "kill", 12.3)
    assert line == "kill (12 s, 2 faults, 10 acknowledged, 1000000 delivered): holds"


def test_what_is_wrong_is_told_and_counted() -> None:
    found = results()
    found.row("kill").violations += [Violation("C1", f"missing {n}") for n in range(9)]
    found.figure(Figure("kill", "delivered", 99.0, "%", least=100))
    line = report.line(found, "kill", 1)
    assert "FAILED, 10 times" in line
    assert "C1: missing 4" in line
    assert "and 5 more" in line
    assert found.wrong("kill")[-1] == "delivered: 99 %"
    assert "| kill | delivered | 99 % | ≥ 100 % | NO |" in report.text(found)
    assert not found.wrong("another")


def test_what_took_for_ever_is_told() -> None:
    found = results()
    found.figure(Figure("kill", "back", inf, "s", most=30))
    assert "| kill | back | inf s | ≤ 30 s | NO |" in report.text(found)


@pytest.mark.parametrize("claim", ["C1", "C7", "alive"])
def test_each_violation_stands_in_one_column(claim: str) -> None:
    found = results()
    found.row("kill").violations.append(Violation(claim, "so"))
    row = next(line for line in report.text(found).splitlines() if line.startswith("| kill | 2 "))
    assert [cell.strip() for cell in row.split("|")[6:12]].count("1") == 1


def test_what_was_left_out_or_broke_off_is_told() -> None:
    found = results()
    found.left_out["disk"] = "no right"
    found.broken["storm"] = "it broke off"
    assert report.line(found, "disk", 1) == "disk: LEFT OUT: no right"
    assert "**disk** was left out: no right." in report.text(found)
    assert found.wrong("storm") == ["it broke off"]


def test_the_document_keeps_what_is_written_by_hand(tmp_path: Path) -> None:
    document = tmp_path / "proof.md"
    document.write_text(f"by hand\n\n{report.BEGIN}\nold\n")
    report.write(results(), document, how="seed 1")
    text = document.read_text()
    assert text.startswith(f"by hand\n\n{report.BEGIN}\n")
    assert "old" not in text
    assert ", seed 1\n" in text
