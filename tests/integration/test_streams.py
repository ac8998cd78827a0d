"""What comes over a socket is what was due, whatever the socket, its reader and the rooms do meanwhile.

Real sockets that hold little, read by clients that stop and go on; two instances, many addresses in a
group, members that come and go, commands and pings in between, sockets that are reset and come back.
A model walks the log and says what is due to whom: who is entitled at the entry's own position. Of
that, every connection gets a piece without holes that begins where its ``welcome`` says.
"""

import asyncio
import json
import socket
import struct
import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import count
from operator import attrgetter
from random import Random
from typing import Any, NamedTuple
from zlib import crc32

import asyncpg
import pytest

from service.domain.delivery import State
from service.domain.events import Draft, Unit
from service.gateway.websocket import WebSocket
from tests.conformance import CLOSE, PING, PONG, TEXT, frame
from tests.harness import PATIENCE, Server, eventually, token

Start = Callable[..., Awaitable[Server]]

USERS = [f"user{n}" for n in range(6)]
DEVICES = ["phone", "laptop", "tablet"]
ROOMS = ["red", "blue"]
CLAIMS = {"rooms": ["*"], "publish": ["*"], "presence": True}
ADDRESSES = ["everyone", *(f"room:{room}" for room in ROOMS * 2), *(f"user:{user}" for user in USERS)]
BATCHES = [1, 1, 2, 5, 25]
SIZES = [1, 1, 50, 50, 50, 1000, 1000, 30_000]
PRESENCE = ["user_connected", "user_disconnected", "user_joined_room", "user_left_room"]

POSITION = attrgetter("position")
ROUNDS = 50
"""For each producer and each mover."""
HEARTBEAT = 0.2
NEVER = 2**53
SOCKET_BYTES = 4096
"""What the server's socket holds: so a write is mostly taken in part, if its reader has stopped."""


class Habits(NamedTuple):
    """How a client reads."""

    buffer: int
    """Bytes that its socket holds."""
    bite: int
    """Bytes that it reads at once."""
    meal: int
    """Bytes that it reads between two pauses."""
    rest: int
    """Steps of the load that a pause lasts."""


HABITS = [
    Habits(100_000, 64 * 1024, NEVER, 0),
    Habits(32 * 1024, 16 * 1024, 64 * 1024, 3),
    Habits(4096, 4096, 20_000, 5),
    Habits(4096, 700, 5000, 2),
    Habits(4096, 64 * 1024, 100_000, 40),
]


class Load:
    """How far the work has got: what pauses go by, so that nobody waits for time to pass."""

    def __init__(self, seed: int) -> None:
        self.steps = 0
        self.over = False
        self.posted: dict[int, tuple[str, int]] = {}
        """Address and fingerprint of the data, by position, as the answers to the POSTs say."""
        self.serial = count()
        self._seed = seed
        self._moved = asyncio.Event()

    def random(self, whose: str) -> Random:
        """Return the choices of one actor, which do not depend on what the others do."""
        return Random(f"{whose} {self._seed}")

    def step(self) -> None:
        self.steps += 1
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def end(self) -> None:
        self.over = True
        self.step()

    async def go_on(self, steps: int) -> None:
        """Wait until there have been so many more steps, or there will be no more."""
        last = self.steps + steps
        while self.steps < last and not self.over:
            await self._moved.wait()


# --- What is due


class Item(NamedTuple):
    """A frame that has a position and counts; a membership's has its room, and no data."""

    position: int
    type: str
    where: str
    data: int = 0


def fingerprint(data: Any) -> int:
    """Return something short that no other data has."""
    return crc32(json.dumps(data).encode())


def due(log: Sequence[asyncpg.Record], user: str, device: str) -> list[Item]:
    """Walk the log, and return what it holds for a device of a user."""
    items: list[Item] = []
    addresses = {f"user:{user}", "everyone"}
    for position, kind, address, type_, data, exclude in log:
        if address not in addresses:
            continue
        if kind != "event":
            items.append(Item(position, f"{kind}_room", type_))
            (addresses.add if kind == "joined" else addresses.discard)(f"room:{type_}")
        elif not {user, f"{user}\n{device}"} & set(json.loads(exclude or "[]")):
            items.append(Item(position, "event", address, fingerprint(json.loads(data))))
    return items


