"""A TCP proxy that can lose what passes through it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from sqlalchemy import make_url

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]
NARROW = 16 * 1024


class Proxy:
    """Forwards bytes; ``lose_requests`` and ``lose_replies`` swallow them, ``refuse`` lets nobody in.

    ``rate`` bytes a second come back at most; a narrow receive buffer keeps the kernel from taking
    in at once what the link would take long for.
    """

    def __init__(self, connect: Callable[[], Awaitable[Ends]], rate: int | None = None) -> None:
        self._connect = connect
        self._rate = rate
        self.lose_requests = False
        self.lose_replies = False
        self.refuse = False
        self.lost = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    def cut(self) -> None:
        """End every connection; new ones pass again."""
        self.lose_requests = self.lose_replies = False
        for writer in list(self._writers):
            writer.transport.abort()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        back_reader, back_writer = await self._connect()
        pair = {writer, back_writer}
        if self.refuse:
            for one in pair:
                one.transport.abort()
            return
        self._writers |= pair
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, back_writer, "lose_requests"))
                group.create_task(self._pump(back_reader, writer, "lose_replies"))
        finally:
            self._writers -= pair
            for one in pair:
                one.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lose: str) -> None:
        try:
            while data := await reader.read(NARROW):
                if getattr(self, lose):
                    self.lost.set()
                else:
                    writer.write(data)
                    await writer.drain()
                    if self._rate and lose == "lose_replies":
                        await asyncio.sleep(len(data) / self._rate)
        except ConnectionError:
            pass
        writer.transport.abort()

    async def end(self) -> None:
        """Let nobody in, and end what passes; a connection that is being made is let come about first."""
        self.refuse = True
        while self._tasks:
            self.cut()
            await asyncio.wait(self._tasks, timeout=0.05)


@asynccontextmanager
async def proxying(connect: Callable[[], Awaitable[Ends]], rate: int | None = None) -> AsyncIterator[Proxy]:
    """Run a proxy before whatever ``connect`` connects to."""
    proxy = Proxy(connect, rate)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
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
