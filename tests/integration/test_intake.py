"""Events come in by a short way and by a general one: both answer alike, whatever comes in what pieces."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import asyncpg
import pytest

from service.api import intake
from service.api.http import MAX_WAITING
from service.api.intake import Intake
from service.domain.events import Outcome, Unit
from service.domain.request import MAX_HEAD
from service.door import Door
from service.stream.appender import Appender
from tests.harness import ADMIN_KEY, PATIENCE, Server, eventually

Start = Callable[..., Awaitable[Server]]

EVENT = {"to": "user:a", "type": "t"}
# The short way leaves whatever has to do with CORS to the routes.
GENERAL = "Origin: https://elsewhere.example\r\n"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: Any


class Client:
    """A connection on which a test decides what is sent when."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)

    async def answer(self) -> Answer:
        async with asyncio.timeout(PATIENCE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in head[1:] if line)}
            body = await self.reader.readexactly(int(headers["content-length"]))
        return Answer(int(head[0].split()[1]), headers, json.loads(body))

    async def ended(self) -> bool:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read() == b""


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        await writer.wait_closed()


def post(body: Any, *, path: str = "/v1/events", key: str = ADMIN_KEY, extra: str = "") -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {key}\r\n{extra}"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode("latin-1") + content


def the_intake(server: Server) -> Any:
    return next((c for c in server.state.connections if isinstance(c, Intake)), None)


async def asked(server: Server, request: bytes) -> Answer:
    async with connected(server) as client:
        client.send(request)
        return await client.answer()


# --- Alike by both ways


@pytest.mark.parametrize("body", [
    EVENT,
    {"to": ["user:a", "room:r"], "type": "t", "id": "given", "exclude": ["b"], "data": {"a": "é"}},
    {"to": "nobody", "type": "t"},
    {"to": "user:a", "type": "t", "data": "x" * 40_000},
    {"to": "user:a", "type": "t", "nonsense": 1},
    b"no json",
    b'{"to": "user:\xff", "type": "t"}',
    b"",
])  # fmt: skip
async def test_both_ways_answer_alike(server: Server, body: Any) -> None:
    short = await asked(server, post(body, extra="X-Request-Id: mine\r\n"))
    general = await asked(server, post(body, extra="X-Request-Id: mine\r\n" + GENERAL))
    assert short.status == general.status
    for name in ("content-type", "x-request-id", "date", "www-authenticate", "retry-after"):
        assert (name in short.headers) == (name in general.headers)
    assert short.headers["content-type"] == general.headers["content-type"]
    assert short.headers["x-request-id"] == "mine"
    if short.status != 202:
        assert short.body == general.body
    elif isinstance(body, dict) and "id" in body:
        assert short.body == general.body
        assert general.headers["idempotent-replayed"] == "true"
        again = await asked(server, post(body))
        assert (again.body, again.headers["idempotent-replayed"]) == (short.body, "true")


@pytest.mark.parametrize("extra", ["", GENERAL])
async def test_a_key_is_asked_for_before_the_body_is_waited_for(server: Server, extra: str) -> None:
    made = await server.http.post("/v1/keys", json={"name": "p", "scopes": ["read"]})
    for key, status, code in [("wrong", 401, "unauthorized"), (made.json()["key"], 403, "forbidden")]:
        head = post(b"", key=key, extra=extra).replace(b"Length: 0", b"Length: 100000")
        answer = await asked(server, head)
        assert (answer.status, answer.body["code"]) == (status, code)
    none = post(b"").replace(f"Authorization: Bearer {ADMIN_KEY}\r\n".encode(), extra.encode())
    answer = await asked(server, none)
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize("extra", ["", GENERAL])
async def test_a_refusal_is_read_whatever_of_the_body_is_still_to_come(server: Server, extra: str) -> None:
    refused = post(b"x" * 1_000_000, key="wrong", extra=extra)
    async with connected(server) as client:
        client.send(refused)
        await client.writer.drain()
        assert (await client.answer()).status == 401
        client.send(post(EVENT, extra=extra))
        assert (await client.answer()).status == 202


async def test_a_key_that_died_before_the_body_came_is_refused(
    server: Server, db: asyncpg.Connection
) -> None:
    made = (await server.http.post("/v1/keys", json={"name": "p", "scopes": ["publish"]})).json()
    request = post(EVENT, key=made["key"])
    async with connected(server) as client:
        client.send(request[:-5])
        await eventually(lambda: the_intake(server) and the_intake(server)._head)
        assert (await server.http.delete(f"/v1/keys/{made['id']}")).status_code == 204
        client.send(request[-5:])
        assert (await client.answer()).status == 401
    assert await db.fetchval("select count(*) from tidings.events where kind = 'event'") == 0