# --- The client's end


class Frames:
    """Cuts what a server sends into frames; a torn one does not pass (RFC 6455 §5.2)."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield opcode and payload of what has become whole."""
        self.rest += data
        while (bounds := self._bounds()) is not None:
            begin, end = bounds
            opcode, payload, self.rest = self.rest[0] & 0xF, self.rest[begin:end], self.rest[end:]
            yield opcode, payload

    def _bounds(self) -> tuple[int, int] | None:
        """Return where the payload of the first frame begins and ends, if all of it is here."""
        head = self.rest[:4]
        if len(head) < 2:
            return None
        assert head[0] in {0x80 | opcode for opcode in (TEXT, CLOSE, PING, PONG)}, self.rest[:80]
        begin, size = 2, head[1]
        if size == 126:
            if len(head) < 4:
                return None
            begin, size = 4, int.from_bytes(head[2:])
            assert size > 125, self.rest[:80]
        # Nothing here is so long that it takes eight bytes to say, and a server does not mask.
        assert head[1] <= 126, self.rest[:80]
        return (begin, begin + size) if len(self.rest) >= begin + size else None


class Stream:
    """One connection: everything that came over it, read at its client's own pace."""

    def __init__(self, load: Load, habits: Habits) -> None:
        self.start = -1
        self.items: list[Item] = []
        self.promised: list[tuple[int, int]] = []
        """Positions up to which all had been sent, as pings and ``live`` say, and how many items had come."""
        self.kinds: Counter[str] = Counter()
        self.asked: list[int] = []
        self.answered: list[int] = []
        self.ponged: list[bytes] = []
        self.closing = False
        self._load = load
        self._habits = habits
        self._frames = Frames()
        self._said_close = False
        self._sending = asyncio.Lock()
        self._wire = socket.socket()
        self._wire.settimeout(0)
        self._wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, habits.buffer)
        # A sender waits for room for a whole segment, and asks for it a few times a second only.
        self._wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, habits.buffer // 4)

    async def open(self, server: Server, user: str, **query: Any) -> None:
        """Connect, and read the answer to the handshake."""
        url = server.ws_url(token=token(user, **CLAIMS), presence=1, **query)
        lines = [
            f"GET {url[url.index('/v1') :]} HTTP/1.1", "Host: localhost",
            "Connection: Upgrade", "Upgrade: websocket",
            "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "", "",
        ]  # fmt: skip
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._wire, ("127.0.0.1", server.port))
        await loop.sock_sendall(self._wire, "\r\n".join(lines).encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await loop.sock_recv(self._wire, 1)
        assert answer.startswith(b"HTTP/1.1 101 "), answer

    async def read(self) -> None:
        """Read to the end, with pauses; who resets the connection cancels this."""
        loop, eaten = asyncio.get_running_loop(), 0
        while data := await loop.sock_recv(self._wire, self._habits.bite):
            for opcode, payload in self._frames.feed(data):
                await self._take(opcode, payload)
            eaten += len(data)
            if eaten > self._habits.meal:
                eaten = 0
                await self._load.go_on(self._habits.rest)
        assert self._said_close
        assert self._frames.rest == b""

    def read_aside(self, size: int, full: threading.Event) -> None:
        """Once the socket is full, read so many bytes with one call, which holds no lock of Python's."""
        self._wire.settimeout(None)
        self._wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(PATIENCE), 0))
        assert full.wait(PATIENCE)
        data = self._wire.recv(size, socket.MSG_WAITALL)
        self._wire.settimeout(0)
        for opcode, payload in self._frames.feed(data):
            if opcode == TEXT:
                self._take_text(json.loads(payload))

    async def _take(self, opcode: int, payload: bytes) -> None:
        assert not self._said_close, "nothing follows a Close"
        if opcode == PING:
            self.promised.append((int(payload), len(self.items)))
            if not self.closing:
                await self.send(PONG, payload)
        elif opcode == PONG:
            self.ponged.append(payload)
        elif opcode == CLOSE:
            assert self.closing, payload
            self._said_close = True
        else:
            self._take_text(json.loads(payload))

    def _take_text(self, said: dict[str, Any]) -> None:
        type_ = said["type"]
        self.kinds[type_] += 1
        if type_ == "event":
            self.items.append(Item(said["position"], type_, said["to"], fingerprint(said["data"])))
        elif type_ in {"joined_room", "left_room"}:
            self.items.append(Item(said["position"], type_, said["room"]))
        elif type_ == "live":
            self.promised.append((said["position"], len(self.items)))
        elif type_ == "welcome":
            assert self.start == -1
            self.start = said["position"]
        elif "ref" in said:
            # The API's memberships are not the client's to end.
            assert said.get("code", "forbidden") == "forbidden", said
            self.answered.append(said["ref"])
        else:
            assert type_ in {"ping", *PRESENCE}, said

    @property
    def position(self) -> int:
        """Return how far this connection has got."""
        return self.items[-1].position if self.items else self.start

    async def send(self, opcode: int, payload: bytes) -> None:
        async with self._sending:
            await asyncio.get_running_loop().sock_sendall(self._wire, frame(opcode, payload))

    async def ask(self, type: str, **fields: Any) -> None:
        """Send a command; its answer comes when it comes."""
        self.asked.append(len(self.asked))
        await self.send(TEXT, json.dumps({"type": type, "ref": self.asked[-1], **fields}).encode())

    def reset(self) -> None:
        """Drop the connection and whatever is on its way."""
        self._wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self._wire.close()


