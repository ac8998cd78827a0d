"""Server-Sent Events: the stream of a socket, its rights and its limits, as text over HTTP."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import httpx
import pytest

from service.api.http import Http
from service.domain.events import Draft, Unit
from service.gateway.sse import STAY_AWAY
from service.gateway.subscription import PAUSES
from tests.eventsource import EventSource, listening, request, subscribe
from tests.harness import Device, Server, eventually, token

Start = Callable[..., Awaitable[Server]]


async def cursor_of(db: asyncpg.Connection, user: str, device: str = "default") -> int:
    value: int = await db.fetchval(
        "select cursor from tidings.devices where user_id = $1 and device = $2", user, device
    )
    return value


async def stored(db: asyncpg.Connection, position: int, user: str = "alice", device: str = "default") -> None:
    async def is_there() -> bool:
        return await cursor_of(db, user, device) == position

    await eventually(is_there)


async def refusal(server: Server, user: str = "", **more: Any) -> tuple[int, str]:
    async with await subscribe(server, user, **more) as source:
        assert source.headers["content-type"] == "application/problem+json"
        assert source.headers["connection"] == "close"
        problem = await source.body()
        assert problem["status"] == source.status
        assert problem["instance"].endswith(source.headers["x-request-id"])
        return source.status, problem["code"]


# The stream


async def test_what_was_posted_before_and_after_arrives_with_its_position_as_id(server: Server) -> None:
    one = await server.publish("user:alice", "order.shipped", {"order": 42})
    async with await listening(server, "alice") as source:
        two = await server.publish("user:alice", data="é")
        await source.until("event", position=two)
    assert [f["type"] for f in source.frames] == ["welcome", "event", "live", "event"]
    assert source.ids == ["0", str(one), str(one), str(two)]
    assert (source.frames[0]["user"], source.frames[0]["device"]) == ("alice", "default")
    assert source.frames[1]["data"] == {"order": 42}
    assert PAUSES[0] <= source.parser.retry <= PAUSES[1]


async def test_the_response_is_for_browsers_and_for_proxies(server: Server) -> None:
    async with await subscribe(server, "alice", headers={"X-Request-Id": "mine"}) as source:
        assert source.status == 200
        expected = {
            "content-type": "text/event-stream", "cache-control": "no-store", "x-accel-buffering": "no",
            "connection": "close", "x-request-id": "mine",
        }  # fmt: skip
        assert source.headers.items() >= expected.items()
        assert not {"content-length", "transfer-encoding", "access-control-allow-origin"} & set(
            source.headers
        )
        assert "date" in source.headers


async def test_sockets_and_streams_at_once_get_the_same_frames(start: Start) -> None:
    server = await start(recent_bytes=20_000)
    await server.join("r", "alice", "bob", "carol", "dave")
    async with (
        await server.live("alice") as alice,
        await server.live("bob") as bob,
        await listening(server, "carol") as carol,
        await listening(server, "dave") as dave,
    ):
        for n in range(100):
            await server.publish("room:r", data={"n": n})
            if n % 10 == 0:
                await server.publish(["room:r", "everyone"], data="both\u2028")
                await server.publish("room:r", data="but two", exclude=["bob", "dave"])
        end = await server.publish("everyone", data="end")
        for each in (alice, bob, carol, dave):
            await each.until("event", position=end)
    assert len(events(alice)) == 131
    assert events(carol) == events(alice)
    assert events(dave) == events(bob) == [e for e in events(alice) if e["data"] != "but two"]
    async with await listening(server, "carol", after=0) as again:
        assert events(again) == events(carol)


def events(receiver: Device | EventSource) -> list[dict[str, Any]]:
    return [f for f in receiver.frames if f["type"] == "event"]


@pytest.mark.parametrize(
    "data", ['{\n  "a": [1,\n 2]\n}', "[1,\r2,\r\n3,\n\n\r\r4\n]", '"\u2028 \\n \x7f é 🎉"']
)
async def test_line_ends_and_whatever_else_in_data_keep_within_their_message(
    server: Server, data: str
) -> None:
    async with await listening(server, "alice") as source, await server.live("bob") as phone:
        body = f'{{"to":["user:alice","user:bob","everyone"],"type":"t","data":{data}}}'.encode()
        headers = {"content-type": "application/json"}
        assert (await server.http.post("/v1/events", content=body, headers=headers)).status_code == 202
        after = await server.publish("everyone", data="after")
        await source.until("event", position=after)
        await phone.until("event", position=after)
    live = source.texts[2:4]
    async with await listening(server, "alice", after=0) as again:
        assert again.texts[1:3] == live
    normal = data.replace("\r\n", "\n").replace("\r", "\n")
    assert [normal in text for text in live] == [True, True]
    assert source.frames[3] == [f for f in phone.frames if f["type"] == "event"][1]


async def test_membership_presence_and_joins_at_connect_come_as_on_a_socket(server: Server) -> None:
    claims = {"presence": True, "join": ["r", "s"], "rooms": ["r"]}
    async with await subscribe(server, "alice", claims=claims, presence=1) as source:
        joined = await source.until("joined_room", room="r")
        assert source.ids[-1] == str(joined["position"])
        async with await server.live("bob"):
            assert (await source.until("user_connected"))["user"] == "bob"
        await source.until("user_disconnected")
        assert source.ids[-1] == str(joined["position"])
        await server.http.delete("/v1/rooms/r/members/alice")
        await source.until("left_room", room="r")
    assert any(f["type"] == "error" and f["code"] == "forbidden" for f in source.frames)


# Coming back


async def test_last_event_id_gives_exactly_the_rest_and_is_an_acknowledgement(
    server: Server, db: asyncpg.Connection
) -> None:
    sent = [await server.publish("user:alice", data=n) for n in range(5)]
    async with await listening(server, "alice") as source:
        assert source.positions == sent
    async with await listening(server, "alice") as again:
        assert again.positions == sent, "what a stream was sent is not acknowledged by that"
    back = {"Last-Event-ID": str(sent[2])}
    async with await listening(server, "alice", headers=back, after=sent[0]) as again:
        assert again.positions == sent[3:]
        assert again.ids[0] == str(sent[2])
        await stored(db, sent[2])
    async with await listening(server, "alice", headers={"Last-Event-ID": str(sent[0])}) as again:
        assert again.positions == sent[1:]
    async with await listening(server, "alice") as again:
        assert again.positions == sent[3:]
    assert await cursor_of(db, "alice") == sent[2]


async def test_a_stream_resumes_by_its_log_and_position(server: Server, db: asyncpg.Connection) -> None:
    sent = [await server.publish("user:alice", data=n) for n in range(3)]
    async with await listening(server, "alice") as source:
        log = source.frames[0]["log"]
    async with await listening(server, "alice", resume=f"{log}:{sent[1]}") as again:
        assert again.positions == sent[2:]
        await stored(db, sent[1])


async def test_what_was_acknowledged_by_coming_back_has_been_received(server: Server) -> None:
    async with await listening(server, "alice") as source:
        sent = await server.publish("user:alice")
        await source.until("event", position=sent)
    assert await state_of(server, sent) == "pending"
    async with await listening(server, "alice", headers={"Last-Event-ID": source.parser.last_id}):
        assert await state_of(server, sent) == "received"
    passed_over = await server.publish("user:alice")
    async with await listening(server, "alice", after=passed_over):
        assert await state_of(server, passed_over) == "skipped"
        assert await state_of(server, sent) == "received"


async def state_of(server: Server, position: int) -> str:
    [held] = (await server.http.get(f"/v1/events/{position}/deliveries")).json()["data"]
    state: str = held["state"]
    return state


async def test_over_many_interruptions_nothing_is_lost_and_nothing_comes_twice(start: Start) -> None:
    server = await start(recent_bytes=3000)
    async with await server.live("alice"):
        pass
    seen, last = [], ""
    sending = asyncio.create_task(_publish_many(server, 150))
    while not seen or seen[-1] != 149:
        headers = {"Last-Event-ID": last} if last else {}
        async with await subscribe(server, "alice", headers=headers) as source:
            for _ in range(7):
                frame = await source.receive()
                if frame["type"] == "event":
                    seen.append(frame["data"])
                if seen and seen[-1] == 149:
                    break
            last = source.parser.last_id
    assert seen == list(range(150))
    await sending


async def _publish_many(server: Server, count: int) -> None:
    for n in range(count):
        await server.publish(["user:alice", "room:none"], data=n)


async def test_a_position_this_log_never_gave_is_told_with_a_gap(server: Server) -> None:
    position = await server.publish("user:alice")
    back = {"Last-Event-ID": str(position + 1000)}
    async with await listening(server, "alice", headers=back) as source:
        assert [f["type"] for f in source.frames] == ["welcome", "gap", "event", "live"]
        assert source.frames[1]["reason"] == "unknown_position"
        assert source.ids == ["0", "0", str(position), str(position)]


async def test_what_retention_has_deleted_is_told_with_a_gap(server: Server, db: asyncpg.Connection) -> None:
    async with await server.live("alice"):
        pass
    lost, kept = [await server.publish("user:alice") for _ in range(2)]
    await db.execute("delete from tidings.events where position <= $1", lost)
    await db.execute("update tidings.log set floor = $1", lost)
    server.service.follower.hub.recent.forget(kept)
    async with await listening(server, "alice", after=0) as source:
        assert source.frames[1] == {"type": "gap", "from": 0, "to": lost, "reason": "retention"}
        assert source.ids[:3] == ["0", str(lost), str(kept)]


# Who may


async def test_a_token_comes_by_query_header_or_cookie(start: Start) -> None:
    server = await start(cookie="session", origins=("https://app.example",))
    jar, ours = {"Cookie": f"a=b; session={token('alice')}"}, {"Origin": "https://app.example"}
    evil = {"Origin": "https://evil.example"}
    for headers in (
        {"Authorization": f"Bearer {token('alice')}"},
        jar | ours,
        jar | {"Sec-Fetch-Site": "same-origin"},
    ):
        async with await subscribe(server, headers=headers) as source:
            assert source.status == 200
    for headers in (jar, jar | evil, jar | evil | {"Sec-Fetch-Site": "same-origin"}, evil):
        assert await refusal(server, "" if headers is not evil else "alice", headers=headers) == (
            403, "forbidden",
        )  # fmt: skip
    assert await refusal(server, headers=jar | {"Sec-Fetch-Site": "cross-site"}) == (403, "forbidden")


async def test_a_page_of_an_allowed_origin_may_read_the_answer_and_the_refusal(start: Start) -> None:
    server = await start(cookie="session", origins=("https://app.example",))
    headers = {"Origin": "https://app.example"}
    async with (
        await subscribe(server, "alice", headers=headers) as granted,
        await subscribe(server, headers=headers) as refused,
    ):
        assert (granted.status, refused.status) == (200, 401)
        for source in (granted, refused):
            assert source.headers["access-control-allow-origin"] == "https://app.example"
            assert source.headers["access-control-allow-credentials"] == "true"
            assert source.headers["vary"] == "origin"
    asks = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "last-event-id"}
    preflight = await server.http.options("/v1/stream", headers=headers | asks)
    assert preflight.status_code == 200


async def test_who_may_not_is_told_so_before_the_stream(start: Start) -> None:
    server = await start(max_devices_per_user=1)
    assert await refusal(server) == (401, "unauthorized")
    assert await refusal(server, token="nonsense") == (401, "unauthorized")
    assert await refusal(server, token=token("alice", exp=int(time.time()) - 5)) == (401, "unauthorized")
    assert await refusal(server, "alice", presence=1) == (403, "forbidden")
    for query in ({"after": "-1"}, {"after": "x"}, {"device": ""}, {"device": "a\nb"}):
        assert await refusal(server, "alice", **query) == (422, "invalid")
    for last in ("x", "-1", "1" * 17):
        assert await refusal(server, "alice", headers={"Last-Event-ID": last}) == (422, "invalid")
    async with await listening(server, "alice", device="a"):
        assert await refusal(server, "alice", device="b") == (429, "rate_limited")
    assert (await server.http.post("/v1/stream")).status_code == 404
    metrics = (await server.http.get("/metrics")).text
    assert 'tidings_http_requests_total{method="GET",route="/v1/stream",status="401"} 3.0' in metrics
    assert 'tidings_http_requests_total{method="GET",route="/v1/stream",status="200"} 1.0' in metrics


async def test_not_now_is_a_problem_and_an_eventsource_is_let_come_back(start: Start) -> None:
    server = await start(max_connections=1)
    async with await listening(server, "alice"):
        assert await refusal(server, "bob") == (503, "unavailable")
        async with await subscribe(server, "bob", headers={"Accept": "text/event-stream"}) as source:
            assert source.status == 200
            last = await source.ended()
            assert (last["type"], last["code"], last["reconnect"]) == ("disconnect", 1012, True)
            assert last["retry_after_ms"] == source.parser.retry
            assert source.ids == [""]
    await eventually(lambda: server.gateway.count == 0)


@pytest.mark.parametrize(
    "head",
    [
        "GET /v1/stream?token={token} HTTP/1.0\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n{stream}",
        "POST /v1/ack HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{{}}{stream}",
    ],
)
async def test_a_stream_is_served_in_whatever_form_it_is_asked_for(server: Server, head: str) -> None:
    stream = f"GET /v1/stream?token={token('alice')} HTTP/1.1\r\nhost: x\r\n\r\n"
    async with await request(server, head.format(token=token("alice"), stream=stream)) as source:
        if "/v1/stream" not in head.splitlines()[0]:
            await source._reader.readexactly(int(source.headers["content-length"]))
            await source.begin()
        await source.until("live")
        assert source.status == 200
        position = await server.publish("user:alice", data="x" * 20_000)
        await source.until("event", position=position)
        assert len(server.state.connections) <= 1, "uvicorn has let go of it"
        server.service.follower.hub.users["alice"][0].end(1012, "test", reconnect=True)
        assert (await source.ended())["code"] == 1012


async def test_a_head_in_two_parts_is_read(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    source = EventSource(reader, writer)
    writer.write(f"GET /v1/stream?token={token('alice')} HTTP/1.1\r\n".encode())
    await eventually(lambda: any(isinstance(c, Http) for c in server.state.connections))
    writer.write(b"Host: x\r\nLast-Event-ID: 0\r\n\r\n")
    async with source:
        await source.begin()
        await source.until("live")


# The end


async def test_a_revocation_ends_it_at_once_and_the_dead_token_gets_401(server: Server) -> None:
    presented = token("alice", jti="a")
    async with await listening(server, "alice", token=presented) as source:
        pause = source.parser.retry
        answer = await server.http.post("/v1/revocations", json={"jti": "a"})
        assert answer.json()["closed"] == 1
        last = await source.ended()
        assert (last["type"], last["code"], last["reconnect"]) == ("disconnect", 4001, False)
        assert source.parser.retry == pause, "it comes back soon, and the 401 stops it"
    assert await refusal(server, token=presented) == (401, "unauthorized")
    accept = {"Accept": "text/event-stream"}
    assert await refusal(server, token=presented, headers=accept) == (401, "unauthorized")


async def test_a_revocation_while_it_is_let_in_refuses_it(server: Server) -> None:
    sessions, loaded, go_on = server.gateway.sessions, asyncio.Event(), asyncio.Event()
    original = sessions.open

    async def slow(*wanted: Any) -> Any:
        session = await original(*wanted)
        loaded.set()
        await go_on.wait()
        return session

    sessions.open = slow
    attempt = asyncio.create_task(refusal(server, "alice"))
    await loaded.wait()
    await server.http.post("/v1/revocations", json={"user": "alice"})
    go_on.set()
    assert await attempt == (401, "unauthorized")
    assert server.gateway.count == 0
    assert list(server.gateway.hub) == []


async def test_a_reader_that_is_stuck_is_gone_at_once_when_it_is_revoked(server: Server) -> None:
    async with await listening(server, "alice") as source:
        connection = await _stuck(server, source)
        wire = connection.transport.get_extra_info("socket")
        assert (await server.http.post("/v1/revocations", json={"user": "alice"})).json()["closed"] == 1
        assert connection.transport.is_closing()
        await eventually(lambda: wire.fileno() == -1)


async def _stuck(server: Server, source: EventSource) -> Any:
    source.writer.transport.pause_reading()
    connection = server.service.follower.hub.users["alice"][0]
    source.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    connection.wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    while not connection.paused:
        await server.publish("user:alice", data="x" * 30_000)
    return connection


async def test_its_token_s_end_is_its_end(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await start(heartbeat=1.0)
    async with await listening(server, "alice") as source:
        monkeypatch.setattr("service.gateway.pulse.time", lambda: time.time() + 3600)
        assert (await source.ended())["code"] == 4001


async def test_who_is_evicted_is_told_to_stay_away(start: Start) -> None:
    server = await start(max_connections_per_user=2)
    async with (
        await listening(server, "alice") as first,
        await server.live("alice", device="phone") as phone,
        await listening(server, "alice", device="tv") as third,
    ):
        last = await first.ended()
        assert (last["code"], last["reconnect"], first.parser.retry) == (4010, False, STAY_AWAY)
        async with await server.live("alice", device="watch"):
            assert await phone.closed() == 4010
            listed = (await server.http.get("/v1/connections", params={"user": "alice"})).json()["data"]
            assert {c["device"] for c in listed} == {"tv", "watch"}
            tv = next(c for c in listed if c["device"] == "tv")
            assert tv["state"] == "live"
            assert (await server.http.delete(f"/v1/connections/{tv['id']}")).json()["closed"] == 1
            assert (await third.ended())["code"] == 4010
    assert 'tidings_closes_total{code="4010"} 3.0' in (await server.http.get("/metrics")).text


async def test_a_drain_sends_everyone_away_to_come_back(start: Start) -> None:
    server = await start(drain_timeout=3)
    async with await listening(server, "alice") as source:
        await server.gateway.drain(0.0, 3.0)
        last = await source.ended()
        assert (last["code"], last["reconnect"]) == (1012, True)
        assert source.parser.retry == last["retry_after_ms"] <= 3000
    async with await subscribe(server, "alice", headers={"Accept": "text/event-stream"}) as source:
        assert (await source.ended())["code"] == 1012


async def test_a_client_that_leaves_leaves_nothing(server: Server) -> None:
    async with await listening(server, "alice"):
        assert server.gateway.count == 1
    await eventually(lambda: server.gateway.count == 0)
    assert list(server.gateway.hub) == []
    assert server.gateway.hub._receivers == {}


# Flow and life


async def test_a_slow_reader_costs_a_number_and_loses_nothing(start: Start) -> None:
    server = await start(recent_bytes=100_000)
    async with await listening(server, "alice") as source, await listening(server, "bob") as other:
        connection = await _stuck(server, source)
        assert connection.state.value == "catching_up"
        waiting = connection.transport.get_write_buffer_size()
        sent = [await server.publish(["user:alice", "user:bob"], data="y" * 20_000) for _ in range(30)]
        assert connection.transport.get_write_buffer_size() == waiting
        await other.until("event", position=sent[-1] + 1)
        source.writer.transport.resume_reading()
        await source.until("event", position=sent[-1])
        await source.until("live")
    assert source.positions == sorted(set(source.positions))
    assert set(sent) <= set(source.positions)
    assert all(len(f["data"]) in {20_000, 30_000} for f in source.frames if f["type"] == "event")
    assert server.gateway.metrics.slow_connections._value.get() >= 1


async def test_a_message_of_which_a_part_was_taken_goes_on_where_it_stopped(server: Server) -> None:
    async with await listening(server, "alice") as source, await listening(server, "bob") as other:
        connection = server.service.follower.hub.users["alice"][0]
        connection.wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        source.writer.transport.pause_reading()
        unit = Unit([Draft("everyone", "t", f'"{"é" * 1000}{n}"') for n in range(2000)])
        first = (await server.service.appender.append(unit)).first
        assert connection.paused
        source.writer.transport.resume_reading()
        for each in (source, other):
            await each.until("event", position=first + 1999)
            assert each.positions == list(range(first, first + 2000))


async def test_a_long_backlog_comes_page_by_page(start: Start) -> None:
    server = await start(recent_bytes=2000)
    unit = Unit([Draft("user:alice", "test", '"' + "x" * 3000 + '"')] * 900)
    await server.service.appender.append(unit)
    async with await listening(server, "alice") as source:
        assert len(source.positions) == 900
        assert source.positions == sorted(set(source.positions))


async def test_each_heartbeat_is_a_comment_and_who_is_quiet_stays(start: Start) -> None:
    server = await start(heartbeat=0.1)
    async with await listening(server, "alice") as source:
        reading = asyncio.create_task(source.receive())
        await eventually(lambda: source.parser.comments >= 8)
        position = await server.publish("user:alice")
        assert (await reading)["position"] == position
    assert [f["type"] for f in source.frames] == ["welcome", "live", "event"]


async def test_who_reads_nothing_any_more_is_closed(start: Start) -> None:
    server = await start(heartbeat=0.2)
    async with await listening(server, "alice") as source:
        connection = await _stuck(server, source)
        await eventually(lambda: connection.state.value == "closed")
        assert server.gateway.metrics.closes.labels("4009")._value.get() == 1


async def test_what_comes_after_the_request_is_ignored(server: Server) -> None:
    async with await listening(server, "alice") as source:
        source.writer.write(b"GET / HTTP/1.1\r\n\r\n" * 1000)
        position = await server.publish("user:alice")
        assert (await source.receive())["position"] == position


# Acknowledging


async def ack(server: Server, position: Any, user: str = "alice", **more: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {more.pop('token', token(user))}"}
    return await server.http.post("/v1/ack", json={"position": position, **more}, headers=headers)


async def test_an_ack_moves_the_cursor_forward_only(server: Server, db: asyncpg.Connection) -> None:
    sent = [await server.publish("user:alice", data=n) for n in range(3)]
    async with await listening(server, "alice", device="tv"):
        assert (await ack(server, sent[1], device="tv")).status_code == 204
        await stored(db, sent[1], device="tv")
        assert (await ack(server, sent[0], device="tv")).status_code == 204
    await eventually(lambda: server.gateway.count == 0)
    async with await listening(server, "alice", device="tv") as again:
        assert again.positions == sent[2:]
    assert await cursor_of(db, "alice", "tv") == sent[1]


async def test_an_ack_is_clamped_to_what_was_written_here(start: Start, db: asyncpg.Connection) -> None:
    server = await start(recent_bytes=2000)
    async with await listening(server, "alice") as source:
        connection = await _stuck(server, source)
        for _ in range(3):
            last = await server.publish("user:alice", data="z" * 30_000)
        written = connection.written
        assert (await ack(server, last)).status_code == 204
        await stored(db, written)
        assert written < last


async def test_an_ack_without_a_connection_is_clamped_to_the_head(
    server: Server, db: asyncpg.Connection
) -> None:
    one = await server.publish("user:alice")
    assert (await ack(server, one)).status_code == 404
    async with await listening(server, "alice"):
        pass
    await eventually(lambda: server.gateway.count == 0)
    two = await server.publish("user:alice")
    assert (await ack(server, one)).status_code == 204
    assert await cursor_of(db, "alice") == one
    assert (await ack(server, 2**52)).status_code == 204
    assert await cursor_of(db, "alice") == two
    assert (await ack(server, one)).status_code == 204
    assert await cursor_of(db, "alice") == two
    await db.execute("delete from tidings.devices")
    problem = await ack(server, two)
    assert (problem.status_code, problem.json()["code"]) == (404, "not_found")


async def test_an_ack_by_way_of_another_instance_counts(start: Start, db: asyncpg.Connection) -> None:
    here, there = await start(), await start()
    async with await listening(here, "alice") as source:
        position = await here.publish("user:alice")
        await source.until("event")
        assert (await ack(there, position)).status_code == 204
        assert await cursor_of(db, "alice") == position


async def test_a_socket_s_device_may_acknowledge_so_too(server: Server, db: asyncpg.Connection) -> None:
    async with await server.live("alice", ack="client") as phone:
        position = await server.publish("user:alice")
        await phone.until("event")
        assert (await ack(server, position)).status_code == 204
        await stored(db, position)
        assert (await phone.ask("ack", position=0))["position"] == position


async def test_a_quiet_stream_that_has_acknowledged_all_follows_the_log(
    start: Start, db: asyncpg.Connection
) -> None:
    server = await start(heartbeat=0.1)
    async with await listening(server, "alice") as source:
        position = await server.publish("user:alice")
        await source.until("event")
        other = await server.publish("user:bob")
        await server.reached(other)
        assert await cursor_of(db, "alice") < position
        await ack(server, position)
        await stored(db, other)


async def test_an_ack_that_makes_no_sense_is_refused(server: Server) -> None:
    async with await listening(server, "alice"):
        for position in (-1, 2**53, "x", None, 1.5):
            assert (await ack(server, position)).status_code == 422
        for device in ("", "a\nb", "x" * 129, 5):
            assert (await ack(server, 1, device=device)).json()["errors"][0]["pointer"] == "#/device"
        assert (await ack(server, 1, more=1)).status_code == 422
        headers = {"Authorization": f"Bearer {token('alice')}", "Content-Type": "application/json"}
        bad = await server.http.post("/v1/ack", content=b"{", headers=headers)
        assert (bad.status_code, bad.json()["code"]) == (400, "malformed")


async def test_an_ack_needs_the_client_s_own_token(server: Server, db: asyncpg.Connection) -> None:
    position = await server.publish("everyone")
    async with await listening(server, "alice"):
        assert (await server.http.post("/v1/ack", json={"position": 1})).status_code == 403
        assert (await ack(server, position, user="bob")).status_code == 404
        presented = token("alice", jti="a")
        await server.http.post("/v1/revocations", json={"jti": "a"})
        assert (await ack(server, position, token=presented)).status_code == 401
        assert await cursor_of(db, "alice") <= position
