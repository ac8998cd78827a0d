"""A reader of event streams to the letter of HTML §9.2.5 and §9.2.6, over a socket of its own."""

import asyncio
import json
import re
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

from tests.harness import PATIENCE, Frame, Server, token

_LINE_END = re.compile(rb"\r\n|\n|\r")


class Parser:
    """Interprets a stream: ``feed`` returns the messages that would be dispatched, and their ids."""

    def __init__(self) -> None:
        self.last_id = ""
        self.retry: int | None = None
        self.comments = 0
        self._buffer = b""
        self._data: list[str] = []
        self._id = ""

    def feed(self, chunk: bytes) -> list[tuple[str, str]]:
        self._buffer += chunk
        # A carriage return at the very end may be half of a line end.
        end = max(self._buffer.rfind(b"\n"), self._buffer.rfind(b"\r", 0, -1)) + 1
        lines = _LINE_END.split(self._buffer[:end])[:-1]
        self._buffer = self._buffer[end:]
        return [each for line in lines for each in self._line(line.decode())]

    def _line(self, line: str) -> list[tuple[str, str]]:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            self.last_id = self._id
            data, self._data = self._data, []
            return [("\n".join(data), self.last_id)] if data else []
        if not field:
            self.comments += 1
        elif field == "data":
            self._data.append(value)
        elif field == "id" and "\0" not in value:
            self._id = value
        elif field == "retry" and value.isascii() and value.isdigit():
            self.retry = int(value)
        else:
            raise AssertionError(f"this stream has no such field: {line!r}")
        return []


class EventSource:
    """One stream, opened; ``ids`` are those of ``frames``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.parser = Parser()
        self.frames: list[Frame] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self._waiting: list[tuple[str, str]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.transport.abort()

    async def begin(self) -> None:
        """Read the head of the response."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        first, *fields = head.split("\r\n")[:-2]
        self.status = int(first.split()[1])
        pairs = [field.partition(": ") for field in fields]
        self.headers = {name: value for name, _, value in pairs}
        assert len(self.headers) == len(fields), "no header comes twice"

    async def body(self) -> Any:
        """Return the JSON of a response that is no stream."""
        async with asyncio.timeout(PATIENCE):
            return json.loads(await self._reader.read())

    async def receive(self) -> Frame:
        """Return the next message; raises EOFError at the end."""
        async with asyncio.timeout(PATIENCE):
            while not self._waiting:
                chunk = await self._reader.read(65_536)
                if not chunk:
                    raise EOFError
                self._waiting = self.parser.feed(chunk)
        text, last_id = self._waiting.pop(0)
        frame: Frame = json.loads(text)
        self.frames.append(frame)
        self.texts.append(text)
        self.ids.append(last_id)
        return frame

    async def until(self, kind: str, **fields: Any) -> Frame:
        while True:
            frame = await self.receive()
            if frame["type"] == kind and all(frame.get(k) == v for k, v in fields.items()):
                return frame

    async def events(self, count: int) -> list[Frame]:
        return [await self.until("event") for _ in range(count)]

    async def ended(self) -> Frame:
        """Read to the end; return the last message."""
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    await self.receive()
        except EOFError:
            return self.frames[-1]

    @property
    def positions(self) -> list[int]:
        return [f["position"] for f in self.frames if f["type"] == "event"]


async def request(server: Server, head: str) -> EventSource:
    """Send a request as it is given, and read the head of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=2**16)
    source = EventSource(reader, writer)
    writer.write(head.encode())
    async with asyncio.timeout(PATIENCE):
        await source.begin()
    return source


async def subscribe(
    server: Server, user: str = "", *, claims: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None, **query: Any,
) -> EventSource:  # fmt: skip
    """Ask for a stream as ``user``; ``query`` goes into the URL."""
    if user:
        query.setdefault("token", token(user, **(claims or {})))
    fields = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    return await request(server, f"GET /v1/stream?{urlencode(query)} HTTP/1.1\r\nHost: x\r\n{fields}\r\n")


async def listening(server: Server, user: str, **more: Any) -> EventSource:
    """Open a stream and read until the backlog is done."""
    source = await subscribe(server, user, **more)
    assert source.status == 200, await source.body()
    await source.until("live")
    return source