class Device:
    """A client that talks, goes away without a word, and comes back, by whichever instance."""

    def __init__(
        self, user: str, name: str, servers: Sequence[Server], load: Load, readers: asyncio.TaskGroup
    ) -> None:
        self.user = user
        self.name = name
        self.streams: list[Stream] = []
        self._servers = servers
        self._load = load
        self._readers = readers
        self._random = load.random(f"{user}'s {name}")
        self._reading: asyncio.Task[None]

    @property
    def stream(self) -> Stream:
        return self.streams[-1]

    async def connect(self, **query: Any) -> None:
        self.streams.append(Stream(self._load, self._random.choice(HABITS)))
        await self.stream.open(self._random.choice(self._servers), self.user, device=self.name, **query)
        self._reading = self._readers.create_task(self.stream.read())

    async def behave(self) -> None:
        """Do something every few steps, as long as the load goes on."""
        while not self._load.over:
            await self._load.go_on(self._random.randrange(2, 20))
            if self._random.random() < 0.2:
                await self._come_back()
            else:
                await self._say_something()

    async def _come_back(self) -> None:
        self._reading.cancel()
        await asyncio.wait([self._reading])
        way = self._random.choice(["reset", "close", "say Close"])
        if way == "reset":
            self.stream.reset()
        elif way == "say Close":
            await self.stream.send(CLOSE, b"\x03\xe8")
        self.stream.close()
        knows = self.stream.start >= 0 and self._random.random() < 0.5
        await self.connect(**({"after": self.stream.position} if knows else {}))

    async def _say_something(self) -> None:
        ask, room, to = self.stream.ask, self._random.choice(ROOMS), self._random.choice(ADDRESSES)
        data, echo = next(self._load.serial), self._random.random() < 0.5
        match self._random.randrange(7):
            case 0:
                await self.stream.send(PING, b"%d" % data)
            case 1:
                await ask("ping")
            case 2:
                await ask("rooms")
            case 3 | 4:
                await ask("join_room", room=room, presence=True)
            case 5:
                await ask("leave_room", room=room)
            case 6:
                await ask("publish", to=to, event="t", data=data, echo=echo)

    async def finish(self) -> None:
        """See that nothing is left to come, and leave as one should."""
        await self.stream.send(PING, b"last")
        await self.stream.ask("rooms")
        await eventually(lambda: self.stream.ponged[-1:] == [b"last"])
        await eventually(lambda: len(self.stream.answered) == len(self.stream.asked))
        self.stream.closing = True
        await self.stream.send(CLOSE, b"\x03\xe8")
        await self._reading
        self.stream.close()

    def close(self) -> None:
        for stream in self.streams:
            stream.close()

    def judge(self, log: Sequence[asyncpg.Record], end: int) -> None:
        """Hold what came against what was due."""
        owed = due(log, self.user, self.name)
        for stream in self.streams:
            rest = [item for item in owed if item.position > stream.start]
            assert stream.items == rest[: len(stream.items)], (self.user, self.name)
            for position, count_then in stream.promised:
                assert bisect_right(rest, position, key=POSITION) <= count_then, (self.user, self.name)
        assert self.stream.position == end
        assert {item for stream in self.streams for item in stream.items} == set(owed)
        assert sorted(self.stream.answered) == self.stream.asked


