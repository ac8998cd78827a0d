"""Everyone gets what is due to them, once and in order, however the log and the sockets behave.

The hub, the memory, the tail, the connections and the gateway's catching up are the real ones. In
place of the database stands a model that knows the truth; in place of tasks and sockets stand such as
go on when they are told to. So every interleaving is a script, and what fails shrinks to a short one.
"""

from collections.abc import Callable, Container, Coroutine, Generator, Iterable, Iterator, Sequence
from inspect import getcoroutinelocals
from random import Random
from types import SimpleNamespace, coroutine
from typing import Any, ClassVar, NamedTuple

import msgspec
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from service.domain import recent as recent_module
from service.domain.addresses import EVERYONE, Patterns
from service.domain.claims import Claims
from service.domain.delivery import Delivery, Membership, Session, Source, State
from service.domain.due import Reader, still_due
from service.domain.events import Entry, Group
from service.domain.recent import FOREVER, Gap, Interval, Page, Recent
from service.domain.revocations import Revocations
from service.domain.sse import Messages
from service.domain.tail import Tail
from service.gateway import gateway as gateway_module
from service.gateway import replay as replay_module
from service.gateway.connection import Connection
from service.gateway.gateway import Asked, Gateway
from service.gateway.pulse import Pulse
from service.gateway.replay import Backlog, Read, Replay
from service.gateway.sse import EventStream
from service.gateway.websocket import WebSocket
from service.observe.metrics import Metrics
from service.stream import hub as hub_module
from service.stream.hub import Hub, Receiver

# So small that a few entries pass every bound.
MEMORY_BYTES = 6 * 620
BUFFER_FRAMES = 6
WAITING_GROUPS = 3
PAGE_ENTRIES = 3
PAGE_BYTES = 400

ROOMS = ["red", "blue"]
GRANTS = [[], ["red"], ["blue"], ["*"]]
DEVICES = [("alice", "phone"), ("alice", "laptop"), ("bob", "phone")]
ADDRESSES = ["user:alice", "user:bob", "room:red", "room:blue", EVERYONE]
EXCLUDED = [(), (), (), ("alice",), ("alice\nphone",), ("bob",)]
LIFETIMES = [None, None, None, 1, 5, 20]
KEYS = [None, None, None, "k", "l"]
DATA = ["1", "[1,\r\n 2]", f'"{"x" * 200}"']
FRAMES = {
    "event": "event", "recalled": "recalled", "joined": "joined_room", "left": "left_room",
    "read": "inbox_read",
}  # fmt: skip
METRICS = Metrics()


@pytest.fixture(autouse=True, scope="module")
def small_pages() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay_module, "PAGE_ENTRIES", PAGE_ENTRIES)
        patch.setattr(replay_module, "FIRST_ENTRIES", PAGE_ENTRIES - 1)
        patch.setattr(replay_module, "LEAST_ENTRIES", 1)
        patch.setattr(replay_module, "PAGE_BYTES", PAGE_BYTES)
        patch.setattr(recent_module, "RECALLS", 0)
        yield


# --- The truth


class Period(NamedTuple):
    """Of a membership: from after its join's position up to its leave's."""

    user: str
    room: str
    source: Source
    since: int
    until: int = FOREVER


