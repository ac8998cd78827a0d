"""A server that says what a test tells it to: for what the real one does only by chance or mishap."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.harness import PATIENCE, Frame

LOG = "11111111-2222-3333-4444-555555555555"


class Peer:
    """One connection of a client."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.heard: list[Frame] = []
        self._heard = asyncio.Condition()
        assert socket.request is not None
        self.query = dict(parse_qsl(urlsplit(socket.request.path).query))
        offered = socket.request.headers["Sec-WebSocket-Protocol"].replace(" ", "").split(",")
        self.token = next(
            (each.removeprefix("bearer.") for each in offered if each.startswith("bearer.")), None
        )
        self.at = asyncio.get_running_loop().time()

    async def listen(self) -> None:
        try:
            async for text in self.socket:
                async with self._heard:
                    self.heard.append(json.loads(text))
                    self._heard.notify_all()
        except ConnectionClosed:
            pass

    async def send(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def event(self, position: int) -> None:
        await self.send(
            "event", position=position, id=str(position), to="user:alice", event="test", data=position,
            time="2026-01-01T00:00:00.000Z",
        )  # fmt: skip

    async def welcome(
        self, position: int = 0, *, log: str = LOG, user: str = "alice", head: int = 1000
    ) -> None:
        await self.send(
            "welcome", user=user, device="test", connection="c", log=log, position=position, head=head,
            heartbeat=25.0, rooms=[],
        )  # fmt: skip

    async def until(self, kind: str, count: int = 1, **fields: Any) -> Frame:
        """Wait until the client has said so; return the last frame that does."""

        def said() -> list[Frame]:
            return [
                f for f in self.heard if f["type"] == kind and all(f.get(k) == v for k, v in fields.items())
            ]

        async with asyncio.timeout(PATIENCE), self._heard:
            await self._heard.wait_for(lambda: len(said()) >= count)
            return said()[-1]

    async def answer(self, frame: Frame, **fields: Any) -> None:
        await self.send("ok", ref=frame["ref"], **fields)

    async def close(self, code: int, reason: str = "") -> None:
        await self.socket.close(code, reason)

    async def closed(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.socket.wait_closed()


class Scripted:
    """Where clients come to, one after the other."""

    def __init__(self) -> None:
        self.url = ""
        self._coming: asyncio.Queue[Peer] = asyncio.Queue()

    async def come(self, socket: ServerConnection) -> None:
        peer = Peer(socket)
        self._coming.put_nowait(peer)
        await peer.listen()

    async def next(self) -> Peer:
        async with asyncio.timeout(PATIENCE):
            return await self._coming.get()

    def nobody(self) -> bool:
        return self._coming.empty()


@asynccontextmanager
async def scripting() -> AsyncIterator[Scripted]:
    scripted = Scripted()
    protocols = [Subprotocol("tidings.v1")]
    async with serve(scripted.come, "127.0.0.1", 0, subprotocols=protocols, compression=None) as server:
        scripted.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/some/path/"
        yield scripted
