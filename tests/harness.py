"""A real server in this process, and clients that talk to it over real sockets."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode

import httpx
import uvicorn
from uvicorn.server import ServerState
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from service.app import create_app
from service.auth.tokens import TokenMinter
from service.door import Door
from service.gateway.handshake import Handshake
from service.settings import Settings
from tests import contract

SECRET = "a secret for tests that has more than 32 bytes"
ADMIN_KEY = "an admin key for tests, of some length"
PATIENCE = 30.0
"""Seconds that anything may take: only a failure takes them."""

Frame = dict[str, Any]


def token(user: str, **claims: Any) -> str:
    """Mint a client token."""
    now = int(time.time())
    return TokenMinter(SECRET.encode(), "HS256", None, None).mint(
        {"sub": user, "iat": now, "exp": now + 600, **claims}
    )


class Device:
    """One socket, as any RFC 6455 client has it: the library answers pings by itself."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.frames: list[Frame] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self.socket.close()

    async def send(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def receive(self) -> Frame:
        async with asyncio.timeout(PATIENCE):
            frame: Frame = json.loads(await self.socket.recv())
        self.frames.append(frame)
        return frame

    async def until(self, kind: str, **fields: Any) -> Frame:
        """Return the next frame of this type with these fields; others are kept in ``frames``."""
        while True:
            frame = await self.receive()
            if frame["type"] == kind and all(frame.get(k) == v for k, v in fields.items()):
                return frame

    async def events(self, count: int) -> list[Frame]:
        return [await self.until("event") for _ in range(count)]

    async def ask(self, kind: str, **fields: Any) -> Frame:
        """Send a command with a ref, and return its answer."""
        ref = len(self.frames) + 1000
        await self.send(kind, ref=ref, **fields)
        while True:
            frame = await self.receive()
            if frame.get("ref") == ref:
                return frame

    async def closed(self) -> int:
        """Read until the server closes; return the close code."""
        try:
            async with asyncio.timeout(PATIENCE):  # however much else comes
                while True:
                    await self.receive()
        except ConnectionClosed:
            code = self.socket.close_code
            assert code is not None
            return code

    async def quiet(self) -> list[Frame]:
        """Return what had been sent up to now: whatever precedes the answer to a ping."""
        seen = len(self.frames)
        await self.send("ping", ts=seen)
        await self.until("pong", ts=seen)
        return self.frames[seen:-1]


class Server:
    """A running service and the ways to talk to it."""

    def __init__(self, port: int, parts: dict[str, Any], state: ServerState) -> None:
        self.port = port
        self.parts = parts
        self.state = state
        self.gateway = parts["gateway"]
        self.service = parts["service"]
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx.AsyncClient(
            base_url=self.url, headers={"Authorization": f"Bearer {ADMIN_KEY}"}, timeout=PATIENCE,
            event_hooks={"response": [contract.check]},
        )  # fmt: skip

    def ws_url(self, **query: Any) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/ws?{urlencode(query)}"

    async def device(self, user: str = "", *, claims: dict[str, Any] | None = None, **query: Any) -> Device:
        """Connect as ``user``; ``query`` goes into the URL. Does not wait for the backlog."""
        query.setdefault("token", token(user, **(claims or {})))
        socket = await connect(self.ws_url(**query), compression=None, max_queue=None)
        return Device(socket)

    async def live(self, user: str, *, claims: dict[str, Any] | None = None, **query: Any) -> Device:
        """Connect and wait until the backlog is done."""
        device = await self.device(user, claims=claims, **query)
        await device.until("live")
        return device

    async def publish(self, to: str | list[str], type: str = "test", data: Any = None, **more: Any) -> int:
        """Publish an event; return its first position."""
        answer = await self.http.post("/v1/events", json={"to": to, "type": type, "data": data, **more})
        assert answer.status_code == 202, answer.text
        position: int = answer.json()["events"][0]["position"]
        return position

    async def join(self, room: str, *users: str) -> None:
        for user in users:
            answer = await self.http.put(f"/v1/rooms/{room}/members/{quote(user, safe='')}")
            assert answer.status_code == 200, answer.text

    async def reached(self, position: int) -> None:
        """Wait until this instance has routed everything up to ``position``."""
        assert await self.service.follower.reached_within(position, PATIENCE)


async def eventually(condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Wait for a condition; return what it returned when it held."""
    async with asyncio.timeout(patience):
        while True:
            result = condition()
            if asyncio.iscoroutine(result):
                result = await result
            if result:
                return result
            await asyncio.sleep(0.005)


class Uvicorn(uvicorn.Server):
    """Stops when it is told, and not only at its next look."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stop = asyncio.Event()

    async def main_loop(self) -> None:
        ticks = itertools.count()
        while not self.stop.is_set():
            await self.on_tick(next(ticks))
            with suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await self.stop.wait()


@asynccontextmanager
async def serving(*, keep_alive: float = 5, **settings: Any) -> AsyncIterator[Server]:
    """Run the service under a real uvicorn on a free port, with intervals short enough for tests."""
    fast = {
        "_env_file": None, "jwt_secret": SECRET, "admin_key": ADMIN_KEY, "ack_interval": 0.02,
        "append_timeout": PATIENCE, "drain_timeout": 0.3, "dev": True,
    }  # fmt: skip
    app = create_app(Settings(**(fast | settings)))
    config = uvicorn.Config(
        app, port=0, http=Door, ws=Handshake, lifespan="on", log_config=None, access_log=False,
        timeout_graceful_shutdown=2, timeout_keep_alive=keep_alive,
    )  # fmt: skip
    uvicorn_server = Uvicorn(config)
    # Signals are pytest's here.
    task = asyncio.create_task(uvicorn_server._serve())
    await eventually(lambda: uvicorn_server.started or task.done())
    if task.done():
        task.result()
        raise RuntimeError("the server did not start")
    parts = uvicorn_server.lifespan.state
    server = Server(uvicorn_server.servers[0].sockets[0].getsockname()[1], parts, uvicorn_server.server_state)
    try:
        yield server
    finally:
        await server.http.aclose()
        try:
            await parts["drain"]()
        finally:
            uvicorn_server.stop.set()
            await task
