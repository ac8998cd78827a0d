"""A page out of memory is what the log itself would give, or there is none."""

from bisect import bisect_right

from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.due import Reader
from service.domain.events import Entry
from service.domain.recent import FOREVER, FRAMING, Interval, Page, Recent

ADDRESSES = ["everyone", "user:alice", "user:bob", "room:red", "room:blue"]
BASE = 100
LIMIT = 5_000
LAST = BASE + 90
READER = Reader("nobody", "", 0.0)

drafts = st.tuples(
    st.sampled_from([*ADDRESSES, "control"]),
    st.integers(1, 3),  # how far it stands from the one before: rolled-back positions are missing
    st.sampled_from([1, 1, 100, 1_000, 6_000]),  # bytes of data, once more than the limit
)
batches = st.lists(st.lists(drafts, max_size=8), max_size=8)


@st.composite
def intervals(draw: st.DrawFn) -> list[Interval]:
    """Several stretches of several addresses; those of one address do not overlap."""
    due = []
    for address in draw(st.lists(st.sampled_from(ADDRESSES), unique=True)):
        bounds = sorted(draw(st.sets(st.integers(BASE - 5, LAST), min_size=1, max_size=4)))
        if len(bounds) % 2:
            bounds.append(FOREVER)
        due += [Interval(address, *pair) for pair in zip(bounds[::2], bounds[1::2], strict=True)]
    return draw(st.permutations(due))


class Model:
    """All entries ever, looked at one by one."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.kept: list[Entry] = []
        self.base = BASE

    def extend(self, batch: list[tuple[str, int, int]]) -> list[Entry]:
        position = self.entries[-1].position if self.entries else BASE
        new = []
        for address, step, size in batch:
            position += step
            kind = "revoked" if address == "control" else "event"
            new.append(Entry(position, kind, address, "t", "x" * size, "2030-01-01T00:00:00.000Z"))
        self.entries += new
        self.kept += [e for e in new if e.address != "control"]
        while sum(e.size for e in self.kept) > LIMIT:
            self.base = self.kept.pop(0).position
        return new

    def page(self, after: int, upto: int, due: list[Interval], limit: int) -> Page | None:
        if after < self.base:
            return None
        entries = [
            e for e in self.entries
            if after < e.position <= upto
            and any(i.address == e.address and i.since < e.position <= i.until for i in due)
        ][:limit]  # fmt: skip
        return Page(entries, entries[-1].position if len(entries) == limit else upto)


@settings(deadline=None)
@given(
    batches,
    st.lists(
        st.tuples(st.integers(BASE - 3, LAST), st.integers(0, 40), intervals(), st.integers(1, 12)),
        min_size=1,
        max_size=6,
    ),
)
def test_a_page_is_what_a_look_at_every_entry_gives(
    given_batches: list[list[tuple[str, int, int]]], asked: list[tuple[int, int, list[Interval], int]]
) -> None:
    recent, model = Recent(BASE, LIMIT), Model()
    for batch in given_batches:
        recent.extend(model.extend(batch))
        assert recent.base == model.base
        assert recent.bytes == sum(e.size for e in model.kept) <= LIMIT
        for after, length, due, limit in asked:
            page = recent.page(after, after + length, due, limit, READER)
            assert page == model.page(after, after + length, due, limit)


@settings(deadline=None)
@given(batches, intervals(), st.integers(1, 5))
def test_pages_follow_one_another_without_loss_and_without_repetition(
    given_batches: list[list[tuple[str, int, int]]], due: list[Interval], limit: int
) -> None:
    recent, model = Recent(BASE, LIMIT), Model()
    for batch in given_batches:
        recent.extend(model.extend(batch))
    after, read = recent.base, []
    head = max([recent.base, *(e.position for e in model.entries)])
    while after < head:
        page = recent.page(after, head, due, limit, READER)
        assert page is not None
        assert after < page.upto <= head
        after = page.upto
        read += page.entries
    whole = model.page(recent.base, head, due, len(model.entries) + 1)
    assert whole is not None
    assert read == whole.entries


@settings(deadline=None)
@given(batches)
def test_what_has_left_is_let_go_of(given_batches: list[list[tuple[str, int, int]]]) -> None:
    """What lies dead in front of an address's entries is never more than what lives behind it."""
    recent, model = Recent(BASE, LIMIT), Model()
    for batch in given_batches:
        recent.extend(model.extend(batch))
        for address, lane in recent._lanes.items():
            alive = [e for e in model.kept if e.address == address]
            assert lane.entries[bisect_right(lane.entries, recent.base, key=lambda e: e.position) :] == alive
            assert 0 < len(lane.entries) <= 2 * len(alive)
        assert set(recent._lanes) == {e.address for e in model.kept}


def test_what_is_forgotten_has_to_be_read_from_the_log() -> None:
    recent, model = Recent(BASE, LIMIT), Model()
    recent.extend(model.extend([("everyone", 1, 1)] * 3))
    due = [Interval("everyone")]
    assert recent.page(BASE, BASE + 3, due, 10, READER) is not None

    recent.forget(BASE + 3)
    assert recent.bytes == 0
    assert recent.page(BASE, BASE + 3, due, 10, READER) is None
    assert recent.page(BASE + 3, BASE + 3, due, 10, READER) == Page([], BASE + 3)

    new = model.extend([("everyone", 1, 1)])
    recent.extend(new)
    assert recent.page(BASE + 3, BASE + 4, due, 10, READER) == Page(new, BASE + 4)


def test_nothing_is_kept_where_no_memory_is_allowed() -> None:
    recent, model = Recent(BASE, 0), Model()
    recent.extend(model.extend([("everyone", 1, 1), ("control", 1, 1)]))
    assert recent.bytes == 0
    assert recent.page(BASE, BASE + 2, [Interval("everyone")], 10, READER) is None
    assert recent.page(BASE + 1, BASE + 2, [Interval("everyone")], 10, READER) == Page([], BASE + 2)


@given(st.lists(st.integers(0, 500), max_size=12), st.integers(1, 3_000))
def test_a_page_ends_with_the_entry_that_fills_it(sizes: list[int], limit: int) -> None:
    entries = [
        Entry(n, "event", "everyone", "t", "x" * size, "2030-01-01T00:00:00.000Z")
        for n, size in enumerate(sizes, BASE)
    ]
    whole = Page(entries, LAST)
    page = whole.within(limit)
    assert page.entries == entries[: len(page.entries)]
    if page is not whole:
        assert page.upto == page.entries[-1].position
        weights = [len(entry.data) + FRAMING for entry in page.entries]
        assert sum(weights[:-1]) < limit <= sum(weights)
    else:
        assert sum(size + FRAMING for size in sizes) <= limit


def test_what_is_at_or_below_the_retention_floor_is_let_go() -> None:
    recent = Recent(BASE, LIMIT)
    recent.extend(Entry(BASE + n, "event", "everyone", "t", "1", "") for n in (1, 2, 4))
    weight = recent.bytes
    recent.trim(BASE)
    assert (recent.base, recent.bytes) == (BASE, weight)
    recent.trim(BASE + 3)
    assert recent.page(BASE + 2, BASE + 9, [Interval("everyone")], 9, READER) is None
    page = recent.page(BASE + 3, BASE + 9, [Interval("everyone")], 9, READER)
    assert page is not None
    assert [entry.position for entry in page.entries] == [BASE + 4]
    assert recent.bytes == weight / 3
