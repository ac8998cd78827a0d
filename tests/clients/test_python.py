"""The Python client that receives, against a real server over links that break, and by script."""

import asyncio
import gc
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest

from proof.proxy import Proxy, slow_link
from tests.clients.links import Visit, link_to, scripted, tasks_of_clients, url_of
from tests.harness import PATIENCE, Server, eventually, token
from tidings_client import Closed, CommandFailed, Event, FileStore, Tidings, Unauthorized, session, tokens
from tidings_client.events import Notice

ROOT = Path(__file__).parents[2]

Start = Callable[..., Awaitable[Server]]


async def take(tidings: Tidings, count: int) -> list[Event]:
    """Return the next events; all of them are handled."""
    events: list[Event] = []
    async with asyncio.timeout(3 * PATIENCE):
        async for event in tidings:
            events.append(event)
            if len(events) == count:
                await tidings.done()
                return events
    raise AssertionError("it has ended")


def states(tidings: Tidings) -> list[Notice]:
    told: list[Notice] = []
    tidings.watch("state", told.append)
    return told


async def until(tidings: Tidings, state: str) -> None:
    await eventually(lambda: tidings.state == state, 2 * PATIENCE)


async def cut(link: Proxy, told: list[Notice]) -> None:
    """Cut a link, and wait until its client has noticed, which it may be over in a moment."""
    seen = len(told)
    link.cut()
    await eventually(lambda: "offline" in {notice["state"] for notice in told[seen:]}, 2 * PATIENCE)


# --- Events


async def test_an_event_is_handled_once_the_next_one_is_asked_for(server: Server) -> None:
    positions = [await server.publish("user:alice", "greeting", {"n": n}) for n in range(3)]
    async with Tidings(server.url, token("alice"), device="d") as tidings:
        async for event in tidings:
            if event.position == positions[1]:
                break
        assert tidings.position == positions[0]
        assert (await take(tidings, 1))[0] == event  # it was not handled, so it comes again
        assert (event.to, event.type, event.data) == ("user:alice", "greeting", {"n": 1})
        assert abs((datetime.now(UTC) - event.time).total_seconds()) < 3 * PATIENCE
        assert tidings.user == "alice"
        # Told at once, and not only when it closes.
        answer = "/v1/users/alice/devices"
        await eventually(lambda: cursor_is(server, answer, positions[1]))
    assert tasks_of_clients() == []
    # Another one, which knows nothing, goes on where this was.
    async with Tidings(server.url, token("alice"), device="d") as tidings:
        assert [event.position for event in await take(tidings, 1)] == positions[2:]


async def test_what_was_handled_last_is_told_before_it_leaves(server: Server) -> None:
    """Within the pause between two acknowledgements."""
    for n in range(30):
        await server.publish("user:alice", data=n)
    async with Tidings(server.url, token("alice"), device="d") as tidings:
        await take(tidings, 30)
    last = await server.publish("user:alice")
    async with Tidings(server.url, token("alice"), device="d") as tidings:
        assert [event.position for event in await take(tidings, 1)] == [last]


async def cursor_is(server: Server, path: str, position: int) -> bool:
    devices = (await server.http.get(path)).json()["data"]
    return [device["cursor"] for device in devices] == [position]


async def test_a_loop_opens_and_closes_what_is_not_open(server: Server) -> None:
    position = await server.publish("user:alice")
    async for event in Tidings(server.url, token("alice")):
        assert event.position == position
        break
    gc.collect()
    await eventually(lambda: tasks_of_clients() == [])


async def test_an_error_in_the_loop_leaves_its_event_for_the_next_one(server: Server) -> None:
    position = await server.publish("user:alice")

    async def failing(tidings: Tidings) -> None:
        async for _ in tidings:
            raise LookupError

    async with Tidings(server.url, token("alice")) as tidings:
        with pytest.raises(LookupError):
            await failing(tidings)
        assert (await take(tidings, 1))[0].position == position


async def test_one_that_is_cancelled_leaves_nothing_behind(server: Server) -> None:
    for moment in range(30):
        listening = asyncio.create_task(take(Tidings(server.url, token("alice")), 1))
        for _ in range(moment * 3):
            await asyncio.sleep(0)
        listening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listening
        del listening
    gc.collect()
    await eventually(lambda: tasks_of_clients() == [])


