"""What instances tell each other at once: how far the log reaches, and what is for others' connections.

All of it may be lost. The log is polled once a second besides, so a lost envelope costs time and
never an event; a lost message is one that nobody was promised.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

import msgspec

from service.domain.errors import TidingsError, TooLarge
from service.domain.events import Group
from service.domain.messages import (
    MAX_MESSAGE,
    OVERHEAD,
    Envelope,
    Message,
    envelopes,
    groups_of,
    messages_of,
    opened,
    packed,
    sealed,
    written,
)  # fmt: skip
from service.notify.port import Notifier
from service.observe.metrics import Metrics
from service.stream.follower import Follower

log = logging.getLogger("tidings.courier")

MERGE: Final = 0.002
"""Seconds from one sending to the next: the first event goes at once, a busy log's are put together."""
PATIENCE: Final = 2.0
"""Seconds that messages wait for this instance to have read as far as they were sent from."""
RETRY_PAUSE: Final = 0.5
MAX_WAITING_BYTES: Final = 1024 * 1024
MAX_WAITING_ENVELOPES: Final = 1000

M = TypeVar("M", bound=Message)


class Courier:
    """Tells the other instances, and hears what they tell.

    ``others`` are the instances that are alive besides this one; where there are none, nothing is
    sent. Messages are handed on once the hub stands where their sender's log stood, so none of them
    overtakes a revocation.
    """

    def __init__(
        self, notifier: Notifier, follower: Follower, metrics: Metrics, *, instance: str, key: bytes
    ) -> None:
        self.others: frozenset[str] = frozenset()
        self._notifier = notifier
        self._follower = follower
        self._metrics = metrics
        self._instance = instance
        self._key = key
        self._fits = notifier.capacity - OVERHEAD
        self._handlers: dict[type[Message], Callable[[Any], None]] = {}
        self._appended: list[bytes] = []
        self._messages: list[bytes] = []
        self._bytes = 0
        self._due = asyncio.Event()
        self._heard: deque[tuple[float, Envelope]] = deque()
        self._arrived = asyncio.Event()

    # To the others

    def committed(self, group: Group) -> None:
        """Take a group that this instance has just committed: it is for the hub, and for the others."""
        self._follower.offer(group)
        if self.others:
            self._carry(group)
            self._due.set()

    def _carry(self, group: Group) -> None:
        """Take a group along where it fits; else the others read it in the log."""
        if sum([len(entry.data) for entry in group.entries]) < self._fits:
            part = packed(group)
            if len(part) <= self._fits:
                self._enqueue(self._appended, part)

    def wrote(self, position: int) -> None:
        """Learn that this instance has written to the log, up to ``position``: all read it soon."""
        self._follower.wake(position)
        if self.others:
            self._due.set()

    async def applied(self, position: int, seconds: float) -> bool:
        """Tell everybody of what was written; wait until it is applied here, and tell whether it is."""
        self.wrote(position)
        return await self._follower.reached_within(position, seconds)

    def send(self, message: Message) -> None:
        """Tell the other instances; raises TooLarge where it does not fit."""
        part = written(message)
        if len(part) > MAX_MESSAGE:
            raise TooLarge(f"more than {MAX_MESSAGE} bytes with all that goes with it")
        if self.others:
            if not self._enqueue(self._messages, part):
                self._count("dropped")
            self._due.set()

    def _enqueue(self, queue: list[bytes], part: bytes) -> bool:
        """Take it along, unless too much waits already."""
        if self._bytes + len(part) > MAX_WAITING_BYTES:
            return False
        self._bytes += len(part)
        queue.append(part)
        return True

    async def post(self) -> None:
        """Send what is due, until cancelled; what cannot be sent is dropped."""
        while True:
            await self._due.wait()
            self._due.clear()
            texts = [sealed(envelope, self._key) for envelope in self._take()]
            try:
                await self._notifier.publish(texts)
            except TidingsError as error:
                self._count("dropped", len(texts))
                log.warning("cannot tell the other instances: %s", error)
                await asyncio.sleep(RETRY_PAUSE)
            else:
                self._count("sent", len(texts))
                await asyncio.sleep(MERGE)

    def _take(self) -> list[Envelope]:
        appended, self._appended = self._appended, []
        messages, self._messages = self._messages, []
        self._bytes = 0
        head, lineage = self._follower.known, self._follower.lineage
        return list(envelopes(self._instance, lineage, head, appended, messages, self._fits))

    # From the others

    def on(self, kind: type[M], handler: Callable[[M], None]) -> None:
        """Have messages of this kind handed to ``handler``, in the order in which each instance sent them."""
        self._handlers[kind] = handler

    async def listen(self) -> None:
        """Hear the others until cancelled."""
        while True:
            try:
                await self._notifier.listen(self._receive, self._greet)
            except TidingsError as error:
                log.warning("cannot hear the other instances: %s", error)
            self._metrics.notifier_listening.set(0)
            await asyncio.sleep(RETRY_PAUSE)

    def _greet(self) -> None:
        """Make oneself known: what the others send from now on is heard here."""
        self._metrics.notifier_listening.set(1)
        self._follower.doubt()
        self._due.set()

    def _receive(self, text: str) -> None:
        envelope = opened(text, self._key)
        if envelope is None:
            self._count("refused")
        elif envelope.sender != self._instance:
            self._count("heard")
            self.others |= {envelope.sender}
            self._take_in(envelope)

    def _take_in(self, envelope: Envelope) -> None:
        if envelope.lineage == self._follower.lineage:
            with suppress(msgspec.DecodeError):  # written by a newer version; the log has it too
                for group in groups_of(envelope):
                    self._follower.offer(group)
            self._follower.wake(envelope.head)
        else:
            # There was a failover: how far which log reaches is for the database to say.
            self._follower.doubt()
        if envelope.messages:
            self._put_by(envelope)

    def _put_by(self, envelope: Envelope) -> None:
        if len(self._heard) == MAX_WAITING_ENVELOPES:
            self._count("late", len(self._heard.popleft()[1].messages))
        self._heard.append((asyncio.get_running_loop().time() + PATIENCE, envelope))
        self._arrived.set()

    async def deliver(self) -> None:
        """Hand messages on in order, each once the hub stands where it was sent from, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._heard:
                deadline, envelope = self._heard.popleft()
                if await self._caught_up(envelope, deadline - loop.time()):
                    self._hand_on(envelope)
                else:
                    self._count("late", len(envelope.messages))

    async def _caught_up(self, envelope: Envelope, patience: float) -> bool:
        """Wait until the hub stands where an envelope was sent from; another history's is nowhere here."""
        follower = self._follower
        return (
            envelope.lineage == follower.lineage
            and await follower.reached_within(envelope.head, patience)
            and follower.trusted
        )

    def _hand_on(self, envelope: Envelope) -> None:
        for message in messages_of(envelope):
            if (handler := self._handlers.get(type(message))) is not None:
                handler(message)

    def _count(self, outcome: str, number: int = 1) -> None:
        self._metrics.notifier_outcomes.labels(outcome).inc(number)
