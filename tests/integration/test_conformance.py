"""RFC 6455 on the wire: what Autobahn's test suite asks of a server, case by case.

Real sockets, the real handshake, and the real connection but for one thing: it sends messages back
instead of reading them as commands. All that the server sends is held against the case. Only its own
words are set aside, where they belong and nowhere else: ``welcome`` and ``live`` before a case
begins, and ``disconnect`` right before a Close that the server begins.

The cases run side by side, once; each test judges what came over the wire of its own.
"""

import asyncio
import base64
import fcntl
import hashlib
import json
import os
import socket
import struct
import termios
from contextlib import suppress
from itertools import accumulate
from typing import Any, NamedTuple

import pytest
import uvloop

from service.domain.websocket import text_frame
from service.gateway.websocket import WebSocket
from tests.conformance import BINARY, CASES, CLOSE, PING, PONG, TEXT, Case, Closing, Frame, client_close
from tests.harness import Server, serving, token

SECTIONS = {
    "1.1": 8, "1.2": 8, "2": 11, "3": 7, "4.1": 5, "4.2": 5, "5": 20,
    "6.1": 3, "6.2": 4, "6.3": 2, "6.4": 4, "6.5": 5, "6.6": 11, "6.7": 4, "6.8": 2, "6.9": 4, "6.10": 3,
    "6.11": 5, "6.12": 8, "6.13": 5, "6.14": 10, "6.15": 1, "6.16": 3, "6.17": 5, "6.18": 5, "6.19": 5,
    "6.20": 7, "6.21": 8, "6.22": 34, "6.23": 7,
    "7.1": 6, "7.3": 6, "7.5": 1, "7.7": 13, "7.9": 9, "7.13": 2, "10.1": 1,
}  # fmt: skip
"""How many cases there are in each part of the suite."""

PATIENCE = 20.0
"""Seconds for a case to come to its end, with all the others beside it; only one that fails takes so long."""
LINGER = 1.0
"""Seconds from the server's Close to its end, in place of 0.1: an instant's halt of the machine must not
make the server leave in the midst of a case."""
NEVER = 3600.0
"""Seconds: while the cases run, the server pings nobody of its own accord."""


class Echoes:
    """In place of a connection's inbox: sends messages back."""

    def __init__(self, connection: WebSocket) -> None:
        self._connection = connection

    def take(self, message: str | bytes) -> None:
        if isinstance(message, str):
            self._connection.write(text_frame(message.encode()))
        else:
            self._connection.write(bytes((0x80 | BINARY,)) + text_frame(message)[1:])


class Echo(WebSocket):
    """Echoes; all the rest is the gateway's."""

    __slots__ = ()

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.inbox = Echoes(self)


# --- The client's end


class Course(NamedTuple):
    """What came over the wire in one case."""

    frames: list[Frame]
    held: list[int]
    """How many frames had come at the end of each stage but the last, before the next was sent."""
    end: str


CLOSED = "the server closed TCP"


class Peer:
    """A client that sends anything, and reads by the letter of the standard."""

    def __init__(self, wire: socket.socket) -> None:
        self.frames: list[Frame] = []
        self.end = ""
        self._wire = wire
        self._buffer = b""

    async def open(self, server: Server, user: str) -> None:
        """Do the handshake, and take what precedes every case."""
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._wire, ("127.0.0.1", server.port))
        self._wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(os.urandom(16))
        lines = [
            b"GET /v1/ws?token=%b HTTP/1.1" % token(user).encode(), b"Host: localhost",
            b"Connection: Upgrade", b"Upgrade: websocket",
            b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: " + key,
        ]  # fmt: skip
        await loop.sock_sendall(self._wire, b"\r\n".join(lines) + b"\r\n\r\n")
        while b"\r\n\r\n" not in self._buffer:
            data = await loop.sock_recv(self._wire, 4096)
            assert data, self._buffer
            self._buffer += data
        answer, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        proof = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert b"sec-websocket-accept: " + proof in answer.split(b"\r\n")
        self._read_frames()
        await self.until(2)
        assert [(opcode, json.loads(text)["type"]) for opcode, text in self.frames] == [
            (TEXT, "welcome"), (TEXT, "live"),
        ]  # fmt: skip
        self.frames.clear()

    async def send(self, piece: bytes, reader: WebSocket) -> None:
        """Send, and wait until it has been read: the next piece will be read apart from it."""
        with suppress(ConnectionError):  # closed meanwhile; what was said before is there to be read
            await asyncio.get_running_loop().sock_sendall(self._wire, piece)
        while True:
            await asyncio.sleep(0)
            if reader.wire is None or not _unread(reader.wire):
                return

    async def until(self, count: int) -> int:
        """Read until there are so many frames, or no more will come; return how many have arrived."""
        while not self.end and (len(self.frames) < count or _unread(self._wire)):
            await self._receive()
        return len(self.frames)

    async def finish(self) -> None:
        """Read to the end."""
        while not self.end:
            await self._receive()

    async def _receive(self) -> None:
        try:
            data = await asyncio.get_running_loop().sock_recv(self._wire, 256 * 1024)
        except ConnectionError as error:
            self.end = type(error).__name__
            return
        self._buffer += data
        self._read_frames()
        if not data and not self.end:
            self.end = "the server closed TCP within a frame" if self._buffer else CLOSED

    def _read_frames(self) -> None:
        while not self.end and (read := _read_frame(self._buffer)):
            frame, size = read
            if frame is None or (self.frames and self.frames[-1].opcode == CLOSE):
                self.end = f"this may not come here: {self._buffer[:20]!r}"
            else:
                self.frames.append(frame)
                self._buffer = self._buffer[size:]


