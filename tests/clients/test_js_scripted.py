"""The JavaScript client before a server that does what the real one does by chance or mishap only."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.clients.conftest import Run, Script
from tests.clients.scripted import LOG, Peer, Scripted, scripting
from tests.clients.test_js import handled
from tests.harness import token

OTHER_LOG = "99999999-2222-3333-4444-555555555555"


@pytest.fixture
async def scripted() -> AsyncIterator[Scripted]:
    async with scripting() as scripted:
        yield scripted


async def begin(scripted: Scripted, run: Run, **more: object) -> tuple[Script, Peer]:
    script = await run(**({"options": {"url": scripted.url, "token": token("alice")}} | more))
    peer = await scripted.next()
    await peer.welcome()
    return script, peer


async def test_what_it_asks_for(scripted: Scripted, run: Run) -> None:
    script, peer = await begin(scripted, run)
    assert peer.socket.request is not None
    assert peer.socket.request.path.startswith("/some/path/v1/ws?")
    assert peer.query == {"device": "test", "ack": "client"}
    assert peer.token is not None
    await peer.event(5)
    await script.until("event", data=5)
    await peer.close(1011)
    again = await scripted.next()
    assert again.query == {"device": "test", "ack": "client", "resume": f"{LOG}:5"}


async def test_it_makes_the_next_connection_before_it_breaks_this_one(scripted: Scripted, run: Run) -> None:
    script, old = await begin(scripted, run)
    await old.send("live", position=0)
    await old.event(1)
    told = asyncio.get_running_loop().time()
    await old.send("disconnect", code=1012, reason="restart", reconnect=True, retry_after_ms=700)
    await old.event(2)
    await script.until("event", data=2)
    new = await scripted.next()
    assert new.at - told >= 0.69
    await old.event(3)  # the new one has not been welcomed yet
    await script.until("event", data=3)
    assert new.query["resume"] == f"{LOG}:2"
    await new.welcome(position=2)
    await old.closed()
    for position in (3, 4):
        await new.event(position)
    await new.send("live", position=4)
    await script.until("event", data=4)
    await new.until("ack", position=4)
    assert handled(script) == [1, 2, 3, 4]
    assert not script.said("state", state="offline")


async def test_it_waits_as_it_was_told_also_where_the_old_connection_ends_sooner(
    scripted: Scripted, run: Run
) -> None:
    script, old = await begin(scripted, run)
    told = asyncio.get_running_loop().time()
    await old.send("disconnect", code=1012, reason="restart", reconnect=True, retry_after_ms=700)
    await old.send("disconnect", code=1012, reason="restart", reconnect=True, retry_after_ms=0)
    await old.close(1012)
    await script.until("state", state="offline")
    assert (await scripted.next()).at - told >= 0.69
    assert scripted.nobody()


async def test_where_the_next_one_fails_it_stays_and_tries_again(scripted: Scripted, run: Run) -> None:
    script, old = await begin(scripted, run)
    await old.send("disconnect", code=1012, reason="restart", reconnect=True, retry_after_ms=0)
    for _ in range(3):
        await (await scripted.next()).close(1012)
    new = await scripted.next()
    await old.event(1)
    await script.until("event", data=1)
    await new.welcome()
    await old.closed()
    assert not script.said("state", state="offline")


async def test_what_is_acknowledged(scripted: Scripted, run: Run) -> None:
    """At once where all is done, else the newest position now and then; on a new connection again."""
    script, peer = await begin(scripted, run)
    begun = time.monotonic()
    for position in range(1, 51):
        await peer.event(position)
        await script.until("event", data=position)
    for position in range(51, 501):
        await peer.event(position)
    await peer.until("ack", position=500)
    acks = [frame["position"] for frame in peer.heard]
    assert acks == sorted(set(acks))
    assert len(acks) <= (time.monotonic() - begun) / 0.1 + 2
    await peer.send("joined_room", room="hall", position=501)
    await peer.until("ack", position=501)
    await peer.close(1011)
    peer = await scripted.next()
    await peer.welcome(501)
    await peer.send("live", position=501)
    await peer.until("ack", position=501)
    assert script.said("room") == [{"is": "room", "type": "joined_room", "room": "hall", "position": 501}]


async def test_it_counts_on_from_a_gap_forwards_and_backwards(
    scripted: Scripted, run: Run, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    script, peer = await begin(scripted, run, file=str(store))
    await peer.event(1)
    await peer.send("gap", **{"from": 1, "to": 50, "reason": "retention"})
    await peer.event(51)
    await peer.until("ack", position=51)
    await peer.close(1012)
    peer = await scripted.next()
    assert peer.query["resume"] == f"{LOG}:51"
    await peer.welcome(20, head=20)
    await peer.send("gap", **{"from": 51, "to": 20, "reason": "failover"})
    await peer.until("ack", position=20)
    await peer.event(21)
    await peer.until("ack", position=21)
    order = [line["is"] for line in script.lines if line["is"] in {"event", "gap"}]
    assert order == ["event", "gap", "event", "gap", "event"]
    [kept] = json.loads(store.read_text()).values()
    assert json.loads(kept) == {"log": LOG, "user": "alice", "position": 21}


async def test_a_position_is_good_for_one_log_and_one_user(
    scripted: Scripted, run: Run, tmp_path: Path
) -> None:
    store = str(tmp_path / "store")
    script, peer = await begin(scripted, run, file=store)
    await peer.event(100)
    await peer.until("ack", position=100)
    await peer.close(1011)
    peer = await scripted.next()
    await peer.welcome(0, log=OTHER_LOG)
    await peer.event(1)
    await peer.until("ack", position=1)
    await script.kill()
    other = await run(options={"url": scripted.url, "token": token("bob")}, file=store)
    peer = await scripted.next()
    assert "resume" not in peer.query
    await peer.welcome(0, log=OTHER_LOG, user="bob", head=3)
    await peer.event(1)
    await peer.until("ack", position=1)
    assert (handled(script), handled(other)) == ([100, 1], [1])


async def test_who_has_no_token_is_known_by_the_welcome(scripted: Scripted, run: Run, tmp_path: Path) -> None:
    """A browser with a cookie."""
    for resume in (None, f"{LOG}:7"):
        script, peer = await begin(scripted, run, options={"url": scripted.url}, file=str(tmp_path / "store"))
        assert (peer.token, peer.query.get("resume")) == (None, None)
        await peer.event(7)
        await peer.event(7 if resume is None else 8)
        await peer.until("ack", position=7 if resume is None else 8)
        await peer.close(1011)
        peer = await scripted.next()
        assert peer.query["resume"] == f"{LOG}:{7 if resume is None else 8}"
        assert handled(script) == ([7] if resume is None else [8])
        await script.kill()


async def test_a_token_is_refreshed_over_the_socket(scripted: Scripted, run: Run) -> None:
    now = int(time.time()) - 100_000  # a clock that is wrong
    first, second = token("alice", iat=now, exp=now + 1), token("alice")
    script, peer = await begin(scripted, run, options={"url": scripted.url}, tokens=[first, second])
    frame = await peer.until("refresh_token")
    assert frame["token"] == second
    await peer.answer(frame, expires_at="2026-01-01T00:00:00Z")
    await peer.close(1011)
    peer = await scripted.next()
    assert peer.token == second
    assert len(script.said("getToken")) == 2


async def test_a_token_that_grew_old_before_the_welcome_is_refreshed_then(
    scripted: Scripted, run: Run
) -> None:
    now = int(time.time())
    first, second = token("alice", iat=now, exp=now + 1), token("alice")
    await run(options={"url": scripted.url}, tokens=[first, second])
    peer = await scripted.next()
    await asyncio.sleep(1)  # most of the token's life
    await peer.welcome()
    assert (await peer.until("refresh_token"))["token"] == second


async def test_the_next_token_may_be_another_users(scripted: Scripted, run: Run) -> None:
    """Who logged in by another tab: what the former user has handled says nothing of theirs."""
    now = int(time.time())
    tokens = [token("alice", iat=now, exp=now + 1), token("bob")]
    _, peer = await begin(scripted, run, options={"url": scripted.url}, tokens=tokens)
    await peer.event(5)
    await peer.until("ack", position=5)
    await peer.answer(await peer.until("refresh_token"))
    await peer.close(1011)
    peer = await scripted.next()
    assert (peer.token, peer.query.get("resume")) == (tokens[1], None)


async def test_a_new_token_is_asked_for_once_until_it_is_welcome(scripted: Scripted, run: Run) -> None:
    tokens = [token("alice", jti=str(n)) for n in range(5)]
    script, peer = await begin(scripted, run, options={"url": scripted.url}, tokens=[*tokens])
    for n in range(2):
        assert peer.token == tokens[n]
        await peer.send("disconnect", code=4001, reason="revoked", reconnect=False)
        await peer.close(4001)
        peer = await scripted.next()
        await peer.welcome()
    await peer.close(4001)
    await (await scripted.next()).close(4001)
    await script.until("state", state="unauthorized")
    assert len(script.said("getToken")) == 4
    assert scripted.nobody()


@pytest.mark.parametrize(
    ("code", "state"), [(4003, "unauthorized"), (4010, "closed"), (1008, "closed"), (4001, "unauthorized")]
)
async def test_what_ends_it(scripted: Scripted, run: Run, code: int, state: str) -> None:
    script, peer = await begin(scripted, run)
    await peer.close(code, "the reason")
    assert (await script.until("state", state=state))["reason"] == {"code": code, "reason": "the reason"}
    await script.ask("connect")
    await (await scripted.next()).welcome()
    await script.until("state", count=2, state="catching-up")


async def test_the_word_of_the_server_counts_where_the_close_is_lost(scripted: Scripted, run: Run) -> None:
    script, peer = await begin(scripted, run)
    await peer.send("disconnect", code=4010, reason="evicted", reconnect=False)
    await peer.event(1)
    await script.until("event", data=1)
    peer.socket.transport.abort()
    assert (await script.until("state", state="closed"))["reason"] == {"code": 4010, "reason": "evicted"}


async def test_commands_are_sent_again_where_that_does_no_harm(scripted: Scripted, run: Run) -> None:
    script = await run(options={"url": scripted.url, "token": token("alice")})
    peer = await scripted.next()
    calls = [
        ("publish", "room:a", "note", 1),
        ("join", "a"),
        ("leave", "b"),
        ("rooms",),
        ("publish", "room:a", "wink", 2, {"ephemeral": True}),
    ]
    for number, (call, *arguments) in enumerate(calls, 1):  # before there is a connection
        await script.tell(call=call, arguments=arguments, number=number)
    await script.ask("state")
    assert not peer.heard
    await peer.welcome()
    first = await peer.until("publish", event="wink")
    asked = [frame for frame in peer.heard if "ref" in frame]
    assert len(asked) == 5
    assert "id" not in first
    await peer.close(1011)
    peer = await scripted.next()
    await peer.welcome()
    assert (await script.until("answer", number=5))["code"] == "disconnected"
    await peer.until("rooms")
    again = [frame for frame in peer.heard if "ref" in frame]
    assert again == asked[:4], "with the same id"
    for frame in again:
        await peer.answer(frame, position=1, id=frame.get("id"), rooms=[])
    for number in range(1, 5):
        assert "value" in await script.until("answer", number=number)


async def test_a_room_that_was_left_at_once_is_not_joined_again(scripted: Scripted, run: Run) -> None:
    script, peer = await begin(scripted, run)
    await script.tell(call="join", arguments=["a", {"durable": False}], number=1)
    await script.tell(call="leave", arguments=["a"], number=2)
    await script.tell(call="join", arguments=["b", {"durable": False}], number=3)
    await peer.until("join_room", room="b")
    for frame in list(peer.heard):
        await peer.answer(frame, room=frame["room"])
    await script.until("answer", number=3)
    await peer.close(1011)
    peer = await scripted.next()
    await peer.welcome()
    await peer.until("join_room", room="b")
    await script.ask("state")
    assert [(frame["type"], frame["room"]) for frame in peer.heard] == [("join_room", "b")]


async def test_a_room_that_is_refused_is_not_asked_for_again(scripted: Scripted, run: Run) -> None:
    script, peer = await begin(scripted, run)
    await script.tell(call="join", arguments=["a", {"durable": False}], number=1)
    frame = await peer.until("join_room")
    await peer.send("error", ref=frame["ref"], code="forbidden", message="no")
    await script.until("answer", number=1, code="forbidden")
    await peer.close(1011)
    peer = await scripted.next()
    await peer.welcome()
    await script.tell(call="rooms", number=2, arguments=[])
    await peer.until("rooms")
    assert [frame["type"] for frame in peer.heard] == ["rooms"]


async def test_rooms_are_joined_again_no_faster_than_the_service_takes_it(
    scripted: Scripted, run: Run
) -> None:
    script, peer = await begin(scripted, run)
    for number in range(30):
        await script.tell(call="join", arguments=[f"r{number}", {"durable": False}], number=number)
        frame = await peer.until("join_room", room=f"r{number}")
        await peer.answer(frame, room=frame["room"])
        await script.until("answer", number=number)
    await peer.close(1011)
    peer = await scripted.next()
    begun = time.monotonic()
    await peer.welcome()
    await peer.until("join_room", count=30)
    assert time.monotonic() - begun > 0.9


async def test_an_answer_that_does_not_come_and_one_that_says_no(scripted: Scripted, run: Run) -> None:
    options = {"url": scripted.url, "token": token("alice"), "timeout": 300}
    hasty, _ = await begin(scripted, run, options=options)
    assert (await hasty.ask("rooms"))["code"] == "timeout"
    script, peer = await begin(scripted, run)
    await script.tell(call="join", arguments=["a"], number=2)
    frame = await peer.until("join_room")
    await peer.send("error", ref=frame["ref"], code="rate_limited", message="slowly", retry_after_ms=5)
    answer = await script.until("answer", number=2)
    assert (answer["code"], answer["error"], answer["retryAfterMs"]) == ("rate_limited", "slowly", 5)
    await peer.send("error", code="invalid", message="nobody asked")
    await script.until("error", code="invalid")


async def test_fields_and_frames_that_it_does_not_know(scripted: Scripted, run: Run) -> None:
    script, peer = await begin(scripted, run)
    await peer.send("news", position=3, ref=77)
    await peer.send("event", position=1, event="test", to="everyone", data=None, time="", more={"a": 1})
    line = await script.until("event")
    assert (line["more"], line["data"]) == ({"a": 1}, None)


async def test_a_page_that_is_looked_at_again_asks_whether_its_link_is_alive(
    scripted: Scripted, run: Run
) -> None:
    options = {"url": scripted.url, "token": token("alice"), "backoff": {"min": 1e9, "max": 1e9}}
    script, peer = await begin(scripted, run, options=options, page=True)
    await script.ask("happens", "visibilitychange", {"hidden": True})
    await script.ask("happens", "visibilitychange", {"hidden": False})
    await peer.send("pong")  # at once: it gets five seconds, however slow this machine is
    await peer.until("ping")
    await script.ask("happens", "online")
    await peer.until("ping", count=2)  # no answer
    await script.until("state", state="offline")
    assert len([frame for frame in peer.heard if frame["type"] == "ping"]) == 2
    assert scripted.nobody()
    await script.ask("happens", "pageshow")
    await (await scripted.next()).welcome()


async def test_who_was_told_to_wait_waits_also_when_looked_at(scripted: Scripted, run: Run) -> None:
    script, peer = await begin(scripted, run, page=True)
    await peer.close(4029)
    await script.until("state", state="offline")
    await script.ask("happens", "online")
    assert (await script.ask("state"))["value"]["state"] == "offline"
    assert scripted.nobody()


async def test_closing_is_the_end(scripted: Scripted, run: Run) -> None:
    script, peer = await begin(scripted, run)
    await script.ask("hold")
    await peer.event(1)
    await peer.event(2)
    await script.until("event", data=1)
    await script.ask("close")
    await peer.closed()
    await script.ask("release")
    await script.ask("connect")
    peer = await scripted.next()
    await peer.welcome()
    await peer.event(2)
    await peer.until("ack", position=2)
    assert handled(script) == [1, 2]
    assert [line["reason"] for line in script.said("state", state="closed")] == [
        {"code": 1000, "reason": "closed by the application"}
    ]
