"""Whatever arrives, in whatever order: one contiguous stream, each entry exactly once."""

from collections.abc import Iterable
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.events import Entry, Group
from service.domain.tail import Tail

HEAD = 40

# The log: some of the positions up to its head; the others were rolled back and never come.
logs = st.sets(st.integers(1, HEAD)).map(sorted)
# A range of it, from whatever source: committed groups, pieces of them, reads.
ranges = st.tuples(st.integers(0, HEAD), st.integers(0, HEAD)).map(sorted).filter(lambda r: r[0] < r[1])
near = st.builds(
    lambda after, size: [after, min(after + size, HEAD)], st.integers(0, HEAD - 1), st.integers(1, 5)
)
arrivals = st.lists(near | ranges, max_size=60)


def entry(position: int) -> Entry:
    return Entry(position, "event", "everyone", "t", "1", "2030-01-01T00:00:00.000Z")


def cut(log: Iterable[int], after: int, upto: int) -> Group:
    return Group(after, upto, [entry(p) for p in log if after < p <= upto])


def given_out(groups: Iterable[Group]) -> list[int]:
    return [e.position for group in groups for e in group.entries]


def reachable(arrived: list[list[int]], position: int = 0) -> int:
    """How far one gets from ``position`` by ranges that begin at or before where one stands."""
    while further := [upto for after, upto in arrived if after <= position < upto]:
        position = max(further)
    return position


@settings(deadline=None)
@given(logs, arrivals)
def test_whatever_arrives_is_given_out_once_in_order_and_as_far_as_it_reaches(
    log: list[int], arrived: list[list[int]]
) -> None:
    tail, taken = Tail(0), []
    for number, (after, upto) in enumerate(arrived, 1):
        tail.offer(cut(log, after, upto))
        taken += tail.take()
        assert tail.position == reachable(arrived[:number])
        assert given_out(taken) == [p for p in log if p <= tail.position]
    assert all(one.last == following.after for one, following in pairwise(taken))
    assert all(group.after < e.position <= group.last for group in taken for e in group.entries)


@settings(deadline=None)
@given(logs, arrivals, st.integers(0, HEAD))
def test_what_is_missing_is_all_that_has_to_be_read_to_go_on(
    log: list[int], arrived: list[list[int]], told: int
) -> None:
    tail = Tail(0)
    tail.reaches(told)
    for after, upto in arrived:
        tail.offer(cut(log, after, upto))
    list(tail.take())

    known = max([told, *(upto for _, upto in arrived)])
    assert tail.known == known
    if tail.missing is None:
        assert tail.position == known
        return
    after, upto = tail.missing
    assert after == tail.position < upto <= known
    waiting = [r for r in arrived if r[1] > tail.position]
    assert upto == min((r[0] for r in waiting), default=known), "nothing that has come is read again"

    tail.offer(cut(log, after, upto))
    list(tail.take())
    assert tail.position == reachable([*waiting, [after, upto]], after)


@settings(deadline=None)
@given(logs, arrivals, st.integers(0, 4), st.integers(1, 7))
def test_few_wait_and_what_was_let_go_is_read_from_the_log(
    log: list[int], arrived: list[list[int]], limit: int, page: int
) -> None:
    tail, taken = Tail(0, limit), []
    for after, upto in arrived:
        tail.offer(cut(log, after, upto))
        taken += tail.take()
        assert len(tail._waiting) <= limit
    tail.reaches(HEAD)
    for _ in range(HEAD + 1):
        if tail.missing is None:
            break
        after, upto = tail.missing
        tail.offer(cut(log, after, min(upto, after + page)))
        taken += tail.take()
    assert tail.position == HEAD
    assert given_out(taken) == log


def test_the_latest_to_come_is_let_go_when_too_many_wait() -> None:
    tail = Tail(0, limit=2)
    for after in (10, 20, 5):
        tail.offer(Group(after, after + 1, [entry(after + 1)]))
    assert tail.dropped == 1
    assert tail.missing == (0, 10)
    assert tail.known == 21

    # What is next never waits, so it is taken however many do.
    tail.offer(cut([1, 2], 0, 10))
    assert given_out(tail.take()) == [1, 2, 11]
    assert tail.missing == (11, 20)


def test_an_instance_that_saw_lost_commits_goes_on_where_the_log_does() -> None:
    """After a lossy failover the log continues behind what was seen, at numbers far beyond it."""
    tail = Tail(100)
    tail.offer(Group(90, 2**32 + 2, [entry(2**32 + 1), entry(2**32 + 2)]))
    assert given_out(tail.take()) == [2**32 + 1, 2**32 + 2]
    assert tail.missing is None


def test_a_range_without_entries_moves_it_on() -> None:
    tail = Tail(7)
    tail.reaches(9)
    assert tail.missing == (7, 9)
    tail.offer(Group(7, 9, []))
    assert given_out(tail.take()) == []
    assert (tail.position, tail.missing) == (9, None)