# --- What is done meanwhile


def event(random: Random, load: Load, *to: str) -> dict[str, Any]:
    """Make up an event, to one address or several."""
    to = to or tuple(random.sample(ADDRESSES, random.choice([1, 1, 1, 2, 5])))
    return {
        "to": list(dict.fromkeys(to)),
        "type": "t",
        "data": f"{next(load.serial)}{'x' * random.choice(SIZES)}",
        "exclude": random.sample(USERS, 2) if random.random() < 0.1 else [],
    }


async def post(server: Server, load: Load, *events: dict[str, Any]) -> None:
    """Publish a batch, and note what it was told."""
    answer = await server.http.post("/v1/events/batch", json={"events": events})
    assert answer.status_code == 202, answer.text
    wanted = [(to, fingerprint(event["data"])) for event in events for to in event["to"]]
    for (to, data), placed in zip(wanted, answer.json()["events"], strict=True):
        assert placed["to"] == to
        load.posted[placed["position"]] = (to, data)
    load.step()


async def produce(server: Server, random: Random, load: Load) -> None:
    """Publish batch after batch."""
    for _ in range(ROUNDS):
        await post(server, load, *(event(random, load) for _ in range(random.choice(BATCHES))))


async def move(server: Server, random: Random, load: Load) -> None:
    """Let users join and leave a room right after an event in it, so that both are in one group for some."""
    for _ in range(ROUNDS):
        room, users = random.choice(ROOMS), random.sample(USERS, 3)
        await post(server, load, event(random, load, f"room:{room}"))
        change = {"add": users[:2], "remove": users[2:]}
        answer = await server.http.post(f"/v1/rooms/{room}/members", json=change)
        assert answer.status_code == 200, answer.text
        load.step()


def left_over(server: Server) -> list[Any]:
    """Return whatever an instance still holds of connections."""
    gateway, hub, pulse = server.gateway, server.gateway.hub, server.gateway.pulse
    held = (
        gateway.count, gateway._tasks, hub.users, hub._receivers, hub._last, hub.changed,
        hub.watchers._watchers, pulse._due, *pulse._spokes,
    )  # fmt: skip
    return [each for each in held if each]