class Model:
    """The log, who was a member when, who was first seen when, and how far each device has got."""

    def __init__(self) -> None:
        self.log: dict[int, Entry] = {}
        self.head = 0
        self.floor = 0
        self.periods: list[Period] = []
        self.first_seen: dict[str, int] = {}
        self.cursors: dict[tuple[str, str], int] = {}
        self.recalled: dict[int, int] = {}

    def is_due(self, entry: Entry, user: str, device: str, claims: Claims) -> bool:
        """Tell whether a user's device is entitled to an entry by this token."""
        if user in entry.exclude or f"{user}\n{device}" in entry.exclude:
            return False
        if entry.address == EVERYONE:
            return entry.position > self.first_seen[user]
        return entry.address == f"user:{user}" or any(
            (period.user, f"room:{period.room}") == (user, entry.address)
            and period.since < entry.position <= period.until
            and (period.source == "api" or claims.rooms.match(period.room))
            for period in self.periods
        )

    # What is written

    def append(
        self,
        address: str,
        kind: str = "event",
        about: str = "t",
        data: str = "1",
        exclude: tuple[str, ...] = (),
        expires_at: float | None = None,
        collapse_key: str | None = None,
    ) -> None:
        self.head += 1
        self.log[self.head] = Entry(
            self.head, kind, address, about, data, "2030-01-01T00:00:00.000Z",
            exclude=exclude, expires_at=expires_at, collapse_key=collapse_key,
        )  # fmt: skip

    def recall(self, position: int) -> None:
        event = self.log[position]
        self.append(event.address, "recalled", "", str(position), event.exclude)
        self.recalled[position] = self.head

    def move(self, user: str, room: str, source: Source, *, joins: bool) -> None:
        """Join or leave, if that changes anything. What the API made, only the API ends."""
        now = next((p for p in self.periods if p[:2] == (user, room) and p.until == FOREVER), None)
        if joins and now is not None and (now.source, source) != ("client", "api"):
            return
        if not joins and (now is None or (now.source, source) == ("api", "client")):
            return
        self.append(f"user:{user}", "joined" if joins else "left", room, source)
        if now is not None:
            self.periods[self.periods.index(now)] = now._replace(until=self.head)
        if joins:
            self.periods.append(Period(user, room, source, self.head))

    # What is read, as the store would

    def between(self, after: int, upto: int) -> Group:
        return Group(after, upto, [e for e in self.log.values() if after < e.position <= upto])

    def page(self, after: int, upto: int, intervals: list[Interval], limit: int, reader: Reader) -> Page:
        everything = [
            e
            for e in self.between(max(after, self.floor), upto).entries
            if any(i.address == e.address and i.since < e.position <= i.until for i in intervals)
        ]
        gap = Gap(after, self.floor, "retention") if self.floor > after else None
        standing = [e for e in everything if reader.may_get(e, self.recalled)]
        newest = {(e.address, e.collapse_key): e for e in standing if e.collapse_key is not None}
        looked_at = everything[:limit]
        entries = [e for e in looked_at if e in standing and newest.get((e.address, e.collapse_key), e) is e]
        return Page(entries, looked_at[-1].position if len(looked_at) == limit else upto, gap)

    def session(self, user: str, device: str, after: int | None, base: int) -> Session:
        self.first_seen.setdefault(user, self.head)
        others = [cursor for (owner, _), cursor in self.cursors.items() if owner == user]
        cursor = self.cursors.setdefault((user, device), max(others, default=self.floor))
        start = cursor if after is None else after
        self.cursors[user, device] = max(cursor, start)
        mine = [p for p in self.periods if p.user == user]
        return Session(
            self.head,
            self.floor,
            self.first_seen[user],
            cursor,
            {p.room: Membership(p.source, p.since) for p in mine if p.until == FOREVER},
            tuple(
                (Interval(f"room:{p.room}", p.since, p.until), p.source)
                for p in mine
                if start < p.until < FOREVER
            ),
            self.quiet_to(user, start, min(base, self.head)),
        )

    def quiet_to(self, user: str, start: int, memory: int) -> int:
        """Return where memory begins, if nothing before it could be due, whatever the token grants."""
        granted = Claims(user=user, expires_at=0, rooms=Patterns.all())
        before = self.between(start, memory).entries
        due = any(self.is_due(entry, user, "", granted) for entry in before)
        return 0 if due or start < self.floor or start >= memory else memory


# --- Tasks and sockets that go on when they are told to


@coroutine
def turn() -> Generator[None]:
    """Let others go first."""
    yield


class Steps:
    """A coroutine in place of a task."""

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self._work = work
        self.running = True
        self.result: Any = None

    def step(self) -> None:
        if self.running:
            try:
                self._work.send(None)
            except StopIteration as end:
                self.running, self.result = False, end.value

    def cancel(self) -> None:
        self.running = False
        self._work.close()

    def __await__(self) -> Generator[None, None, Any]:
        try:
            while self.running:
                yield
        except GeneratorExit:  # a task that is cancelled cancels what it waits for
            self.cancel()
            raise
        return self.result


class Sent(NamedTuple):
    frame: dict[str, Any]
    claims: Claims
    """The token in force when it was written, and where the hub stood, and when."""
    hub: int
    now: float
    replayed: bool


class Wire:
    """A connection's transport with a bounded buffer, and the client at its other end."""

    def __init__(self, socket: "Socket | Stream") -> None:
        self.socket = socket
        self.size_of_first, self.frames_in = socket.FORM
        self.sent: list[Sent] = []
        self.part = b""
        """The beginning of a frame whose rest the buffer had no room for."""
        self.taken = 0
        """Frames that have left the buffer."""
        self.handled = 0
        """Frames that the client is done with: where it acknowledges by itself, those it said so of."""

    @property
    def unread(self) -> int:
        return len(self.sent) - self.taken

    def send(self, data: bytes) -> int:
        """Take what the hub sends past the transport, or half of it where it is too much."""
        assert self.socket.state is State.LIVE, "the hub sends to who is live"
        assert not self.socket.paused, "nothing passes what the transport has yet to write"
        if self.unread > BUFFER_FRAMES:
            raise BlockingIOError
        fits = self.unread + len(list(self.frames_in(data))) <= BUFFER_FRAMES + 1
        taken = len(data) if fits else len(data) // 2
        self._take(data[:taken])
        return taken

    def write(self, data: bytes | memoryview) -> None:
        assert self.socket.state is not State.CLOSED, "nothing is written to what is closed"
        self._take(bytes(data))
        if self.unread > BUFFER_FRAMES and not self.socket.paused:
            self.socket.pause_writing()

    def get_write_buffer_size(self) -> int:
        return 0

    def detach(self) -> None:
        pass

    def _take(self, data: bytes) -> None:
        data = self.part + data
        whole = 0
        while (end := whole + self.size_of_first(data[whole:])) <= len(data):
            whole = end
        self.part = data[whole:]
        edge, replayed = self.socket.gateway, self.socket.state is State.CATCHING_UP
        self.sent += [
            Sent(frame, self.socket.claims, edge.hub.position, edge.follower.now, replayed)
            for frame in self.frames_in(data[:whole])
        ]

    def read(self, frames: int, *, acks: bool) -> None:
        """Let the client take the next frames and answer pings; ``acks``: it says what it is done with."""
        for frame, *_ in self.sent[self.taken : self.taken + frames]:
            self.taken += 1
            if not self.socket.manual:
                self.handled = self.taken
            if frame["type"] == "ping":
                payload = b"%d" % frame["position"]
                self.socket.data_received(bytes((0x8A, 0x80 | len(payload), 0, 0, 0, 0)) + payload)
        if acks and self.socket.manual and self.handled < self.taken:
            self.handled = self.taken
            self.socket.acknowledge(place(self.sent[self.taken - 1].frame))
        if self.socket.paused and self.unread <= BUFFER_FRAMES // 2:
            self.socket.resume_writing()


