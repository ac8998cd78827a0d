"""Who is connected, over several instances on one database: what watchers are told, and what lists say."""

import asyncio
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
from websockets.asyncio.client import connect

from proof.proxy import database_proxy
from service.domain.claims import Claims
from service.domain.delivery import Membership, State
from service.domain.presence import Change
from service.store import presence as store
from service.stream import presence as presence_module
from tests.harness import ADMIN_KEY, PATIENCE, SECRET, Device, Frame, Server, eventually, serving, token

Start = Callable[..., Awaitable[Server]]
SEES = {"presence": True, "rooms": ["*"]}
FAST = {"presence_linger": 0.5, "lease": 4.0}
NOTICES = {"user_connected", "user_disconnected", "user_joined_room", "user_left_room"}


def notices(device: Device, user: str) -> list[str]:
    """Return what a watcher has been told of a user: what happened, and where."""
    told = [f for f in device.frames if f["type"] in NOTICES and f["user"] == user]
    return [" ".join([f["type"].split("_")[1], *filter(None, [f.get("room")])]) for f in told]


async def watching(server: Server, user: str = "watcher", **query: Any) -> Device:
    device = await server.live(user, claims=SEES, presence="1", **query)
    await server.service.presence.flush()
    return device


async def settled(server: Server, *watchers: Device) -> None:
    """Wait until all watchers know what has happened up to now, the waiting for who comes back included."""
    async with await server.live("marker"):
        for watcher in watchers:
            await watcher.until("user_connected", user="marker")
    for watcher in watchers:
        await watcher.until("user_disconnected", user="marker")


async def present(server: Server, room: str, **query: Any) -> list[str]:
    await server.service.presence.flush()
    answer = await server.http.get(f"/v1/rooms/{room}/presence", params=query)
    assert answer.status_code == 200, answer.text
    return [each["user"] for each in answer.json()["data"]]


@pytest.fixture
async def pair(start: Start) -> tuple[Server, Server]:
    return await start(**FAST), await start(**FAST)


# --- What watchers are told


async def test_a_user_has_come_with_the_first_and_gone_with_the_last_connection_anywhere(
    pair: tuple[Server, Server],
) -> None:
    here, there = pair
    async with await watching(here) as near, await watching(there, "other") as far:
        phone = await there.live("bob", claims={"name": "Bob"}, device="phone")
        for watcher in (near, far):
            assert (await watcher.until("user_connected", user="bob"))["info"] == {"name": "Bob"}
        laptop = await here.live("bob", device="laptop")
        await phone.close()
        await settled(there, near, far)
        await settled(here, near, far)
        assert notices(near, "bob") == notices(far, "bob") == ["connected"]
        await laptop.close()
        for watcher in (near, far):
            await watcher.until("user_disconnected", user="bob")
        await settled(here, near, far)
        assert notices(near, "bob") == notices(far, "bob") == ["connected", "disconnected"]
        assert notices(near, "watcher") == [], "nobody is told of themselves"


async def test_who_comes_back_in_time_has_never_been_away(start: Start, db: asyncpg.Connection) -> None:
    here, there = [await start(lease=6.0, presence_linger=3.0) for _ in range(2)]
    async with await watching(here) as near, await watching(there, "other") as far:
        bob = await here.live("bob")
        for watcher in (near, far):
            await watcher.until("user_connected", user="bob")
        for server in (here, there):
            await bob.close()
            await eventually(lambda: db.fetchval(GONE))
            async with await here.live(f"before {server.port}"):
                await near.until("user_connected", user=f"before {server.port}")
            bob = await server.live("bob")
            await server.service.presence.flush()
        await settled(here, near, far)
        await settled(there, near, far)
        assert notices(near, "bob") == notices(far, "bob") == ["connected"]
        await bob.close()


GONE = "select not exists (select from tidings.connections where user_id = 'bob' and gone_at is null)"


async def test_who_comes_and_goes_at_once_is_told_of(pair: tuple[Server, Server]) -> None:
    here, there = pair
    async with await watching(there) as watcher:
        async with await here.device("bob"):
            pass
        await watcher.until("user_connected", user="bob")
        await watcher.until("user_disconnected", user="bob")


