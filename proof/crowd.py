"""A crowd: many plain clients that come back when they are cut off, and what each of them has received."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from math import inf
from pathlib import Path
from random import Random
from time import monotonic, time
from typing import Final
from urllib.parse import urlencode
from uuid import uuid4

import msgspec

from proof.instance import ADMIN_KEY, SECRET
from proof.wire import Caller, Lost, Reply, Socket, Unreachable
from service.auth.tokens import TokenMinter

ESTABLISHED: Final = "01"
"""A connection that no side has ended: TCP_ESTABLISHED of Linux's tcp_states.h."""
BACK_WITHIN: Final = 0.5
"""Seconds after which a client that was cut off tries again, at most."""
AT_ONCE: Final = 100
"""Handshakes that a crowd begins at a time."""
MOST_ATTEMPTS: Final = 20
RETRY_PAUSE: Final = 0.5
FOR_NOW: Final = frozenset({409, 429, 503})
"""Answers by which a service that is right may have a request come again."""


class _Frame(msgspec.Struct):
    type: str
    position: int | None = None


_decode = msgspec.json.Decoder(_Frame).decode


class Wire(Socket):
    """A socket that also tells what its other end does, while nobody reads here."""

    @property
    def is_served(self) -> bool:
        """Tell whether the other end has it open still.

        What it had written before stays in the kernel, and in front of its FIN, until somebody reads:
        so the end cannot be seen on this side, but on that one (``/proc/net/tcp``).
        """
        if self._transport is None or self._transport.is_closing():
            return False
        here, there = (self._transport.get_extra_info(name)[1] for name in ("sockname", "peername"))
        return any(
            state == ESTABLISHED and local.endswith(f":{there:04X}") and remote.endswith(f":{here:04X}")
            for _, local, remote, state, *_ in map(str.split, Path("/proc/net/tcp").read_text().splitlines())
        )


class Client:
    """One of the crowd: a bare WebSocket, whose pongs are all that it says."""

    def __init__(self, user: str, token: str, urls: Sequence[str], rng: Random) -> None:
        """``urls`` are tried in turn, each time that the connection has ended."""
        self.user = user
        self.positions: list[int] = []
        """Of all events that came, in order and with repetitions."""
        self.live = False
        self.visits = 0
        """How often it was welcomed."""
        self.wire: Wire | None = None
        self.dismissed = False
        """It shall not come back."""
        self._token = token
        self._urls = urls
        self._rng = rng
        self._turn = 0
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Stay connected until cancelled."""
        try:
            while not self.dismissed:
                await self.connect()
                await self._over.wait()
                await asyncio.sleep(self._rng.uniform(0, BACK_WITHIN))
        finally:
            if self.wire is not None:
                self.wire.abort()

    @property
    def left(self) -> bool:
        """Tell whether its connection has ended, and it knows."""
        return self._over.is_set()

    async def connect(self) -> None:
        """Begin a handshake, at the next address."""
        url = self._urls[self._turn % len(self._urls)].replace("http", "ws", 1)
        self._turn += 1
        self._over.clear()
        try:
            wire = await Wire.open(f"{url}/v1/ws?{urlencode({'token': self._token})}", self)
        except Unreachable:
            self._over.set()
        else:
            self.wire = wire if isinstance(wire, Wire) else None

    def text(self, data: bytes) -> None:
        """See a frame."""
        frame = _decode(data)
        if frame.type == "event" and frame.position is not None:
            self.positions.append(frame.position)
        elif frame.type == "welcome":
            self.visits += 1
        elif frame.type == "live":
            self.live = True

    def pinged(self, payload: bytes) -> None:
        """Leave the answer to the library."""

    def drained(self) -> None:
        """Do nothing: pongs acknowledge."""

    def gone(self, code: int) -> None:
        """Come back soon."""
        self.live = False
        self._over.set()


class Crowd:
    """Many clients, and a producer that sends to all of them by an instance that it is given."""

    def __init__(self, size: int, homes: Callable[[int], Sequence[str]], producer: str, rng: Random) -> None:
        """``homes`` says by a client's number which addresses it tries in turn."""
        minter, now = TokenMinter(SECRET.encode(), "HS256", None, None), int(time())
        self.published: list[int] = []
        self.clients = [
            Client(name, minter.mint({"sub": name, "iat": now - 60, "exp": now + 7200}), homes(number), rng)
            for number, name in enumerate(f"c{number}" for number in range(size))
        ]
        self.caller = Caller(producer, ADMIN_KEY)
        self._tasks: list[asyncio.Task[None]] = []

    async def come(self, bound: float = 60.0) -> None:
        """Connect all of them, and wait until they are live."""
        for begin in range(0, len(self.clients), AT_ONCE):
            some = self.clients[begin : begin + AT_ONCE]
            self._tasks += [asyncio.get_running_loop().create_task(client.run()) for client in some]
            await until(lambda some=some: all(client.live for client in some), bound)  # type: ignore[misc]

    async def leave(self) -> None:
        """Close everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.caller.close()

    async def publish(self, to: str = "everyone", size: int = 20, count: int = 1) -> int:
        """Send so many events of so many bytes; return the last one's position."""
        events = [{"to": to, "type": "t", "data": "x" * size}] * count
        reply = await insist(self.caller, "/v1/events/batch", {"events": events}, 202)
        positions = [event["position"] for event in msgspec.json.decode(reply.body)["events"]]
        self.published += positions
        return int(positions[-1])

    async def publish_every(self, seconds: float) -> None:
        """Send an event to everyone again and again, until cancelled."""
        while True:
            await self.publish()
            await asyncio.sleep(seconds)

    @asynccontextmanager
    async def published_to(self, every: float) -> AsyncIterator[None]:
        """Send to everyone meanwhile."""
        task = asyncio.get_running_loop().create_task(self.publish_every(every))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def caught_up(self, bound: float) -> float:
        """Wait until all are live and have the last event; return how long that took, or ``inf``."""
        begun, last = monotonic(), self.published[-1]
        try:
            await until(lambda: all(has(client, last) for client in self.clients), bound)
        except TimeoutError:
            return inf
        return monotonic() - begun

    @property
    def delivered(self) -> float:
        """Return which share of what was published has come, over all of them, in percent."""
        expected = set(self.published)
        came = sum(len(expected & set(client.positions)) for client in self.clients)
        return 100 * came / (len(expected) * len(self.clients))


def has(client: Client, position: int) -> bool:
    """Tell whether a client is live, and has come as far as this."""
    return client.live and bool(client.positions) and client.positions[-1] >= position


async def insist(caller: Caller, path: str, body: object, status: int) -> Reply:
    """Post what may be repeated, until it is answered for good. Raises RuntimeError if not by ``status``."""
    headers, reply = {"Idempotency-Key": uuid4().hex}, None
    for _ in range(MOST_ATTEMPTS):
        with suppress(Lost, Unreachable):
            reply = await caller.call("POST", path, body, headers)
            if reply.status == status:
                return reply
            if reply.status not in FOR_NOW:
                break
        await asyncio.sleep(RETRY_PAUSE)
    raise RuntimeError(f"POST {path} was not answered by {status}: {reply}")


async def until(condition: Callable[[], bool], bound: float) -> None:
    """Wait for a condition; raises TimeoutError."""
    async with asyncio.timeout(bound):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def crowd(
    size: int, homes: Callable[[int], Sequence[str]], producer: str, rng: Random
) -> AsyncIterator[Crowd]:
    """Have a crowd come, and leave in the end."""
    made = Crowd(size, homes, producer, rng)
    try:
        await made.come()
        yield made
    finally:
        await made.leave()