def size_of_first(data: bytes) -> int:
    """Return how many bytes the first frame has, of which all may not be there."""
    head = data.ljust(4, b"\0")
    return 4 + int.from_bytes(head[2:4]) if head[1] == 126 else 2 + head[1]


def frames_in(data: bytes) -> Iterator[dict[str, Any]]:
    while data:
        start, end = 4 if data[1] == 126 else 2, size_of_first(data)
        payload, is_ping = data[start:end], data[0] & 15 == 9
        assert is_ping or payload.endswith(b"}"), "a torn frame"
        yield {"type": "ping", "position": int(payload)} if is_ping else msgspec.json.decode(payload)
        data = data[end:]


def size_of_first_message(data: bytes) -> int:
    """Return the same of a stream's message."""
    return (data.find(b"\n\n") + 1 or len(data)) + 1


def frames_in_messages(data: bytes) -> Iterator[dict[str, Any]]:
    for message in data.split(b"\n\n")[:-1]:
        fields = [line.partition(b": ") for line in message.split(b"\n")]
        frame = msgspec.json.decode(b"\n".join(value for name, _, value in fields if name == b"data"))
        assert [int(value) for name, _, value in fields if name == b"id"] == [place(frame)]
        yield frame


def place(frame: dict[str, Any]) -> int:
    """Return how far a client has got with this frame."""
    return frame["to"] if frame["type"] == "gap" else frame["position"]


class Waiting(Connection):
    """A connection that waits without an event loop."""

    def __init__(self, edge: "Edge", claims: Claims, asked: Asked) -> None:
        super().__init__(edge, f"{claims.user}/{asked.device}", claims, asked.device, manual=asked.manual)
        self.transport = self.wire = self.pipe = Wire(self)
        self.asked = asked
        self.session: Session | None = None
        self.start: int | None = None
        self.tokens = [(edge.hub.position, claims)]
        self.backlog: Backlog | None = None
        self.read: Steps | None = None

    async def writable(self) -> None:
        assert not self.paused or self.backlog._ahead is None, "who does not read costs no page"
        while self.paused:
            await turn()

    def expire_within(self, seconds: float, now: float) -> None:
        pass

    def tokens_from(self, position: int) -> list[Claims]:
        """Return the tokens in force since the hub got to ``position``."""
        current = max((i for i, (at, _) in enumerate(self.tokens) if at < position), default=0)
        return [claims for _, claims in self.tokens[current:]]


class Socket(Waiting, WebSocket):
    FORM = size_of_first, frames_in

    def __init__(self, edge: "Edge", claims: Claims, asked: Asked) -> None:
        super().__init__(edge, claims, asked)
        self.send = self.pipe.send


class Stream(Waiting, EventStream):
    FORM = size_of_first_message, frames_in_messages


class Following:
    """The follower without its tasks: it is told what arrives, and when to read."""

    trusted = True
    now = 0.0

    def __init__(self, model: Model, hub: Hub) -> None:
        self.model = model
        self.hub = hub
        self.tail = Tail(0, WAITING_GROUPS)

    def offer(self, group: Group) -> None:
        self.tail.offer(group)
        for each in self.tail.take():
            self.hub.apply(each)

    def read(self, limit: int) -> None:
        self.tail.reaches(self.model.head)
        if (missing := self.tail.missing) is not None:
            after, upto = missing
            self.offer(self.model.between(after, min(upto, after + limit)))

    async def until_trusted(self) -> None:
        pass

    async def reached(self, position: int) -> None:
        while self.hub.position < position:
            await turn()


class ModelReplay(Replay):
    """Replay whose pages come out of the model: each is asked for, and is on its way for a while."""

    def __init__(self, edge: "Edge") -> None:
        self.hub = edge.hub
        self.follower = edge.follower
        self.spawn = edge.spawn
        self._model = edge.model
        self._metrics = METRICS

    async def page_from_log(self, connection: Connection, after: int, limit: int) -> Page | None:
        await turn()  # others read just now
        reader = self._reader(connection)
        page = self._model.page(after, self.hub.position, connection.intervals(), limit, reader)
        await turn()  # it is on its way, and meanwhile things happen
        return page.within(PAGE_BYTES)

    async def drained_soon(self, connection: Connection) -> bool:
        for _ in range(6):
            if connection.paused:
                await turn()
        return not connection.paused


