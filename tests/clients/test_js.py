"""The JavaScript client against a real server, over links that break."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from proof.proxy import Ends, Proxy, proxying, slow_link
from tests.clients.conftest import Run, Script
from tests.harness import Server, eventually, token

Start = Callable[..., Awaitable[Server]]


@asynccontextmanager
async def link_to(*servers: Server, port: int = 0) -> AsyncIterator[Proxy]:
    """A link to the first server; as soon as that takes no more, to the next one."""

    async def connect() -> Ends:
        server = next(each for each in servers if not each.gateway.leaving)
        return await asyncio.open_connection("127.0.0.1", server.port)

    async with proxying(connect, port=port) as proxy:
        yield proxy


def by(proxy: Proxy) -> str:
    return f"http://127.0.0.1:{proxy.port}"


async def send(server: Server, *numbers: int) -> None:
    events = [{"to": "user:alice", "type": "test", "data": n} for n in numbers]
    answer = await server.http.post("/v1/events/batch", json={"events": events})
    assert answer.status_code == 202, answer.text


def handled(script: Script) -> list[Any]:
    return [line["data"] for line in script.said("event")]


async def cut_at_random(server: Server, link: Proxy, script: Script, *, cuts: int, each: int) -> None:
    """Send ``each`` events for each cut, and see that every one is handled once, and in order.

    The handler is about as slow as they come: at some cuts all has been handled, at others much waits.
    """
    for n in range(cuts):
        await eventually(lambda: len(link))
        sending = asyncio.create_task(send(server, *range(n * each, (n + 1) * each)))
        await asyncio.sleep(random.uniform(0.01, 0.09))
        link.cut()
        await sending
    await script.until("event", count=cuts * each, patience=40)
    await server.publish("user:alice", data="the last")
    await script.until("event", data="the last")
    assert handled(script) == [*range(cuts * each), "the last"]


async def test_it_hears_what_was_missed_and_what_comes(server: Server, run: Run) -> None:
    await server.publish("user:alice", "order.shipped", {"order": 1}, id="first")
    script = await run(options={"url": server.url, "token": token("alice")})
    await script.until("state", state="live")
    position = await server.publish("user:alice", data="now")
    event = await script.until("event", position=position)
    assert handled(script) == [{"order": 1}, "now"]
    assert (event["to"], event["type"], event["id"]) == ("user:alice", "test", str(position))
    assert [line["state"] for line in script.said("state")][-2:] == ["catching-up", "live"]
    state = (await script.ask("state"))["value"]
    assert (state["user"], state["device"]) == ("alice", "test")
    assert state["position"] >= position


async def test_the_websocket_of_the_platform_will_do(server: Server, run: Run) -> None:
    script = await run(
        "client", "--experimental-websocket", native=True,
        options={"url": server.url.replace("http", "ws"), "token": token("alice")},
    )  # fmt: skip
    await server.publish("user:alice", data=1)
    await script.until("event", data=1)


async def test_two_hundred_cuts_and_ten_thousand_events(server: Server, run: Run) -> None:
    async with link_to(server) as link:
        script = await run(options={"url": by(link), "token": token("alice")}, slow=4)
        await cut_at_random(server, link, script, cuts=200, each=50)


async def test_a_stream_of_server_sent_events_is_cut(server: Server, run: Run) -> None:
    async with link_to(server) as link:
        script = await run(options={"url": by(link), "token": token("alice")}, slow=4, sse="transport")
        await cut_at_random(server, link, script, cuts=50, each=50)


@pytest.mark.parametrize("sse", [None, "transport"])
async def test_a_link_that_is_silently_dead_is_let_go(start: Start, run: Run, sse: str | None) -> None:
    server = await start(heartbeat=0.2)
    async with link_to(server) as link:
        script = await run(options={"url": by(link), "token": token("alice")}, sse=sse)
        for n in range(4):
            await eventually(lambda: script.lines and script.said("state")[-1]["state"] == "live")
            link.blackhole()
            await send(server, *range(n * 10, (n + 1) * 10))
            await eventually(lambda: script.said("state")[-1]["state"] != "live")
            link.cut()
            await script.until("event", count=(n + 1) * 10)
        assert handled(script) == [*range(40)]


async def test_a_narrow_link_is_no_dead_one(start: Start, run: Run) -> None:
    server = await start(heartbeat=0.5)
    for n in range(20):
        await send(server, *range(n * 100, (n + 1) * 100))
    async with slow_link(server.port, rate=150_000) as link:
        script = await run(options={"url": by(link), "token": token("alice")})
        await script.until("event", count=2000)
        await script.until("state", state="live")
        assert handled(script) == [*range(2000)]
        assert len(script.said("state", state="catching-up")) >= 1


async def test_a_process_that_is_killed_gets_at_most_its_last_event_again(
    server: Server, run: Run, tmp_path: Path
) -> None:
    """Between the handler and the store."""
    log, kills, each = tmp_path / "handled", 8, 250
    options = {"url": server.url, "token": token("alice")}
    for n in range(kills + 1):
        await send(server, *range(n * each, (n + 1) * each))
        script = await run(options=options, file=str(tmp_path / "store"), log=str(log))
        if n < kills:
            await script.until("event", count=random.randrange(1, each // 2))
            await script.kill()
    await script.until("event", data=(kills + 1) * each - 1)
    numbers = [int(line) for line in log.read_text().split()]
    steps = [later - earlier for earlier, later in pairwise(numbers)]
    assert set(steps) <= {0, 1}
    assert steps.count(0) <= kills
    assert (numbers[0], numbers[-1]) == (0, (kills + 1) * each - 1)


async def test_the_cursor_follows_what_is_handled_and_not_what_has_come(server: Server, run: Run) -> None:
    script = await run(options={"url": server.url, "token": token("alice")})
    await script.until("state", state="live")
    await script.ask("hold")
    first = await server.publish("user:alice", data=1)
    last = await server.publish("user:alice", data=2)
    await script.until("event", data=1)

    async def cursor() -> int:
        devices = (await server.http.get("/v1/users/alice/devices")).json()["data"]
        return next((int(each["cursor"]) for each in devices if each["device"] == "test"), -1)

    await server.reached(last)
    await script.ask("rooms")  # both have come before the answer
    assert handled(script) == [1]
    assert (await script.ask("state"))["value"].get("position", 0) < first
    assert await cursor() < first
    await script.ask("release")

    async def acknowledged() -> bool:
        return await cursor() >= last

    await eventually(acknowledged)
    assert handled(script) == [1, 2]


async def test_what_is_acknowledged_before_close_does_not_come_to_a_client_without_a_store(
    server: Server, run: Run
) -> None:
    script = await run(options={"url": server.url, "token": token("alice")})
    await server.publish("user:alice", data=1)
    await script.until("event", data=1)
    await script.ask("close")
    await eventually(lambda: server.gateway.count == 0)
    again = await run(options={"url": server.url, "token": token("alice")})
    await again.until("state", state="live")
    await server.publish("user:alice", data=2)
    await again.until("event", data=2)
    assert handled(again) == [2]


async def test_nothing_is_taken_before_somebody_listens_and_a_loop_takes_one_at_a_time(
    server: Server, run: Run
) -> None:
    await send(server, 0, 1, 2, 3, 4)
    script = await run(options={"url": server.url, "token": token("alice")}, deaf=True, watch=[])
    await script.until("state", state="live")
    assert (await script.ask("state"))["value"].get("position") is None
    assert (await script.ask("take", 3))["value"] == [0, 1, 2]
    assert (await script.ask("take", 2))["value"] == [2, 3], "the loop was left before it was done with it"
    await script.tell(call="all", arguments=[], number=100)
    await script.until("iterated", data=4)
    await script.ask("close")
    assert (await script.until("answer", number=100))["value"] == "ended"
    assert [line["data"] for line in script.said("iterated")] == [3, 4]


async def test_types_and_patterns_and_a_handler_that_throws(server: Server, run: Run) -> None:
    script = await run(options={"url": server.url, "token": token("alice")}, on="chat.*")
    await script.ask("throwing", "chat.said")
    await script.ask("on", "order")
    await script.until("state", state="live")
    for kind in ("chat.said", "chatter", "order", "order.shipped", "chat."):
        last = await server.publish("user:alice", kind, kind)
    await script.until("event", data="chat.")
    assert handled(script) == ["chat.said", "order", "chat."]
    assert script.said("error") == [{"is": "error", "message": "a handler threw"}]

    async def up_to_date() -> bool:
        return bool((await script.ask("state"))["value"]["position"] >= last)

    await eventually(up_to_date)


async def test_what_is_more_than_it_holds_is_asked_for_again(server: Server, run: Run) -> None:
    """The handler waits: the connection goes when there is no more room, and comes for a command."""
    script = await run(options={"url": server.url, "token": token("alice", publish="room:*")})
    await script.until("state", state="live")
    await script.ask("hold")
    for n in range(3):
        await send(server, *range(n * 1000, (n + 1) * 1000))
    await script.until("state", state="offline")
    answer = await script.ask("publish", "room:a", "note")
    assert answer["value"]["position"]
    await script.until("state", count=2, state="offline")
    assert handled(script) == [0]
    await script.ask("release")
    await script.until("event", count=3000)
    assert handled(script) == [*range(3000)]


# Tokens, and what ends it


async def test_an_expired_token_is_replaced_once_and_it_goes_on(server: Server, run: Run) -> None:
    now = int(time.time())
    dying = token("alice", iat=now - 500, exp=now + 1)
    script = await run(options={"url": server.url}, tokens=[dying, token("alice")])
    await script.until("getToken", count=2)
    await server.publish("user:alice", data=1)
    await script.until("event", data=1)
    assert len(script.said("getToken")) == 2


async def test_a_stream_begins_anew_with_the_next_token(server: Server, run: Run) -> None:
    now = int(time.time())
    tokens = [token("alice", iat=now, exp=now + 2), token("alice")]
    script = await run(options={"url": server.url}, tokens=tokens, sse="transport")
    await script.until("getToken", count=2)
    await script.until("state", state="live")
    await asyncio.sleep(max(0.0, now + 3 - time.time()))  # the first one is dead by then
    await server.publish("user:alice", data=1)
    await script.until("event", data=1)
    assert len(script.said("getToken")) == 2
    assert not script.said("error")


async def test_tokens_that_are_refused_end_it_without_a_storm(server: Server, run: Run) -> None:
    script = await run(options={"url": server.url}, tokens=["not.a.token"])
    end = await script.until("state", state="unauthorized")
    assert end["reason"]["code"] == 4001
    assert len(script.said("getToken")) == 2
    assert (await script.ask("join", "a"))["code"] == "closed"
    assert (await script.ask("all"))["value"] == "threw closed"
    await script.ask("setTokens", token("alice"))
    await script.ask("connect")
    await script.until("state", state="live")


async def test_a_token_without_another_ends_it(server: Server, run: Run) -> None:
    script = await run(options={"url": server.url, "token": token("alice", exp=int(time.time()) - 60)})
    assert (await script.until("state", state="unauthorized"))["reason"]["code"] == 4001
    stream = await run(options={"url": server.url, "token": "not.a.token"}, sse="transport")
    assert (await stream.until("state", state="unauthorized"))["reason"]["code"] == 4001


async def test_who_has_no_token_because_the_application_is_offline_tries_again(
    server: Server, run: Run
) -> None:
    script = await run(options={"url": server.url}, tokens=[None, None, None, token("alice")])
    await script.until("state", state="live")
    assert len(script.said("getToken")) == 4
    assert len(script.said("state", state="offline")) == 3
    assert len(script.said("error", message="the application is offline")) == 3


async def test_what_is_not_allowed_ends_it(server: Server, run: Run) -> None:
    script = await run(options={"url": server.url, "token": token("alice"), "presence": True})
    assert (await script.until("state", state="unauthorized"))["reason"]["code"] == 4003
    script = await run(options={"url": server.url, "token": token("alice"), "device": "x" * 129})
    assert (await script.until("state", state="closed"))["reason"]["code"] == 1008


async def test_who_is_evicted_stays_away(server: Server, run: Run) -> None:
    script = await run(options={"url": server.url, "token": token("alice")})
    await script.until("state", state="live")
    await server.http.delete("/v1/users/alice/devices/test")
    assert (await script.until("state", state="closed"))["reason"]["code"] == 4010


async def test_who_is_over_a_limit_rests(start: Start, run: Run) -> None:
    server = await start(max_devices_per_user=1)
    async with await server.live("alice", device="first"):
        script = await run(options={"url": server.url, "token": token("alice")})
        notice = await script.until("state", state="offline")
        assert 5_000 <= notice["retryAt"] - notice["now"] + 100 <= 60_200


# Commands


async def test_commands_and_their_answers(server: Server, run: Run) -> None:
    claims = {"rooms": "*", "publish": "room:*", "presence": True}
    script = await run(options={"url": server.url, "token": token("alice", **claims), "presence": True})
    await script.ask("join", "hall", {"presence": True})
    assert (await script.until("room"))["type"] == "joined_room"
    sent = (await script.ask("publish", "room:hall", "note", {"a": 1}, {"id": "n-1"}))["value"]
    assert sent["id"] == "n-1"
    assert (await script.until("event"))["from"] == "alice"
    assert (await script.ask("rooms"))["value"] == [{"room": "hall", "source": "client"}]
    assert (await script.ask("members", "hall"))["value"] == [{"user": "alice"}]

    async def present() -> bool:
        return [each["user"] for each in (await script.ask("presence", "hall"))["value"]] == ["alice"]

    await eventually(present)
    await script.ask("publish", "room:hall", "note", "unheard", {"echo": False})
    assert (await script.ask("publish", "room:hall", "wink", "seen", {"ephemeral": True}))["value"] == {}
    await script.until("event", data="seen")
    assert (await script.ask("publish", "everyone", "note"))["code"] == "forbidden"
    async with await server.live("bob", claims={"rooms": "*"}) as bob:
        await script.until("presence", type="user_connected", user="bob")
        await bob.ask("join_room", room="hall")
        await script.until("presence", type="user_joined_room", user="bob")
    await script.ask("leave", "hall")
    await script.until("room", type="left_room")
    assert [line["data"] for line in script.said("event")] == [{"a": 1}, "seen"]


async def test_what_is_published_over_a_cut_is_published_once(server: Server, run: Run) -> None:
    """The answers are lost on the way: nobody can tell whether it has been done."""
    async with link_to(server) as link:
        script = await run(options={"url": by(link), "token": token("alice", publish="user:*")})
        await script.until("state", state="live")
        async with await server.live("bob") as bob:
            for n in range(10):
                link.replies.lose = True
                await script.tell(call="publish", arguments=["user:bob", "note", n], number=n + 1)
                await bob.until("event", data=n)
                link.heal()
                link.cut()
                assert (await script.until("answer", number=n + 1))["value"]["position"]
            await bob.quiet()
            assert [f["data"] for f in bob.frames if f["type"] == "event"] == [*range(10)]


async def test_what_belongs_to_a_connection_is_made_anew_on_the_next(server: Server, run: Run) -> None:
    async with link_to(server) as link:
        claims = {"rooms": "*", "presence": True}
        script = await run(options={"url": by(link), "token": token("alice", **claims)})
        await script.ask("join", "hall", {"durable": False, "presence": True})
        await script.ask("join", "left", {"durable": False})
        await script.ask("leave", "left")
        lives = len(script.said("state", state="live"))
        link.cut()
        await script.until("state", count=lives + 1, state="live")

        async def rooms() -> bool:
            return bool((await script.ask("rooms"))["value"] == [{"room": "hall", "source": "connection"}])

        await eventually(rooms)
        async with await server.live("bob", claims={"rooms": "*", "join": "hall"}):
            await script.until("presence", type="user_joined_room", user="bob")
        await server.publish("room:hall", data=1)
        await script.until("event", data=1)


async def test_what_is_too_large_fails_and_the_rest_goes_on(start: Start, run: Run) -> None:
    server = await start(max_message=2048)
    script = await run(options={"url": server.url, "token": token("alice", publish="user:*")})
    await script.until("state", state="live")
    refused = await script.ask("publish", "user:alice", "t", "x" * 3000)
    assert refused["code"] == "too_large"
    await script.ask("publish", "user:alice", "t", "small")
    await script.until("event", data="small")


# Restarts, and networks without WebSockets


async def test_a_restart_is_not_noticed(start: Start, run: Run) -> None:
    old, new = await start(), await start()
    async with link_to(old, new) as link:
        script = await run(options={"url": by(link), "token": token("alice")})
        await script.until("state", state="live")
        drain = asyncio.create_task(old.gateway.drain(0.0, 2.0))
        sent = 0
        while not drain.done():
            await new.publish("user:alice", data=sent)
            sent += 1
            await asyncio.sleep(0.01)
        await drain
        await script.until("state", count=2, state="live")
        await script.until("event", count=sent)
        assert handled(script) == [*range(sent)]
        assert len(script.said("state", state="live")) == 2
        assert not script.said("error")


@asynccontextmanager
async def without_websockets(server: Server) -> AsyncIterator[str]:
    """A proxy that forwards HTTP, and refuses whoever wants to speak something else."""

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"upgrade: websocket" in head.lower():
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            writer.close()
            return
        back_reader, back_writer = await asyncio.open_connection("127.0.0.1", server.port)
        back_writer.write(head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65_536):
                    sink.write(data)
            except OSError:
                pass
            sink.close()

        await asyncio.gather(pump(reader, back_writer), pump(back_reader, writer))

    proxy = await asyncio.start_server(forward, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    finally:
        proxy.close()


async def test_where_websockets_are_blocked_it_takes_a_stream(server: Server, run: Run) -> None:
    async with without_websockets(server) as url:
        script = await run(options={"url": url, "token": token("alice")}, sse="fallback")
        await script.until("state", state="live")
        last = await server.publish("user:alice", data=1)
        await script.until("event", data=1)

        async def acknowledged() -> bool:
            devices = (await server.http.get("/v1/users/alice/devices")).json()["data"]
            return any(each["cursor"] >= last for each in devices)

        await eventually(acknowledged)
        assert (await script.ask("rooms"))["code"] == "unsupported"
        await script.kill()
    await eventually(lambda: server.gateway.count == 0)


async def test_a_server_that_is_away_is_no_reason_for_a_stream(server: Server, run: Run) -> None:
    async with link_to(server) as link:
        port = link.port
    script = await run(options={"url": f"http://127.0.0.1:{port}", "token": token("alice")}, sse="fallback")
    await script.until("state", count=8, state="offline")
    async with link_to(server, port=port):
        await script.until("state", state="live")
        assert (await script.ask("rooms"))["value"] == []
        await script.kill()
