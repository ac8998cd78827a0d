"""The Python client without asyncio: in a thread here, while the server has the loop."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError

import pytest

from tests.harness import ADMIN_KEY, Server, eventually, token
from tidings_client import Refused, Unauthorized
from tidings_client.sync import Publisher, Tidings, _Background

Start = Callable[..., Awaitable[Server]]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "tidings-client"]


async def test_events_are_sent_and_received_in_order(server: Server) -> None:
    def program() -> list[object]:
        with Publisher(server.url, ADMIN_KEY) as publisher:
            sent = [publisher.send("user:alice", "t", n) for n in range(3)]
            with pytest.raises(Refused):
                publisher.send("nobody", "t")
        got = []
        with Tidings(server.url, token("alice", rooms=["*"], publish=["user:*"])) as tidings:
            for event in tidings:
                got.append(event)
                if len(got) == 3:
                    tidings.done()
                    break
            assert tidings.position == sent[-1].position
            assert tidings.state == "live"
            tidings.join("room")
            assert [room["room"] for room in tidings.rooms()] == ["room"]
            assert tidings.members("room") == ["alice"]
            tidings.leave("room")
            assert tidings.publish("user:bob", "t").position is not None
        assert [event.position for event in got] == [one.position for one in sent]
        return [event.data for event in got]

    assert await asyncio.to_thread(program) == [0, 1, 2]
    assert threads() == []


async def test_a_loop_opens_and_closes_what_is_not_open(server: Server) -> None:
    await server.publish("user:alice")

    def program() -> None:
        for event in Tidings(server.url, token("alice")):
            assert event.to == "user:alice"
            break
        with pytest.raises(Unauthorized):
            next(iter(Tidings(server.url, "no.to.ken")))
        with pytest.raises(RuntimeError, match="not open"):
            Tidings(server.url, "t").join("room")
        with pytest.raises(RuntimeError, match="not open"):
            Publisher(server.url, "k").send("user:alice", "t")

    await asyncio.to_thread(program)
    assert threads() == []


async def test_several_threads_share_a_publisher(server: Server) -> None:
    with Publisher(server.url, ADMIN_KEY) as publisher:
        sending = [asyncio.to_thread(publisher.send, "user:alice", "t", n) for n in range(50)]
        sent = await asyncio.gather(*sending)
        assert len({one.position for one in sent}) == 50
        await asyncio.to_thread(publisher.close)
    assert threads() == []


async def test_a_loop_in_which_it_is_closed_ends(server: Server) -> None:
    await server.publish("user:alice")
    await server.publish("user:alice")

    def program() -> int:
        count = 0
        with Tidings(server.url, token("alice")) as tidings:
            for _ in tidings:
                count += 1
                tidings.close()
        return count

    assert await asyncio.to_thread(program) == 1
    assert threads() == []


async def test_who_waits_when_the_thread_ends_is_told() -> None:
    begun = threading.Event()

    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    def wait() -> None:
        with pytest.raises(CancelledError):
            background.run(endless())

    background = _Background()
    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    await asyncio.to_thread(begun.wait)
    await asyncio.to_thread(background.close)
    await eventually(lambda: not waiting.is_alive())
    assert threads() == []
