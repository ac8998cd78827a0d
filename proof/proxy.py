"""A TCP proxy that can break what passes through it, in either direction."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import make_url

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]
NARROW = 16 * 1024


@dataclass(slots=True)
class Way:
    """One direction: it can lose all bytes, hold each piece for a while, or let only so much through."""

    lose: bool = False
    delay: float = 0.0
    """Seconds for each piece of at most 16 KiB, one after the other."""
    rate: int | None = None
    """Bytes a second at most."""

    def heal(self) -> None:
        """Let everything through."""
        self.lose, self.delay, self.rate = False, 0.0, None


class Proxy:
    """Forwards bytes, as far as ``requests`` and ``replies`` let them; ``refuse`` lets nobody in.

    A narrow receive buffer keeps the kernel from taking in at once what the link would take long for.
    """

    def __init__(self, connect: Callable[[], Awaitable[Ends]], rate: int | None = None) -> None:
        self._connect = connect
        self.requests, self.replies = Way(), Way(rate=rate)
        self.refuse = False
        self.lost = asyncio.Event()
        self._pairs: dict[asyncio.StreamWriter, asyncio.StreamWriter] = {}
        """By who came, who was connected to."""
        self._halved: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    def __len__(self) -> int:
        return len(self._pairs)

    def cut(self) -> None:
        """End every connection; new ones pass again."""
        self.requests.lose = self.replies.lose = False
        for pair in list(self._pairs.items()):
            for one in pair:
                one.transport.abort()

    def blackhole(self) -> None:
        """Lose all bytes both ways, and tell nobody; who comes is let in, and hears nothing."""
        self.requests.lose = self.replies.lose = True

    def halve(self, end: Literal["near", "far"]) -> None:
        """End one side of every connection: ``near`` is who came. The other side is not told."""
        for near, far in list(self._pairs.items()):
            self._halved |= {near, far}
            (near if end == "near" else far).transport.abort()

    def heal(self) -> None:
        """Let everything through again; what is open stays, unless a side of it was ended."""
        self.refuse = False
        self.requests.heal()
        self.replies.heal()
        for writer in self._halved:
            writer.transport.abort()
        if self.lost.is_set():
            self.lost.clear()
            self.cut()  # a stream that has lost a part of itself is none any more

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect who comes, and forward until one side ends."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - we are in one
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            if not self.refuse:
                await self._forward(reader, writer)
        except OSError:
            pass  # nobody is there to be connected to
        finally:
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await self._connect()
        self._pairs[writer] = back_writer
        try:
            if self.refuse:
                return
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, back_writer, self.requests))
                group.create_task(self._pump(back_reader, writer, self.replies))
        finally:
            del self._pairs[writer]
            self._halved -= {writer, back_writer}
            back_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        try:
            while data := await reader.read(NARROW):
                if way.lose:
                    self.lost.set()
                elif not (writer.is_closing() and writer in self._halved):
                    await self._pass(data, writer, way)
        except (OSError, RuntimeError):
            pass  # uvloop's say by RuntimeError that they are closed
        if writer not in self._halved:
            writer.transport.abort()

    async def _pass(self, data: bytes, writer: asyncio.StreamWriter, way: Way) -> None:
        if way.delay:
            await asyncio.sleep(way.delay)
        writer.write(data)
        await writer.drain()
        if way.rate:
            await asyncio.sleep(len(data) / way.rate)

    async def end(self) -> None:
        """Let nobody in, and end what passes; a connection that is being made is let come about first."""
        self.refuse = True
        while self._tasks:
            self.cut()
            await asyncio.wait(self._tasks, timeout=0.05)


@asynccontextmanager
async def proxying(
    connect: Callable[[], Awaitable[Ends]], rate: int | None = None, port: int = 0
) -> AsyncIterator[Proxy]:
    """Run a proxy before whatever ``connect`` connects to."""
    proxy = Proxy(connect, rate)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", port, backlog=4096)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.end()


@asynccontextmanager
async def database_proxy(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """Run a proxy before the database at ``url``; also gives the URL that goes by way of it."""
    parsed = make_url(url)
    port = int(str(parsed.query.get("port", parsed.port or 5432)))

    async def connect() -> Ends:
        if folder := parsed.query.get("host"):
            return await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{port}")
        return await asyncio.open_connection(parsed.host, port)

    async with proxying(connect) as proxy:
        through = parsed.set(host="127.0.0.1", port=proxy.port, query={"sslmode": "disable"})
        yield proxy, through.render_as_string(hide_password=False)


@asynccontextmanager
async def slow_link(port: int, rate: int) -> AsyncIterator[Proxy]:
    """Run a link to a local port over which ``rate`` bytes a second come back."""

    async def connect() -> Ends:
        wire = socket.socket()
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW)
        wire.settimeout(0)
        await asyncio.get_running_loop().sock_connect(wire, ("127.0.0.1", port))
        return await asyncio.open_connection(sock=wire, limit=NARROW)

    async with proxying(connect, rate) as proxy:
        yield proxy
