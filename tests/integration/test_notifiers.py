"""What every notifier has to do, asked of each; real servers, real cuts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from proof.proxy import Proxy, database_proxy
from service.domain.errors import Unavailable
from service.notify.port import Notifier
from service.notify.postgres import PostgresNotifier
from service.notify.redis import RedisNotifier
from service.store import database
from tests.harness import eventually
from tests.redis import RedisServer

Make = Callable[[str], Notifier]


@dataclass
class Kind:
    """A kind of notifier: how one is made, to go by a proxy, for a channel."""

    make: Make
    proxy: Proxy


@dataclass
class Ear:
    """Listens; counts how often it has begun to."""

    notifier: Notifier
    heard: list[str] = field(default_factory=list)
    begun: int = 0
    task: "asyncio.Task[None] | None" = None

    async def listen(self) -> None:
        before = self.begun
        if self.task is not None:
            await asyncio.gather(self.task, return_exceptions=True)
        self.task = asyncio.create_task(self.notifier.listen(self.heard.append, self._begin))
        await eventually(lambda: self.begun > before or self._ended())

    def _begin(self) -> None:
        self.begun += 1

    def _ended(self) -> bool:
        assert self.task is not None
        if self.task.done():
            self.task.result()
        return False

    async def close(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        await self.notifier.aclose()


Ears = Callable[..., Awaitable[Ear]]


@asynccontextmanager
async def _postgres(database_url: str, _: RedisServer) -> AsyncIterator[Kind]:
    async with database_proxy(database_url) as (proxy, url):
        yield Kind(lambda channel: PostgresNotifier(url, channel), proxy)


@asynccontextmanager
async def _redis(_: str, redis: RedisServer) -> AsyncIterator[Kind]:
    async with redis.proxy() as (proxy, url):
        yield Kind(lambda channel: RedisNotifier(url, channel), proxy)


@pytest.fixture(params=[_postgres, _redis], ids=["postgres", "redis"])
async def kind(
    request: pytest.FixtureRequest, database_url: str, redis_server: RedisServer
) -> AsyncIterator[Kind]:
    async with request.param(database_url, redis_server) as made:
        yield made


@pytest.fixture
async def ear(kind: Kind) -> AsyncIterator[Callable[..., Awaitable[Ear]]]:
    """Make one that listens to a channel."""
    async with AsyncExitStack() as stack:

        async def make(channel: str = "one") -> Ear:
            made = Ear(kind.make(channel))
            stack.push_async_callback(made.close)
            await made.listen()
            return made

        yield make


async def test_everyone_who_listens_hears_all_of_it_in_order(ear: Ears) -> None:
    one, two = await ear(), await ear()
    said = [f"{n} é \U0001f514" for n in range(100)]
    for begin in range(0, 100, 10):
        await one.notifier.publish(said[begin : begin + 10])
    await eventually(lambda: len(one.heard) == len(two.heard) == 100)
    assert one.heard == two.heard == said


async def test_another_channel_is_another_world(ear: Ears) -> None:
    one, other = await ear("one"), await ear("other")
    await one.notifier.publish(["for one"])
    await other.notifier.publish(["for other"])
    await eventually(lambda: one.heard and other.heard)
    assert (one.heard, other.heard) == (["for one"], ["for other"])


async def test_a_text_may_be_as_long_as_it_says(ear: Ears) -> None:
    one = await ear()
    longest = "é" * (one.notifier.capacity // 2)
    await one.notifier.publish([longest])
    await eventually(lambda: one.heard == [longest])


async def test_who_publishes_need_not_listen(kind: Kind, ear: Ears) -> None:
    one = await ear()
    mute = kind.make("one")
    await mute.publish(["hello"])
    await eventually(lambda: one.heard == ["hello"])
    await mute.aclose()


async def test_what_is_being_published_by_many_at_once_arrives(ear: Ears) -> None:
    one, two = await ear(), await ear()
    async with asyncio.TaskGroup() as group:
        for n in range(50):
            group.create_task((one if n % 2 else two).notifier.publish([str(n)]))
    await eventually(lambda: len(one.heard) == len(two.heard) == 50)
    assert sorted(map(int, two.heard)) == list(range(50))


async def test_a_cut_is_told_and_afterwards_all_is_well(kind: Kind, ear: Ears) -> None:
    one = await ear()
    kind.proxy.cut()
    assert one.task is not None
    with pytest.raises(Unavailable):
        await asyncio.wait_for(one.task, 10)
    await one.listen()
    await one.notifier.publish(["again"])
    await eventually(lambda: one.heard == ["again"])


async def _refused(notifier: Notifier) -> bool:
    try:
        await asyncio.wait_for(notifier.publish(["lost"]), 15)
    except Unavailable:
        return True
    return False  # what was on its way into a dead socket may pass for sent


async def test_where_nobody_is_there_it_says_so(kind: Kind, ear: Ears) -> None:
    one = await ear()
    kind.proxy.refuse = True
    kind.proxy.cut()
    await eventually(lambda: _refused(one.notifier))
    kind.proxy.refuse = False
    await eventually(lambda: one.task is not None and one.task.done())
    await one.listen()
    await one.notifier.publish(["found"])
    await eventually(lambda: one.heard[-1:] == ["found"])


async def test_silence_that_nobody_breaks_is_told_within_seconds(
    kind: Kind, ear: Ears, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "STATEMENT_TIMEOUT", 4.0)
    one = await ear()
    kind.proxy.blackhole()
    assert one.task is not None
    with pytest.raises(Unavailable):
        await asyncio.wait_for(one.task, 20)
    with pytest.raises(Unavailable):
        await asyncio.wait_for(one.notifier.publish(["lost"]), 20)
    kind.proxy.cut()
    await one.listen()
    await one.notifier.publish(["again"])
    await eventually(lambda: one.heard == ["again"])
