"""The socket's own rules: who gets in, what is answered, what closes it."""

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.harness import Server, eventually, token

Start = Callable[..., Awaitable[Server]]


async def status(server: Server, *, query: dict[str, Any] | None = None, **options: Any) -> int:
    """Try a handshake; return the status it is answered with."""
    try:
        async with connect(server.ws_url(**(query or {})), compression=None, **options):
            return 101
    except InvalidStatus as error:
        refusal = error.response
    assert refusal.headers["content-type"] == "application/problem+json"
    assert json.loads(refusal.body)["status"] == refusal.status_code
    return refusal.status_code


async def test_tokens_come_by_query_header_or_subprotocol(server: Server) -> None:
    good = token("alice")
    assert await status(server, query={"token": good}) == 101
    assert await status(server, additional_headers={"Authorization": f"Bearer {good}"}) == 101
    assert await status(server, subprotocols=["tidings.v1", f"bearer.{good}"]) == 101
    assert await status(server) == 401
    assert await status(server, query={"token": "nonsense"}) == 401
    assert await status(server, query={"token": token("alice", exp=int(time.time()) - 5)}) == 401


async def test_a_browser_learns_by_close_code_why_it_was_refused(server: Server) -> None:
    async with connect(server.ws_url(), subprotocols=["tidings.v1"], compression=None) as ws:
        assert ws.subprotocol == "tidings.v1"
        last = json.loads(await ws.recv())
        assert (last["type"], last["code"], last["reconnect"]) == ("disconnect", 4001, False)
        with pytest.raises(ConnectionClosed):
            await ws.recv()
        assert ws.close_code == 4001


async def test_a_cookie_is_believed_from_an_allowed_origin_only(start: Start) -> None:
    server = await start(cookie="session", origins=("https://app.example",))
    jar = {"Cookie": f"a=b; session={token('alice')}"}
    assert await status(server, additional_headers=jar, origin="https://app.example") == 101
    assert await status(server, additional_headers=jar, origin="https://evil.example") == 403
    assert await status(server, additional_headers=jar, origin="https://app.example.evil.example") == 403
    assert await status(server, additional_headers=jar) == 403
    query = {"token": token("alice")}
    assert await status(server, query=query, origin="https://evil.example") == 403
    assert await status(server, query=query) == 101


@pytest.mark.parametrize(
    "query",
    [{"after": "-1"}, {"after": "x"}, {"ack": "maybe"}, {"device": ""}, {"device": "a\nb"}],
)
async def test_a_query_that_makes_no_sense_is_refused(server: Server, query: dict[str, str]) -> None:
    assert await status(server, query={"token": token("alice"), **query}) == 422


async def test_only_its_own_path_is_a_websocket(server: Server) -> None:
    for path in ("/", "/v1/events", "/v1/ws/more"):
        with pytest.raises(InvalidStatus) as refusal:
            await connect(f"ws://127.0.0.1:{server.port}{path}?token={token('alice')}")
        assert refusal.value.response.status_code == 404


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "malformed"), ("nonsense", "malformed"), ("[]", "invalid"), ("{}", "invalid"),
        ('{"type":5}', "invalid"), ('{"type":"dance"}', "unknown_command"),
        ('{"type":"join_room"}', "invalid"), ('{"type":"join_room","room":"a b"}', "invalid"),
        ('{"type":"join_room","room":"a","more":1}', "invalid"),
        ('{"type":"publish","to":"nobody","event":"e"}', "invalid"),
        ('{"type":"publish","to":"everyone","event":""}', "invalid"),
        ('{"type":"publish","to":"everyone","event":"e","data":' + "[" * 60_000, "malformed"),
        ('{"type":"ack","position":1e400}', "invalid"), ('{"type":"ack","position":"1"}', "invalid"),
    ],
)  # fmt: skip
async def test_a_malformed_frame_is_answered_and_the_socket_lives(
    server: Server, text: str, code: str
) -> None:
    async with await server.live("alice") as phone:
        await phone.socket.send(text)
        answer = await phone.receive()
        assert (answer["type"], answer["code"]) == ("error", code)
        await phone.quiet()