async def test_closing_ends_a_loop_that_waits(server: Server) -> None:
    async with Tidings(server.url, token("alice")) as tidings:
        listening = asyncio.create_task(take(tidings, 1))
        await until(tidings, "live")
        await tidings.aclose()
        with pytest.raises(AssertionError, match="it has ended"):
            await listening
        assert tidings.state == "closed"
        with pytest.raises(RuntimeError):
            await tidings.__aenter__()


async def test_what_is_closed_before_it_could_begin_has_ended_too() -> None:
    tidings = Tidings("http://127.0.0.1:1", "t")
    await tidings.__aenter__()
    await tidings.aclose()
    async with asyncio.timeout(PATIENCE):
        assert [event async for event in tidings] == []
        with pytest.raises(Closed):
            await tidings.rooms()
    assert tidings.state == "closed"


# --- Links that break


async def test_over_200_cuts_each_event_comes_once_and_in_order(server: Server) -> None:
    """10,000 events in all; each cut comes at a random moment while 50 of them are sent."""
    rng, cuts, size = Random(7), 200, 50

    async def send(cut: int) -> None:
        events = [{"to": "user:alice", "type": "t", "data": n} for n in range(cut * size, cut * size + size)]
        answer = await server.http.post("/v1/events/batch", json={"events": events})
        assert answer.status_code == 202

    async with link_to(server.port) as link, Tidings(url_of(link), token("alice"), device="d") as tidings:
        told = states(tidings)
        hurried(tidings, rng)

        async def send_and_cut() -> None:
            for cut in range(cuts):
                sending = asyncio.create_task(send(cut))
                await asyncio.sleep(rng.uniform(0, 0.02))
                await eventually(lambda: len(link))
                link.cut()
                await sending

        cutting = asyncio.create_task(send_and_cut())
        received = [event.data for event in await take(tidings, cuts * size)]
        await cutting
        await server.publish("user:alice", data="last")
        received += [event.data for event in await take(tidings, 1)]
    assert received == [*range(cuts * size), "last"]
    assert [notice["state"] for notice in told].count("catching-up") > 20


def hurried(tidings: Tidings, rng: Random) -> None:
    """Let pauses be short: half a minute is for a service that is down, not for a test."""
    assert tidings._opened is not None
    tidings._opened._line._course.failed = lambda: rng.uniform(0, 0.02)  # type: ignore[method-assign]


async def test_a_half_open_link_is_noticed(start: Start) -> None:
    server = await start(heartbeat=0.2)
    async with link_to(server.port) as link, Tidings(url_of(link), token("alice")) as tidings:
        await until(tidings, "live")
        link.blackhole()
        await server.publish("user:alice", data="in the hole")
        await until(tidings, "offline")
        link.heal()
        assert [event.data for event in await take(tidings, 1)] == ["in the hole"]


async def test_a_link_over_which_nothing_comes_is_dead_though_nobody_says_so() -> None:
    async def script(number: int, visit: Visit) -> None:
        await visit.welcome(heartbeat=0.2)
        if number == 2:
            await visit.event(1)
        await visit.left()

    async with scripted(script) as url, Tidings(url, token("alice")) as tidings:
        assert [event.position for event in await take(tidings, 1)] == [1]


async def test_closing_does_not_wait_for_a_dead_link(server: Server) -> None:
    async with link_to(server.port) as link, Tidings(url_of(link), token("alice")) as tidings:
        await until(tidings, "live")
        link.blackhole()
        async with asyncio.timeout(PATIENCE):
            await tidings.aclose()


async def test_a_throttled_link_is_not_a_dead_one(start: Start) -> None:
    server = await start(heartbeat=3)
    for n in range(20):
        await server.publish("user:alice", data=[n, "x" * 10_000])
    async with slow_link(server.port, 100_000) as link, Tidings(url_of(link), token("alice")) as tidings:
        told = states(tidings)
        assert [event.data[0] for event in await take(tidings, 20)] == list(range(20))
        assert [notice["state"] for notice in told if notice["state"] == "offline"] == []


async def test_a_consumer_that_takes_longer_than_two_heartbeats_is_not_taken_for_dead(start: Start) -> None:
    server = await start(heartbeat=1)
    async with Tidings(server.url, token("alice")) as tidings:
        told = states(tidings)
        await server.publish("user:alice", data=0)
        got = []
        async for event in tidings:
            got.append(event.data)
            if got == [0]:
                for n in range(1, 4):
                    await server.publish("user:alice", data=n)
                await asyncio.sleep(2.5)  # what the event takes
            if len(got) == 4:
                break
        assert got == [0, 1, 2, 3]
        assert "offline" not in {notice["state"] for notice in told}


