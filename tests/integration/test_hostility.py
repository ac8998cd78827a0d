"""What one caller may not do to the others, each with the attack that it stops."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable

import asyncpg
import httpx
import pytest
from websockets.asyncio.client import connect

from service.domain.events import Draft, Unit
from service.domain.websocket import close_frame
from tests.harness import PATIENCE, Server, eventually, token

Start = Callable[..., Awaitable[Server]]


def upgrade(presented: str) -> bytes:
    return (
        f"GET /v1/ws?token={presented} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


async def test_many_handshakes_of_one_user_at_once_leave_the_newest_and_the_service_alive(
    start: Start,
) -> None:
    """The first to register may open while others still load: it must not evict itself."""
    server = await start(max_connections_per_user=5)
    raws = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(40)]
    for raw in raws:
        raw.sendall(upgrade(token("alice")))
    hub = server.gateway.hub
    await eventually(lambda: server.gateway.count == 5 and all(c.state.value == "live" for c in hub))
    for _ in range(3):
        await server.publish(["user:alice", "everyone"])
    assert server.gateway.count == 5 == len(list(hub))
    for raw in raws:
        raw.close()
    await eventually(lambda: server.gateway.count == 0)
    assert hub._receivers == {}


async def test_a_peer_that_says_close_and_does_not_read_keeps_no_socket(start: Start) -> None:
    server = await start(write_buffer=4096)
    phone = await server.live("alice")
    phone.socket.transport.pause_reading()
    connection = next(iter(server.gateway.hub))
    wire = connection.transport.get_extra_info("socket")
    while not connection.paused:
        await server.publish("user:alice", data="x" * 30_000)
    phone.socket.transport.write(b"\x88\x80\x00\x00\x00\x00")
    await eventually(lambda: wire.fileno() == -1)
    phone.socket.transport.abort()


async def test_a_slow_peer_that_says_close_reads_what_was_sent_and_then_a_close(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.gateway.connection.CLOSE_TIMEOUT", PATIENCE)
    server = await start(write_buffer=4096, ack_interval=PATIENCE)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(upgrade(token("alice")))
    await reader.readuntil(b'"live"')
    writer.transport.pause_reading()
    (connection,) = server.gateway.hub
    while not connection.paused:
        await server.publish("user:alice", data="x" * 30_000)
    writer.write(b"\x89\x84\x00\x00\x00\x00late" + b"\x88\x82\x00\x00\x00\x00\x03\xe8")
    await eventually(lambda: server.gateway.count == 0)
    writer.transport.resume_reading()
    async with asyncio.timeout(PATIENCE):
        received = await reader.read()
    writer.close()
    assert received.endswith(close_frame(1000))
    assert b"late" not in received, "no pong is due once a Close has come"


async def test_a_body_is_not_read_for_a_caller_without_a_key(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url) as stranger:
        for path in ("/v1/revocations", "/v1/keys", "/v1/tokens", "/v1/rooms/r/members", "/v1/events"):
            answer = await stranger.post(path, content=b"[" * 2_000_000)
            assert answer.status_code == 401, path
    for path in ("/v1/revocations", "/v1/keys", "/v1/tokens", "/v1/rooms/r/members"):
        assert (await server.http.post(path, content=b"[" * 2_000_000)).status_code == 413, path
        assert (await server.http.post(path, content=b"[" * 5_000)).status_code in {400, 422}, path


async def test_the_head_of_a_request_is_bounded(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX-Filler: ")
    for _ in range(80):
        writer.write(b"y" * 1000)
    async with asyncio.timeout(PATIENCE):
        assert b"400 Bad Request" in await reader.readuntil(b"\r\n")
    writer.transport.abort()


async def test_a_broken_cookie_beside_ours_does_no_harm(start: Start) -> None:
    server = await start(cookie="sid", origins=("https://app.example",))
    jar = f'j={{"a":1}}; broken; sid={token("alice")}; k="\\1\\1'
    async with connect(
        server.ws_url(), compression=None, origin="https://app.example", additional_headers={"Cookie": jar}
    ) as ws:
        assert "welcome" in str(await ws.recv())


async def test_revoke_mint_revoke_within_a_second_leaves_no_token_alive(server: Server) -> None:
    for _ in range(2):
        await server.http.post("/v1/revocations", json={"user": "alice"})
        minted = (await server.http.post("/v1/tokens", json={"user": "alice"})).json()["token"]
    await server.http.post("/v1/revocations", json={"user": "alice"})
    with pytest.raises(Exception, match="HTTP 401"):
        await server.device(token=minted)


async def test_a_token_cannot_be_minted_before_a_revocation_that_is_yet_to_come(server: Server) -> None:
    order = {"user": "alice", "issued_before": int(time.time()) + 1000}
    await server.http.post("/v1/revocations", json=order)
    assert (await server.http.post("/v1/tokens", json={"user": "alice"})).status_code == 409


async def test_a_limited_key_reads_and_grants_no_more_than_it_has(server: Server) -> None:
    order = {"name": "k", "scopes": ["publish", "read", "tokens"], "addresses": ["room:a*", "user:alice"]}
    key = (await server.http.post("/v1/keys", json=order)).json()["key"]
    async with httpx.AsyncClient(base_url=server.url, headers={"Authorization": f"Bearer {key}"}) as http:
        for path, status in (
            ("/v1/rooms/a1/events", 200), ("/v1/rooms/b/events", 403), ("/v1/rooms/b/members", 403),
            ("/v1/users/bob/rooms", 403),
        ):  # fmt: skip
            assert (await http.get(path)).status_code == status, path
        for publish, status in ((["room:a*"], 201), (["room:a1"], 201), (["room:*"], 403), (["*"], 403)):
            order = {"user": "alice", "publish": publish}
            assert (await http.post("/v1/tokens", json=order)).status_code == status, publish
        assert (await http.post("/v1/tokens", json={"user": "bob"})).status_code == 403
        assert (await http.put("/v1/rooms/b/members/alice")).status_code == 403


async def test_presence_ends_with_the_right_to_it(server: Server) -> None:
    watcher = {"rooms": ["chat"], "presence": True}
    async with await server.live("alice", claims=watcher, presence="1") as alice:
        await alice.ask("join_room", room="chat", presence=True)
        await alice.ask("refresh_token", token=token("alice", rooms=["chat"]))
        async with await server.live("bob", claims={"rooms": ["chat"]}) as bob:
            await bob.ask("join_room", room="chat")
            assert [f["type"] for f in await alice.quiet()] == []
    assert server.gateway.hub.watchers._watchers == {}


async def test_a_socket_that_goes_while_it_joins_leaves_nothing_behind(server: Server) -> None:
    claims = {"rooms": ["chat"], "presence": True}
    for _ in range(10):
        phone = await server.live("alice", claims=claims)
        await phone.send("join_room", room="chat", presence=True)
        phone.socket.transport.abort()
    await eventually(lambda: server.gateway.count == 0 and not server.gateway._tasks)
    assert server.gateway.hub.watchers._watchers == {}


async def test_many_memberships_change_without_stopping_the_loop(start: Start) -> None:
    """The cost of a join must not grow with the rooms that the user is in already."""
    server = await start()
    rooms = [f"r{n}" for n in range(300)]
    for room in rooms:
        await server.join(room, "alice")
    phones = [await server.live("alice") for _ in range(10)]
    hub = server.gateway.hub
    touched = 0
    original = hub._remove

    def counting(*arguments: object) -> None:
        nonlocal touched
        touched += 1
        original(*arguments)

    hub._remove = counting
    await server.join("one-more", "alice")
    await asyncio.gather(*(phone.until("joined_room", room="one-more") for phone in phones))
    assert touched == 0
    del hub._remove
    await asyncio.gather(*(phone.close() for phone in phones))


async def test_acknowledging_a_long_backlog_one_by_one_is_no_offence(start: Start) -> None:
    server = await start(commands_per_second=5)
    async with await server.live("alice", ack="client") as phone:
        for _ in range(10):
            position = await server.publish("user:alice")
        for n in range(200):
            await phone.send("ack", position=position - 200 + n)
        assert (await phone.ask("ack", position=position))["position"] == position


async def test_a_group_that_ends_with_a_repetition_claims_no_position_that_nobody_has(
    server: Server, db: asyncpg.Connection
) -> None:
    appender = server.service.appender
    known = Unit([Draft("user:a", "t", "1")], producer="p", key="k")
    await appender.append(known)
    fresh = Unit([Draft("user:a", "t", "2")])
    await asyncio.gather(*(appender.append(unit) for unit in (fresh, fresh, known)))
    assert server.gateway.hub.position == await db.fetchval("select tidings.head()")


async def test_an_answer_of_any_kind_is_a_problem_with_the_requests_id(server: Server) -> None:
    wrong = await server.http.put("/v1/events")
    assert (wrong.status_code, wrong.json()["status"]) == (405, 405)
    odd = await server.http.get("/v1/keys", params={"after": "\x00"})
    assert odd.status_code == 422
    for answer in (wrong, odd):
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-request-id"] in answer.json()["instance"]
    missing = await server.http.post("/v1/events", json={"to": "user:a"})
    assert missing.json()["errors"][0]["pointer"] == "#/type"
    unknown = await server.http.post("/v1/events", json={"to": "user:a", "type": "t", "more": 1})
    assert unknown.json()["errors"][0]["pointer"] == "#/more"
