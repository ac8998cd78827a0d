"""HTTP and WebSockets as the workload speaks them: cheap, and exact about what is known to have happened."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol, cast
from urllib.parse import urlsplit

import msgspec
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

PATIENCE: Final = 8.0
"""Seconds that an answer is waited for: longer than the service takes to say that it does not know."""


class Unreachable(Exception):
    """Nothing was sent."""


class Lost(Exception):
    """It was sent, at least in part, and there is no answer."""


class Reply(NamedTuple):
    """A status and a body of JSON."""

    status: int
    body: bytes


class Caller:
    """One connection to one instance, opened anew where it is gone; one request at a time."""

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        self.url = url
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._head = f"Host: {parts.netloc}\r\nAuthorization: Bearer {key}\r\n"
        self._turn = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send a request; raises Unreachable or Lost."""
        content = b"" if body is None else msgspec.json.encode(body)
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        kind = "Content-Type: application/json\r\n" if content else ""
        head = f"{method} {path} HTTP/1.1\r\n{self._head}{lines}{kind}Content-Length: {len(content)}\r\n\r\n"
        try:
            async with self._turn, asyncio.timeout(PATIENCE):
                return await self._exchange(head.encode() + content)
        except (Lost, TimeoutError) as error:
            self.close()
            raise Lost(str(error) or type(error).__name__) from None
        except BaseException:
            self.close()
            raise

    async def _exchange(self, request: bytes) -> Reply:
        reader, writer = await self._connected()
        try:
            writer.write(request)
            return await _reply(reader)
        except (OSError, EOFError, asyncio.LimitOverrunError) as error:
            raise Lost(repr(error)) from None

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None or self._streams[0].at_eof() or self._streams[1].is_closing():
            self.close()
            try:
                async with asyncio.timeout(PATIENCE / 4):
                    self._streams = await asyncio.open_connection(self._host, self._port)
            except (OSError, TimeoutError) as error:
                raise Unreachable(repr(error)) from None
        return self._streams

    def close(self) -> None:
        """Let go of the connection."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


async def _reply(reader: asyncio.StreamReader) -> Reply:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split(b" ", 2)[1])
    _, found, rest = head.partition(b"content-length:")
    return Reply(status, await reader.readexactly(int(rest.split(b"\r\n", 1)[0])) if found else b"")


class Listener(Protocol):
    """Is told what comes in on a socket, as it comes in."""

    def text(self, data: bytes) -> None:
        """Take a frame."""

    def pinged(self, payload: bytes) -> None:
        """Take note of a ping, before it is answered."""

    def drained(self) -> None:
        """Take note that all which had come in has been handed over."""

    def gone(self, code: int) -> None:
        """Take note of the end: a close code, the status of a refusal, or 0."""


class Socket(asyncio.Protocol):
    """A WebSocket of the library's, which answers pings by itself; it reads unless it is told not to."""

    def __init__(self, url: str, listener: Listener) -> None:
        self._protocol = ClientProtocol(parse_uri(url), max_size=None)
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._status = 0

    @classmethod
    async def open(cls, url: str, listener: Listener) -> "Socket":
        """Connect and begin the handshake; raises Unreachable."""
        parts = urlsplit(url)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PATIENCE / 4):
                _, socket = await loop.create_connection(
                    lambda: cls(url, listener), parts.hostname or "", parts.port or 80
                )
        except (OSError, TimeoutError) as error:
            raise Unreachable(repr(error)) from None
        return socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none by their type
        self._protocol.send_request(self._protocol.connect())
        self._write()

    def data_received(self, data: bytes) -> None:
        """Hand over what is whole."""
        self._protocol.receive_data(data)
        self._hand_over()

    def eof_received(self) -> None:
        """Take note that nothing more comes."""
        self._protocol.receive_eof()
        self._hand_over()

    def connection_lost(self, exc: Exception | None) -> None:
        """Say what ended it."""
        self._transport = None
        if self._protocol.state is not State.CLOSED:
            self._protocol.receive_eof()
        self._listener.gone(int(self._status or self._protocol.close_code or 0))

    def _hand_over(self) -> None:
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                self._status = 0 if event.status_code == 101 else event.status_code
            elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                self._listener.text(bytes(event.data))
            elif isinstance(event, Frame) and event.opcode is Opcode.PING:
                self._listener.pinged(bytes(event.data))
        self._listener.drained()
        self._write()

    def _write(self) -> None:
        for data in self._protocol.data_to_send():
            if self._transport is None:
                return
            if data:
                self._transport.write(data)
            else:
                self._transport.close()

    def send(self, **fields: object) -> None:
        """Send a command, if it is open."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_text(msgspec.json.encode(fields))
            self._write()

    def read(self, *, on: bool) -> None:
        """Read, or leave what comes in to the kernel."""
        if self._transport is not None and not self._transport.is_closing():
            with contextlib.suppress(RuntimeError):
                self._transport.resume_reading() if on else self._transport.pause_reading()

    def close(self) -> None:
        """Close as RFC 6455 §7.1.2 says."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(1000)
            self._write()
        else:
            self.abort()

    def abort(self) -> None:
        """Be gone without a word."""
        if self._transport is not None:
            self._transport.abort()