class Edge(Gateway):
    """The gateway on the model: connections come and go, and take their steps, one at a time."""

    def __init__(self) -> None:
        self.model = Model()
        self.cursors = SimpleNamespace(mark=self._mark, hurry=lambda: None)
        self.hub = Hub(0, Recent(0, MEMORY_BYTES), self._disconnect)
        self.follower = Following(self.model, self.hub)
        self.replay = ModelReplay(self)
        self.pulse = Pulse(self.hub, self.cursors, 1, 1)
        self.settings = SimpleNamespace(commands_per_second=1)
        self.revocations = Revocations()
        self.metrics = METRICS
        self.messages = Messages()
        self.count = 0
        self.draining = False
        self.sockets: list[Socket | Stream] = []

    def spawn(self, connection: Connection, work: Coroutine[Any, Any, Any]) -> Steps:
        steps = Steps(work)
        if isinstance(owner := getcoroutinelocals(work)["self"], Backlog):
            connection.backlog = owner
        else:
            assert connection.read is None or not connection.read.running, "one page ahead, not two"
            connection.read = steps
        return steps

    def _disconnect(self, hub: Hub, entry: Entry) -> None:
        for socket in [c for c in hub if c.id == entry.type]:
            self.drop(socket)

    def _mark(self, user: str, device: str, position: int) -> None:
        [socket] = [s for s in self.open if (s.user, s.device) == (user, device)]
        check_all_is_there(self.model, socket, position)
        self.model.cursors[user, device] = max(self.model.cursors[user, device], position)

    @property
    def open(self) -> list[Socket]:
        return [socket for socket in self.sockets if socket.state is not State.CLOSED]

    def connect(self, claims: Claims, asked: Asked) -> None:
        """Connect: a stream acknowledges by itself, so half of those that do so are streams."""
        kind = Stream if asked.manual and len(self.sockets) % 2 else Socket
        socket = kind(self, claims, asked)
        self.sockets.append(socket)
        self.hub.register(socket)
        self.count += 1

    def proceed(self, socket: Socket) -> None:
        """Do what comes next: load the session, begin, then page after page."""
        self.read_on(socket)
        if socket.session is None:
            socket.session = self.model.session(
                socket.user, socket.device, socket.asked.after, self.hub.recent.base
            )
        elif socket.early is not None:
            socket.start, _ = gateway_module._place(socket.asked, socket.session)
            socket.begin(socket.session, socket.start)
            self.replay.catch_up(socket)
        elif socket.catching_up is not None:
            socket.catching_up.step()

    def read_on(self, socket: Socket) -> None:
        """Let a page that is being read come nearer."""
        if socket.read is not None:
            socket.read.step()

    def drop(self, socket: Socket) -> None:
        if socket.start is None:
            self.abandon(socket)
        else:
            socket.connection_lost(None)

    def end(self) -> None:
        for socket in self.open:
            self.drop(socket)

    def heartbeat(self) -> None:
        self.pulse.gather()
        self.pulse.ask_some(2)
        for socket in self.open:
            if socket.start is not None and not socket.paused:
                socket.send_ping()
                self.pulse._follow(socket)

    @property
    def at_rest(self) -> bool:
        """Tell whether all that can happen has happened: only clients that ack by themselves may lag."""
        return self.hub.position == self.model.head and all(
            socket.state is State.LIVE
            and socket.pipe.handled == len(socket.pipe.sent)
            and (socket.manual or socket.acked == self.model.head)
            for socket in self.open
        )

    def come_to_rest(self) -> None:
        """Let every device come back, and all happen that can happen."""
        here = [(socket.user, socket.device) for socket in self.open]
        for socket in {(s.user, s.device): s for s in self.sockets}.values():
            if (socket.user, socket.device) not in here:
                self.connect(socket.claims, socket.asked._replace(after=None))
        for _ in range(2 * self.model.head + 20):
            if self.at_rest:
                return
            self.follower.read(PAGE_ENTRIES)
            self.heartbeat()
            for socket in self.open:
                self.proceed(socket)
                socket.pipe.read(BUFFER_FRAMES + 1, acks=True)
        raise AssertionError("somebody never gets what is due, or never says so")


# --- The property


def check(edge: Edge) -> None:
    """Check all that was ever sent, once everything has come to rest."""
    edge.come_to_rest()
    for socket in edge.sockets:
        check_order(edge.model, socket)
    for socket in edge.open:
        check_all_is_there(edge.model, socket, edge.model.head)
    edge.end()
    assert not edge.hub.users
    assert not edge.hub._receivers
    assert not edge.hub._last
    assert edge.count == 0
    assert not any(socket.read is not None and socket.read.running for socket in edge.sockets)


def check_order(model: Model, socket: Socket) -> None:
    """What was sent was due by the token of the moment, and stands in its place.

    ``live``, ``gap`` and pings say that all before their position has been sent, so nothing follows
    them that should have come before.
    """
    reached = socket.start or 0
    for frame, claims, hub, now, replayed in socket.pipe.sent:
        if frame["type"] in FRAMES.values():
            entry = model.log[frame["position"]]
            assert entry.position > reached
            assert frame["type"] == FRAMES[entry.kind]
            assert model.is_due(entry, socket.user, socket.device, claims)
            if replayed:
                assert entry.expires_at is None or entry.expires_at > now
                assert model.recalled.get(entry.position, FOREVER) > hub
            reached = entry.position
        else:
            assert place(frame) >= reached
            reached = place(frame)


