"""The Python client that sends: each event is in the log once, whatever happens on the way."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import asyncpg
import pytest

from tests.clients.links import link_to, tasks_of_clients, url_of
from tests.harness import ADMIN_KEY, PATIENCE, Server, eventually, serving
from tidings_client import Publisher, Refused, Sent, Unconfirmed, publisher

Start = Callable[..., Awaitable[Server]]


async def data_in_the_log(db: asyncpg.Connection) -> list[Any]:
    rows = await db.fetch("select data from tidings.events where kind = 'event' order by position")
    return [json.loads(row["data"]) for row in rows]


async def test_an_event_is_in_the_log_once_it_is_sent(server: Server, db: asyncpg.Connection) -> None:
    async with Publisher(server.url, ADMIN_KEY) as publisher:
        sent = await publisher.send(["user:alice", "user:bob"], "t", {"n": 1}, id="one", ttl=60)
        assert await publisher.send("user:alice", "t", id="one") == sent
        assert (sent.id, len(sent.positions)) == ("one", 2)
        assert sent.position == sent.positions[0]
        later = datetime.now(UTC) + timedelta(hours=1)
        put_off = await publisher.send("user:alice", "t", deliver_at=later)
        assert (put_off.positions, len(put_off.scheduled)) == ((), 1)
        assert await publisher.send("user:alice", "t", ephemeral=True) == Sent((), None)
    assert await data_in_the_log(db) == [{"n": 1}, {"n": 1}]
    assert tasks_of_clients() == []


async def test_what_is_sent_at_once_goes_in_few_requests_and_in_order(
    server: Server, db: asyncpg.Connection
) -> None:
    posts = 0

    async def count(request: object) -> None:
        nonlocal posts
        posts += 1

    async with Publisher(server.url, ADMIN_KEY) as publisher:
        publisher._http.event_hooks["request"].append(count)
        sent = await asyncio.gather(*(publisher.send("user:alice", "t", n) for n in range(1200)))
    assert posts <= 5
    positions = [one.position for one in sent]
    assert positions == sorted(positions, key=int)  # type: ignore[arg-type]
    assert await data_in_the_log(db) == list(range(1200))


async def test_lost_answers_and_cut_links_make_no_event_twice(server: Server, db: asyncpg.Connection) -> None:
    rng, total = Random(5), 600
    async with link_to(server.port) as link, Publisher(url_of(link), ADMIN_KEY) as publisher:

        async def send(first: int) -> None:
            for n in range(first, total, 6):
                options: Any = {"id": f"e{n}"} if n % 2 else {}
                await publisher.send("user:alice", "t", n, **options)

        async def harm() -> None:
            for _ in range(25):
                link.replies.lose = rng.random() < 0.7
                await asyncio.sleep(rng.uniform(0, 0.05))
                link.cut()

        async with asyncio.timeout(25), asyncio.TaskGroup() as group:
            harming = group.create_task(harm())
            for first in range(6):
                group.create_task(send(first))
        assert harming.done()
    data = await data_in_the_log(db)
    assert sorted(data) == list(range(total))
    for first in range(6):  # what one task sent one after the other is in that order
        own = [n for n in data if n % 6 == first]
        assert own == sorted(own)


async def test_over_restarts_of_the_service_nothing_is_lost_or_twice(
    database_url: str, db: asyncpg.Connection
) -> None:
    port = 0
    async with link_to(0) as link, Publisher(url_of(link), ADMIN_KEY) as publisher:
        link._connect = lambda: asyncio.open_connection("127.0.0.1", port)
        sending = asyncio.gather(*(publisher.send("user:alice", "t", n) for n in range(3000)))
        for _ in range(3):
            async with serving(database_url=database_url) as server:
                port = server.port
                before = len(await data_in_the_log(db))
                await eventually(lambda before=before: more_than(db, before))
        async with serving(database_url=database_url) as server:
            port = server.port
            await sending
    assert await data_in_the_log(db) == list(range(3000))


async def more_than(db: asyncpg.Connection, count: int) -> bool:
    stored: int = await db.fetchval("select count(*) from tidings.events")
    return stored == 3000 or stored > count


async def test_what_is_wrong_with_one_event_is_told_to_its_sender_only(server: Server) -> None:
    nested: Any = 1
    for _ in range(70):
        nested = [nested]
    async with Publisher(server.url, ADMIN_KEY) as publisher:
        results = await asyncio.gather(
            publisher.send("user:alice", "t"),
            publisher.send("nobody", "t"),
            publisher.send("user:alice", "t", "x" * 40_000),
            publisher.send("user:alice", "t", nested),
            publisher.send("user:alice", "t", "x" * 2_000_000),
            publisher.send("user:alice", "t", float("nan")),
            *(publisher.send("user:alice", "t", n) for n in range(20)),
            return_exceptions=True,
        )
        wrong = results[1:6]
        assert [getattr(error, "code", type(error)) for error in wrong] == [
            "invalid", "too_large", "malformed", "too_large", ValueError,
        ]  # fmt: skip
        assert all(isinstance(result, Sent) for result in [results[0], *results[6:]])


async def test_a_key_without_the_right_is_refused(server: Server) -> None:
    async with Publisher(server.url, "no key of theirs") as publisher:
        with pytest.raises(Refused) as raised:
            await publisher.send("user:alice", "t")
    assert (raised.value.status, raised.value.code) == (401, "unauthorized")
    answer = await server.http.post(
        "/v1/keys", json={"name": "n", "scopes": ["publish"], "addresses": ["user:*"]}
    )
    async with Publisher(server.url, answer.json()["key"]) as publisher:
        allowed, refused = await asyncio.gather(
            publisher.send("user:alice", "t"), publisher.send("everyone", "t"), return_exceptions=True
        )
    assert isinstance(allowed, Sent)
    assert isinstance(refused, Refused)
    assert refused.code == "forbidden"


async def test_a_rate_is_kept_to(server: Server, db: asyncpg.Connection) -> None:
    limits = {"name": "n", "scopes": ["publish"], "rate": 20, "burst": 10}
    key = (await server.http.post("/v1/keys", json=limits)).json()["key"]
    async with Publisher(server.url, key) as publisher:
        for n in range(25):
            await publisher.send("user:alice", "t", n)
    assert await data_in_the_log(db) == list(range(25))


async def test_who_sends_faster_than_it_goes_waits(
    server: Server, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "EVENTS", 50)
    async with link_to(server.port) as link:
        link.refuse = True
        async with Publisher(url_of(link), ADMIN_KEY) as sender:
            sending = [asyncio.create_task(sender.send("user:alice", "t", n)) for n in range(200)]
            await eventually(lambda: len(sender._buffer) == 50)
            for _ in range(10):
                await asyncio.sleep(0)
            assert len(sender._buffer) == 50
            link.refuse = False
            await asyncio.gather(*sending)
    assert await data_in_the_log(db) == list(range(200))


async def test_closing_waits_for_what_was_accepted(server: Server, db: asyncpg.Connection) -> None:
    async with link_to(server.port) as link:
        link.refuse = True
        sender = Publisher(url_of(link), ADMIN_KEY)
        async with sender:
            sending = asyncio.gather(*(sender.send("user:alice", "t", n) for n in range(10)))
            await eventually(lambda: len(sender._buffer) == 10)
            asyncio.get_running_loop().call_later(0.1, setattr, link, "refuse", False)  # noqa: FBT003
        assert len(await sending) == 10
        with pytest.raises(RuntimeError):
            await sender.send("user:alice", "t")
    assert await data_in_the_log(db) == list(range(10))
    assert tasks_of_clients() == []


async def test_who_closes_without_waiting_tells_everybody(server: Server) -> None:
    async with link_to(server.port) as link:
        link.refuse = True
        async with Publisher(url_of(link), ADMIN_KEY) as sender:
            sending = [asyncio.create_task(sender.send("user:alice", "t")) for _ in range(600)]
            await eventually(lambda: len(sender._buffer) == 600)
            closing = asyncio.create_task(sender.aclose())
            await asyncio.sleep(0)
            closing.cancel()
            async with asyncio.timeout(PATIENCE):
                results = await asyncio.gather(*sending, return_exceptions=True)
    assert {type(result) for result in results} == {Unconfirmed}


async def test_who_waits_for_room_when_it_is_closed_is_told_too(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "EVENTS", 50)
    async with link_to(server.port) as link:
        link.refuse = True
        async with Publisher(url_of(link), ADMIN_KEY) as sender:
            sending = [asyncio.create_task(sender.send("user:alice", "t")) for _ in range(60)]
            await eventually(lambda: len(sender._buffer) == 50)
            closing = asyncio.create_task(sender.aclose())
            await asyncio.sleep(0)
            closing.cancel()
            async with asyncio.timeout(PATIENCE):
                results = await asyncio.gather(*sending, return_exceptions=True)
    kinds = [type(result) for result in results]
    assert kinds == [Unconfirmed] * 50 + [RuntimeError] * 10  # these were certainly not sent


async def test_an_id_that_is_none_is_refused_alone(server: Server) -> None:
    wrong: Any = ["x"]
    async with asyncio.timeout(PATIENCE), Publisher(server.url, ADMIN_KEY) as sender:
        results = await asyncio.gather(
            *(sender.send("user:alice", "t", id=each) for each in ("a", wrong, "b")), return_exceptions=True
        )
    assert [type(result) for result in results] == [Sent, Refused, Sent]


async def test_nobody_waits_for_ever(server: Server) -> None:
    async with Publisher("http://127.0.0.1:1", ADMIN_KEY, retry_for=0.3) as publisher:
        with pytest.raises(Unconfirmed):
            await publisher.send("user:alice", "t")


async def test_who_gives_up_waiting_leaves_the_others_alone(server: Server, db: asyncpg.Connection) -> None:
    async with link_to(server.port) as link:
        link.refuse = True
        async with Publisher(url_of(link), ADMIN_KEY) as publisher:
            sending = [asyncio.create_task(publisher.send("user:alice", "t", n)) for n in range(600)]
            await eventually(lambda: len(publisher._buffer) == 600)
            for task in sending[500:]:  # not on their way yet
                task.cancel()
            link.refuse = False
            results = await asyncio.gather(*sending, return_exceptions=True)
    assert [type(result) for result in results[:500]] == [Sent] * 500
    assert await data_in_the_log(db) == list(range(500))