async def test_a_binary_frame_is_answered(server: Server) -> None:
    async with await server.live("alice") as phone:
        await phone.socket.send(b"\x00\x01")
        assert (await phone.receive())["code"] == "invalid"


async def test_an_error_repeats_the_ref(server: Server) -> None:
    async with await server.live("alice") as phone:
        await phone.send("dance", ref="r1")
        assert (await phone.receive())["ref"] == "r1"


async def test_a_message_over_the_limit_closes_with_1009(start: Start) -> None:
    server = await start(max_message=1000)
    async with await server.live("alice") as phone:
        await phone.socket.send("x" * 1001)
        assert await phone.closed() == 1009


async def test_invalid_utf8_closes_with_1007(server: Server) -> None:
    async with await server.live("alice") as phone:
        await phone.socket.send(b"\xff\xfe", text=True)
        assert await phone.closed() == 1007


async def test_too_many_commands_are_refused_and_then_close(start: Start) -> None:
    server = await start(commands_per_second=5)
    async with await server.live("alice") as phone:
        for _ in range(30):
            await phone.socket.send('{"type":"ping"}')
        assert await phone.closed() == 4029
        assert any(f.get("code") == "rate_limited" for f in phone.frames)


async def test_the_oldest_connection_of_a_user_makes_room(start: Start) -> None:
    server = await start(max_connections_per_user=2)
    async with (
        await server.live("alice") as first,
        await server.live("alice") as second,
        await server.live("alice") as third,
    ):
        assert await first.closed() == 4010
        await second.quiet()
        await third.quiet()


async def test_devices_per_user_are_limited(start: Start) -> None:
    server = await start(max_devices_per_user=2)
    for device in ("a", "b", "a"):
        assert await status(server, query={"token": token("alice"), "device": device}) == 101
    assert await status(server, query={"token": token("alice"), "device": "c"}) == 429
    assert server.gateway.count <= 1


async def test_connections_of_an_instance_are_limited(start: Start) -> None:
    server = await start(max_connections=1)
    async with await server.live("alice"):
        assert await status(server, query={"token": token("bob")}) == 503
    await eventually(lambda: server.gateway.count == 0)
    assert await status(server, query={"token": token("bob")}) == 101


