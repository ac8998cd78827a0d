"""Events that expire, replace each other and are taken back: all of them live, what is left in a replay."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from service.domain.events import Draft, Unit
from service.domain.recent import Page
from service.gateway.connection import Connection
from tests.harness import Device, Frame, Server, eventually

Start = Callable[..., Awaitable[Server]]

ROOM = {"rooms": ["red"]}


@pytest.fixture(params=["memory", "log"])
async def server(start: Start, request: pytest.FixtureRequest) -> Server:
    """A server whose replays come from memory, or whose memory holds nothing."""
    return await start(recent_bytes=2**20 if request.param == "memory" else 1)


async def append(server: Server, address: str, data: Any = 1, **more: Any) -> int:
    outcome = await server.service.appender.append(Unit([Draft(address, "t", str(data), **more)]))
    await server.reached(outcome.first)
    return outcome.first


async def recall(server: Server, position: int) -> Frame:
    answer = await server.http.delete(f"/v1/events/{position}")
    assert answer.status_code == 200, answer.text
    told: Frame = answer.json()
    return told


def told(device: Device) -> list[tuple[str, int]]:
    """Return what a device was told of the log, by kind and position."""
    return [(f["type"], f["position"]) for f in device.frames if f["type"] in {"event", "recalled"}]


async def replayed(server: Server, user: str = "alice", **query: Any) -> list[tuple[str, int]]:
    async with await server.live(user, **({"after": 0, "device": "new"} | query)) as device:
        return told(device)


async def past(db: asyncpg.Connection, position: int) -> None:
    """Wait until an event has expired by the database's clock."""
    statement = "select expires_at <= clock_timestamp() from tidings.events where position = $1"
    await eventually(lambda: db.fetchval(statement, position))


async def test_an_expired_event_is_not_replayed(server: Server, db: asyncpg.Connection) -> None:
    brief = await append(server, "user:alice", lifetime=0.3)
    long = await append(server, "user:alice", lifetime=60.0)
    async with await server.device("alice", after=0) as early:
        await early.until("event", position=brief)
    await past(db, brief)
    assert await replayed(server) == [("event", long)]


async def test_who_is_connected_gets_everything_whatever_its_lifetime(server: Server) -> None:
    async with await server.live("alice") as device:
        sent = [
            await append(server, "user:alice", lifetime=0.000001),
            await append(server, "user:alice", collapse_key="k"),
            await append(server, "user:alice", collapse_key="k"),
        ]
        await device.until("event", position=sent[-1])
    assert told(device) == [("event", position) for position in sent]


async def test_of_one_key_the_newest_is_replayed(server: Server) -> None:
    await append(server, "user:alice", collapse_key="k")
    other = await append(server, "user:alice", collapse_key="other")
    elsewhere = await append(server, "user:alice")
    newest = await append(server, "user:alice", collapse_key="k")
    assert await replayed(server) == [("event", p) for p in (other, elsewhere, newest)]


async def test_one_key_at_two_addresses_is_two(server: Server) -> None:
    await server.join("red", "alice")
    first = await append(server, "room:red", collapse_key="k")
    second = await append(server, "user:alice", collapse_key="k")
    assert await replayed(server) == [("event", first), ("event", second)]


async def test_what_the_user_does_not_get_replaces_nothing(server: Server, db: asyncpg.Connection) -> None:
    await server.join("red", "alice", "bob")
    kept = await append(server, "room:red", collapse_key="k")
    await append(server, "room:red", collapse_key="k", exclude=("alice",))
    brief = await append(server, "room:red", collapse_key="k", lifetime=0.01)
    taken = await append(server, "room:red", collapse_key="k")
    own = (await recall(server, taken))["position"]
    await past(db, brief)
    assert await replayed(server) == [("event", kept), ("recalled", own)]


async def test_what_came_after_somebody_left_replaces_nothing(server: Server) -> None:
    await server.join("red", "alice")
    kept = await append(server, "room:red", collapse_key="k")
    answer = await server.http.delete("/v1/rooms/red/members/alice")
    assert answer.status_code == 200
    await append(server, "room:red", collapse_key="k")
    assert await replayed(server) == [("event", kept)]


async def test_a_newer_one_on_a_later_page_replaces_too(server: Server) -> None:
    await append(server, "user:alice", collapse_key="k")
    between = [(await server.service.appender.append(Unit([Draft("user:alice", "t", "1")] * 1500))).first]
    newest = await append(server, "user:alice", collapse_key="k")
    replay = await replayed(server)
    assert replay[0] == ("event", between[0])
    assert replay[-1] == ("event", newest)
    assert len(replay) == 1501


async def test_a_recall_is_told_live_and_to_whoever_comes_back(server: Server) -> None:
    async with await server.live("alice") as device:
        position = await append(server, "user:alice")
        answer = await recall(server, position)
        frame = await device.until("recalled")
    assert answer == {"position": frame["position"], "recalled": position}
    assert frame == {"type": "recalled", **answer}
    assert frame["position"] > position
    assert told(device) == [("event", position), ("recalled", frame["position"])]
    assert await replayed(server) == [("recalled", frame["position"])]


async def test_a_recall_has_its_place_in_acknowledgement(server: Server, db: asyncpg.Connection) -> None:
    async with await server.live("alice", ack="client") as device:
        own = (await recall(server, await append(server, "user:alice")))["position"]
        await device.until("recalled")
        await device.send("ack", position=own)
        cursor = "select cursor from tidings.devices where user_id = 'alice'"
        await eventually(lambda: _is(db, cursor, own))
    assert await replayed(server, device="default", after=own) == []