def check_all_is_there(model: Model, socket: Socket, upto: int) -> None:
    """The client is done with all that was due up to here: it will not be sent again."""
    done = [frame for frame, *_ in socket.pipe.sent[: socket.pipe.handled]]
    positions = {frame["position"] for frame in done if frame["type"] in FRAMES.values()}
    gaps = [(frame["from"], frame["to"]) for frame in done if frame["type"] == "gap"]
    assert all(to <= model.floor for _, to in gaps)
    for entry in model.between(socket.start, upto).entries:
        tokens = socket.tokens_from(entry.position)
        if entry.position in model.recalled or (entry.expires_at or FOREVER) <= socket.gateway.follower.now:
            continue
        if any(
            (newer.address, newer.collapse_key) == (entry.address, entry.collapse_key or "")
            and any(model.is_due(newer, socket.user, socket.device, claims) for claims in tokens)
            for newer in model.between(entry.position, socket.gateway.hub.position).entries
        ):
            continue
        if all(model.is_due(entry, socket.user, socket.device, claims) for claims in tokens):
            assert entry.position in positions or any(a < entry.position <= to for a, to in gaps)


# --- What may happen


class Story:
    """One thing happens after the other; each is drawn by a number of its own, and 0 is nothing."""

    def __init__(self) -> None:
        self.edge = Edge()
        self.model = self.edge.model

    def happen(self, number: int) -> str:
        draw = Random(number)
        [act] = draw.choices(list(self.LIKELIHOOD), self.LIKELIHOOD.values())
        what = f"{act.__name__}: {act(self, draw)}"
        full = [s for s in self.edge.open if s.state is State.LIVE and s.paused]
        assert not full, "who does not read is taken out of the loop"
        return what

    def publish(self, draw: Random) -> object:
        self.model.head += draw.choice([0, 0, 0, 2])  # a rolled-back group leaves a gap
        for _ in range(draw.randint(1, 5)):
            lifetime = draw.choice(LIFETIMES)
            self.model.append(
                draw.choice(ADDRESSES), data=draw.choice(DATA), exclude=draw.choice(EXCLUDED),
                expires_at=None if lifetime is None else self.edge.follower.now + lifetime,
                collapse_key=draw.choice(KEYS),
            )  # fmt: skip
        return self.model.head

    def recall(self, draw: Random) -> object:
        standing = [e.position for e in self.model.log.values() if e.kind == "event"][-20:]
        position = draw.choice(standing) if standing else 0
        if position and position not in self.model.recalled:
            self.model.recall(position)
        return position

    def time_passes(self, draw: Random) -> object:
        self.edge.follower.now += draw.randint(1, 5)
        return self.edge.follower.now

    def move(self, draw: Random) -> object:
        user, room, source = draw.choice(["alice", "bob"]), draw.choice(ROOMS), draw.choice(["api", "client"])
        self.model.move(user, room, source, joins=draw.random() < 0.6)
        return user, room, source, self.model.head

    def mark_read(self, draw: Random) -> object:
        user = draw.choice(["alice", "bob"])
        self.model.append(f"user:{user}", "read", "", f'{{"up_to":{self.model.head},"unread":0}}')
        return user, self.model.head

    def a_group_arrives(self, draw: Random) -> object:
        """Some range of the log: a commit or a piece of one; late, repeated or out of order."""
        after = max(0, self.edge.hub.position + draw.choice([-4, -1, 0, 0, 0, 2, 5]))
        upto = min(self.model.head, after + draw.randint(1, 12))
        if after < upto:
            self.edge.follower.offer(self.model.between(after, upto))
        return after, upto

    def what_is_missing_is_read(self, draw: Random) -> object:
        self.edge.follower.read(draw.randint(1, 30))
        return self.edge.hub.position

    def connect(self, draw: Random) -> object:
        (user, device), rooms = draw.choice(DEVICES), Patterns(draw.choice(GRANTS))
        if (user, device) in [(socket.user, socket.device) for socket in self.edge.open]:
            return None
        after = draw.randint(0, self.model.head) if draw.random() < 0.2 else None
        asked = Asked(device, after, manual=draw.random() < 0.5)
        self.edge.connect(Claims(user=user, expires_at=0, rooms=rooms), asked)
        return user, rooms, asked

    def proceed(self, draw: Random) -> object:
        socket = self._one(draw)
        for _ in range(draw.choice([1, 1, 2, 4, 8])):
            if socket is not None:
                self.edge.proceed(socket)
        return socket and (socket.id, socket.state, socket.written)

    def pages_come_nearer(self, draw: Random) -> object:
        socket = self._one(draw)
        for _ in range(draw.choice([1, 1, 2])):
            if socket is not None:
                self.edge.read_on(socket)
        return socket and socket.id

    def read(self, draw: Random) -> object:
        socket = self._one(draw)
        if socket is not None:
            socket.pipe.read(draw.randint(1, 12), acks=draw.random() < 0.5)
        return socket and (socket.id, socket.acked)

    def refresh(self, draw: Random) -> object:
        socket, rooms = self._one(draw), Patterns(draw.choice(GRANTS))
        if socket is None or socket.start is None:
            return None
        claims = Claims(user=socket.user, expires_at=0, rooms=rooms)
        self.edge.refresh(socket, claims)
        socket.tokens.append((self.edge.hub.position, claims))
        return socket.id, rooms

    def disconnect(self, draw: Random) -> object:
        socket = self._one(draw)
        if socket is not None:
            self.edge.drop(socket)
        return socket and socket.id

    def disconnect_through_the_log(self, draw: Random) -> object:
        device = draw.choice(DEVICES)
        self.model.append("control", "disconnect", "/".join(device))
        return device

    def heartbeat(self, draw: Random) -> object:
        return self.edge.heartbeat()

    def retain(self, draw: Random) -> object:
        self.model.floor = max(self.model.floor, self.edge.hub.position - draw.randint(0, 20))
        return self.model.floor

    def _one(self, draw: Random) -> Socket | None:
        return draw.choice(self.edge.open) if self.edge.open else None

    LIKELIHOOD: ClassVar = {
        publish: 5, move: 4, mark_read: 1, a_group_arrives: 5, what_is_missing_is_read: 3, connect: 4,
        proceed: 8, read: 7, pages_come_nearer: 3, refresh: 3, disconnect: 1,
        disconnect_through_the_log: 0.5, heartbeat: 2, retain: 0.5, recall: 2, time_passes: 1,
    }  # fmt: skip