async def test_of_first_connections_at_once_exactly_one_is_told_and_of_last_ones_too(
    pair: tuple[Server, Server],
) -> None:
    users = [f"user {n}" for n in range(25)]
    async with await watching(pair[0]) as near, await watching(pair[1], "other") as far:
        devices = await asyncio.gather(
            *(server.live(user, device=f"on {n}") for user in users for n, server in enumerate(pair))
        )
        for watcher in (near, far):
            await until_told(watcher, "user_connected", users)
        await asyncio.gather(*(device.close() for device in devices))
        for watcher in (near, far):
            await until_told(watcher, "user_disconnected", users)
        await settled(pair[0], near, far)
        await settled(pair[1], near, far)
        for watcher in (near, far):
            told = Counter((f["type"], f["user"]) for f in watcher.frames if f.get("user") in users)
            once = {(kind, user) for kind in ("user_connected", "user_disconnected") for user in users}
            assert told == Counter(once)


async def until_told(watcher: Device, kind: str, users: list[str]) -> None:
    missing = set(users) - {f["user"] for f in watcher.frames if f["type"] == kind}
    while missing:
        missing.discard((await watcher.until(kind))["user"])


async def test_watchers_of_a_room_are_told_of_its_members_on_other_instances(
    pair: tuple[Server, Server],
) -> None:
    here, there = pair
    await here.join("chat", "bob")
    async with await here.live("alice", claims=SEES) as alice, await watching(here) as watcher:
        await alice.ask("join_room", room="chat", presence=True)
        async with await there.live("bob"), await there.live("carol"):
            await alice.until("user_connected", user="bob")
        await alice.until("user_disconnected", user="bob")
        await settled(there, watcher)
        assert await alice.quiet() == []
        assert notices(alice, "carol") == notices(alice, "marker") == []


async def test_who_is_in_a_room_for_a_connection_joins_and_leaves_it_for_watchers(
    pair: tuple[Server, Server],
) -> None:
    here, there = pair
    async with await here.live("alice", claims=SEES) as alice, await watching(there) as watcher:
        await alice.ask("join_room", room="chat", presence=True)
        phone = await there.live("bob", claims=SEES, device="phone")
        laptop = await here.live("bob", claims=SEES, device="laptop")
        for device in (phone, laptop):
            await device.ask("join_room", room="chat", durable=False)
        await alice.until("user_joined_room", user="bob", room="chat")
        assert await present(here, "chat") == await present(there, "chat") == ["alice", "bob"]
        await phone.ask("leave_room", room="chat")
        await settled(there, watcher)
        await alice.quiet()
        assert notices(alice, "bob") == ["joined chat"], "the laptop is still in it"
        await laptop.close()
        await alice.until("user_left_room", user="bob", room="chat")
        assert await present(here, "chat") == ["alice"]
        await settled(there, watcher)
        await alice.quiet()
        assert notices(alice, "bob") == ["joined chat", "left chat"]
        assert notices(watcher, "bob") == ["connected"], "by the phone it is connected"
        await phone.close()


async def test_who_becomes_a_member_of_a_room_joins_it_and_does_not_leave_it(
    pair: tuple[Server, Server],
) -> None:
    here, there = pair
    async with await here.live("alice", claims=SEES) as alice, await watching(there) as watcher:
        await alice.ask("join_room", room="chat", presence=True)
        async with await there.live("bob", claims=SEES) as bob:
            await bob.ask("join_room", room="chat", durable=False)
            await alice.until("user_joined_room", user="bob")
            await here.join("chat", "bob")
            await alice.until("user_joined_room", user="bob")
            await settled(there, watcher)
            await alice.quiet()
            assert notices(alice, "bob") == ["joined chat", "joined chat"]


async def test_without_the_right_nobody_is_told_of_other_instances(pair: tuple[Server, Server]) -> None:
    here, there = pair
    await here.join("chat", "bob")
    refused = await here.live("carol", claims={"rooms": ["chat"]})
    assert (await refused.ask("join_room", room="chat", presence=True))["code"] == "forbidden"
    assert (await refused.ask("presence", room="chat"))["code"] == "forbidden"
    async with refused, await watching(here) as lost, await watching(here, "other") as watcher:
        await lost.ask("join_room", room="chat", presence=True)
        assert (await lost.ask("refresh_token", token=token("watcher", rooms=["chat"])))["type"] == "ok"
        async with await there.live("bob", claims=SEES) as bob:
            await bob.ask("join_room", room="hall", durable=False)
            await watcher.until("user_connected", user="bob")
        await settled(there, watcher)
        for device in (refused, lost):
            await device.quiet()
            assert notices(device, "bob") == notices(device, "marker") == []


async def test_what_watchers_wait_for_is_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence_module, "MAX_UNTOLD", 3)
    async with await watching(server) as watcher:
        await settled(server, watcher)
        server.service.presence.hear([Change("connected", f"user {n}") for n in range(5)])
        await settled(server, watcher)
        assert [n for n in range(5) if notices(watcher, f"user {n}")] == [0, 1, 2]
    assert server.service.metrics.presence_dropped._value.get() == 2


