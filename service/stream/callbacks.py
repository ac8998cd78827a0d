"""Tells producers of events that no device has received, at the URL that they gave.

At least once: the call is made outside of any transaction, so whoever dies between the answer and the
note of it has it made again, with the same ``webhook-id``. While all live, exactly one instance makes it.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from service.domain.errors import TidingsError
from service.domain.events import Entry
from service.domain.webhooks import next_delay
from service.observe.metrics import Metrics
from service.store import callbacks as store
from service.store import log as events
from service.store import receipts
from service.store.database import Database
from service.stream.cursors import Cursors
from service.stream.webhook import Webhook

log = logging.getLogger("tidings.callbacks")

EVERY: Final = 1.0
AT_ONCE: Final = 16
GRACE: Final = 1.0
"""Seconds that a callback waits beyond its time, for cursors that other instances have yet to write."""
LEASE: Final = 60.0
"""Seconds that an instance has for a claimed one; a call takes 15 at the most."""
GONE: Final = 410

Reason = Literal["no_device", "not_received", "not_read"]


class Undelivered(msgspec.Struct, tag_field="type", tag="undelivered"):
    """The body of a call; its fields are those of the event's frame, but for its type."""

    id: str
    position: int
    to: str
    user: str
    event: str
    data: msgspec.Raw
    time: str
    reason: Reason


class _Due(NamedTuple):
    claimed: store.Claimed
    entry: Entry
    reason: Reason


def undelivered(standing: receipts.Standing, *, unless_read: bool) -> Reason | None:
    """Return why the producer is to be told, or None where it need not be."""
    if standing.read:
        return None
    if standing.received:
        return "not_read" if unless_read else None
    return "not_received" if standing.devices else "no_device"


class Callbacks:
    """Calls back for what is due, again and again."""

    def __init__(
        self, database: Database, cursors: Cursors, webhook: Webhook, metrics: Metrics, *, identity: str
    ) -> None:
        """``identity`` is the log's: with it a position is no other log's."""
        self._database = database
        self._cursors = cursors
        self._webhook = webhook
        self._metrics = metrics
        self._identity = identity
        self._calls: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Claim and call until cancelled; a call that is under way then is made again by somebody."""
        async with self._webhook, asyncio.TaskGroup() as group:
            while True:
                free = AT_ONCE - len(self._calls)
                claimed = await self._claim(free)
                for due in await self._undelivered(claimed):
                    call = group.create_task(self._call(due))
                    self._calls.add(call)
                    call.add_done_callback(self._calls.discard)
                if len(self._calls) == AT_ONCE:
                    await asyncio.wait(self._calls, return_when=asyncio.FIRST_COMPLETED)
                elif len(claimed) < free:
                    await asyncio.sleep(EVERY)

    async def _claim(self, limit: int) -> list[store.Claimed]:
        try:
            async with self._database.connection() as connection:
                return await store.claim(connection, GRACE, limit, LEASE)
        except TidingsError as error:
            log.warning("cannot see which callbacks are due: %s", error)
            return []

    async def _undelivered(self, claimed: Sequence[store.Claimed]) -> list[_Due]:
        """Return what is to be told; the rest is done with. What fails is claimed again after the lease."""
        if not claimed:
            return []
        try:
            await self._cursors.flush()
            async with self._database.connection() as connection:
                standings = await receipts.standings(connection, [each.position for each in claimed])
                reasons = {
                    each.position: reason
                    for each in claimed
                    if (standing := standings.get(each.position)) is not None
                    and (reason := undelivered(standing, unless_read=each.unless_read)) is not None
                }
                await store.done(connection, [c.position for c in claimed if c.position not in reasons])
                entries = {
                    entry.position: entry
                    for entry in await events.at(connection, list(reasons))
                    if entry.address.startswith("user:")  # else it has just been erased
                }
        except TidingsError as error:
            log.warning("cannot see which events are undelivered: %s", error)
            return []
        return [
            _Due(each, entries[each.position], reasons[each.position])
            for each in claimed
            if each.position in entries
        ]

    async def _call(self, due: _Due) -> None:
        position, attempts = due.claimed.position, due.claimed.attempts
        answer = await self._webhook.post(f"{self._identity}_{position}", _body(due.entry, due.reason))
        delay = None if answer.status == GONE else next_delay(attempts, random.random(), answer.retry_after)  # noqa: S311 - spreads load, hides nothing
        outcome = "called" if answer.ok else "given_up" if delay is None else "put_off"
        self._metrics.callbacks.labels(outcome).inc()
        if not answer.ok:
            log.log(logging.ERROR if delay is None else logging.WARNING, "a callback failed", extra={
                "position": position, "attempts": attempts, "why": answer.told, "again_in": delay,
            })  # fmt: skip
        try:
            async with self._database.connection() as connection:
                if answer.ok:
                    await store.done(connection, [position])
                elif delay is None:
                    await store.give_up(connection, position, answer.told)
                else:
                    await store.put_off(connection, position, delay)
        except TidingsError as error:
            # Its lease runs out, and it is made again.
            log.warning("cannot note what became of a callback: %s", error, extra={"position": position})


def _body(entry: Entry, reason: Reason) -> bytes:
    user = entry.address.removeprefix("user:")
    return msgspec.json.encode(Undelivered(
        entry.event_id, entry.position, entry.address, user, entry.type, msgspec.Raw(entry.data), entry.time,
        reason,
    ))  # fmt: skip