async def test_an_end_that_is_far_off_has_no_timer_until_it_comes_near(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start(heartbeat=0.2)
    expires_at = time.time() + 600
    async with await server.live("alice", claims={"exp": expires_at}) as phone:
        [connection] = server.gateway.hub
        assert connection.expiry is None
        ahead = expires_at - time.time() - 0.3
        monkeypatch.setattr("service.gateway.pulse.time", lambda: time.time() + ahead)
        assert await phone.closed() == 4001
        assert time.time() + ahead >= expires_at


async def test_an_end_that_a_leap_of_the_clock_has_passed_is_seen_within_a_heartbeat(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start(heartbeat=0.2)
    monkeypatch.setattr("service.gateway.pulse.MAX_SPOKES", 99_999)  # so far ahead that there is a timer
    async with await server.live("alice") as phone:
        [connection] = server.gateway.hub
        assert connection.expiry is not None
        monkeypatch.setattr("service.gateway.pulse.time", lambda: time.time() + 3600)
        assert await phone.closed() == 4001


async def test_an_expired_token_closes_the_socket_unless_refreshed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start(heartbeat=1.0)
    async with await server.live("alice") as dying, await server.live("alice") as fresh:
        answer = await fresh.ask("refresh_token", token=token("alice", exp=int(time.time()) + 3600))
        assert answer["type"] == "ok"
        monkeypatch.setattr("service.gateway.pulse.time", lambda: time.time() + 1800)
        assert await dying.closed() == 4001
        await fresh.quiet()


async def test_a_dead_link_is_closed_and_a_quiet_one_is_not(start: Start) -> None:
    server = await start(heartbeat=0.4)
    async with await server.live("alice") as quiet:
        raw = socket.create_connection(("127.0.0.1", server.port))
        raw.sendall(_upgrade(token("bob")))
        connection = await eventually(lambda: next(iter(server.gateway.hub.users.get("bob", ())), None))
        # It is never read from nor written to again: a peer whose network is gone.
        await eventually(lambda: connection.state.value == "closed")
        raw.close()
        assert (await quiet.until("ping"))["ts"] > 0
        await quiet.quiet()


def _upgrade(presented: str) -> bytes:
    return (
        f"GET /v1/ws?token={presented} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


async def test_a_ping_is_answered_with_its_payload(server: Server) -> None:
    async with await server.live("alice") as phone:
        await (await phone.socket.ping(b"are you there"))
        await phone.send("ping", ts=7, ref=1)
        assert await phone.receive() == {"type": "pong", "ts": 7, "ref": 1}


async def test_a_ping_flood_from_a_peer_that_does_not_read_is_bounded(start: Start) -> None:
    server = await start(write_buffer=4096)
    raw = socket.create_connection(("127.0.0.1", server.port))
    raw.sendall(_upgrade(token("alice")))
    connection = await eventually(lambda: next(iter(server.gateway.hub.users.get("alice", ())), None))
    await eventually(lambda: connection.state.value == "live")
    raw.settimeout(0)
    ping = b"\x89\xfd" + b"\x00" * 4 + b"p" * 125
    sent = 0
    while sent < 20_000_000:
        try:
            sent += raw.send(ping * 500)
        except BlockingIOError:
            if connection.paused:
                break
        await asyncio.sleep(0)
        assert connection.transport.get_write_buffer_size() < 300_000
    assert connection.transport.get_write_buffer_size() < 300_000
    raw.close()
    await eventually(lambda: connection.state.value == "closed")


async def test_frames_split_anywhere_are_read(server: Server) -> None:
    raw = socket.create_connection(("127.0.0.1", server.port))
    raw.sendall(_upgrade(token("alice")))
    await eventually(lambda: "alice" in server.gateway.hub.users)
    text = b'{"type":"dance","ref":"split"}'
    frame = bytes([0x81, 0x80 | len(text)]) + b"\x00" * 4 + text
    for byte in frame:
        raw.sendall(bytes([byte]))
        await asyncio.sleep(0)
    received = b""
    while b'"ref":"split"' not in received:
        received += await asyncio.to_thread(raw.recv, 4096)
    raw.close()


async def test_a_drain_sends_everyone_away_to_come_back(start: Start) -> None:
    server = await start(drain_timeout=3)
    async with await server.live("alice") as phone:
        await server.gateway.drain(0.0, 3.0)
        assert await phone.closed() == 1012
        first, last = (f for f in phone.frames if f["type"] == "disconnect")
        assert (first["code"], first["reconnect"]) == (last["code"], last["reconnect"]) == (1012, True)
        assert 0 <= first["retry_after_ms"] <= 2700
        assert last["retry_after_ms"] == 0
    assert (await server.http.get("/readyz")).status_code == 503
    assert await status(server, query={"token": token("bob")}) == 503


async def test_who_is_sent_away_is_served_until_they_are_at_home_elsewhere(start: Start) -> None:
    server, other = await start(), await start()
    async with await server.live("alice") as phone:
        drain = asyncio.create_task(server.gateway.drain(0.0, 30.0))
        await phone.until("disconnect")
        position = await other.publish("user:alice")
        await phone.until("event", position=position)
        async with await other.live("alice") as again:
            position = await other.publish("user:alice")
            await again.until("event", position=position)
            await phone.until("event", position=position)
            await phone.close()
            await drain  # long before the end of its window: everyone has left
    assert server.gateway.count == 0


async def test_the_server_closes_when_the_client_does(server: Server) -> None:
    phone = await server.live("alice")
    await phone.socket.close(1000, "bye")
    assert phone.socket.close_code == 1000
    await eventually(lambda: server.gateway.count == 0)
    assert list(server.gateway.hub) == []
