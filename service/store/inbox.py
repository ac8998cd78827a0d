"""A user's inbox: what was addressed to them and to everyone, and what they have read of it."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import asyncpg

from service.domain.events import Entry
from service.store.database import one
from service.store.log import COLUMNS, entries_of

LOOKED_AT: Final = 2_000
"""Entries of an address that a page looks at: one for a rare type may end before it is full."""

# The newest of one collapse key is the newest that the user gets: it has neither expired nor been recalled.
# `tidings.inbox_within` counts by the same rule. An address at a time, each in the order of its index: asked
# for both at once, the planner may walk the whole log by position instead.
PAGE: Final = f"""
select e.*, coalesce(e.position <@ r.read, false) as read
from tidings.first_seen($1) as f(position)
cross join tidings.log l
left join tidings.reads r on r.user_id = $1
cross join lateral (
    select e.*
    from (values ('user:' || $1, 0), ('everyone', f.position)) as a(address, since)
    cross join lateral (
        select * from (
            select {COLUMNS}, row_number() over (order by position {{order}}) = {LOOKED_AT} as last,
                   kind = 'event' and recalled is null and (expires_at is null or expires_at > now())
                   and (exclude is null or not exclude::jsonb ? $1)
                   and coalesce(type = $5, starts_with(type, $6))
                   and (collapse_key is null or not exists (
                       select from tidings.events n
                       where n.address = e.address and n.collapse_key = e.collapse_key
                         and n.position > e.position and n.kind = 'event' and n.recalled is null
                         and (n.expires_at is null or n.expires_at > now())
                         and (n.exclude is null or not n.exclude::jsonb ? $1))) as shown
            from tidings.events e
            where e.address = a.address and e.position > greatest($2, a.since, l.floor) and e.position < $3
            order by e.position {{order}} limit {LOOKED_AT}) e
        where e.shown or e.last order by e.position {{order}} limit $4) e
    order by e.position {{order}} limit $4) e
order by e.position {{order}}
"""

UNREAD: Final = """
select cardinality(w.positions) as unread, w.upto is not null as more
from tidings.first_seen($1) as f(position)
left join tidings.reads r on r.user_id = $1
cross join lateral tidings.inbox_within(
    $1, f.position, '{[0,)}'::int8multirange - coalesce(r.read, '{}')) w
"""


class Item(NamedTuple):
    """An event, and whether it counts as read."""

    entry: Entry
    read: bool


class Page(NamedTuple):
    """Part of an inbox; where there is more, it comes after the position ``cursor``."""

    items: Sequence[Item]
    cursor: int | None


class Unread(NamedTuple):
    """How many events are unread; ``more`` says that so many were found where the search ended."""

    unread: int
    more: bool


class Marked(NamedTuple):
    """The same after a change, and the newest entry of the log that tells of one, if there is any."""

    unread: int
    more: bool
    position: int | None


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
    statement = PAGE.format(order="desc" if newest else "asc")
    rows = await connection.fetch(statement, user, after, before, limit + 1, exact, prefix)
    return _page(rows, limit)


def _page(rows: Sequence[asyncpg.Record], limit: int) -> Page:
    items: list[Item] = []
    for entry, row in zip(entries_of(rows), rows, strict=True):
        if len(items) == limit:
            return Page(items, items[-1].entry.position)
        if row["shown"]:
            items.append(Item(entry, row["read"]))
        if row["last"]:  # of its address nothing beyond was looked at
            return Page(items, entry.position)
    return Page(items, None)


async def unread(connection: asyncpg.Connection, user: str) -> Unread:
    """Count what is unread."""
    return Unread(*await one(connection, UNREAD, user))


async def mark_read(
    connection: asyncpg.Connection, seen: int, user: str, *, upto: int | None, positions: Sequence[int] | None
) -> Marked:
    """Mark as read what stands up to a position, or at some: the row and the log entry at once.

    What is read already, or not in the inbox, is passed over. Raises RateLimited where the unread events
    would be more than 1,000 runs with read ones between.
    """
    return Marked(*await one(connection, "select * from tidings.mark_read($1, $2, $3, $4)",
                             seen, user, upto, positions))  # fmt: skip