# --- Instances that die, are stopped, are cut off


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="tidings-test-") as path:
        yield Path(path)


@asynccontextmanager
async def elsewhere(url: str, folder: Path, **settings: str) -> AsyncIterator[tuple[Process, int]]:
    """Run an instance in a process of its own; gives it and its port."""
    given = {
        "DATABASE_URL": url, "JWT_SECRET": SECRET, "ADMIN_KEY": ADMIN_KEY, "DRAIN_TIMEOUT": "1",
        **{name.upper(): value for name, value in settings.items()},
    }  # fmt: skip
    root = Path(__file__).parents[2]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", "serve", "--dev", "--port", "0",
        env={"PYTHONPATH": str(root), **{f"TIDINGS_{name}": value for name, value in given.items()}},
        cwd=folder, stdout=PIPE, stderr=DEVNULL,
    )  # fmt: skip
    assert process.stdout
    try:
        async with asyncio.timeout(3 * PATIENCE):
            yield process, await port_of(process.stdout)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        await process.communicate()


async def port_of(output: asyncio.StreamReader) -> int:
    while line := (await output.readline()).decode():
        if ready := re.search(r"http://\S+:(\d+)", line):
            return int(ready[1])
    raise AssertionError("it ended without saying that it is ready")


async def device_at(port: int, user: str) -> Device:
    url = f"ws://127.0.0.1:{port}/v1/ws?token={token(user)}"
    device = Device(await connect(url, compression=None, max_queue=None))
    await device.until("live")
    return device


async def test_an_instance_that_is_killed_leaves_with_its_lease(
    start: Start, database_url: str, folder: Path
) -> None:
    server = await start(lease=3.0, presence_linger=0.2)
    await server.join("r", "bob")
    async with (
        elsewhere(database_url, folder, lease="3", presence_linger="0.2") as (process, port),
        await watching(server) as watcher,
    ):
        await device_at(port, "bob")
        await watcher.until("user_connected", user="bob")
        assert await present(server, "r") == ["bob"]
        assert (await server.http.get("/stats")).json()["total"]["instances"] == 2
        process.kill()
        await watcher.until("user_disconnected", user="bob")
        assert await present(server, "r") == []
        stats = (await server.http.get("/stats")).json()
        assert [each["instance"] for each in stats["instances"]] == [server.service.instance]
        assert notices(watcher, "bob") == ["connected", "disconnected"]


async def test_an_instance_that_was_stopped_for_longer_than_its_lease_is_back(
    start: Start, database_url: str, folder: Path
) -> None:
    server = await start(lease=2.0, presence_linger=0.2)
    async with (
        elsewhere(database_url, folder, lease="2", presence_linger="0.2") as (process, port),
        await watching(server) as watcher,
    ):
        bob = await device_at(port, "bob")
        gone = await device_at(port, "gone")
        for user in ("bob", "gone"):
            await until_told(watcher, "user_connected", [user])
        process.send_signal(signal.SIGSTOP)
        await until_told(watcher, "user_disconnected", ["bob", "gone"])
        gone.socket.transport.abort()
        process.send_signal(signal.SIGCONT)
        await watcher.until("user_connected", user="bob")
        await eventually(lambda: has_connections(server, "bob", "watcher"))
        await bob.quiet()
        await settled(server, watcher)
        assert notices(watcher, "bob") == ["connected", "disconnected", "connected"]
        assert notices(watcher, "gone")[:2] == ["connected", "disconnected"]
        await bob.close()


async def has_connections(server: Server, *users: str) -> bool:
    listed = (await server.http.get("/v1/connections")).json()["data"]
    return sorted(each["user"] for each in listed) == sorted(users)


async def test_after_it_was_cut_off_an_instance_writes_all_of_its_connections_anew(
    database_url: str, db: asyncpg.Connection
) -> None:
    async with (
        database_proxy(database_url) as (proxy, through),
        serving(database_url=through, lease=60.0, presence_linger=0.2) as server,
        await server.live("alice", claims=SEES) as alice,
    ):
        async with await server.live("bob"):
            await alice.ask("join_room", room="chat", durable=False)
            await eventually(lambda: has_connections(server, "alice", "bob"))
            proxy.refuse = True
            proxy.cut()
        # As if a crash had lost the last commits, of comings and of goings.
        await db.execute("delete from tidings.connections where user_id = 'alice'")
        await db.execute(
            "insert into tidings.connections (id, instance, user_id, device, since)"
            " values ('lost', $1, 'stray', 'd', now())", server.service.instance,
        )  # fmt: skip
        proxy.refuse = False
        await eventually(lambda: written_are(db, ("alice", ["chat"])))