def tell(numbers: Iterable[int], show: Callable[[str], None] = lambda _: None) -> None:
    story = Story()
    try:
        for number in numbers:
            if number:
                show(story.happen(number))
        check(story.edge)
    finally:
        story.edge.end()


@settings(deadline=None, max_examples=500)
@given(st.lists(st.integers(0, 2**32), min_size=60, max_size=120))
def test_everyone_gets_what_is_due_once_and_in_order(numbers: list[int]) -> None:
    tell(numbers, note)


# --- What the property sees


def goes_live_before_its_last_page(patch: pytest.MonkeyPatch) -> None:
    def write(self: Replay, connection: Connection, page: Page) -> None:
        connection.write_page(page)
        self.hub.go_live(connection)

    patch.setattr(Replay, "write", write)


def forgets_what_came_while_the_session_was_loaded(patch: pytest.MonkeyPatch) -> None:
    begin = Delivery.begin

    def forgetful(self: Delivery, session: Session, position: int) -> None:
        self.early = None
        begin(self, session, position)

    patch.setattr(Delivery, "begin", forgetful)


def takes_what_is_before_memory_for_quiet(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Model, "quiet_to", lambda self, user, start, memory: memory)


def forgets_the_rooms_that_were_left(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Delivery, "_end", lambda self, room, position: self.rooms.pop(room, None))


def leaves_who_lags_in_the_loop(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Hub, "lag", lambda self, connection: None)


def says_it_fell_behind_where_the_group_began(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Hub, "lag", lambda self, connection: connection.fell_behind(self.recent.base))


def forgets_what_the_socket_did_not_take(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Connection, "send_rest", lambda self, rest: None)


def joins_at_the_end_of_a_group(patch: pytest.MonkeyPatch) -> None:
    apply = Hub.apply

    def late(self: Hub, group: Group) -> None:
        moves_last = sorted(group.entries, key=lambda entry: entry.kind in ("joined", "left"))
        apply(self, Group(group.after, group.last, moves_last))

    patch.setattr(Hub, "apply", late)


def replays_what_was_withheld(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(replay_module, "still_due", lambda entries, reader, recalled: entries)


def writes_what_was_taken_back_since_it_was_read(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        replay_module, "still_due", lambda entries, reader, recalled: still_due(entries, reader, ())
    )


def writes_what_has_expired_since_it_was_read(patch: pytest.MonkeyPatch) -> None:
    def timeless(entries: list[Entry], reader: Reader, recalled: Container[int]) -> Sequence[Entry]:
        return still_due(entries, reader._replace(now=0), recalled)

    patch.setattr(replay_module, "still_due", timeless)


def forgets_recalls_that_a_page_may_have_missed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Recent, "recalls_after", property(lambda self: 0, lambda self, _: None), raising=False)


def writes_a_page_that_was_read_by_another_token(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Read, "fits", lambda self, connection: self.after == connection.written)


def writes_a_page_that_begins_elsewhere(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Read, "fits", lambda self, connection: self.claims is connection.claims)