async def test_beyond_its_bound_it_lets_go_and_comes_back_for_the_rest(start: Start) -> None:
    server = await start(heartbeat=0.2)
    total = 5000
    for first in range(0, total, 1000):
        events = [{"to": "user:alice", "type": "t", "data": n} for n in range(first, first + 1000)]
        await server.http.post("/v1/events/batch", json={"events": events})
    async with Tidings(server.url, token("alice")) as tidings:
        assert [event.data for event in await take(tidings, 1)] == [0]
        await until(tidings, "offline")
        assert len(tidings._handling.inflow) <= 1001
        assert [event.data for event in await take(tidings, total - 1)] == list(range(1, total))


async def test_closing_does_not_wait_for_what_nobody_takes(server: Server) -> None:
    events = [{"to": "user:alice", "type": "t", "data": n} for n in range(1000)]
    for _ in range(2):
        await server.http.post("/v1/events/batch", json={"events": events})
    async with Tidings(server.url, token("alice")) as tidings:
        await eventually(lambda: tidings._handling.inflow.full)
        async with asyncio.timeout(PATIENCE):  # a heartbeat is 25 s
            await tidings.aclose()
    assert tasks_of_clients() == []


async def test_a_consumer_that_is_a_little_slow_is_waited_for(server: Server) -> None:
    for first in range(0, 3000, 1000):
        events = [{"to": "user:alice", "type": "t", "data": n} for n in range(first, first + 1000)]
        await server.http.post("/v1/events/batch", json={"events": events})
    async with Tidings(server.url, token("alice")) as tidings:
        told, got = states(tidings), []
        async for event in tidings:
            got.append(event.data)
            await asyncio.sleep(0)
            if len(got) == 3000:
                break
        assert got == list(range(3000))
        assert "offline" not in {notice["state"] for notice in told}


# --- Processes that end


async def test_a_process_that_is_killed_gets_at_most_its_last_event_again(
    server: Server, tmp_path: Path
) -> None:
    program = (
        "import asyncio, sys\n"
        "from tidings_client import FileStore, Tidings\n"
        "async def main():\n"
        "    url, token, path = sys.argv[1:]\n"
        "    async for event in Tidings(url, token, device='d', store=FileStore(path)):\n"
        "        print(event.data, flush=True)\n"
        "asyncio.run(main())\n"
    )
    rng = Random(3)
    arguments = (sys.executable, "-c", program, server.url, token("alice"), str(tmp_path / "positions"))
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}/clients/python"}
    last, size = -1, 50
    for number in range(6):
        sent = range(number * size, (number + 1) * size)
        events = [{"to": "user:alice", "type": "t", "data": n} for n in sent]
        await server.http.post("/v1/events/batch", json={"events": events})
        process = await asyncio.create_subprocess_exec(*arguments, env=environment, stdout=PIPE)
        assert process.stdout is not None
        wanted = last + rng.randrange(2, size)
        async with asyncio.timeout(3 * PATIENCE):
            life = [int(await process.stdout.readline())]
            while life[-1] < wanted:
                life.append(int(await process.stdout.readline()))
        process.send_signal(signal.SIGKILL)
        out, _ = await process.communicate()
        life += map(int, out.split())
        assert life == list(range(life[0], life[-1] + 1))
        assert life[0] in {last, last + 1}
        last = life[-1]


async def test_a_store_that_fails_ends_the_loop_and_the_event_comes_again(server: Server) -> None:
    class Failing:
        fails = True

        async def get(self, key: str, /) -> str | None:
            return None

        async def set(self, key: str, value: str, /) -> None:
            if self.fails:
                raise OSError("the disk is full")

    position = await server.publish("user:alice")
    store = Failing()
    async with Tidings(server.url, token("alice"), store=store) as tidings:
        with pytest.raises(OSError, match="the disk is full"):
            await take(tidings, 1)
        assert tidings.position is None
        store.fails = False
        assert (await take(tidings, 1))[0].position == position
        assert tidings.position == position


