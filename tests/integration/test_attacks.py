"""Attacks by numbers and by patience: each has a bound, and a client that behaves goes on meanwhile."""

import asyncio
import json
import os
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from proof.hostile import Run, alarms
from proof.malice import CANARY
from service.api import access, http, intake
from service.api.http import MAX_WAITING, Http
from service.api.intake import MAX_AHEAD, Intake
from service.domain.request import MAX_FIELDS
from service.domain.websocket import AT_ONCE, FrameReader
from service.gateway.websocket import WebSocket
from service.observe import logs
from tests.harness import ADMIN_KEY, PATIENCE, SECRET, Server, eventually, token
from tests.integration.test_hostility import upgrade

Start = Callable[..., Awaitable[Server]]

MASKED = b"\0\0\0\0"
BODY = b'{"to":"user:x","type":"t"}'
POST = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % len(BODY)
AUTHORIZED = b"Authorization: Bearer %s\r\n" % ADMIN_KEY.encode()


async def opened(server: Server, first: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(first)
    return reader, writer


async def ended(reader: asyncio.StreamReader) -> bytes:
    """Read until the server is gone; return what it said."""
    said = b""
    async with asyncio.timeout(PATIENCE):
        try:
            while data := await reader.read(65536):
                said = (said + data)[-65536:]
        except ConnectionError:
            pass
    return said


def resident() -> int:
    """Return the bytes that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


FLOODS = {
    "pings": b"\x89\x80" + MASKED,
    "pongs": b"\x8a\x80" + MASKED,
    "fragments": b"\x00\x80" + MASKED,
    "acks": b"\x81\x9b" + MASKED + b'{"type":"ack","position":0}',
}


@pytest.mark.parametrize("flood", FLOODS)
async def test_a_flood_of_frames_is_read_in_turns(
    server: Server, flood: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libuv reads 32 chunks before it looks at anybody else: that were a million pings, and four seconds."""
    read = 0
    for kind, name in ((WebSocket, "_receive"), (FrameReader, "_begin")):
        original = getattr(kind, name)

        def counted(*arguments: Any, original: Callable[..., None] = original) -> None:
            nonlocal read
            read += 1
            original(*arguments)

        monkeypatch.setattr(kind, name, counted)
    async with await server.live("alice") as phone:
        reader, writer = await opened(server, upgrade(token("mallory")))
        await reader.readuntil(b'"live"')
        (mallory,) = (c for c in server.gateway.hub if c.user == "mallory")
        begun = b"\x01\x80" + MASKED if flood == "fragments" else b""
        writer.write(begun + FLOODS[flood] * 50_000)
        await eventually(lambda: mallory.slowed)
        most, end = 0, time.monotonic() + 0.5
        while time.monotonic() < end:
            before = read
            await asyncio.sleep(0)
            most = max(most, read - before)
        assert 0 < most <= 4 * AT_ONCE
        await phone.ask("ping", ts=1)
        writer.transport.abort()
    await eventually(lambda: server.gateway.count == 0)


def test_a_call_reads_so_many_frames_and_loses_none() -> None:
    rng, frames = Random(1), 10 * AT_ONCE + 7
    stream = b"".join(b"\x8a\x81" + MASKED + rng.randbytes(1) for _ in range(frames))
    reader = FrameReader(100)
    messages = reader.feed(stream[: len(stream) // 2])
    assert len(messages) == AT_ONCE
    assert reader.waiting
    assert not reader.idle
    messages += reader.feed(stream[len(stream) // 2 :])
    while reader.waiting:
        more = reader.feed(b"")
        assert len(more) <= AT_ONCE
        messages += more
    assert len(messages) == frames
    assert reader.idle


async def test_what_waits_behind_a_flood_is_answered_all_the_same(server: Server) -> None:
    reader, writer = await opened(server, upgrade(token("alice")))
    await reader.readuntil(b'"live"')
    writer.write((b"\x89\x80" + MASKED) * 3000 + b"\x89\x84" + MASKED + b"last")
    async with asyncio.timeout(PATIENCE):
        await reader.readuntil(b"\x8a\x04last")
    writer.transport.abort()


@pytest.mark.parametrize("requests", [
    b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /nowhere HTTP/1.1\r\nHost: x\r\nOrigin: y\r\n\r\n",
])  # fmt: skip
async def test_requests_in_a_row_do_not_pile_up(
    server: Server, requests: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a gigabyte in three seconds, without any key, and everybody else waited for a second."""
    longest = 0
    original = Http.on_headers_complete

    def watched(protocol: Http) -> None:
        nonlocal longest
        original(protocol)
        longest = max(longest, len(protocol.pipeline))

    monkeypatch.setattr(Http, "on_headers_complete", watched)
    reader, writer = await opened(server, requests * 5000)
    assert b"400 Bad Request" in await ended(reader)
    assert 0 < longest <= MAX_WAITING
    writer.transport.abort()


async def test_refused_events_in_a_row_do_not_pile_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    most, many, answered, rest = 0, 8000, 0, b""
    original = Intake.data_received

    def watched(intake: Intake, data: bytes) -> None:
        nonlocal most
        most = max(most, len(intake._data) - intake._at)
        original(intake, data)

    monkeypatch.setattr(Intake, "data_received", watched)
    reader, writer = await opened(server, (POST + b"\r\n" + BODY) * many)
    async with asyncio.timeout(60):
        while answered < many:
            data = rest + await reader.read(1 << 20)
            answered += data.count(b" 401 ")
            rest = data[-4:]
    writer.transport.abort()
    assert most <= MAX_AHEAD, "nothing more is read where enough waits"


@pytest.mark.parametrize("way", ["routes", "client", "events"])
async def test_a_head_has_so_many_fields(server: Server, way: str) -> None:
    head = {
        "routes": b"GET /healthz HTTP/1.1\r\nHost: x\r\n",
        "client": upgrade(token("alice"))[:-2],
        "events": POST + AUTHORIZED,
    }[way]
    fields = b"".join(b"a%d:\r\n" % n for n in range(MAX_FIELDS))
    reader, writer = await opened(server, head + fields + b"\r\n" + BODY)
    async with asyncio.timeout(PATIENCE):
        assert b" 400 " in await reader.readuntil(b"\r\n")
    writer.transport.abort()


SLOW = {
    "head": b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ",
    "event's head": POST[:40],
    "second head": POST + AUTHORIZED + b"\r\n" + BODY + POST,
    "body": POST + AUTHORIZED + b"\r\n",
    "body of another": b"POST /v1/keys HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n" + AUTHORIZED + b"\r\n",
    "body that nobody wants": b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n",
    "body of a stranger": b"POST /v1/keys HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n",
    "event of a stranger": POST + b"\r\n",
}


@pytest.mark.parametrize("attack", SLOW)
async def test_who_sends_a_byte_now_and_then_is_closed(
    start: Start, attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte is a sign of life; the request as a whole has a time all the same."""
    for module in ("service.api.http", "service.api.intake", "service.door"):
        monkeypatch.setattr(f"{module}.HEAD_TIMEOUT", 0.3)
    for module in (access, intake, http):
        monkeypatch.setattr(module, "BODY_TIMEOUT", 0.3)
    server = await start(keep_alive=0.3)
    reader, writer = await opened(server, SLOW[attack])
    reading = asyncio.create_task(ended(reader))
    async with asyncio.timeout(PATIENCE):
        while not reading.done():
            writer.write(b"x")
            await asyncio.sleep(0.02)
    await eventually(lambda: not server.state.connections)
    writer.transport.abort()


@pytest.mark.parametrize("request_", [
    b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n", POST + b"\r\n" + BODY,
], ids=["routes", "events"])  # fmt: skip
async def test_who_never_reads_answers_is_closed(
    server: Server, request_: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (http, intake):
        monkeypatch.setattr(module, "UNREAD_TIMEOUT", 0.2)
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        raw.setblocking(False)  # noqa: FBT003 - it takes no name
        loop = asyncio.get_running_loop()
        await loop.sock_connect(raw, ("127.0.0.1", server.port))

        if request_.startswith(b"GET"):
            await loop.sock_sendall(raw, request_ * 40)
        else:
            with pytest.raises(ConnectionError):  # noqa: PT012 - it ends by being cut off
                while True:
                    await loop.sock_sendall(raw, request_ * 20)
                    await asyncio.sleep(0.001)
        await eventually(lambda: not server.state.connections)


async def test_half_open_connections_cost_little_and_end(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("service.door", "service.api.http"):
        monkeypatch.setattr(f"{module}.HEAD_TIMEOUT", 1.0)
    before = resident()
    async with await server.live("alice") as phone:
        raws = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(1000)]
        for n, raw in enumerate(raws):
            raw.send(b"GET /v1/ws?token=" if n % 2 else b"") if n % 4 else None
        for n in range(5):
            await server.publish("user:alice", data=n)
            await phone.until("event", data=n)
        assert resident() - before < 40_000 * len(raws)
        await eventually(lambda: len(server.state.connections) <= 1)  # that which publishes
        for raw in raws:
            raw.close()


async def test_oversized_everything_is_refused(server: Server) -> None:
    """By its size alone; nothing of it is stored, and nothing falls over."""
    huge = "x" * 40_000
    event = {"to": "user:a", "type": "t"}
    deep: object = 0
    for _ in range(900):
        deep = [deep]
    for wrong in (
        {"to": "user:" + "a" * 257}, {"to": "room:" + "r" * 129}, {"to": ["user:a"] * 1001}, {"type": huge},
        {"data": huge}, {"id": huge}, {"ttl": 10**400}, {"collapse_key": huge}, {"exclude": ["user:a"] * 101},
        {"data": {f"k{n}": "v" * 20 for n in range(2000)}},
    ):  # fmt: skip
        answer = await server.http.post("/v1/events", content=json.dumps(event | wrong))
        assert answer.status_code in {400, 413, 422}, wrong
    assert (await server.http.post("/v1/events", content=b"[" * 100_000)).status_code in {400, 422}
    assert (await server.http.post("/v1/events", json=event | {"data": deep})).status_code in {202, 400, 422}
    for target in ("/v1/rooms/" + "r" * 129 + "/members", "/v1/users/" + "u" * 257 + "/rooms"):
        assert (await server.http.get(target)).status_code == 422
    for query in ({"device": "d" * 129}, {"after": "9" * 17}, {"token": huge[:9000]}):
        with pytest.raises(Exception, match="HTTP 4"):
            await server.device("alice", **query)
    async with await server.live("alice") as phone:
        await phone.socket.send("x" * 65_537)
        assert await phone.closed() == 1009


async def test_fuzzed_inputs_of_every_kind(start: Start, tmp_path: Path) -> None:
    """A small round of ``python -m proof hostility``, its log at DEBUG: no failure, no secret in it."""
    log = tmp_path / "log"
    with log.open("w") as stream:
        logs.configure("DEBUG", "json", secrets=[SECRET, ADMIN_KEY], stream=stream)
        try:
            server = await start(
                commands_per_second=1_000_000, user_rate=0, cookie="sid", origins=("https://a",)
            )
            run = Run("127.0.0.1", server.port, SECRET, ADMIN_KEY, seed=1, count=8000)
            await run.run()
        finally:
            logs.configure("WARNING", "auto")
    found = list(alarms(log, [CANARY, SECRET, ADMIN_KEY]))
    assert run.failures + found == []
    assert set(run.tried) == {"head", "body", "target", "header", "token", "frames"}


async def test_who_upgrades_a_connection_that_was_used_before_may_be_silent_on_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As proxies do that use connections again: what bounds the next head is not for sockets."""
    for module in ("service.api.http", "service.door"):
        monkeypatch.setattr(f"{module}.HEAD_TIMEOUT", 0.2)
    reader, writer = await opened(server, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b'{"status":"alive"}')
    writer.write(upgrade(token("alice")))
    await reader.readuntil(b'"live"')
    idle, waiting = await opened(server)
    await ended(idle)  # so the time is over
    waiting.transport.abort()
    await server.publish("user:alice", "still there")
    await reader.readuntil(b"still there")
    writer.transport.abort()
