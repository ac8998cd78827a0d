"""The publisher: each event that is sent is in the log once, however often that takes."""

import asyncio
from collections.abc import Sequence
from random import SystemRandom
from types import TracebackType
from typing import Any, Final, Self, Unpack
from uuid import uuid4

import httpx

from tidings_client.answers import Again, Results, Retries, Split, judge
from tidings_client.errors import Unconfirmed
from tidings_client.outgoing import Buffer, Options, Outgoing, Sent, batch_body, encoded
from tidings_client.urls import base_url

EVENTS: Final = 5000
"""That wait or are on their way, at most."""
BYTES: Final = 8 * 1024 * 1024
TIMEOUT: Final = 15.0
"""Seconds for an answer; the service gives one within the 5 s that it waits for a commit."""


class Publisher:
    """Sends events with an API key.

    ::

        async with Publisher("https://push.example.com", key) as publisher:
            sent = await publisher.send("user:alice", "order.shipped", {"order": 17})

    ``send`` returns once the event is committed. What is sent meanwhile goes in one request, in the order of
    the calls, and one request after the other: so they are in the log in that order. A request that fails is
    repeated with the same idempotency key, for ``retry_for`` seconds.
    """

    def __init__(self, url: str, key: str, *, retry_for: float = 60.0) -> None:
        """Make one for the service at ``url``. Raises ValueError where that is none."""
        self._url = f"{base_url(url)}/v1/events/batch"
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._retry_for = retry_for
        self._buffer = Buffer(EVENTS, BYTES)
        self._turn = asyncio.Lock()
        self._arrived = asyncio.Event()
        self._settled = asyncio.Event()
        self._random = SystemRandom()
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    async def __aenter__(self) -> Self:
        """Be ready to send; nothing is connected to yet."""
        if self._task is not None or self._closing:
            raise RuntimeError("it was open before: make another one")
        self._http = httpx.AsyncClient(headers=self._headers, timeout=TIMEOUT)
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def send(
        self,
        to: str | Sequence[str],
        type: str,  # noqa: A002 - as events have it
        data: Any = None,
        **options: Unpack[Options],
    ) -> Sent:
        """Send an event, and return where it stands in the log. While too much is on its way, it waits.

        Raises Refused; ValueError or TypeError where ``data`` is no JSON; and Unconfirmed where nobody has
        answered in time. After that, and where this is cancelled, nobody knows whether it was sent: to send
        it again is safe with the same ``id`` only.
        """
        body = encoded(to, type, data, options)
        given = options.get("id")
        name = None if given is None else str(given)  # one that is no text is refused by the service, alone
        outgoing = Outgoing(body, name, asyncio.get_running_loop().create_future())
        async with self._turn:
            while not self._buffer.takes(body):
                self._settled.clear()
                await self._settled.wait()
            if self._task is None or self._closing:
                raise RuntimeError("it is not open: use `async with`")
            self._buffer.add(outgoing)
            self._arrived.set()
        return await outgoing.answer

    async def aclose(self) -> None:
        """Wait until what was accepted is settled, and close. Cancelled, it closes at once."""
        if self._task is None:
            return
        self._closing = True
        try:
            while len(self._buffer):
                self._settled.clear()
                await self._settled.wait()
        finally:
            self._task.cancel()
            await asyncio.wait({self._task})
            await self._http.aclose()
            self._task = None

    async def _run(self) -> None:
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                while batch := self._buffer.cut():
                    await self._deliver([one for one in batch if not one.answer.done()])
                    self._buffer.settle(batch)
                    self._settled.set()
        finally:
            while batch := self._buffer.cut():
                _settle(batch, [_closed()] * len(batch))
            self._buffer = Buffer(EVENTS, BYTES)
            self._settled.set()  # who waits for room is not to wait for ever

    async def _deliver(self, batch: Sequence[Outgoing]) -> None:
        """Have each told what became of it."""
        if not batch:
            return
        results: Sequence[Sent | Exception] | None
        try:
            results = await self._results(batch)
        except asyncio.CancelledError:
            _settle(batch, [_closed()] * len(batch))
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait are told
            results = [error] * len(batch)
        if results is None:
            await self._deliver(batch[: len(batch) // 2])
            await self._deliver(batch[len(batch) // 2 :])
        else:
            _settle(batch, results)

    async def _results(self, batch: Sequence[Outgoing]) -> Results | None:
        """Return what became of each; None where that is known only once they are sent in two halves."""
        loop = asyncio.get_running_loop()
        key, body = uuid4().hex, batch_body(batch)
        retries = Retries(self._random, loop.time() + self._retry_for)
        while True:
            verdict = await self._post(key, body, len(batch))
            if isinstance(verdict, Split):
                return None
            if not isinstance(verdict, Again):
                return verdict
            await asyncio.sleep(retries.pause(verdict, loop.time()))

    async def _post(self, key: str, body: bytes, count: int) -> Results | Again | Split:
        try:
            answer = await self._http.post(self._url, content=body, headers={"Idempotency-Key": key})
        except httpx.RequestError as error:
            return Again(str(error) or type(error).__name__)
        return judge(answer.status_code, answer.headers.get("Retry-After"), answer.content, count)


def _closed() -> Unconfirmed:
    return Unconfirmed("the publisher was closed")


def _settle(batch: Sequence[Outgoing], results: Sequence[Sent | Exception]) -> None:
    for one, result in zip(batch, results, strict=True):
        if one.answer.done():
            continue
        if isinstance(result, Exception):
            one.answer.set_exception(result)
        else:
            one.answer.set_result(result)