async def test_what_is_stored_is_resumed_by_its_own_user_only(tmp_path: Path) -> None:
    asked: list[str | None] = []

    async def script(number: int, visit: Visit) -> None:
        asked.append(visit.query.get("resume"))
        assert visit.query["ack"] == "client"
        await visit.welcome(user="bob" if number == 3 else "alice")
        await visit.event(number)
        await visit.left()

    store = FileStore(tmp_path / "positions")
    async with scripted(script) as url:
        for user in ("alice", "alice", "bob", "bob"):
            async with Tidings(url, token(user), device="d", store=store) as tidings:
                await take(tidings, 1)
    assert asked == [None, "log:1", None, "log:3"]


async def test_a_user_whom_the_service_names_otherwise_is_known_by_its_welcome() -> None:
    asked: list[str | None] = []

    async def script(number: int, visit: Visit) -> None:
        asked.append(visit.query.get("resume"))
        await visit.welcome(user="alice@example.com")
        await visit.event(number)
        await visit.hear("ack")
        await visit.close(1012)

    async with scripted(script) as url, Tidings(url, token("alice")) as tidings:
        await take(tidings, 2)
    assert asked[:2] == [None, "log:1"]


# --- Gaps and other logs


async def test_after_a_gap_it_counts_from_its_end_also_where_that_is_less() -> None:
    asked: list[str | None] = []
    acked: list[int] = []

    async def script(number: int, visit: Visit) -> None:
        asked.append(visit.query.get("resume"))
        await visit.welcome()
        if number == 1:
            await visit.event(100)
        elif number == 2:
            await visit.say("gap", **{"from": 100, "to": 40}, reason="failover")
            acked.append((await visit.hear("ack"))["position"])
            await visit.event(41)
        acked.append((await visit.hear("ack"))["position"])
        await visit.close(1012)

    async with scripted(script) as url, Tidings(url, token("alice")) as tidings:
        gaps: list[Notice] = []
        tidings.watch("gap", gaps.append)
        assert [event.position for event in await take(tidings, 2)] == [100, 41]
        assert tidings.position == 41
        await eventually(lambda: len(asked) > 2)
    assert asked[:3] == [None, "log:100", "log:41"]
    assert acked[:3] == [100, 40, 41]
    assert [gap["reason"] for gap in gaps] == ["failover"]


async def test_of_another_log_positions_begin_anew() -> None:
    acked: list[tuple[int, int]] = []

    async def script(number: int, visit: Visit) -> None:
        await visit.welcome(log=f"log {number}")
        await visit.event(100 if number == 1 else 3)
        acked.append((number, (await visit.hear("ack"))["position"]))
        if number == 1:
            await visit.close(1012)
        await visit.left()

    async with scripted(script) as url, Tidings(url, token("alice")) as tidings:
        assert [event.position for event in await take(tidings, 2)] == [100, 3]
        assert tidings.position == 3
        await eventually(lambda: len(acked) == 2)
    assert acked == [(1, 100), (2, 3)]


# --- Tokens


async def test_a_token_that_expires_is_replaced_once(start: Start) -> None:
    server = await start()
    asked = 0

    def fresh() -> str:
        nonlocal asked
        asked += 1
        # The first one is old: its age is not known here, so that it was not replaced in time.
        return token("alice", exp=int(datetime.now(UTC).timestamp()) + (2 if asked == 1 else 600))

    async with Tidings(server.url, fresh) as tidings:
        told = states(tidings)
        tidings_tokens = tidings._opened._tokens  # type: ignore[union-attr]
        tidings_tokens.due_in = lambda now: None  # type: ignore[method-assign]
        await until(tidings, "live")
        await eventually(lambda: asked == 2, 2 * PATIENCE)
        await until(tidings, "live")
        await server.publish("user:alice", data="after")
        assert [event.data for event in await take(tidings, 1)] == ["after"]
        assert asked == 2
        [offline] = [notice for notice in told if notice["state"] == "offline"]
        assert (offline["code"], offline["retry_after"]) == (4001, 0)