def _read_frame(data: bytes) -> tuple[Frame | None, int] | None:
    """Return a frame and its size, or None where more has to come.

    Where the first is None, it is no frame that this server may send: final, without reserved bits,
    unmasked, its length in the shortest form (RFC 6455 §5.1, §5.2), 125 bytes for control (§5.5).
    """
    if len(data) < 2:
        return None
    first, length = data[:2]
    start = 2 + {126: 2, 127: 8}.get(length, 0)
    if start > 2:
        length = int.from_bytes(data[2:start])
    if len(data) < start + length:
        return None
    opcode, longest = first ^ 0x80, {TEXT: 1 << 63, BINARY: 1 << 63, CLOSE: 125, PING: 125, PONG: 125}
    shortest = 2 if length < 126 else 4 if length < 0x10000 else 10
    good = start == shortest and length <= longest.get(opcode, -1)
    return Frame(opcode, data[start : start + length]) if good else None, start + length


def _unread(wire: socket.socket) -> int:
    """Return how many bytes wait to be read from a socket."""
    size: int = struct.unpack("i", fcntl.ioctl(wire.fileno(), termios.FIONREAD, bytes(4)))[0]
    return size


# --- Running the cases


async def _run(case: Case, server: Server, peer: Peer) -> list[int]:
    """Play the client's part; return what ``Course`` calls ``held``."""
    await peer.open(server, case.number)
    (connection,) = server.gateway.hub.users[case.number]
    held, wanted = [], 0
    for stage in case.stages:
        if stage is not case.stages[0]:
            held.append(await peer.until(wanted))
        for piece in stage.pieces:
            await peer.send(piece, connection)
        wanted += len(stage.answers)
    if case.closing is Closing.AFTERWARDS:
        await peer.until(wanted)
        await peer.send(client_close(1000), connection)
    await peer.finish()
    return held


async def _record(case: Case, server: Server) -> Course:
    with socket.socket() as wire:
        wire.settimeout(0)
        peer = Peer(wire)
        held: list[int] = []
        try:
            async with asyncio.timeout(PATIENCE):
                held = await _run(case, server, peer)
        except TimeoutError:
            peer.end = "nothing more came"
        return Course(peer.frames, held, peer.end)


async def _record_all(database_url: str) -> dict[str, Course]:
    settings = {"max_message": 1 << 20, "heartbeat": NEVER, "ack_interval": NEVER}
    async with serving(database_url=database_url, **settings) as server:
        courses = await asyncio.gather(*(_record(case, server) for case in CASES))
    return {case.number: course for case, course in zip(CASES, courses, strict=True)}


@pytest.fixture(scope="module")
def courses(lasting_database_url: str) -> dict[str, Course]:
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        patch.setattr("service.gateway.handshake.Handshake.kind", Echo)
        patch.setattr("service.gateway.connection.CLOSE_TIMEOUT", LINGER)
        return runner.run(_record_all(lasting_database_url))


# --- Judging them


def test_they_are_the_247_cases_of_the_suite() -> None:
    numbers = [f"{section}.{i}" for section, count in SECTIONS.items() for i in range(1, count + 1)]
    assert len(numbers) == 247
    assert [case.number for case in CASES] == numbers


@pytest.mark.parametrize("case", CASES, ids=[case.number for case in CASES])
def test_case(case: Case, courses: dict[str, Course]) -> None:
    frames, held, end = courses[case.number]
    assert end == CLOSED, frames
    *answers, close = frames
    said = b"" if case.code is None else case.code.to_bytes(2)
    if case.closing is Closing.FAILED:
        last = answers.pop()
        told = json.loads(last.payload)
        assert (last.opcode, told["type"], told["code"]) == (TEXT, "disconnect", case.code)
        said += told["reason"].encode()
    assert answers == [answer for stage in case.stages for answer in stage.answers]
    assert close == Frame(CLOSE, said)
    assert held == list(accumulate(len(stage.answers) for stage in case.stages[:-1]))
