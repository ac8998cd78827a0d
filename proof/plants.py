"""Bugs to plant in the service, each of which breaks one claim: who cannot find them proves nothing.

These are put into an instance's own process before it starts, those of ``functions`` into a database.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

import asyncpg

from proof import functions
from service.domain.delivery import Delivery, State
from service.domain.errors import Unavailable
from service.domain.events import Entry, Group
from service.domain.recent import Interval
from service.gateway.connection import Connection
from service.gateway.replay import Replay
from service.store import append
from service.stream import follower
from service.stream.appender import Appender
from service.stream.control import Control
from service.stream.courier import Courier
from service.stream.cursors import Cursors
from service.stream.hub import Hub

LATE: Final = 0.25
"""Seconds by which something is done too late."""

Append = Callable[..., Any]


def _patch(owner: Any, name: str, made: Callable[[Any], Any]) -> None:
    """Replace a function by what is made of it."""
    setattr(owner, name, made(getattr(owner, name)))


# The way into the log


def answers_before_the_commit() -> None:
    """Commit a moment after the answer: what is killed in between has promised too much."""

    def made(original: Append) -> Append:
        commits: dict[asyncpg.Connection, asyncio.Task[None]] = {}

        async def early(connection: asyncpg.Connection, *given: Any, **named: Any) -> append.Appended:
            if connection in commits:
                await commits.pop(connection)
            transaction = connection.transaction()
            await transaction.start()
            appended: append.Appended = await original(connection, *given, **named)

            async def commit() -> None:
                await asyncio.sleep(0.1)
                await transaction.commit()

            commits[connection] = asyncio.get_running_loop().create_task(commit())
            return appended

        return early

    _patch(append, "append", made)


def loses_answers() -> None:
    """Lose some answers of the database: no bug, but what the next ones are about."""

    def made(original: Append) -> Append:
        rng = Random(1)

        async def unreliable(*given: Any, **named: Any) -> append.Appended:
            appended: append.Appended = await original(*given, **named)
            if not named["retry"] and rng.random() < 0.15:
                raise Unavailable("the connection was lost")
            return appended

        return unreliable

    _patch(append, "append", made)


def retries_as_another_group() -> None:
    """Forget at a retry which group it was, so that it is appended twice."""
    loses_answers()

    def made(original: Append) -> Append:
        async def forgetful(connection: asyncpg.Connection, _: UUID, *given: Any, **named: Any) -> Any:
            return await original(connection, uuid4(), *given, **(named | {"retry": False}))

        return forgetful

    _patch(append, "append", made)


def refuses_what_is_stored() -> None:
    """Say that nothing was done, where it was."""

    def made(original: Any) -> Any:
        rng = Random(1)

        async def lying(self: Appender, *given: Any) -> append.Appended:
            appended: append.Appended = await original(self, *given)
            if rng.random() < 0.1:
                raise Unavailable("nothing was done")
            return appended

        return lying

    _patch(Appender, "_attempt", made)


def applies_a_group_twice() -> None:
    """Route every tenth group once more."""

    def made(original: Any) -> Any:
        rng = Random(1)

        def twice(self: Hub, group: Group) -> None:
            original(self, group)
            if rng.random() < 0.1:
                original(self, group)

        return twice

    _patch(Hub, "apply", made)


def names_each_address_apart() -> None:
    """Give what one POST sends to several addresses an id for each."""

    def made(_: Any) -> Any:
        return property(lambda entry: entry.id if entry.id is not None else str(entry.position))

    _patch(Entry, "event_id", made)


# The way out of it


def drops_a_page() -> None:
    """Leave out what a page of a replay holds."""

    def made(original: Any) -> Any:
        return lambda self, page: original(self, page._replace(entries=()))

    _patch(Connection, "write_page", made)


def goes_live_before_the_backlog() -> None:
    """Route what is new to a connection while its backlog is still to be written."""

    def made(_: Any) -> Any:
        def catch_up(self: Replay, connection: Connection) -> None:
            begun = connection.written
            self.hub.go_live(connection)

            async def write_late() -> None:
                await asyncio.sleep(LATE)
                due, upto = connection.intervals(), self.hub.position
                page = self.hub.recent.page(begun, upto, due, 1024, self._reader(connection))
                if page is not None and connection.state is not State.CLOSED:
                    connection.write_page(page)

            self.spawn(connection, write_late())

        return catch_up

    _patch(Replay, "catch_up", made)


def is_silent_about_gaps() -> None:
    """Do not tell of what retention has deleted."""

    def made(original: Any) -> Any:
        return lambda self, page: original(self, page._replace(gap=None))

    _patch(Connection, "write_page", made)


def ignores_exclude() -> None:
    """Send events to those who are excluded from them too."""
    _patch(Entry, "withheld_from", lambda _: lambda *_: False)


def grants_all_in_replay() -> None:
    """Replay rooms that the token does not grant."""

    def made(original: Any) -> Any:
        def intervals(self: Delivery) -> list[Interval]:
            due: list[Interval] = original(self)
            rooms = [Interval(f"room:{room}", since) for room, (_, since) in self.rooms.items()]
            return due + [interval for interval in rooms if interval not in due]

        return intervals

    _patch(Delivery, "intervals", made)


def moves_members_beside_the_log() -> None:
    """Tell of a membership at its position, and let it count when the side channel gets there."""

    def change(hub: Hub, entry: Entry) -> None:
        user, room = entry.address.removeprefix("user:"), entry.type
        for connection in hub.users.get(user, ()):
            if entry.kind == "left":
                moved = partial(connection.left, room, entry.position)
            else:
                moved = partial(connection.joined, room, "api", entry.position)
            hub.reroute(connection, room, moved)

    def move(self: Hub, entry: Entry) -> None:
        self._deliver(entry.address, [entry])
        asyncio.get_running_loop().call_later(LATE, change, self, entry)

    _patch(Hub, "_move", lambda _: move)


def is_deaf_to_others() -> None:
    """Hear nothing of what others append, and ask for it once a minute."""
    follower.CONFIRM_EVERY = 60.0  # type: ignore[misc]
    follower.TRUSTED_FOR = 120.0  # type: ignore[misc]
    _patch(Courier, "_take_in", lambda _: lambda *_: None)


def drops_revocations() -> None:
    """Miss what the log says of revocations: as if the wake-up alone had carried it, and was lost."""

    def made(original: Any) -> Any:
        def apply(self: Control, hub: Hub, entry: Entry) -> None:
            if entry.kind != "revoked":
                original(self, hub, entry)

        return apply

    _patch(Control, "__call__", made)


# How far devices have got


def takes_what_is_sent_as_received() -> None:
    """Move the cursor beyond what the pong says."""

    def made(original: Any) -> Any:
        def mark(self: Cursors, user: str, device: str, position: int) -> None:
            original(self, user, device, position + 3)

        return mark

    _patch(Cursors, "mark", made)


def never_stores_cursors() -> None:
    """Keep cursors in memory."""

    def made(_: Any) -> Any:
        async def flush(_: Cursors) -> None:
            return None

        return flush

    _patch(Cursors, "flush", made)


class Plant(NamedTuple):
    """A bug and the claim that it breaks; it is planted by ``patch`` in each instance, or by ``sql``."""

    claim: str
    patch: Callable[[], None] | None = None
    sql: Callable[[asyncpg.Connection], Awaitable[None]] | None = None
    run: str = "short"
    """Under what it shows."""


PLANTS: Final = {
    "acknowledges before the commit": Plant("C1", answers_before_the_commit, run="killed"),
    "draws positions without the lock": Plant("C1", sql=functions.draws_positions_without_the_lock),
    "drops a page of a replay": Plant("C1", drops_a_page, run="away"),
    "says that nothing was done": Plant("C2", refuses_what_is_stored),
    "goes live before the backlog": Plant("C3", goes_live_before_the_backlog),
    "is silent about gaps": Plant("C4", is_silent_about_gaps, run="pruned"),
    "applies a group twice": Plant("C5", applies_a_group_twice),
    "names each address apart": Plant("C5", names_each_address_apart),
    "never stores cursors": Plant("C5", never_stores_cursors, run="long"),
    "retries as another group": Plant("C6", retries_as_another_group),
    "releases without a claim": Plant("C6", sql=functions.releases_without_a_claim, run="long"),
    "uses positions again": Plant("C6", sql=functions.uses_positions_again, run="restored"),
    "takes what is sent as received": Plant("C7", takes_what_is_sent_as_received),
    "drops revocations": Plant("C8", drops_revocations, run="long"),
    "ignores exclude": Plant("C9", ignores_exclude),
    "grants all in a replay": Plant("C9", grants_all_in_replay, run="away"),
    "moves members beside the log": Plant("C9", moves_members_beside_the_log),
    "is deaf to others": Plant("C10", is_deaf_to_others),
}
"""By name."""