@pytest.mark.parametrize("plant", [
    goes_live_before_its_last_page,
    forgets_what_came_while_the_session_was_loaded,
    takes_what_is_before_memory_for_quiet,
    forgets_the_rooms_that_were_left,
    leaves_who_lags_in_the_loop,
    says_it_fell_behind_where_the_group_began,
    forgets_what_the_socket_did_not_take,
    joins_at_the_end_of_a_group,
    replays_what_was_withheld,
    writes_what_was_taken_back_since_it_was_read,
    writes_what_has_expired_since_it_was_read,
    forgets_recalls_that_a_page_may_have_missed,
    writes_a_page_that_was_read_by_another_token,
    writes_a_page_that_begins_elsewhere,
])  # fmt: skip
def test_it_would_be_seen_if_it(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        tell_many(2000)


def tell_many(stories: int) -> None:
    for seed in range(stories):
        tell(Random(seed).choices(range(1, 2**32), k=100))


# --- Examples


class Ear(Receiver):
    """A connection that keeps what is written to it."""

    def __init__(self, hub: Hub, user: str) -> None:
        super().__init__(Claims(user=user, expires_at=0, rooms=Patterns.all()), "phone")
        self.watches = None
        self.writes: list[bytes] = []
        self.room: int | None = None
        """How many bytes its socket still takes; None: any number."""
        self.rest = b""
        self.begin(Session(0, 0, 0, 0, {"red": Membership("client", 0)}), 0)
        hub.register(self)
        hub.go_live(self)

    def send(self, data: bytes) -> int:
        taken = len(data) if self.room is None else min(self.room, len(data))
        self.writes.append(data[:taken])
        return taken

    def send_rest(self, rest: memoryview) -> None:
        self.rest += rest

    def notify(self, data: bytes) -> None:
        self.writes.append(data)

    def end(self, code: int, reason: str, *, reconnect: bool = False) -> None:
        raise NotImplementedError


def test_what_is_for_the_same_connections_is_made_once_and_written_with_one_call() -> None:
    model, hub = Model(), Edge().hub
    alice, bob = Ear(hub, "alice"), Ear(hub, "bob")
    for address in ["room:red", "room:red", "user:bob", "room:red"]:
        model.append(address)
    hub.apply(model.between(0, model.head))

    positions = [[frame["position"] for frame in frames_in(data)] for data in bob.writes]
    assert positions == [[1, 2, 3, 4]], "in order across its addresses, with one call"
    assert [[frame["position"] for frame in frames_in(data)] for data in alice.writes] == [[1, 2, 4]]

    model.append("room:red")
    hub.apply(model.between(4, 5))
    assert alice.writes[1] is bob.writes[1], "the same bytes for all"


def test_what_the_socket_does_not_take_is_handed_on_to_the_byte() -> None:
    model, hub = Model(), Edge().hub
    alice, bob = Ear(hub, "alice"), Ear(hub, "bob")
    alice.room = 10
    model.append("room:red")
    hub.apply(model.between(0, 1))
    assert (len(alice.writes[0]), alice.writes[0] + alice.rest) == (10, bob.writes[0])


def test_a_notice_comes_after_what_happened_before_it() -> None:
    model, hub = Model(), Edge().hub
    alice = Ear(hub, "alice")
    hub.watchers.watch(alice, "blue")
    model.append("room:red")
    model.move("bob", "blue", "api", joins=True)
    hub.apply(model.between(0, 2))
    frames = [frame["type"] for data in alice.writes for frame in frames_in(data)]
    assert frames == ["event", "user_joined_room"]


def test_what_was_read_is_delivered_and_is_no_membership() -> None:
    model, hub = Model(), Edge().hub
    alice, bob = Ear(hub, "alice"), Ear(hub, "bob")
    hub.watchers.watch(bob, "blue")
    model.append("user:alice", "read", "blue", '{"positions":[3,5],"unread":2}')
    hub.apply(model.between(0, 1))
    assert [frame for data in alice.writes for frame in frames_in(data)] == [
        {"type": "inbox_read", "position": 1, "positions": [3, 5], "unread": 2}
    ]
    assert (list(alice.rooms), bob.writes) == (["red"], [])


def test_a_kind_of_a_newer_version_is_passed_over() -> None:
    edge = Edge()
    edge.model.append("user:alice", "unheard_of", "blue")
    edge.follower.read(10)
    live, replayed = begun(edge), begun(edge, device="laptop", after=0)
    for _ in range(2):
        edge.model.append("user:alice", "unheard_of", "blue")
        edge.model.append("user:alice")
        edge.follower.read(10)
    for socket in (live, replayed):
        kinds = {frame["type"] for frame, *_ in socket.pipe.sent}
        assert (kinds & {"event", "joined_room"}, list(socket.rooms)) == ({"event"}, [])
        assert positions(socket) == [3, 5]
    edge.end()


def test_who_lags_twice_falls_behind_once() -> None:
    model, hub = Model(), Edge().hub
    alice = Ear(hub, "alice")
    hub.lag(alice)
    model.append("room:red")
    hub.apply(model.between(0, 1))
    hub.lag(alice)
    assert (alice.state, alice.written, alice.writes) == (State.CATCHING_UP, 0, [])


def test_more_than_is_kept_is_written_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "MAX_PARTS", 3)
    model, hub = Model(), Edge().hub
    bob = Ear(hub, "bob")
    for address in ["room:red", "user:bob"] * 4:
        model.append(address)
    hub.apply(model.between(0, model.head))
    positions = [[frame["position"] for frame in frames_in(data)] for data in bob.writes]
    assert positions == [[1, 2, 3, 4], [5, 6, 7, 8]]

    for address in ["room:red", "user:bob"] * 4:
        model.append(address, exclude=("alice",))
    hub.apply(model.between(8, model.head))
    positions = [[frame["position"] for frame in frames_in(data)] for data in bob.writes[2:]]
    assert positions == [[9, 10, 11, 12], [13, 14, 15, 16]], "excluded or not"


def begun(edge: Edge, *rooms: str, **asked: Any) -> Socket:
    """A connection whose session has been loaded and that has begun."""
    edge.connect(Claims(user="alice", expires_at=0, rooms=Patterns(rooms)), Asked(**asked))
    socket = edge.sockets[-1]
    edge.proceed(socket)
    edge.proceed(socket)
    return socket


def test_it_stays_behind_until_the_hub_has_reached_what_its_session_knows() -> None:
    """Else it would go by rooms of the future: here by one that is yet to be left."""
    edge = Edge()
    edge.model.move("alice", "red", "api", joins=True)
    edge.follower.read(10)
    edge.model.append("room:red")
    edge.model.move("alice", "red", "api", joins=False)
    socket = begun(edge)
    assert socket.state is State.CATCHING_UP

    edge.follower.read(10)
    edge.proceed(socket)
    assert socket.state is State.LIVE
    assert [frame["type"] for frame, *_ in socket.pipe.sent] == [
        "joined_room", "event", "left_room", "ping", "live",
    ]  # fmt: skip
    edge.end()


