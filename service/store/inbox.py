"""A user's inbox: what was addressed to them and to everyone, and what they have read of it."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import asyncpg

from service.domain.events import Entry
from service.store.database import one
from service.store.log import COLUMNS, entries_of

# The functions are in the migration 0004.
PAGE: Final = f"""
select e.*, p.shown, p.last, coalesce(e.position <@ r.read, false) as read
from tidings.inbox_{{order}}($1, $2, $3, $4, $5, $6, $7) p
cross join lateral (select {COLUMNS} from tidings.events where position = p.at_position) e
left join tidings.reads r on r.user_id = $1
order by e.position {{direction}}
"""

UNREAD: Final = """
select cardinality(w.positions) as unread, w.upto is not null as more, tidings.head() as position
from tidings.inbox_within(
    $1, $2, '{[0,)}' - coalesce((select r.read from tidings.reads r where r.user_id = $1), '{}')) w
"""


class Item(NamedTuple):
    """An event, and whether it counts as read."""

    entry: Entry
    read: bool


class Page(NamedTuple):
    """Part of an inbox; where there is more, it comes after the position ``cursor``."""

    items: Sequence[Item]
    cursor: int | None


class Count(NamedTuple):
    """How many events are unread; ``more`` says that so many were found where the look ended."""

    unread: int
    more: bool
    position: int | None


async def first_seen(connection: asyncpg.Connection, user: str) -> int:
    """Return from where on ``everyone`` is the user's; an inbox that is looked at is a connect too."""
    position: int = await connection.fetchval("select tidings.first_seen($1)", user)
    return position


async def page(
    connection: asyncpg.Connection,
    user: str,
    after: int,
    before: int,
    limit: int,
    pattern: str,
    *,
    newest: bool,
) -> Page:
    """Read events strictly between two positions whose type matches, newest or oldest first."""
    exact, prefix = (None, pattern[:-1]) if pattern.endswith("*") else (pattern, None)
    order, direction = ("newest", "desc") if newest else ("oldest", "asc")
    statement = PAGE.format(order=order, direction=direction)
    since = await first_seen(connection, user)
    rows = await connection.fetch(statement, user, since, after, before, limit + 1, exact, prefix)
    return _page(rows, limit)


def _page(rows: Sequence[asyncpg.Record], limit: int) -> Page:
    items: list[Item] = []
    for entry, row in zip(entries_of(rows), rows, strict=True):
        if len(items) == limit:
            return Page(items, items[-1].entry.position)
        if row["shown"]:
            items.append(Item(entry, row["read"]))
        if row["last"]:  # nothing of its address was looked at beyond
            return Page(items, entry.position)
    return Page(items, None)


async def unread(connection: asyncpg.Connection, user: str) -> Count:
    """Count what is unread at a position, the head of the log."""
    return Count(*await one(connection, UNREAD, user, await first_seen(connection, user)))


async def mark_read(
    connection: asyncpg.Connection, seen: int, user: str, *, upto: int | None, positions: Sequence[int] | None
) -> Count:
    """Mark as read what stands up to a position, or at some: the row and the log entry at once.

    What is read already, or not in the inbox, is passed over. The count's position is that of the newest
    entry; there may be none yet. Raises RateLimited where the unread events would be more than 1,000 runs
    with read ones between.
    """
    return Count(*await one(connection, "select * from tidings.mark_read($1, $2, $3, $4)",
                             seen, user, upto, positions))  # fmt: skip