@pytest.fixture
def attached(monkeypatch: pytest.MonkeyPatch) -> list[WebSocket]:
    """Every connection that has got a socket, which holds little."""
    connections: list[WebSocket] = []

    class Narrow(WebSocket):
        __slots__ = ()

        def attach(self, transport: asyncio.Transport, answer: bytes) -> None:
            super().attach(transport, answer)
            self.wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
            connections.append(self)

    monkeypatch.setattr("service.gateway.handshake.Handshake.kind", Narrow)
    return connections


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_every_connection_gets_what_is_due_from_its_start_on_once_and_in_order(
    start: Start,
    db: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    attached: list[WebSocket],
    closing: ExitStack,
    seed: int,
) -> None:
    # Groups are flushed in several parts; and who reads nothing for long is not what this is about.
    monkeypatch.setattr("service.stream.hub.MAX_PARTS", 30)
    monkeypatch.setattr("service.gateway.connection.SILENT_HEARTBEATS", NEVER)
    servers = [
        await start(heartbeat=HEARTBEAT, recent_bytes=200_000, commands_per_second=10_000) for _ in range(2)
    ]
    load = Load(seed)
    async with asyncio.timeout(60), asyncio.TaskGroup() as readers:
        devices = [Device(user, name, servers, load, readers) for user in USERS for name in DEVICES]
        for device in devices:
            closing.callback(device.close)
            await device.connect()
        async with asyncio.TaskGroup() as talk:
            for device in devices:
                talk.create_task(device.behave())
            async with asyncio.TaskGroup() as work:
                for n, server in enumerate(servers):
                    work.create_task(produce(server, load.random(f"producer {n}"), load))
                    work.create_task(move(server, load.random(f"mover {n}"), load))
            load.end()
        end = await servers[0].publish("everyone", data="end")
        await eventually(lambda: all(device.stream.position >= end for device in devices), 20)
        for device in devices:
            await device.finish()

    log = await db.fetch(
        "select position, kind, address, type, data, exclude from tidings.events order by position"
    )
    for device in devices:
        device.judge(log, end)
    stored = {p: (to, fingerprint(json.loads(data))) for p, kind, to, _, data, _ in log if kind == "event"}
    assert load.posted.items() <= stored.items()
    await eventually(lambda: not any(left_over(server) for server in servers))
    await eventually(lambda: all(connection.wire is None for connection in attached))
    # It was a load indeed.
    metrics = [server.gateway.metrics for server in servers]
    assert sum(each.slow_connections._value.get() for each in metrics) > 10
    for source in ("memory", "log"):
        assert sum(each.catch_up_pages.labels(source)._value.get() for each in metrics) > 10
    streams = [stream for device in devices for stream in device.streams]
    assert len(streams) == len(attached) > 1.5 * len(devices)
    said = sum((stream.kinds for stream in streams), Counter())
    # With several devices on two instances, hardly any user is ever away from both.
    told = {*PRESENCE} - {"user_disconnected"}
    assert said.keys() >= {"event", "joined_room", "left_room", "ping", "pong", "ok", *told}


async def test_what_drains_while_a_group_is_written_comes_in_order(
    start: Start, monkeypatch: pytest.MonkeyPatch, attached: list[WebSocket], closing: ExitStack
) -> None:
    """A reader with a thread of its own makes room between two writes of one step of the loop.

    That is when a frame could pass what the transport has yet to write.
    """
    full, pause_writing = threading.Event(), WebSocket.pause_writing

    def pause(connection: WebSocket) -> None:
        pause_writing(connection)
        full.set()

    monkeypatch.setattr(WebSocket, "pause_writing", pause)
    monkeypatch.setattr("service.stream.hub.MAX_PARTS", 1)
    server = await start()
    stream = Stream(Load(0), HABITS[0])
    closing.callback(stream.close)
    await stream.open(server, "alice")
    await eventually(lambda: [c.state for c in attached] == [State.LIVE])
    size, pairs = 5000, 750
    reading = asyncio.create_task(asyncio.to_thread(stream.read_aside, size * 2 * pairs, full))
    drafts = [Draft(to, "t", f'"{"x" * size}"') for to in ["user:alice", "everyone"] * pairs]
    first = (await server.service.appender.append(Unit(drafts))).first
    await reading
    assert [item.position for item in stream.items] == list(range(first, first + len(stream.items)))
    assert len(stream.items) > 0.9 * len(drafts)


async def test_an_event_in_one_group_with_joins_and_leaves_goes_to_the_members_at_its_position(
    start: Start,
) -> None:
    here, there = await start(), await start()
    await here.join("red", "alice", "carol")
    async with (
        await there.live("alice") as alice,
        await there.live("bob") as bob,
        await there.live("carol") as carol,
    ):
        # The other instance learns of none of it before it is asked for the last.
        first = await here.publish("room:red")
        left = (await here.http.delete("/v1/rooms/red/members/alice")).json()[0]["position"]
        second = await here.publish("room:red")
        joined = (await here.http.put("/v1/rooms/red/members/bob")).json()[0]["position"]
        third = await here.publish("room:red")
        await there.reached(third)
        for device, due_to_it in (
            (alice, [first, left]),
            (bob, [joined, third]),
            (carol, [first, second, third]),
        ):
            assert [f["position"] for f in await device.quiet() if "position" in f] == due_to_it