async def test_a_key_is_limited_to_its_addresses(server: Server, db: asyncpg.Connection) -> None:
    order = {"name": "p", "scopes": ["publish"], "addresses": ["room:shop.*"]}
    key = (await server.http.post("/v1/keys", json=order)).json()["key"]
    assert (await asked(server, post({"to": "room:shop.a", "type": "t"}, key=key))).status == 202
    refused = await asked(server, post({"to": ["room:shop.a", "user:a"], "type": "t"}, key=key))
    assert (refused.status, refused.body["code"]) == (403, "forbidden")
    assert await db.fetchval("select count(*) from tidings.events where kind = 'event'") == 1


async def test_what_goes_wrong_inside_is_told_without_a_trace(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a secret")

    async with connected(server) as client:
        with monkeypatch.context() as patched:
            patched.setattr(intake, "read_post", broken)
            client.send(post(EVENT))
            answer = await client.answer()
        assert (answer.status, answer.body["code"]) == (500, "internal")
        assert "secret" not in json.dumps(answer.body)
        client.send(post({"events": [EVENT]}, path="/v1/events/batch"))
        assert (await client.answer()).status == 202


# --- In pieces, and one after the other


async def test_requests_that_do_not_wait_are_answered_in_order(server: Server) -> None:
    ids = [f"e{n}" for n in range(20)]
    requests = [post({**EVENT, "id": event_id}) for event_id in ids]
    requests[7] = post({"to": "nobody", "type": "t"})
    async with connected(server) as client:
        client.send(b"".join(requests) + b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n" + requests[0])
        answers = [await client.answer() for _ in range(22)]
    assert [a.status for a in answers] == [202] * 7 + [422] + [202] * 12 + [200, 202]
    told = [a.body["events"][0]["id"] for a in answers[:20] if a.status == 202]
    assert told == ids[:7] + ids[8:]
    assert answers[21].body == answers[0].body


async def test_thousands_in_one_piece_are_answered(server: Server) -> None:
    many = 1500
    async with connected(server) as client:
        client.send((post(b"") + post(b"", key="wrong")) * many)
        for _ in range(many):
            assert (await client.answer()).status == 400
            assert (await client.answer()).status == 401


@pytest.mark.parametrize("extra", ["", GENERAL])
async def test_a_head_is_cut_behind_much_else(server: Server, extra: str) -> None:
    """Neither way takes what stood before a head for a part of it."""
    request = post({**EVENT, "data": "x" * 2000}, extra=extra)
    many = MAX_HEAD // len(request) + 10
    assert many < MAX_WAITING
    async with connected(server) as client:
        client.send(request * many + request[:40])
        for _ in range(many):
            assert (await client.answer()).status == 202
        client.send(request[40:])
        assert (await client.answer()).status == 202
        assert (the_intake(server) is None) == bool(extra)


async def test_a_request_comes_in_pieces(server: Server) -> None:
    request = post({**EVENT, "data": "é" * 1000})
    body_at = request.index(b"\r\n\r\n") + 4
    for cuts in ([body_at + 10, body_at + 500], [5, body_at - 2], [body_at - 2, body_at], [body_at]):
        async with connected(server) as client:
            for begin, end in zip([0, *cuts], [*cuts, len(request)], strict=True):
                before = server.service.follower.hub.position
                client.send(request[begin:end])
                await client.writer.drain()
                await server.http.get("/healthz")  # it has been taken in by now
                if end < len(request):
                    assert server.service.follower.hub.position == before
            assert (await client.answer()).status == 202


async def test_reading_stops_while_much_waits_for_an_answer(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MAX_AHEAD", 100)
    held: list[asyncio.Future[list[Outcome]]] = []

    def hold(_: Appender, units: list[Unit], once: None) -> asyncio.Future[list[Outcome]]:
        held.append(asyncio.get_running_loop().create_future())
        return held[-1]

    monkeypatch.setattr(Appender, "submit", hold)
    async with connected(server) as client:
        client.send(post(EVENT))
        await eventually(lambda: held)
        connection = the_intake(server)
        client.send(post(EVENT) * 3)
        await eventually(lambda: not connection._transport.is_reading())
        for number in range(4):
            assert len(held) == number + 1
            held[number].set_result([Outcome(number + 1, 1)])
            assert (await client.answer()).body["events"][0]["position"] == number + 1
        assert connection._transport.is_reading()


# --- Who stays


async def test_an_idle_connection_is_closed(start: Start) -> None:
    server = await start(keep_alive=0.05)
    async with connected(server) as client:
        client.send(post(EVENT))
        assert (await client.answer()).status == 202
        assert await client.ended()


async def test_a_body_that_never_comes_is_not_waited_for(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "BODY_TIMEOUT", 0.05)
    async with connected(server) as client:
        client.send(post(EVENT)[:-5])
        await eventually(lambda: the_intake(server))
        the_intake(server)._close_if_idle()
        assert await client.ended()


async def test_who_says_nothing_is_closed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.door.HEAD_TIMEOUT", 0.05)
    async with connected(server) as client:
        assert await client.ended()


async def test_a_stop_waits_for_the_answer_and_closes_the_rest(start: Start) -> None:
    server = await start()
    async with connected(server) as busy, connected(server) as idle, connected(server) as silent:
        idle.send(post(EVENT))
        assert (await idle.answer()).status == 202
        request = post(EVENT)
        busy.send(request[:-5])
        await eventually(lambda: sum(isinstance(c, Intake) for c in server.state.connections) == 2)
        await eventually(lambda: any(isinstance(c, Door) for c in server.state.connections))
        for connection in list(server.state.connections):
            connection.shutdown()
        assert await idle.ended()
        assert await silent.ended()
        busy.send(request[-5:])
        answer = await busy.answer()
        assert (answer.status, answer.headers["connection"]) == (202, "close")
        assert await busy.ended()


# --- Batches


def batch(*events: dict[str, Any]) -> bytes:
    return post({"events": events}, path="/v1/events/batch")


async def test_a_batch_stands_in_its_order_in_one_commit(server: Server, db: asyncpg.Connection) -> None:
    device = await server.live("a")
    answer = await asked(server, batch(
        {"to": "user:a", "type": "one"},
        {"to": ["user:b", "user:a"], "type": "two"},
        {"to": "user:a", "type": "three", "id": "given"},
        {"to": "user:a", "type": "four"},
    ))  # fmt: skip
    events = answer.body["events"]
    first = events[0]["position"]
    assert [e["position"] for e in events] == list(range(first, first + 5))
    assert [e["to"] for e in events] == ["user:a", "user:b", "user:a", "user:a", "user:a"]
    assert [e["id"] for e in events] == [str(first), str(first + 1), str(first + 1), "given", str(first + 4)]
    got = await device.events(4)
    assert [(f["event"], f["id"]) for f in got] == [
        ("one", str(first)), ("two", str(first + 1)), ("three", "given"), ("four", str(first + 4)),
    ]  # fmt: skip
    commits = await db.fetchval("select count(distinct batch) from tidings.events where kind = 'event'")
    assert commits == 1
    await device.close()


async def test_of_a_batch_with_a_fault_nothing_is_stored(server: Server, db: asyncpg.Connection) -> None:
    for bad, pointer in [
        ({"to": "user:a", "type": ""}, "#/events/1/type"),
        ({"to": ["user:a", "x"], "type": "t"}, "#/events/1/to/1"),
        ({"to": "user:a"}, "#/events/1/type"),
        ({"to": "user:a", "type": "t", "more": 1}, "#/events/1/more"),
        ({"to": "user:a", "type": "t", "data": "x" * 40_000}, "#/events/1/data"),
    ]:
        answer = await asked(server, batch(EVENT, bad, EVENT))
        assert answer.body["errors"][0]["pointer"] == pointer
    assert await db.fetchval("select count(*) from tidings.events where kind = 'event'") == 0


async def test_a_batch_has_bounds(server: Server) -> None:
    assert (await asked(server, batch())).status == 422
    assert (await asked(server, batch(*[EVENT] * 1000))).status == 202
    assert (await asked(server, batch(*[EVENT] * 1001))).status == 422
    wide = {"to": [f"user:{n}" for n in range(1000)], "type": "t"}
    assert (await asked(server, batch(*[wide] * 5))).status == 202
    assert (await asked(server, batch(*[wide] * 5, EVENT))).status == 413


async def test_ids_of_a_batch_are_accepted_once(server: Server, db: asyncpg.Connection) -> None:
    given = {"to": "user:a", "type": "t", "id": "e1"}
    first = await asked(server, post(given))
    answer = await asked(server, batch(EVENT, given, {**given, "id": "e2"}))
    assert answer.headers["idempotent-replayed"] == "true"
    assert answer.body["events"][1] == first.body["events"][0]
    rows = await db.fetch("select id from tidings.events where kind = 'event' order by position")
    assert [row["id"] for row in rows] == ["e1", None, "e2"]
    assert (await asked(server, batch(given, given))).status == 422


async def test_batches_with_the_same_ids_at_once_store_them_once(
    server: Server, db: asyncpg.Connection
) -> None:
    many = batch(*({**EVENT, "id": f"e{n}"} for n in range(50)))
    answers = await asyncio.gather(*(asked(server, many) for _ in range(8)))
    assert {a.status for a in answers} == {202}
    assert len({json.dumps(a.body) for a in answers}) == 1
    assert await db.fetchval("select count(*) from tidings.events where kind = 'event'") == 50


async def test_a_value_the_database_refuses_takes_its_whole_batch_along(
    server: Server, db: asyncpg.Connection
) -> None:
    """Here text with a NUL, which JSON may escape and PostgreSQL's text cannot hold."""
    bad = {"to": "user:a", "type": "t", "id": "n\u0000"}
    answers = await asyncio.gather(
        asked(server, batch(EVENT, {**EVENT, "id": "good"})), asked(server, batch(EVENT, bad))
    )
    assert [a.status for a in answers] == [202, 422]
    assert await db.fetchval("select count(*) from tidings.events where kind = 'event'") == 2
