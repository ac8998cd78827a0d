"""Devices: they come and go at any instance, are slow at times, and write down all that they are sent."""

import asyncio
from contextlib import suppress
from itertools import count
from random import Random
from time import monotonic
from typing import Final
from urllib.parse import urlencode

import msgspec

from proof.history import (
    UNKNOWN,
    Acknowledged,
    Answered,
    Closed,
    Connecting,
    Moved,
    Placed,
    Posted,
    Received,
    Sent,
    Token,
)  # fmt: skip
from proof.scene import GRANT, Account, Scene
from proof.wire import Socket, Unreachable

PATIENCE: Final = 5.0
"""Seconds for a handshake, and for a peer to answer a Close."""
STATUS: Final = {"outcome_unknown": UNKNOWN, "unavailable": 503, "rate_limited": 429}
"""Of a publish that was refused, by code; as HTTP has it."""


class _Data(msgspec.Struct):
    mark: str | None = None


class _Frame(msgspec.Struct, rename={"since": "from"}):
    type: str
    position: int | None = None
    id: str | None = None
    to: str | int | None = None
    data: _Data | None = None
    room: str | None = None
    recalled: int | None = None
    head: int | None = None
    since: str | int | None = None
    reason: str | None = None
    ref: str | int | None = None
    code: str | int | None = None


_decode = msgspec.json.Decoder(_Frame).decode


