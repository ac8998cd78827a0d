"""The Python client against a real server, over links that break."""

import asyncio

from tests.harness import PATIENCE, Server, token
from tidings_client import Tidings


async def test_events_come_until_they_are_handled(server: Server) -> None:
    positions = [await server.publish("user:alice", data=n) for n in range(3)]
    async with asyncio.timeout(PATIENCE), Tidings(server.url, token("alice")) as tidings:
        got = []
        async for event in tidings:
            got.append(event)
            if len(got) == 3:
                break
        assert [event.position for event in got] == positions
        assert [event.data for event in got] == [0, 1, 2]
        async for event in tidings:
            assert event == got[-1]
            break
        await tidings.done()
    async for event in Tidings(server.url, token("alice")):
        assert event is None
