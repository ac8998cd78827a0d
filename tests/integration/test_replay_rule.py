"""What a replay leaves out: memory, SQL, and the rule read aloud say the same of any log."""

from collections.abc import AsyncIterator, Sequence
from random import Random

import asyncpg
import pytest

from service.domain.due import Reader, still_due
from service.domain.events import Entry
from service.domain.recent import FOREVER, Interval, Page, Recent
from service.store import log
from service.store.append import excluded

ADDRESSES = ["user:alice", "room:red", "room:blue", "everyone"]
EXCLUDED = [(), (), (), ("alice",), ("alice\nphone",), ("alice\nlaptop", "bob"), ('a"b\\c\u00e9',)]
READERS = [("alice", "phone"), ("alice", "laptop"), ('a"b\\c\u00e9', "phone")]
NOW = 1_900_000_000
SPAN = 60
"""Positions of one log; each round has its own stretch of the table."""


@pytest.fixture
async def table(lasting_database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(lasting_database_url.replace("+asyncpg", ""))
    await connection.execute("set jit = off")
    yield connection
    await connection.close()


def a_log(draw: Random, base: int) -> tuple[list[Entry], dict[int, int]]:
    """Return entries after ``base`` with positions missing between, and what was recalled by which."""
    entries: list[Entry] = []
    recalled: dict[int, int] = {}
    for position in range(base + 1, base + SPAN):
        standing = [e for e in entries if e.kind == "event" and e.position not in recalled]
        if draw.random() < 0.2:
            continue
        if standing and draw.random() < 0.1:
            event = draw.choice(standing)
            recalled[event.position] = position
            kind, about, data = "recalled", "", str(event.position)
            entries.append(Entry(position, kind, event.address, about, data, "", exclude=event.exclude))
            continue
        entries.append(Entry(
            position, "event", draw.choice(ADDRESSES), "t", str(position), "", exclude=draw.choice(EXCLUDED),
            expires_at=draw.choice([None, None, NOW - 1.0, NOW + 0.0, NOW + 1.0, NOW + 2.0]),
            collapse_key=draw.choice([None, "k", "k", "l"]),
        ))  # fmt: skip
    return entries, recalled


def some_intervals(draw: Random, base: int) -> list[Interval]:
    """Several stretches of several addresses; those of one address do not overlap."""
    due = []
    for address in draw.sample(ADDRESSES, draw.randint(1, len(ADDRESSES))):
        bounds = sorted(draw.sample(range(base, base + SPAN), draw.choice([1, 1, 2, 4])))
        if len(bounds) % 2:
            bounds.append(FOREVER)
        due += [Interval(address, *pair) for pair in zip(bounds[::2], bounds[1::2], strict=True)]
    return due


async def insert(table: asyncpg.Connection, entries: Sequence[Entry], recalled: dict[int, int]) -> None:
    await table.executemany(
        "insert into tidings.events (position, kind, address, type, data, time, lead, exclude, expires_at,"
        " collapse_key, recalled) values ($1, $2, $3, $4, $5, now(), 0, $6, to_timestamp($7), $8, $9)",
        [
            (e.position, e.kind, e.address, e.type, e.data, excluded(e), e.expires_at, e.collapse_key,
             recalled.get(e.position))
            for e in entries
        ],
    )  # fmt: skip


def read_aloud(
    entries: Sequence[Entry], recalled: dict[int, int], after: int, upto: int, due: Sequence[Interval],
    limit: int, reader: Reader,
) -> tuple[list[int], int]:  # fmt: skip
    """Say of every entry by itself whether it is replayed, as DESIGN has the rule."""

    def entitled(e: Entry) -> bool:
        return any(i.address == e.address and i.since < e.position <= i.until for i in due)

    def stands(e: Entry) -> bool:
        expired = e.expires_at is not None and e.expires_at <= reader.now
        withheld = reader.user in e.exclude or f"{reader.user}\n{reader.device}" in e.exclude
        return not expired and not withheld and e.position not in recalled

    def replaced(e: Entry) -> bool:
        return e.collapse_key is not None and any(
            (n.address, n.collapse_key) == (e.address, e.collapse_key)
            and e.position < n.position <= upto
            and entitled(n)
            and stands(n)
            for n in entries
        )

    within = [e for e in entries if after < e.position <= upto and entitled(e)]
    looked_at = within[:limit]
    reached = looked_at[-1].position if len(looked_at) == limit else upto
    return [e.position for e in looked_at if stands(e) and not replaced(e)], reached


def shown(page: Page) -> tuple[list[int], int]:
    return [entry.position for entry in page.entries], page.upto


@pytest.mark.parametrize("seed", range(40))
async def test_memory_and_sql_and_the_rule_read_aloud_agree(table: asyncpg.Connection, seed: int) -> None:
    draw, base = Random(seed), 1000 * seed
    entries, recalled = a_log(draw, base)
    await insert(table, entries, recalled)
    recent = Recent(base, 10**9)
    recent.extend(entries)
    for _ in range(25):
        after, upto = sorted(draw.sample(range(base, base + SPAN), 2))
        due, limit = some_intervals(draw, base), draw.choice([1, 2, 5, 1000])
        reader = Reader(*draw.choice(READERS), NOW + draw.choice([-1.0, 0.0, 0.5, 1.0]))
        expected = read_aloud(entries, recalled, after, upto, due, limit, reader)
        in_memory = recent.page(after, upto, due, limit, reader)
        assert in_memory is not None
        sent = in_memory._replace(entries=still_due(in_memory.entries, reader, recent.recalled))
        in_log = await log.page(table, after, upto, due, limit, reader)
        assert shown(sent) == expected, (due, reader)
        assert shown(in_log) == expected, (due, reader)


async def test_pages_of_what_is_left_out_move_on(table: asyncpg.Connection) -> None:
    base = 900_000
    entries = [
        Entry(base + n, "event", "everyone", "t", "1", "", expires_at=NOW - 1.0) for n in range(1, 11)
    ] + [Entry(base + 11, "event", "everyone", "t", "1", "")]
    await insert(table, entries, {})
    after, read, reader = base, [], Reader("alice", "phone", NOW)
    for _ in range(4):
        page = await log.page(table, after, base + 20, [Interval("everyone")], 4, reader)
        after = page.upto
        read.append(shown(page))
    assert read == [([], base + 4), ([], base + 8), ([base + 11], base + 20), ([], base + 20)]
