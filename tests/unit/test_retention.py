"""What goes and what stays, decided without a database."""

from hypothesis import given
from hypothesis import strategies as st

from service.domain.retention import SHARES, SPAN, Held, Keep, Partition, plan


def partition(
    number: int, entries: int = 0, *, oldest: float = 0, newest: float = 0, size: int = 1
) -> Partition:
    start = number * SPAN
    return Partition(start, start + entries if entries else None, oldest, newest, size)


SPARE = (partition(7), partition(8))


def test_the_oldest_partitions_go_as_a_whole() -> None:
    old = partition(0, 5, oldest=900, newest=800)
    mixed = partition(1, 5, oldest=700, newest=50)
    held = Held(0, 2 * SPAN + 4, [old, mixed, partition(2, 4, oldest=40, newest=30), *SPARE])
    assert plan(held, Keep(100)) == (held.partitions[2], 5, SPAN, [old])
    assert plan(held, Keep(2000)) == (None, 0, 0, [])
    assert plan(held, Keep(None)) == (None, 0, 0, [])


def test_what_has_outlived_its_time_waits_for_what_stands_before_it() -> None:
    # The database's clock was set back meanwhile.
    held = Held(0, 2 * SPAN, [partition(0, 5, oldest=10, newest=10), partition(1, 5, oldest=900, newest=900)])
    assert plan(held, Keep(100)).drop == []


def test_an_idle_log_goes_entirely_and_the_floor_is_its_last_entry() -> None:
    open_ = partition(0, 57, oldest=900, newest=500)
    assert plan(Held(0, 60, [open_, *SPARE]), Keep(100)) == (open_, 57, SPAN, [open_])


def test_the_open_partition_is_closed_when_it_holds_its_share() -> None:
    def closes(oldest: float, size: int, keep: Keep) -> bool:
        return plan(Held(0, 60, [partition(0, 57, oldest=oldest, size=size), *SPARE]), keep).close is not None

    assert closes(SHARES + 1, 1, Keep(SHARES * SHARES))
    assert not closes(SHARES - 1, 1, Keep(SHARES * SHARES))
    assert closes(0, 11, Keep(None, 10 * SHARES))
    assert not closes(0, 9, Keep(None, 10 * SHARES))
    assert not closes(1e9, 2**60, Keep(None))


def test_an_empty_partition_is_not_closed() -> None:
    assert plan(Held(0, SPAN - 1, [partition(0, 9), partition(1), partition(2)]), Keep(100)).close is None


def test_size_takes_the_oldest_closed_ones_until_it_fits() -> None:
    held = Held(0, 3 * SPAN + 9, [partition(n, 5, size=100) for n in range(4)])
    assert [p.start for p in plan(held, Keep(None, 250)).drop] == [0, SPAN]
    assert [p.start for p in plan(held, Keep(None, 1)).drop] == [0, SPAN, 2 * SPAN]
    assert plan(held, Keep(None, 400)).drop == []


def test_what_is_left_below_the_floor_is_dropped_whatever_is_kept() -> None:
    left = Partition(0, None, 0, 0, 1, "pending")
    held = Held(5, SPAN + 9, [left, partition(1, 9), *SPARE])
    assert plan(held, Keep(None)) == (None, 5, 5, [left])


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.floats(0, 200), st.floats(0, 200), st.integers(0, 100)),
        min_size=1,
        max_size=6,
    ),
    st.none() | st.floats(1, 300),
    st.none() | st.integers(1, 500),
    st.integers(0, 6 * SPAN),
    st.integers(0, 2 * SPAN),
)
def test_nothing_above_the_floor_goes_and_the_floor_is_an_entry(
    shapes: list[tuple[int, float, float, int]], age: float | None, size: int | None, floor: int, ahead: int
) -> None:
    partitions = [
        partition(n, entries, oldest=max(a, b), newest=min(a, b), size=bytes_)
        for n, (entries, a, b, bytes_) in enumerate(shapes)
    ]
    last = max((p.last for p in partitions if p.last is not None), default=0)
    floor = min(floor, last + ahead)
    held = Held(floor, last + ahead, partitions)
    made = plan(held, Keep(age, size))
    assert made.floor >= floor
    assert made.floor in {floor, *(p.last for p in partitions)}
    entries = [p.last for p in partitions if p.last is not None]
    assert not any(made.floor < at < made.below for at in entries)
    for p in made.drop:
        assert p.start <= made.floor
        assert p.last is None or p.last <= made.floor
        # Closed, or about to be.
        assert p.end <= held.drawn + 1 or p == made.close
    if made.floor > floor:
        gone = [p for p in partitions if p.last is not None and floor < p.last <= made.floor]
        fits = size is not None and held.size > size
        assert all(fits or (age is not None and p.newest > age) for p in gone)