class Visit:
    """One connection of a device, from its handshake to its end."""

    def __init__(self, device: "Device", name: str) -> None:
        self.name = name
        self.welcomed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Done once the handshake is over: whether it was accepted."""
        self.over = asyncio.Event()
        self.leaving = False
        self._device = device
        self._history = device.scene.history

    def text(self, data: bytes) -> None:
        """Write a frame down, and let the device see it."""
        frame = _decode(data)
        gap = frame.type == "gap"
        self._history.add(Received(
            connection=self.name, frame=frame.type, id=frame.id, room=frame.room, recalled=frame.recalled,
            position=frame.to if gap and isinstance(frame.to, int) else frame.position,
            to=frame.to if isinstance(frame.to, str) else None,
            mark=None if frame.data is None else frame.data.mark, head=frame.head,
            since=frame.since if isinstance(frame.since, int) else None, reason=frame.reason,
        ))  # fmt: skip
        if frame.type == "welcome" and not self.welcomed.done():
            self.welcomed.set_result(True)
        self._device.take(frame)

    def pinged(self, payload: bytes) -> None:
        """Write down what the pong acknowledges."""
        if not self._device.manual:
            self._history.add(Acknowledged(connection=self.name, position=int(payload)))

    def drained(self) -> None:
        """Let the device acknowledge."""
        self._device.drained(self)

    def gone(self, code: int) -> None:
        """Write the end down."""
        if not self.over.is_set():
            self.over.set()
            self._history.add(Closed(connection=self.name, code=code, own=self.leaving))
            if not self.welcomed.done():
                self.welcomed.set_result(False)


class Device:
    """A receiver of a user's. ``manual``: it acknowledges by itself, and knows its own position.

    ``steady`` ones leave only when they are sent away. A ``narrow`` one's token grants no rooms.
    """

    def __init__(
        self, scene: Scene, account: Account, name: str, rng: Random, *,
        manual: bool = False, steady: bool = False, narrow: bool = False,
    ) -> None:  # fmt: skip
        self.scene = scene
        self.account = account
        self.name = name
        self.manual = manual
        self.steady = steady
        self.rooms = () if narrow else (GRANT,)
        self.issue = 0
        """Counts its tokens: another one is issued after one was revoked by its ``jti``."""
        self.reached = 0
        """The last position that it has seen."""
        self.socket: Socket | None = None
        self.wanted = asyncio.Event()
        """Cleared while it shall stay away."""
        self.wanted.set()
        self.moved = asyncio.Event()
        """Set where ``reached`` has moved."""
        self._rng = rng
        self._acked = 0
        self._visits = count(1)
        self._publishes: dict[str, Posted] = {}
        self._names = count(1)

    @property
    def known(self) -> str:
        """Return its user and its name."""
        return f"{self.account.name}/{self.name}"

    @property
    def jti(self) -> str:
        """Return the id of its token."""
        return f"{self.known}/{self.issue}"

    @property
    def asks(self) -> bool:
        """Tell whether it has published what it was not told of; it does so again when it is connected."""
        return bool(self._publishes)

    def token(self) -> Token:
        """Return its token."""
        return self.scene.token(self.account, self.jti, self.rooms)

    async def run(self) -> None:
        """Come and go until cancelled."""
        try:
            while not self.account.banned:
                await self.wanted.wait()
                await self._visit(self._rng.choice(self.scene.urls))
                await asyncio.sleep(self._rng.uniform(0.01, 0.1))
        finally:
            if self.socket is not None:
                self.socket.abort()

    async def _visit(self, url: str) -> None:
        visit = Visit(self, f"{self.known}#{next(self._visits)}")
        token, after = self.token(), self._after()
        self.scene.history.add(Connecting(
            connection=visit.name, url=url, device=self.name, token=token, after=after, manual=self.manual,
        ))  # fmt: skip
        try:
            self.socket = await Socket.open(self._address(url, token, after), visit)
        except Unreachable:
            visit.gone(0)
            return
        try:
            await self._stay(visit, self.socket)
        finally:
            await self._leave(visit, self.socket)
            self._unanswered()

    def _address(self, url: str, token: Token, after: int | None) -> str:
        query = {"token": self.scene.signed(token), "device": self.name}
        query |= {"ack": "client"} if self.manual else {}
        query |= {} if after is None else {"after": str(after)}
        return f"{url.replace('http', 'ws', 1)}/v1/ws?{urlencode(query)}"

    def _after(self) -> int | None:
        return self.reached if self.manual and self.reached and self._rng.random() < 0.5 else None

    async def _stay(self, visit: Visit, socket: Socket) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                if not await visit.welcomed:
                    return
        except TimeoutError:
            return
        self._publish_again()
        end = asyncio.get_running_loop().time() + self._rng.uniform(0.3, 2.5)
        while not visit.over.is_set():
            stays = self.steady or self.scene.settled.is_set()
            if not self.wanted.is_set() or (not stays and asyncio.get_running_loop().time() > end):
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(self._rng.uniform(0.1, 0.3)):
                    await visit.over.wait()
            if not self.scene.ending.is_set():
                await self._act(socket)

    async def _act(self, socket: Socket) -> None:
        chance = self._rng.random()
        if chance < 0.05 and not self.steady:
            socket.read(on=False)
            await self.scene.pause(self._rng, 0.5)
            socket.read(on=True)
        elif chance < 0.15 and self.rooms:
            self.change_room(f"chat.{self._rng.randrange(3)}", joins=self._rng.random() < 0.6)
        elif chance < 0.45:
            self._publish()

    async def _leave(self, visit: Visit, socket: Socket) -> None:
        visit.leaving = not visit.over.is_set()
        if visit.leaving:
            socket.close() if self._rng.random() < 0.5 else socket.abort()
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await visit.over.wait()
        socket.abort()
        visit.gone(0)
        self.socket = None

    # What it is sent

    def take(self, frame: _Frame) -> None:
        """See a frame."""
        if frame.type in {"ok", "error"} and frame.ref is not None:
            self._answered(frame)
            return
        position = frame.to if frame.type == "gap" else frame.position
        if isinstance(position, int) and frame.type not in {"welcome", "live"}:
            # After a restore what it knew is no position any more, and the gap leads back.
            self.reached = position
            self.moved.set()
        if frame.data is not None and frame.data.mark is not None:
            self.scene.awaited.discard(frame.data.mark)

    def drained(self, visit: Visit) -> None:
        """Acknowledge what it has seen, mostly."""
        if not self.manual or self.socket is None or self.reached == self._acked:
            return
        if self._rng.random() < 0.7 or self.scene.settled.is_set():
            self._acked = self.reached
            self.scene.history.add(Acknowledged(connection=visit.name, position=self.reached))
            self.socket.send(type="ack", position=self.reached)

    # What it does

    def change_room(self, room: str, *, joins: bool) -> None:
        """Join a room, or leave it, if the device is connected."""
        if self.socket is not None:
            self.scene.history.add(Moved(user=self.account.name, room=room, joins=joins, source="client"))
            self.socket.send(type="join_room" if joins else "leave_room", room=room)

    def _publish(self) -> None:
        to = self._rng.choice(("user:u0", "user:u1", "room:chat.0", "room:chat.1", "room:team.0", "everyone"))
        mark = f"{self.known}.{next(self._names)}"
        echo = self._rng.random() < 0.7
        exclude = () if echo else (f"{self.account.name}\n{self.name}",)
        sent = Sent(mark, (to,), id=mark, exclude=exclude)
        self._send(Posted(
            post=mark, attempt=1, producer=f"user:{self.account.name}", url="", events=(sent,)
        ))  # fmt: skip

    def _send(self, posted: Posted) -> None:
        [event] = posted.events
        if self.socket is None:
            return
        self._publishes[posted.post] = posted
        self.scene.history.add(posted)
        self.socket.send(
            type="publish", ref=posted.post, to=event.to[0], event="said", data={"mark": event.mark},
            id=event.id, echo=not event.exclude,
        )  # fmt: skip

    def _publish_again(self) -> None:
        for posted in list(self._publishes.values()):
            self._send(msgspec.structs.replace(posted, attempt=posted.attempt + 1, at=monotonic()))

    def _answered(self, frame: _Frame) -> None:
        posted = self._publishes.pop(str(frame.ref), None)
        if posted is None:
            return
        if frame.type == "ok":
            [event] = posted.events
            placed = (Placed(event.to[0], frame.position or 0, frame.id or ""),)
            self._note(posted, 202, placed)
        else:
            status = STATUS.get(str(frame.code), 422)
            self._note(posted, status, why=str(frame.code))
            if status == UNKNOWN and self.socket is not None:
                self._publishes[posted.post] = posted
                self.socket.abort()  # the next connection will tell

    def _unanswered(self) -> None:
        for posted in self._publishes.values():
            self._note(posted, UNKNOWN, why="the connection ended")

    def _note(self, posted: Posted, status: int, placed: tuple[Placed, ...] = (), why: str = "") -> None:
        self.scene.history.add(Answered(
            post=posted.post, attempt=posted.attempt, status=status, placed=placed, why=why
        ))  # fmt: skip
