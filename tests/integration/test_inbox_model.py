"""An inbox against a small model of it: pages, their order, what is read, what is unread."""

from random import Random
from typing import Any, NamedTuple

import asyncpg
import msgspec
import pytest

from service.store import inbox
from tests.integration.test_inbox import look_at_most

USER = "alice"
FOREVER = 2**53
TYPES = ["chat.said", "chat.left", "order"]
PATTERNS = ["*", "chat.*", "order", "chat", "nothing*"]
KEYS = [None, None, "a", "b"]
EXCLUDED = [None, None, None, ["alice"], ["bob"], ["alice\nphone"]]


class Event(NamedTuple):
    position: int
    address: str
    type: str
    key: str | None
    excludes: bool


class Model:
    """What was sent to an inbox, what became of it, and what was marked as read."""

    def __init__(self, first_seen: int) -> None:
        self.first_seen = first_seen
        self.events: dict[int, Event] = {}
        self.gone: set[int] = set()
        """Expired or recalled."""
        self.read: set[int] = set()
        self.doubtful: set[int] = set()
        """Was not to be seen when something was marked: if it comes back, it may count as read."""

    def is_mine(self, event: Event) -> bool:
        return not event.excludes and (
            event.address == f"user:{USER}"
            or (event.address == "everyone" and event.position > self.first_seen)
        )

    def shown(self) -> list[Event]:
        here = [e for e in self.events.values() if self.is_mine(e) and e.position not in self.gone]
        newest = {(e.address, e.key): e for e in here}
        return [e for e in here if e.key is None or newest[e.address, e.key] is e]

    def mark(self, positions: set[int]) -> None:
        shown = {e.position for e in self.shown()}
        self.read |= {p for p in positions if p in self.events and self.is_mine(self.events[p])}
        self.doubtful |= self.events.keys() - shown

    def page(self, after: int, before: int, pattern: str, *, newest: bool) -> list[int]:
        fits = [e.position for e in self.shown() if after < e.position < before and matches(pattern, e.type)]
        return sorted(fits, reverse=newest)


def matches(pattern: str, type_: str) -> bool:
    return type_.startswith(pattern[:-1]) if pattern.endswith("*") else type_ == pattern


class Story:
    """The model and the database beside each other."""

    def __init__(self, db: asyncpg.Connection, draw: Random, model: Model) -> None:
        self.db = db
        self.draw = draw
        self.model = model

    async def one(self, statement: str, *values: Any) -> Any:
        return await self.db.fetchval(statement, *values)

    async def send(self) -> None:
        address = self.draw.choice([f"user:{USER}", "everyone", "everyone", "user:bob", "room:red"])
        type_, key, exclude = self.draw.choice(TYPES), self.draw.choice(KEYS), self.draw.choice(EXCLUDED)
        position = await self.one("select tidings.append_one(0, 'event', $1, $2, '1')", address, type_)
        await self.db.execute(
            "update tidings.events set collapse_key = $2, exclude = $3 where position = $1",
            position, key, None if exclude is None else msgspec.json.encode(exclude).decode(),
        )  # fmt: skip
        self.model.events[position] = Event(position, address, type_, key, exclude == [USER])

    async def move(self) -> None:
        await self.one("select tidings.append_one(0, 'joined', $1, 'red', 'api')", f"user:{USER}")

    async def expire(self) -> None:
        if self.model.events:
            position = self.draw.choice(list(self.model.events))
            at = "clock_timestamp() - interval '1 second'"
            await self.db.execute(
                f"update tidings.events set expires_at = {at} where position = $1", position
            )
            self.model.gone.add(position)

    async def recall(self) -> None:
        if self.model.events:
            position = self.draw.choice(list(self.model.events))
            await self.one("select tidings.recall(0, $1)", position)
            self.model.gone.add(position)

    async def mark_up_to(self) -> None:
        head = await self.one("select tidings.head()")
        upto = self.draw.choice([self.draw.randint(0, head), head, head + 100])
        await self.mark(set(range(min(upto, head) + 1)), upto=upto, positions=None)

    async def mark_some(self) -> None:
        head = await self.one("select tidings.head()")
        some = {self.draw.randint(0, head + 2) for _ in range(self.draw.randint(1, 6))}
        await self.mark(some, upto=None, positions=list(some))

    async def mark(self, covered: set[int], *, upto: int | None, positions: list[int] | None) -> None:
        unread = {e.position for e in self.model.shown()} - self.model.read - self.model.doubtful
        head = await self.one("select tidings.head()")
        marked = await inbox.mark_read(self.db, 0, USER, upto=upto, positions=positions)
        written = await self.db.fetch("select * from tidings.events where position > $1", head)
        if unread & covered:
            assert [(row["kind"], row["address"]) for row in written] == [("read", f"user:{USER}")]
        for row in written:
            told = msgspec.json.decode(row["data"])
            assert (told["unread"], told.get("more", False)) == marked[:2]
            assert row["position"] == marked.position
            self.model.mark(covered)
        again = await inbox.mark_read(self.db, 0, USER, upto=upto, positions=positions)
        assert again == marked or marked.more, "then it may see further the next time"
        assert again.position == marked.position
        await self.check()

    async def look(self) -> None:
        head = await self.one("select tidings.head()")
        after, before = sorted(self.draw.randint(0, head + 2) for _ in range(2))
        after, before = self.draw.choice([(0, FOREVER), (after, FOREVER), (0, before), (after, before)])
        pattern, newest = self.draw.choice(PATTERNS), self.draw.random() < 0.5
        await self.walk(after, before, pattern, newest=newest)

    async def walk(self, after: int, before: int, pattern: str, *, newest: bool) -> list[inbox.Item]:
        """Read all pages; they have to be what the model says."""
        items: list[inbox.Item] = []
        limit, here = self.draw.choice([1, 2, 5, 100]), (after, before)
        while True:
            page = await inbox.page(self.db, USER, *here, limit, pattern, newest=newest)
            assert len(page.items) <= limit
            items += page.items
            if page.cursor is None:
                break
            here = (here[0], page.cursor) if newest else (page.cursor, here[1])
        assert [item.entry.position for item in items] == self.model.page(
            after, before, pattern, newest=newest
        )
        return items

    async def check(self) -> None:
        """Nothing is read that nobody marked, nothing unread that was; and the count counts that."""
        items = await self.walk(0, FOREVER, "*", newest=False)
        for entry, read in items:
            if entry.position not in self.model.doubtful or entry.position in self.model.read:
                assert read == (entry.position in self.model.read), entry
        unread = sum(not item.read for item in items)
        count = await inbox.unread(self.db, USER)
        assert count.unread <= unread if count.more else count.unread == unread

    async def go_on(self, steps: int) -> None:
        for _ in range(steps):
            [act] = self.draw.choices(
                [self.send, self.move, self.expire, self.recall, self.mark_up_to, self.mark_some, self.look],
                [10, 1, 1, 1, 0.5, 2, 2],
            )
            await act()
        await self.check()


@pytest.mark.parametrize("most", [1000, 5])
async def test_pages_and_counts_are_what_a_small_model_says(most: int, db: asyncpg.Connection) -> None:
    """Also where a page and a count may look at five entries only."""
    await look_at_most(db, most)
    for seed in range(25):
        await db.execute("truncate tidings.events, tidings.reads, tidings.users")
        first = await db.fetchval("select tidings.append_one(0, 'event', 'everyone', 'order', '1')")
        story = Story(db, Random(seed), Model(first))
        story.model.events[first] = Event(first, "everyone", "order", None, excludes=False)
        await story.check()
        await story.go_on(60)
