"""Sessions that are loaded together: each gets its own, and nobody another's trouble."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from proof.proxy import database_proxy
from service.domain.delivery import Session
from service.domain.errors import RateLimited, Unavailable
from service.store import sessions as store
from service.store.sessions import Wanted
from service.stream import sessions as sessions_module
from tests.harness import Server, eventually

Start = Callable[..., Awaitable[Server]]


async def opened(
    db: asyncpg.Connection, *wanted: tuple[str, str, int | None], devices: int = 10, base: int = 0
) -> Any:
    return await store.open_sessions(db, [Wanted(*each) for each in wanted], devices, base)


async def rows(db: asyncpg.Connection) -> list[tuple[str, str, int, int]]:
    found = await db.fetch("select user_id, device, start, cursor from tidings.devices order by 1, 2")
    return [tuple(row) for row in found]


async def fill(server: Server, events: int) -> int:
    answer = await server.http.post(
        "/v1/events/batch", json={"events": [{"to": "user:x", "type": "t"}] * events}
    )
    last: int = answer.json()["events"][-1]["position"]
    return last


async def test_each_gets_its_own(server: Server, db: asyncpg.Connection) -> None:
    await server.join("red", "alice", "bob")
    await server.http.delete("/v1/rooms/red/members/bob")
    head = await fill(server, 5)
    alice, bob, carol, again = await opened(
        db,
        ("alice", "phone", None),
        ("bob", "phone", None),
        ("carol", "phone", None),
        ("alice", "phone", None),
    )
    assert list(alice.memberships) == ["red"]
    assert alice.past == ()
    assert bob.memberships == {}
    [(interval, source)] = bob.past
    assert (interval.address, source) == ("room:red", "api")
    assert interval.since < interval.until < head
    assert (carol.memberships, carol.past) == ({}, ())
    assert again == alice
    assert {session.head for session in (alice, bob, carol)} == {head}
    assert {session.first_seen for session in (alice, bob, carol)} == {head}
    assert [row[:2] for row in await rows(db)] == [("alice", "phone"), ("bob", "phone"), ("carol", "phone")]


async def test_a_new_device_begins_where_the_others_have_got_to(
    server: Server, db: asyncpg.Connection
) -> None:
    await fill(server, 9)
    await opened(db, ("alice", "a", None), ("alice", "b", None))
    await store.move_cursors(db, {("alice", "a"): 3, ("alice", "b"): 7})
    [third] = await opened(db, ("alice", "c", None))
    assert third.cursor == 7
    assert await rows(db) == [("alice", "a", 0, 3), ("alice", "b", 0, 7), ("alice", "c", 7, 7)]


async def test_after_moves_a_cursor_forward_only_and_never_past_the_head(
    server: Server, db: asyncpg.Connection
) -> None:
    head = await fill(server, 9)
    for after, cursor in [(5, 5), (3, 5), (head + 1, 5), (head, head)]:
        async with await server.live("alice", device="a", after=after):
            pass
        await eventually(lambda: server.gateway.count == 0)
        await server.gateway.cursors.flush()
        assert await db.fetchval("select cursor from tidings.devices") >= cursor


async def test_what_holds_nothing_for_a_device_is_known_without_a_page(
    server: Server, db: asyncpg.Connection
) -> None:
    """What lies before an instance's memory is asked about with the session: no page has to be read."""
    await server.join("red", "alice")
    await server.http.delete("/v1/rooms/red/members/alice")
    await server.join("blue", "alice")
    before = await server.publish("room:red")
    await opened(db, ("alice", "phone", None), ("first", "phone", None))
    places = {"alice": "user:alice", "blue": "room:blue", "everyone": "everyone"}
    at = {name: await server.publish(to) for name, to in places.items()}
    head = await fill(server, 5)

    async def quiet_to(user: str, after: int, base: int = head - 2) -> int:
        [session] = await opened(db, (user, "phone", after), base=base)
        return int(session.quiet_to)

    assert await quiet_to("bob", 1) == head - 2
    assert await quiet_to("bob", 1, base=head + 9) == head
    assert await quiet_to("bob", head - 2) == 0
    # Due to alice: three joins and leaves at her own address, and then one event at each of three.
    assert await quiet_to("alice", 1) == 0
    assert await quiet_to("alice", 1, base=before) == 0
    assert await quiet_to("alice", before - 1, base=before) == before
    for name, position in at.items():
        assert await quiet_to("alice", position - 1, base=position) == 0, name
        assert await quiet_to("bob", position - 1, base=position) == position
    assert await quiet_to("first", at["everyone"] - 1) == 0
    assert await quiet_to("alice", at["everyone"]) == head - 2


