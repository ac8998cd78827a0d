"""What stands between a client and the service in tests: links that break, or a service by script."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection, serve

from proof.proxy import Proxy, proxying
from proof.stage import connector
from tests.harness import Frame


def link_to(port: int) -> AbstractAsyncContextManager[Proxy]:
    """Run a link to a local port that can be broken."""
    return proxying(connector(lambda: port))


def url_of(proxy: Proxy) -> str:
    return f"http://127.0.0.1:{proxy.port}"


class Visit:
    """A connection to the service by script."""

    def __init__(self, socket: ServerConnection) -> None:
        self._socket = socket
        assert socket.request is not None
        self.query = {k: v[0] for k, v in parse_qs(urlsplit(socket.request.path).query).items()}
        offered = socket.request.headers.get("Sec-WebSocket-Protocol", "").split(", ")
        self.token = next((one[7:] for one in offered if one.startswith("bearer.")), None)

    async def say(self, kind: str, **fields: Any) -> None:
        await self._socket.send(json.dumps({"type": kind, **fields}))

    async def welcome(self, *, log: str = "log", user: str = "alice", heartbeat: float = 25) -> None:
        await self.say(
            "welcome", user=user, device="d", connection="c", log=log, position=0, head=0,
            heartbeat=heartbeat, rooms=[],
        )  # fmt: skip

    async def event(self, position: int, data: Any = None) -> None:
        await self.say(
            "event", position=position, id=str(position), to="user:alice", event="t", data=data,
            time="2026-11-24T03:09:41.527Z",
        )  # fmt: skip

    async def hear(self, kind: str) -> Frame:
        """Return the next frame of this type."""
        while True:
            frame: Frame = json.loads(await self._socket.recv())
            if frame["type"] == kind:
                return frame

    async def rest(self) -> list[Frame]:
        """Return the frames that come until the client has closed."""
        return [json.loads(text) async for text in self._socket]

    async def close(self, code: int, reason: str = "") -> None:
        await self._socket.close(code, reason)

    async def left(self) -> None:
        """Wait until the client has closed."""
        await self._socket.wait_closed()


@asynccontextmanager
async def scripted(script: Callable[[int, Visit], Awaitable[None]]) -> AsyncIterator[str]:
    """Run a service that does with each visit what the script says, by its number from 1; give its URL."""
    visits = 0
    failures: list[BaseException] = []

    async def visited(socket: ServerConnection) -> None:
        nonlocal visits
        visits += 1
        try:
            await script(visits, Visit(socket))
        except AssertionError as error:
            failures.append(error)

    async with serve(visited, "127.0.0.1", 0, subprotocols=["tidings.v1"]) as server:  # type: ignore[list-item]
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    if failures:
        raise failures[0]


def tasks_of_clients() -> list[asyncio.Task[Any]]:
    """Return the tasks that run the clients' code; the server's are in this loop too."""
    return [
        task for task in asyncio.all_tasks()
        if "tidings_client" in getattr(getattr(task.get_coro(), "cr_code", None), "co_filename", "")
    ]  # fmt: skip
