"""What goes wrong in the night: slow peers, stopped processes, restored databases."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg
import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from proof.proxy import database_proxy, slow_link
from service.domain.errors import Unavailable
from service.domain.events import Draft, Unit
from service.store import embedded, schema
from service.store import log as store_log
from service.store.database import Database
from tests.harness import ADMIN_KEY, SECRET, Device, Server, eventually, serving, token

Start = Callable[..., Awaitable[Server]]


async def fill(server: Server, address: str, count: int, data: str) -> int:
    """Append many events at once; return the last position."""
    last = 0
    for begin in range(0, count, 1000):
        size = min(1000, count - begin)
        outcome = await server.service.appender.append(Unit([Draft(address, "t", data)] * size))
        last = outcome.first + size - 1
    return last


async def test_a_url_with_two_servers_goes_over_to_the_other_without_a_restart(
    start: Start, database_url: str
) -> None:
    async with AsyncExitStack() as first, database_proxy(database_url) as (two, url):
        one, _ = await first.enter_async_context(database_proxy(database_url))
        base = url.replace(f"127.0.0.1:{two.port}", "").partition("?")[0]
        hosts = f"host=127.0.0.1:{one.port}&host=127.0.0.1:{two.port}"
        server = await start(database_url=f"{base}?{hosts}&target_session_attrs=primary&sslmode=disable")
        async with await server.live("alice") as device:
            await server.publish("user:alice", data=1)
            await first.aclose()  # nobody listens there any more

            async def is_published() -> bool:
                answer = await server.http.post(
                    "/v1/events", json={"to": "user:alice", "type": "t", "data": 2}
                )
                return answer.status_code == 202

            await eventually(is_published)
            assert [event["data"] for event in await device.events(2)] == [1, 2]


async def test_a_server_that_is_silent_keeps_nobody_from_the_other(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.database.CONNECT_TIMEOUT", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        async with database_proxy(database_url) as (proxy, url):
            base = url.replace(f"127.0.0.1:{proxy.port}", "").partition("?")[0]
            hosts = f"host=127.0.0.1:{silent.getsockname()[1]}&host=127.0.0.1:{proxy.port}"
            database = Database(f"{base}?{hosts}&sslmode=disable", 4)

            async def is_reached() -> bool:
                try:
                    async with database.connection():
                        return True
                except Unavailable:
                    return False

            await eventually(is_reached)
            await database.close()


@pytest.mark.timeout(90)
async def test_a_client_that_stops_reading_costs_a_number_and_delays_nobody(start: Start) -> None:
    server = await start(write_buffer=64 * 1024, recent_bytes=1024 * 1024)
    await server.join("r", "slow", "quick")
    async with await server.live("slow") as slow, await server.live("quick") as quick:
        slow.socket.transport.pause_reading()
        connection = next(iter(server.gateway.hub.users["slow"]))
        most = 0
        for _ in range(25):
            last = await fill(server, "room:r", 2000, '"' + "x" * 100 + '"')
            await quick.until("event", position=last)
            most = max(most, connection.transport.get_write_buffer_size())
        assert connection.state.value == "catching_up"
        # One group may be written before the bound is noticed: 1,000 events of about 250 bytes.
        assert most < 64 * 1024 + 1000 * 300
        assert not any(f["type"] == "event" for f in slow.frames)
        slow.socket.transport.resume_reading()
        await slow.until("event", position=last)
        got = [f["position"] for f in slow.frames if f["type"] == "event"]
        assert len(got) == 50_000
        assert got == sorted(set(got))
        assert [f for f in slow.frames if f["type"] == "gap"] == []


@pytest.mark.timeout(60)
async def test_a_slow_link_is_not_taken_for_dead_and_gets_its_backlog_in_one_go(start: Start) -> None:
    server = await start(heartbeat=0.5)
    last = await fill(server, "user:alice", 600, '"' + "x" * 3000 + '"')
    async with slow_link(server.port, rate=400_000) as link:
        url = f"ws://127.0.0.1:{link.port}/v1/ws?token={token('alice')}"
        async with Device(await connect(url, compression=None, max_queue=None)) as phone:
            await phone.until("event", position=last)
            assert sum(f["type"] == "welcome" for f in phone.frames) == 1
            assert sum(f["type"] == "event" for f in phone.frames) == 600


async def test_a_cursor_beyond_a_log_that_lost_its_end_is_told_and_not_waited_for(
    server: Server, db: asyncpg.Connection
) -> None:
    """Cursors are written behind: one may be stored after the failover that lost what it stands for."""
    async with await server.live("alice"):
        pass
    await eventually(lambda: server.gateway.count == 0)
    await db.execute("update tidings.devices set cursor = 1000")
    async with await server.live("alice") as phone:
        gap = next(f for f in phone.frames if f["type"] == "gap")
        assert (gap["from"], gap["to"], gap["reason"]) == (1000, 0, "failover")
        position = await server.publish("user:alice")
        await phone.until("event", position=position)


async def test_a_connection_whose_backlog_fails_is_closed_and_not_left_waiting(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("planted")

    await server.publish("user:alice")
    server.gateway.hub.recent.forget(2**40)
    monkeypatch.setattr(store_log, "page", broken)
    async with await server.device("alice") as phone:
        assert await phone.closed() == 1011
        assert phone.frames[-1]["reconnect"] is True


async def test_a_reconnect_storm_is_served_from_memory(start: Start) -> None:
    server = await start()
    await server.join("r", *(f"u{n}" for n in range(50)))
    last = await fill(server, "room:r", 20, "1")
    pages = server.service.metrics.catch_up_pages
    phones = await asyncio.gather(*(server.live(f"u{n}") for n in range(50)))
    for phone in phones:
        assert sum(f["type"] == "event" for f in phone.frames) == 20
        assert phone.frames[-1] == {"type": "live", "position": last}
    assert pages.labels("log")._value.get() == 0
    await asyncio.gather(*(phone.close() for phone in phones))


async def test_nobody_is_let_in_by_what_memory_holds_of_a_log_that_went_back(
    server: Server, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(*_: object) -> None:
        raise Unavailable("not yet")

    kept = await server.publish("user:alice", data="kept")
    await server.reached(await server.publish("user:alice", data="lost"))
    with monkeypatch.context() as patch:
        patch.setattr(store_log, "confirm", unavailable)
        await db.execute("delete from tidings.events where position > $1", kept)
        with pytest.raises(InvalidStatus) as refused:
            await server.device("alice")
        assert refused.value.response.status_code == 503

    async def let_in() -> Device | None:
        try:
            return await server.live("alice")
        except InvalidStatus:
            return None

    async with await eventually(let_in) as phone:
        assert [f["data"] for f in phone.frames if f["type"] == "event"] == ["kept"]


async def test_what_comes_while_the_head_is_asked_for_is_no_log_that_went_back(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, told, confirm = asyncio.Event(), asyncio.Event(), store_log.confirm

    async def slow(*given: Any) -> store_log.Head:
        head = await confirm(*given)
        asked.set()
        await told.wait()
        return head

    async with await server.live("alice") as phone:
        monkeypatch.setattr(store_log, "confirm", slow)
        await asked.wait()
        position = await server.publish("user:alice")
        await phone.until("event", position=position)
        told.set()
        later = await server.publish("user:alice")
        await phone.until("event", position=later)
        await server.reached(later)
        assert [f["position"] for f in phone.frames if f["type"] == "event"] == [position, later]
        assert server.gateway.count == 1


@asynccontextmanager
async def separate(database_url: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """An instance in a process of its own, and its URL."""
    environment = {
        "PATH": "/usr/bin:/bin", "TIDINGS_DATABASE_URL": database_url, "TIDINGS_JWT_SECRET": SECRET,
        "TIDINGS_ADMIN_KEY": ADMIN_KEY, "TIDINGS_LOG_FORMAT": "human", "TIDINGS_DRAIN_TIMEOUT": "2",
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", "serve", "--port", "0", cwd=Path(__file__).parents[2],
        env=environment, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        async with asyncio.timeout(30):
            while b"serving" not in (line := await process.stderr.readline()):
                assert line, "it ended"
        url = line.decode().partition("url=")[2].split()[0]
        yield process, url
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        await process.communicate()


async def test_a_stopped_instance_closes_the_revoked_before_it_writes_again(
    server: Server, database_url: str
) -> None:
    async with separate(database_url) as (process, url):
        socket_url = url.replace("http", "ws") + f"/v1/ws?token={token('alice')}"
        async with Device(await connect(socket_url, compression=None)) as phone:
            await phone.until("live")
            process.send_signal(signal.SIGSTOP)
            await server.publish("user:alice", data="before the revocation")
            await server.http.post("/v1/revocations", json={"user": "alice"})
            await server.publish("user:alice", data="after it")
            confirmed = asyncio.get_running_loop().time()
            # The head that it knows has to be too old to be trusted.
            await eventually(lambda: asyncio.get_running_loop().time() - confirmed > 2.5)
            process.send_signal(signal.SIGCONT)
            assert await phone.closed() == 4001
            assert [f for f in phone.frames if f["type"] == "event"] == []


async def test_sigterm_drains(database_url: str) -> None:
    async with separate(database_url) as (process, url):
        socket_url = url.replace("http", "ws") + f"/v1/ws?token={token('alice')}"
        async with Device(await connect(socket_url, compression=None)) as phone:
            await phone.until("live")
            headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
            async with httpx.AsyncClient(headers=headers) as http:
                answer = await http.post(f"{url}/v1/events", json={"to": "user:alice", "type": "t"})
                await phone.until("event")
            process.terminate()
            assert await phone.closed() == 1012
            assert phone.frames[-1]["reconnect"] is True
            async with asyncio.timeout(20):
                assert await process.wait() == 0
    position = answer.json()["events"][0]["position"]
    connection = await asyncpg.connect(database_url)
    stored = await connection.fetchval("select cursor from tidings.devices where user_id = 'alice'")
    await connection.close()
    assert stored in {0, position}


@pytest.mark.timeout(90)
async def test_positions_are_never_used_twice_after_a_restore_under_a_running_service() -> None:
    with TemporaryDirectory(prefix="tidings-restore-") as name:
        folder, copy = Path(name) / "data", Path(name) / "copy"
        folder.mkdir()
        url = await asyncio.to_thread(embedded.start, folder)
        try:
            await schema.upgrade(url)
            async with serving(database_url=url) as server, await server.live("alice") as phone:
                kept = await server.publish("user:alice", data="kept")
                await _stopped(folder, _copy(folder, copy))
                lost = [await _published(server, data="lost") for _ in range(3)]
                await phone.until("event", position=lost[-1])
                await _stopped(folder, _copy(copy, folder))
                assert await phone.closed() == 1012
                after = await _published(server, data="after")
                assert after > lost[-1]
                async with await server.live("alice", device="other", after=lost[1]) as told:
                    gap = next(f for f in told.frames if f["type"] == "gap")
                    assert (gap["from"], gap["reason"]) == (lost[1], "failover")
                    assert [f["data"] for f in told.frames if f["type"] == "event"] == ["after"]
                async with await server.live("alice", device="old", after=kept) as old:
                    assert [f["data"] for f in old.frames if f["type"] == "event"] == ["after"]
        finally:
            await asyncio.to_thread(embedded.stop, folder)


@pytest.mark.timeout(90)
async def test_memberships_that_a_restore_lost_count_no_more_once_others_have_written_on() -> None:
    with TemporaryDirectory(prefix="tidings-restore-") as name:
        folder, copy = Path(name) / "data", Path(name) / "copy"
        folder.mkdir()
        url = await asyncio.to_thread(embedded.start, folder)
        try:
            await schema.upgrade(url)
            async with (
                database_proxy(url) as (proxy, through),
                serving(database_url=url) as other,
                serving(database_url=through) as server,
                await server.live("alice") as phone,
            ):
                await server.join("left", "alice")
                await phone.until("joined_room")
                await _stopped(folder, _copy(folder, copy))
                assert await _published(other, data="lost")
                await eventually(lambda: server.service.follower.trusted)
                await phone.until("event")
                await server.join("joined", "alice")
                assert (await server.http.delete("/v1/rooms/left/members/alice")).status_code == 200
                await phone.until("left_room")
                proxy.refuse = True
                proxy.cut()
                await _stopped(folder, _copy(copy, folder))
                for room in ("joined", "left"):
                    await _published(other, to=f"room:{room}", data=room)
                proxy.refuse = False
                assert await phone.closed() == 1012
                assert "joined" not in [frame.get("data") for frame in phone.frames]
                async with await server.live("alice") as again:
                    assert [f["data"] for f in again.frames if f["type"] == "event"] == ["left"]
        finally:
            await asyncio.to_thread(embedded.stop, folder)


def _copy(source: Path, target: Path) -> list[str]:
    return ["sh", "-c", f"rm -rf {target} && cp -a {source} {target}"]


async def _stopped(folder: Path, command: list[str]) -> None:
    """Run a command while the database is down, under the running service."""
    await asyncio.to_thread(embedded.stop, folder)
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0
    await asyncio.to_thread(embedded.start, folder)


async def _published(server: Server, data: Any, to: str = "user:alice") -> int:
    async def attempt() -> int:
        body = {"to": to, "type": "t", "data": data}
        answer = await server.http.post("/v1/events", json=body)
        return answer.json()["events"][0]["position"] if answer.status_code == 202 else 0

    position: int = await eventually(attempt, patience=30)
    return position