async def written_are(db: asyncpg.Connection, *expected: tuple[str, list[str] | None]) -> bool:
    rows = await db.fetch("select user_id, rooms from tidings.connections order by user_id")
    return [(row["user_id"], row["rooms"]) for row in rows] == list(expected)


async def test_after_a_failover_an_instance_writes_all_of_its_connections_anew(
    start: Start, db: asyncpg.Connection
) -> None:
    server = await start(**FAST)
    async with await server.live("alice"):
        await eventually(lambda: written_are(db, ("alice", None)))
        await db.execute("delete from tidings.connections")
        await db.execute(
            "insert into tidings.lineage (lost_from, lost_to, system_identifier, timeline)"
            " values (0, 1, 1, '1')"
        )
        await eventually(lambda: written_are(db, ("alice", None)))


async def test_an_instance_that_ends_leaves_nothing_behind(start: Start, database_url: str) -> None:
    server = await start(**FAST)
    async with await watching(server) as watcher:
        async with serving(database_url=database_url, drain_timeout=3.0, **FAST) as other:
            await other.live("bob")
            await watcher.until("user_connected", user="bob")
        assert (await server.http.get("/stats")).json()["total"]["instances"] == 1
        await watcher.until("user_disconnected", user="bob")


async def test_a_storm_is_written_in_bounded_batches(
    server: Server, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    note = store.note

    async def watched(link: Any, lease: Any, uptime: float, stats: Any, live: Any, *rest: Any) -> Any:
        sizes.append(len(live))
        return await note(link, lease, uptime, stats, live, *rest)

    monkeypatch.setattr(store, "note", watched)
    hub = server.gateway.hub
    storm = [
        Seen(
            id=f"{n:05}", state=State.LIVE, device="d", since=0.0, noted=False,
            claims=Claims(user=f"user {n}", expires_at=0),
            rooms={"durable": Membership("api", 0), "own": Membership("connection", 0)},
        )
        for n in range(5_000)
    ]  # fmt: skip
    hub.changed |= dict.fromkeys(storm)  # type: ignore[arg-type]
    await server.service.presence.flush()
    assert sum(sizes) == 5_000
    assert max(sizes) <= presence_module.BATCH
    assert await db.fetchval("select count(*) from tidings.connections where rooms = '{own}'") == 5_000
    for each in storm:
        each.state = State.CLOSED
    hub.changed |= dict.fromkeys(storm)  # type: ignore[arg-type]
    await server.service.presence.flush()
    assert await db.fetchval("select count(*) from tidings.connections where gone_at is null") == 0


class Seen(SimpleNamespace):
    """What others see of a connection, without one."""

    __hash__ = object.__hash__


# --- What lists say


async def test_who_is_connected_in_a_room_is_listed_over_all_instances(pair: tuple[Server, Server]) -> None:
    here, there = pair
    await here.join("r", "anna", "bert", "carl", "dora")
    async with (
        await here.live("anna", claims={"info": {"n": 1}}, device="phone"),
        await there.live("anna", claims={"info": {"n": 2}}, device="laptop"),
        await there.live("carl"),
        await here.live("emil", claims=SEES) as emil,
        await here.live("fred"),
    ):
        await emil.ask("join_room", room="r", durable=False)
        await here.service.presence.flush()
        await there.service.presence.flush()
        for server in pair:
            page = (await server.http.get("/v1/rooms/r/presence", params={"limit": 2})).json()
            assert [(p["user"], p["devices"], p["info"]) for p in page["data"]] == [
                ("anna", 2, {"n": 2}), ("carl", 1, None),
            ]  # fmt: skip
            assert await present(server, "r", after=page["next_cursor"]) == ["emil"]
        answer = await emil.ask("presence", room="r")
        assert [p["user"] for p in answer["users"]] == ["anna", "carl", "emil"]
        assert answer["users"][0] == {
            "user": "anna", "devices": 2, "info": {"n": 2},
            "since": page["data"][0]["since"][:23] + "Z",
        }  # fmt: skip
        assert answer["has_more"] is False


async def test_who_may_list_who_is_connected(server: Server) -> None:
    limited = {"name": "k", "scopes": ["read"], "addresses": ["room:a"]}
    key = (await server.http.post("/v1/keys", json=limited)).json()["key"]
    publisher = (await server.http.post("/v1/keys", json={"name": "p", "scopes": ["publish"]})).json()["key"]
    for bearer, room, status in (
        (key, "a", 200), (key, "b", 403), (publisher, "a", 403),
        (token("alice", rooms=["a"], presence=True), "a", 200),
        (token("alice", rooms=["a"], presence=True), "b", 403),
        (token("alice", rooms=["a"]), "a", 403), ("nonsense", "a", 401),
    ):  # fmt: skip
        headers = {"Authorization": f"Bearer {bearer}"}
        answer = await server.http.get(f"/v1/rooms/{room}/presence", headers=headers)
        assert answer.status_code == status, (bearer, room)
    assert (await server.http.get("/v1/rooms/no%20room/presence")).status_code == 422


async def test_the_command_needs_the_grant_too(server: Server) -> None:
    async with await server.live("alice", claims={"presence": True, "rooms": ["a"]}) as alice:
        assert (await alice.ask("presence", room="a"))["users"] == []
        assert (await alice.ask("presence", room="b"))["code"] == "forbidden"
        assert (await alice.ask("presence", room="no room"))["code"] == "invalid"


async def test_connections_are_listed_over_all_instances(pair: tuple[Server, Server]) -> None:
    here, there = pair
    await here.join("r", "alice")
    async with (
        await here.live("alice", device="phone") as phone,
        await there.live("alice", device="laptop", claims=SEES) as laptop,
        await there.live("bob"),
    ):
        await laptop.ask("join_room", room="own", durable=False)
        position = await here.publish("user:alice")
        for device in (phone, laptop):
            await device.until("event", position=position)
        await there.service.presence.flush()
        listed = await eventually(lambda: acked_everywhere(here, position))
        mine = next(c for c in listed if c["device"] == "phone")
        assert (mine["state"], mine["rooms"], mine["instance"]) == ("live", 1, here.service.instance)
        assert mine["written"] >= position
        theirs = next(c for c in listed if c["device"] == "laptop")
        assert (theirs["state"], theirs["written"], theirs["rooms"]) == (None, None, 2)
        assert theirs["instance"] == there.service.instance
        assert await users_of(here, instance=there.service.instance) == ["alice", "bob"]
        assert await users_of(here, instance=there.service.instance, user="bob") == ["bob"]
        first = (await here.http.get("/v1/connections", params={"limit": 2})).json()
        assert first["has_more"]
        assert len(await users_of(here, after=first["next_cursor"])) == 1


async def acked_everywhere(server: Server, position: int) -> list[Frame]:
    listed = (await server.http.get("/v1/connections", params={"user": "alice"})).json()["data"]
    return listed if all((c["acked"] or 0) >= position for c in listed) and len(listed) == 2 else []


async def users_of(server: Server, **query: Any) -> list[str]:
    listed = (await server.http.get("/v1/connections", params=query)).json()["data"]
    return sorted(each["user"] for each in listed)


async def test_stats_are_of_all_instances_and_of_each(pair: tuple[Server, Server]) -> None:
    here, there = pair
    async with await here.live("alice"), await there.live("alice"), await there.live("bob"):
        await there.service.presence.flush()

        async def told() -> Frame | None:
            stats: Frame = (await here.http.get("/stats")).json()
            lives = {i["instance"]: i["stats"]["connections"]["live"] for i in stats["instances"]}
            return stats if lives == {here.service.instance: 1, there.service.instance: 2} else None

        stats = await eventually(told)
        assert stats["instance"] == here.service.instance
        assert stats["total"]["users"] == 2
        assert stats["total"]["connections"] == {"catching_up": 0, "live": 3}
        assert {each["version"] for each in stats["instances"]} == {"0.1.0"}


async def test_who_comes_back_in_the_middle_of_its_sweep_writes_all_anew(
    server: Server, db: asyncpg.Connection
) -> None:
    """It was stopped for longer than its lease; another has swept a part of what it had written."""
    devices = [await server.live(f"user{n}") for n in range(6)]
    presence = server.service.presence
    await eventually(lambda: noted(db, 6))
    async with presence._using:  # so it notes nothing
        await db.execute("update tidings.instances set seen_at = now() - interval '1 hour'")
        await db.execute(
            "select tidings.note_connections("
            "'other', 'v', 0, null, '{}', '{}', '{}', '{}', '{}', '{}', '{}', 2, 10, 2)"
        )
        assert await noted(db, 4)
    await eventually(lambda: noted(db, 6))
    for device in devices:
        await device.close()


async def noted(db: asyncpg.Connection, number: int) -> bool:
    found = await db.fetchval("select count(*) from tidings.connections where gone_at is null")
    return bool(found == number)