def test_some_are_asked_at_a_time_in_turn_and_nobody_twice_before_an_answer() -> None:
    edge = Edge()
    phones = [begun(edge, device=f"phone{n}") for n in range(3)]

    def asked() -> list[int]:
        return [sum(frame["type"] == "ping" for frame, *_ in phone.pipe.sent) for phone in phones]

    edge.model.append("user:alice")
    edge.follower.read(10)
    edge.pulse.gather()
    edge.pulse.ask_some(2)
    assert asked() == [1, 1, 0]
    edge.pulse.ask_some(2)
    assert asked() == [1, 1, 1]
    phones[1].pipe.read(10, acks=False)
    edge.model.append("user:alice")
    edge.follower.read(10)
    for _ in range(2):
        edge.pulse.gather()
        edge.pulse.ask_some(3)
        assert asked() == [1, 2, 1]
    for phone in phones:
        phone.pipe.read(10, acks=False)
    edge.pulse.ask_some(3)
    assert asked() == [2, 2, 2]
    edge.end()


def test_no_cursor_follows_over_a_backlog_that_was_only_sent() -> None:
    edge = Edge()
    edge.model.append("user:alice")
    edge.follower.read(10)
    socket = begun(edge, manual=True)
    assert socket.state is State.LIVE
    edge.heartbeat()
    assert socket.acked == 0

    socket.pipe.read(10, acks=True)
    edge.model.append("user:bob")
    edge.follower.read(10)
    edge.heartbeat()
    assert socket.acked == 2
    edge.end()


def test_no_cursor_follows_over_a_gap_that_was_only_sent() -> None:
    edge = Edge()
    edge.model.append("user:bob")
    edge.follower.read(10)
    edge.model.floor = 1
    edge.hub.recent.forget(1)
    socket = begun(edge, manual=True, after=0)
    while socket.state is not State.LIVE:
        edge.proceed(socket)
    assert [frame["type"] for frame, *_ in socket.pipe.sent] == ["gap", "ping", "live"]
    edge.heartbeat()
    assert socket.acked == 0
    edge.end()


def test_a_page_on_its_way_is_not_written_to_a_token_that_does_not_grant_it() -> None:
    edge = Edge()
    edge.model.move("alice", "red", "client", joins=True)
    edge.model.append("room:red")
    edge.follower.read(10)
    edge.hub.recent.forget(2)  # so that the page has to come from the log
    socket = begun(edge, "red")
    edge.proceed(socket)
    edge.refresh(socket, Claims(user="alice", expires_at=0))
    while socket.state is not State.LIVE:
        edge.proceed(socket)
    assert [frame["type"] for frame, *_ in socket.pipe.sent] == ["joined_room", "ping", "live"]
    edge.end()


def replayed_from_the_log(events: int) -> tuple[Edge, Socket]:
    """A connection that has begun to read its backlog from the database."""
    edge = Edge()
    for _ in range(events):
        edge.model.append("user:alice")
    edge.follower.read(events)
    edge.hub.recent.forget(events)
    return edge, begun(edge)


def positions(socket: Socket) -> list[int]:
    return [frame["position"] for frame, *_ in socket.pipe.sent if frame["type"] == "event"]


def test_the_next_page_is_read_while_one_is_written() -> None:
    edge, socket = replayed_from_the_log(20)
    while socket.state is not State.LIVE and socket.backlog._ahead is None:
        edge.proceed(socket)
    assert socket.backlog._ahead is not None
    assert socket.backlog._ahead.after == 2
    assert positions(socket) == []
    while not positions(socket):
        edge.proceed(socket)
    assert positions(socket) == [1, 2]
    edge.come_to_rest()
    assert positions(socket) == list(range(1, 21))
    edge.end()


def test_a_page_read_ahead_is_not_written_to_a_token_that_does_not_grant_it() -> None:
    edge = Edge()
    edge.model.move("alice", "red", "client", joins=True)
    for _ in range(20):
        edge.model.append("room:red")
    edge.follower.read(21)
    edge.hub.recent.forget(21)
    socket = begun(edge, "red")
    while not positions(socket):
        edge.proceed(socket)
    seen = positions(socket)
    assert socket.backlog._ahead is not None
    claims = Claims(user="alice", expires_at=0)
    edge.refresh(socket, claims)
    socket.tokens.append((edge.hub.position, claims))
    while socket.state is not State.LIVE:
        edge.proceed(socket)
        socket.pipe.read(10, acks=True)
    assert positions(socket) == seen
    edge.end()


def test_no_page_is_held_for_who_stops_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.BUFFER_FRAMES", 2)
    edge, socket = replayed_from_the_log(20)
    while not socket.paused:
        edge.proceed(socket)
    assert socket.backlog._ahead is not None, "it kept up until now"
    for _ in range(10):
        edge.proceed(socket)
    assert socket.backlog._ahead is None
    assert not socket.read.running
    socket.pipe.read(100, acks=True)
    while not socket.paused:
        edge.proceed(socket)
    assert socket.backlog._ahead is None, "who was slow just now reads without"
    edge.come_to_rest()
    assert positions(socket) == list(range(1, 21))
    edge.end()


def test_a_page_ahead_is_let_go_of_with_its_connection() -> None:
    edge, socket = replayed_from_the_log(20)
    while socket.state is not State.LIVE and socket.backlog._ahead is None:
        edge.proceed(socket)
    assert socket.read.running
    edge.drop(socket)
    assert not socket.read.running