async def test_a_gap_is_never_quiet(server: Server, db: asyncpg.Connection) -> None:
    head = await fill(server, 9)
    await db.execute(
        "insert into tidings.lineage (lost_from, lost_to, system_identifier, timeline) values (2, 5, 0, '')"
    )
    await db.execute("update tidings.log set floor = 2")
    found = {}
    for after in range(1, 7):
        [session] = await opened(db, ("bob", "phone", after), base=head)
        found[after] = session.quiet_to
    assert found == {1: 0, 2: head, 3: 0, 4: 0, 5: head, 6: head}


async def test_one_device_too_many_is_refused_alone(server: Server, db: asyncpg.Connection) -> None:
    await opened(db, ("alice", "a", None))
    wanted = [("alice", each, None) for each in ("a", "d", "c", "b")]
    sessions = await opened(db, *wanted, ("bob", "a", None), devices=3)
    assert [session is None for session in sessions] == [False, True, False, False, False]
    assert [row[1] for row in await rows(db) if row[0] == "alice"] == ["a", "b", "c"]

    server.gateway.sessions._max_devices = 3
    with pytest.raises(RateLimited, match="3 devices already"):
        await server.gateway.sessions.open("alice", "d", None)


async def test_groups_that_make_the_same_rows_do_not_lock_each_other_out(
    database_url: str, db: asyncpg.Connection
) -> None:
    other = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    try:
        for turn in range(20):
            wanted = [(f"u{turn}-{n}", device, None) for n in range(20) for device in ("a", "b")]
            groups = await asyncio.gather(opened(db, *wanted), opened(other, *reversed(wanted)))
            assert all(isinstance(session, Session) for group in groups for session in group)
        assert len(await rows(db)) == 20 * 40
    finally:
        await other.close()


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The users of each group that was loaded."""
    loaded: list[list[str]] = []
    load = store.open_sessions

    async def open_sessions(connection: Any, wanted: list[Wanted], *rest: int) -> Any:
        loaded.append([each.user for each in wanted])
        return await load(connection, wanted, *rest)

    monkeypatch.setattr(store, "open_sessions", open_sessions)
    return loaded


async def test_who_comes_meanwhile_is_in_the_next_group(server: Server, groups: list[list[str]]) -> None:
    sessions = server.gateway.sessions
    first = asyncio.create_task(sessions.open("u0", "a", None))
    await eventually(lambda: groups)
    later = [asyncio.create_task(sessions.open(f"u{n}", "a", None)) for n in range(1, 101)]
    await asyncio.sleep(0)  # all of them wait
    later[5].cancel()
    await asyncio.wait([first, *later])
    assert [len(group) for group in groups] == [1, sessions_module.GROUP - 1, 100 - sessions_module.GROUP]
    assert "u6" not in groups[1]


async def test_who_waits_while_the_database_is_away_is_refused_and_the_next_is_not(
    start: Start, database_url: str
) -> None:
    async with database_proxy(database_url) as (proxy, url):
        server = await start(database_url=url)
        sessions = server.gateway.sessions
        await sessions.open("alice", "a", None)
        proxy.refuse = True
        proxy.cut()
        with pytest.raises(Unavailable):
            await sessions.open("alice", "a", None)
        proxy.refuse = False
        assert (await sessions.open("alice", "a", None)).cursor == 0


async def test_at_the_end_nobody_is_left_waiting(start: Start) -> None:
    server = await start()
    sessions = server.gateway.sessions
    sessions._arrived.clear()
    sessions._arrived.set = lambda: None
    waiting = asyncio.create_task(sessions.open("alice", "a", None))
    await asyncio.sleep(0)
    for task in asyncio.all_tasks():
        if task.get_coro().__qualname__ == "Sessions.run":
            task.cancel()
    with pytest.raises(Unavailable, match="shutting down"):
        await waiting


async def test_cursors_are_moved_in_place(server: Server, db: asyncpg.Connection) -> None:
    await (await server.live("alice")).close()
    await server.service.cursors.flush()
    in_place = "select pg_stat_get_xact_tuples_hot_updated('tidings.devices'::regclass)"
    async with db.transaction():
        before = await db.fetchval(in_place)
        for position in range(1, 4):
            await store.move_cursors(db, {("alice", "default"): position})
        assert await db.fetchval(in_place) == before + 3
    assert await db.fetchval("select cursor from tidings.devices") == 3