async def _is(db: asyncpg.Connection, statement: str, value: int) -> bool:
    return bool(await db.fetchval(statement) == value)


async def test_who_was_excluded_is_not_told(server: Server) -> None:
    await server.join("red", "alice", "bob")
    async with await server.live("alice") as alice, await server.live("bob") as bob:
        position = await append(server, "room:red", exclude=("alice",))
        own = (await recall(server, position))["position"]
        await bob.until("recalled", position=own)
        assert told(bob) == [("event", position), ("recalled", own)]
        assert await alice.quiet() == []
    assert await replayed(server) == []


async def test_recalling_again_changes_nothing(server: Server, db: asyncpg.Connection) -> None:
    position = await append(server, "user:alice")
    first = await recall(server, position)
    assert [await recall(server, position) for _ in range(2)] == [first, first]
    assert await db.fetchval("select count(*) from tidings.events where kind = 'recalled'") == 1


async def test_what_cannot_be_recalled(start: Start, db: asyncpg.Connection) -> None:
    server = await start()
    event = await append(server, "user:alice")
    own = (await recall(server, event))["position"]
    await server.join("red", "alice")
    for position in (0, own, own + 1, 2**50):  # nothing, a recall, a join, nothing yet
        answer = await server.http.delete(f"/v1/events/{position}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    old = await append(server, "user:alice")
    await db.execute("update tidings.log set floor = $1", old)
    assert (await server.http.delete(f"/v1/events/{old}")).status_code == 404
    for position in ("x", -1, 2**53 + 1):
        answer = await server.http.delete(f"/v1/events/{position}")
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


async def test_who_may_recall(start: Start) -> None:
    server = await start()
    position = await append(server, "user:alice")

    async def status(**key: Any) -> int:
        made = await server.http.post("/v1/keys", json={"name": "k", **key})
        headers = {"Authorization": f"Bearer {made.json()['key']}"}
        return (await server.http.delete(f"/v1/events/{position}", headers=headers)).status_code

    assert await status(scopes=["read"]) == 403
    assert await status(scopes=["publish"], addresses=["user:bob", "room:*"]) == 403
    assert await replayed(server) == [("event", position)]
    assert await status(scopes=["publish"], addresses=["user:alice"]) == 200


async def test_history_shows_neither_what_expired_nor_what_was_taken_back(
    start: Start, db: asyncpg.Connection
) -> None:
    server = await start()
    brief = await append(server, "room:red", lifetime=0.01)
    replaced = await append(server, "room:red", collapse_key="k")
    newest = await append(server, "room:red", collapse_key="k")
    await recall(server, await append(server, "room:red"))
    await past(db, brief)
    for query, expected in [({}, [newest, replaced]), ({"after": 0}, [replaced, newest])]:
        answer = await server.http.get("/v1/rooms/red/events", params=query)
        assert [event["position"] for event in answer.json()["data"]] == expected


async def test_a_device_that_replay_had_nothing_for_follows_the_log(
    start: Start, db: asyncpg.Connection
) -> None:
    server = await start(heartbeat=0.3)
    await (await server.live("alice", ack="client")).close()
    async with await server.live("bob"):  # who gets live what alice gets no more
        await past(db, await append(server, "everyone", lifetime=0.01))
        async with await server.live("alice", ack="client") as device:
            end = await server.publish("user:bob")
            cursor = "select cursor from tidings.devices where user_id = 'alice'"
            await eventually(lambda: _is(db, cursor, end))
            assert told(device) == []


async def test_what_expires_while_its_page_is_under_way_is_not_written(
    start: Start, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start(recent_bytes=1)
    brief = await append(server, "user:alice", lifetime=1.0)
    replay = server.gateway.replay
    read, go_on = asyncio.Event(), asyncio.Event()
    page_from_log = replay.page_from_log

    async def held(*request: Any) -> Page | None:
        page: Page | None = await page_from_log(*request)
        assert page is not None
        assert [entry.position for entry in page.entries] == [brief]
        read.set()
        await go_on.wait()
        return page

    monkeypatch.setattr(replay, "page_from_log", held)
    async with await server.device("alice", after=0) as device:
        await read.wait()
        await past(db, brief)
        go_on.set()
        await device.until("live")
        assert told(device) == []


async def test_a_recall_that_races_with_replays_of_its_event_wins_once_it_is_answered(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages are under way by the dozen, from memory and from the log, while events are taken back."""
    server = await start(recent_bytes=100_000)
    users = [f"u{number}" for number in range(4)]
    for user in users:
        await (await server.live(user)).close()
    bulk = [Draft("everyone", "t", '"' + "x" * 500 + '"')] * 20
    events = [(await server.service.appender.append(Unit(bulk))).first for _ in range(10)]
    answered: set[int] = set()
    written: list[int] = []
    late: list[int] = []
    write_page = Connection.write_page

    def watched(self: Connection, page: Page) -> None:
        written.extend(entry.position for entry in page.entries)
        late.extend(entry.position for entry in page.entries if entry.position in answered)
        write_page(self, page)

    monkeypatch.setattr(Connection, "write_page", watched)

    async def come_and_go(user: str) -> None:
        while len(answered) < len(events):
            async with await server.live(user, after=0, device="again") as device:
                positions = [position for _, position in told(device)]
                assert positions == sorted(positions)

    async def take_back() -> None:
        for position in reversed(events):
            await recall(server, position)
            answered.add(position)

    await asyncio.gather(take_back(), *map(come_and_go, users))
    assert late == []
    assert answered & set(written), "they were replayed before"
    for user in users:
        assert len(await replayed(server, user)) == 10 * 19 + 10