async def test_a_token_is_renewed_over_the_open_socket_before_it_expires(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its age counts from when it was got: issued in the future it lives for longer than it seems."""
    monkeypatch.setattr(tokens, "FRESH", 0.1)  # or it would take longer
    now = int(datetime.now(UTC).timestamp())
    dead_at = asyncio.get_running_loop().time() + 10.5
    asked = 0

    async def fresh() -> str:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise OSError("nobody signs tokens just now")
        return token("alice", iat=now + 6, exp=now + 10) if asked < 3 else token("alice")

    async with Tidings(server.url, fresh) as tidings:
        told = states(tidings)
        await eventually(lambda: asked == 3, 2 * PATIENCE)
        await asyncio.sleep(dead_at - asyncio.get_running_loop().time())
        await server.publish("user:alice", data="after")
        assert [event.data for event in await take(tidings, 1)] == ["after"]
        assert "offline" not in {notice["state"] for notice in told}


async def test_a_dead_token_is_the_end_after_one_more_call(server: Server) -> None:
    asked = 0

    def fresh() -> str:
        nonlocal asked
        asked += 1
        return "eyJ.eyJ.x"

    tidings = Tidings(server.url, fresh)
    with pytest.raises(Unauthorized) as raised:
        await take(tidings, 1)
    assert (raised.value.code, asked) == (4001, 2)
    assert tidings.state == "unauthorized"
    assert tidings.reason is raised.value
    with pytest.raises(Unauthorized):
        await tidings.rooms()


async def test_a_revoked_user_is_the_end(server: Server) -> None:
    async with Tidings(server.url, lambda: token("alice")) as tidings:
        await until(tidings, "live")
        await server.http.post("/v1/revocations", json={"user": "alice", "ban": True})
        with pytest.raises(Unauthorized):
            await take(tidings, 1)


@pytest.mark.parametrize(("code", "error"), [(4003, Unauthorized), (4010, Closed), (1008, Closed)])
@pytest.mark.parametrize("welcomed", [True, False])
async def test_final_ends_raise_once_what_has_come_is_handled(
    code: int, error: type[Exception], *, welcomed: bool
) -> None:
    async def script(number: int, visit: Visit) -> None:
        if welcomed:
            await visit.welcome()
            await visit.event(1)
        await visit.close(code, "so it is")

    async with scripted(script) as url:
        with pytest.raises(error, match=f"closed: {code} so it is"):
            await take(Tidings(url, token("alice")), 2)


async def test_who_cannot_get_a_token_is_offline_and_tries_again(server: Server) -> None:
    asked = 0

    async def fresh() -> str:
        nonlocal asked
        asked += 1
        if asked < 4:
            raise OSError("nobody signs tokens just now")
        return token("alice")

    async with Tidings(server.url, fresh) as tidings:
        told = states(tidings)
        await until(tidings, "live")
    assert asked == 4
    assert [notice["reason"] for notice in told if notice["state"] == "offline"] == [
        "no token: nobody signs tokens just now"
    ] * 3


# --- Restarts


async def test_the_next_connection_is_there_before_the_old_one_is_left() -> None:
    loop = asyncio.get_running_loop()
    happened: list[str] = []
    told = came = 0.0
    both = asyncio.Event()

    async def script(number: int, visit: Visit) -> None:
        nonlocal told, came
        if number == 1:
            await visit.welcome()
            await visit.event(1)
            told = loop.time()
            await visit.say("disconnect", code=1012, reason="restart", reconnect=True, retry_after_ms=700)
            await visit.event(2)
            await eventually(lambda: came)
            await visit.event(3)
            both.set()
            await visit.left()
            happened.append("left")
        else:
            came = loop.time()
            assert visit.query["resume"] == "log:2"  # what came after it was told is handled already
            await both.wait()
            await visit.welcome()
            happened.append("came")
            for position in (3, 4):
                await visit.event(position)
            await visit.left()

    async with scripted(script) as url, Tidings(url, token("alice")) as tidings:
        seen = states(tidings)
        assert [event.position for event in await take(tidings, 4)] == [1, 2, 3, 4]
        await eventually(lambda: len(happened) == 2)
        assert "offline" not in {notice["state"] for notice in seen}
    assert happened == ["came", "left"]
    assert came - told >= 0.699


async def test_what_was_handled_last_is_told_before_the_old_one_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "BETWEEN_ACKS", 1000)
    told: list[list[int]] = []

    async def script(number: int, visit: Visit) -> None:
        await visit.welcome()
        if number == 1:
            for position in (1, 2):
                await visit.event(position)
                await eventually(lambda p=position: tidings.position == p)
            await visit.say("disconnect", code=1012, reason="restart", reconnect=True, retry_after_ms=0)
            told.append([frame["position"] for frame in await visit.rest()])
        await visit.left()

    async with scripted(script) as url, Tidings(url, token("alice")) as tidings:
        await take(tidings, 2)
        await eventually(lambda: told)
    assert told[0][-1:] == [2]


async def test_where_the_old_one_ends_first_the_pause_runs_on_from_when_it_was_told() -> None:
    loop = asyncio.get_running_loop()
    told = came = 0.0

    async def script(number: int, visit: Visit) -> None:
        nonlocal told, came
        if number == 1:
            await visit.welcome()
            told = loop.time()
            await visit.say("disconnect", code=1012, reason="restart", reconnect=True, retry_after_ms=800)
            await visit.close(1012, "restart")
        else:
            came = loop.time()
            await visit.welcome()
            await visit.left()

    async with scripted(script) as url, Tidings(url, token("alice")) as tidings:
        await until(tidings, "offline")
        await eventually(lambda: came)
    assert came - told >= 0.799


async def test_who_is_told_to_stay_away_meanwhile_does() -> None:
    async def script(number: int, visit: Visit) -> None:
        assert number == 1
        await visit.welcome()
        await visit.say("disconnect", code=1012, reason="restart", reconnect=True, retry_after_ms=60_000)
        await visit.close(4010, "evicted")

    async with scripted(script) as url:
        with pytest.raises(Closed):
            await take(Tidings(url, token("alice")), 1)


async def test_over_a_restart_of_the_service_nothing_is_lost_or_twice(start: Start) -> None:
    first, second = await start(drain_timeout=2.0), await start()
    async with link_to(first.port) as link, Tidings(url_of(link), token("alice")) as tidings:
        told = states(tidings)
        await until(tidings, "live")
        link._connect = lambda: asyncio.open_connection("127.0.0.1", second.port)
        draining = asyncio.create_task(first.parts["drain"]())
        got: list[int] = []
        for n in range(40):
            await second.publish("user:alice", data=n)
            got += [event.data for event in await take(tidings, 1)]
        await draining
        await second.publish("user:alice", data=40)
        got += [event.data for event in await take(tidings, 1)]
        assert got == list(range(41))
        assert [notice["state"] for notice in told].count("catching-up") >= 1


async def test_of_many_that_are_sent_away_each_comes_back_when_it_was_told() -> None:
    """The service spreads them; a client adds nothing to that, nor takes it away."""
    size, window = 300, 3000
    loop = asyncio.get_running_loop()
    told: dict[str, float] = {}
    early: list[float] = []
    back = 0

    async def script(number: int, visit: Visit) -> None:
        nonlocal back
        device = visit.query["device"]
        if device in told:
            back += 1
            early.append(told[device] - loop.time())
            await visit.welcome()
        else:
            await visit.welcome()
            pause = number * window // size
            told[device] = loop.time() + pause / 1000
            await visit.say("disconnect", code=1012, reason="", reconnect=True, retry_after_ms=pause)
        await visit.left()

    async with scripted(script) as url, AsyncExitStack() as stack:
        clients = [Tidings(url, "t", device=f"d{n}") for n in range(size)]
        for client in clients:
            await stack.enter_async_context(client)
        await eventually(lambda: back == size, 3 * PATIENCE)
        assert back == size
        assert max(early) <= 0.01
    assert tasks_of_clients() == []


# --- Commands


async def test_commands_are_answered(server: Server) -> None:
    grants = {"rooms": ["*"], "publish": ["room:*"], "presence": True, "name": "Alice"}
    async with Tidings(server.url, token("alice", **grants), presence=True) as tidings:
        rooms: list[Notice] = []
        tidings.watch("room", rooms.append)
        await tidings.join("lobby", presence=True)
        done = await tidings.publish("room:lobby", "note", {"n": 1}, id="n-1")
        assert await tidings.publish("room:lobby", "note", {"n": 1}, id="n-1") == done
        assert (done.id, [event.position for event in await take(tidings, 1)]) == ("n-1", [done.position])
        assert [room["room"] for room in await tidings.rooms()] == ["lobby"]
        assert await tidings.members("lobby") == ["alice"]
        present = [{"user": "alice", "info": {"name": "Alice"}, "devices": 1}]
        await eventually(lambda: is_present(tidings, present))
        await tidings.publish("room:lobby", "typing", ephemeral=True)
        [typing] = await take(tidings, 1)
        assert (typing.ephemeral, typing.position) == (True, None)
        with pytest.raises(CommandFailed) as raised:
            await tidings.publish("everyone", "x")
        assert raised.value.code == "forbidden"
        await tidings.leave("lobby")
        assert await tidings.rooms() == []
        assert [room["type"] for room in rooms] == ["joined_room"]


async def is_present(tidings: Tidings, expected: list[dict[str, Any]]) -> bool:
    present = await tidings.presence("lobby")
    return [{name: one[name] for name in one if name != "since"} for one in present] == expected


async def test_a_command_whose_answer_is_lost_is_carried_out_once(server: Server) -> None:
    grants = {"publish": ["user:*"]}
    async with (
        link_to(server.port) as link,
        Tidings(url_of(link), token("alice", **grants)) as tidings,
        Tidings(server.url, token("bob")) as bob,
    ):
        await until(tidings, "live")
        for n in range(5):
            link.replies.lose = True
            publishing = asyncio.create_task(tidings.publish("user:bob", "t", n))
            assert [event.data for event in await take(bob, 1)] == [n]
            link.cut()
            assert (await publishing).position is not None
        await server.publish("user:bob", data="last")
        assert [event.data for event in await take(bob, 1)] == ["last"]


async def test_commands_wait_for_a_connection(server: Server) -> None:
    async with link_to(server.port) as link:
        link.refuse = True
        async with Tidings(url_of(link), token("alice", rooms=["*"])) as tidings:
            asked = [asyncio.create_task(tidings.join(f"room{n}")) for n in range(60)]
            await until(tidings, "offline")
            link.refuse = False
            await asyncio.gather(*asked)  # all of them, though it is more than what may come in a second
            assert len(await tidings.rooms()) == 60


async def test_what_belongs_to_a_connection_is_joined_again_over_the_next(server: Server) -> None:
    async with link_to(server.port) as link, Tidings(url_of(link), token("alice", rooms=["*"])) as tidings:
        told = states(tidings)
        await tidings.join("here", durable=False)
        for n in range(3):
            await cut(link, told)
            await until(tidings, "live")
            assert [room["room"] for room in await tidings.rooms()] == ["here"]
            await server.publish("room:here", data=n)
            assert [event.data for event in await take(tidings, 1)] == [n]
        await tidings.leave("here")
        await cut(link, told)
        assert await tidings.rooms() == []


async def test_what_was_left_before_the_answer_is_not_joined_again(server: Server) -> None:
    async with link_to(server.port) as link, Tidings(url_of(link), token("alice", rooms=["*"])) as tidings:
        await until(tidings, "live")
        await asyncio.gather(tidings.join("here", durable=False), tidings.leave("here"))
        with pytest.raises(CommandFailed):
            await tidings.join("no such room!", durable=False)
        await cut(link, states(tidings))
        assert await tidings.rooms() == []


# --- Notices


async def test_notices_come_in_order_with_events_and_one_that_fails_holds_nothing_up(server: Server) -> None:
    order: list[Any] = []
    errors: list[Notice] = []
    first = await server.publish("user:alice")
    await server.publish("user:alice")
    async with Tidings(server.url, token("alice")) as tidings:

        async def recalled(frame: Notice) -> None:
            await asyncio.sleep(0)
            order.append(("recalled", frame["recalled"]))
            raise ZeroDivisionError

        tidings.watch("recalled", recalled)
        tidings.watch("error", errors.append)
        order += [event.position for event in await take(tidings, 2)]
        recall = (await server.http.delete(f"/v1/events/{first}")).json()["position"]
        await server.publish("user:alice", data="after")
        order += [event.data for event in await take(tidings, 1)]
        assert tidings.position > recall
    assert order == [first, first + 1, ("recalled", first), "after"]
    assert [type(error["error"]) for error in errors] == [ZeroDivisionError]


async def test_what_makes_no_sense_ends_only_the_connection_that_says_it() -> None:
    async def script(number: int, visit: Visit) -> None:
        await visit.welcome()
        if number == 1:
            await visit.say("news", of="a later version")
            await visit.say("event", position="x")
        else:
            await visit.event(1)
        await visit.left()

    async with scripted(script) as url:
        assert json.dumps([event.position for event in await take(Tidings(url, token("a")), 1)]) == "[1]"
