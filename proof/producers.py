"""Producers: they send in every way that there is, and again where they were not told what became of it."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import count
from random import Random
from time import monotonic
from typing import Final

import msgspec

from proof.history import UNKNOWN, Answered, Placed, Posted, Sent
from proof.scene import Scene
from proof.wire import Caller, Lost, Reply, Unreachable

MOST_ATTEMPTS: Final = 60
RETRY_PAUSE: Final = 0.1
IN_BATCH: Final = 12


class _Position(msgspec.Struct):
    to: str
    id: str
    position: int | None = None
    """Missing where the event is put off."""


class _Positions(msgspec.Struct):
    events: list[_Position]


class _Problem(msgspec.Struct):
    code: str = ""


_decode = msgspec.json.Decoder(_Positions).decode
_decode_problem = msgspec.json.Decoder(_Problem).decode


class Producer:
    """Sends one request after the other, each to any instance; one that may be repeated until it is told."""

    def __init__(self, scene: Scene, name: str, rng: Random, *, users: int, rooms: int, pause: float) -> None:
        """``pause`` is the mean between two requests, in seconds."""
        self._scene = scene
        self._name = name
        self._rng = rng
        self._users = users
        self._rooms = rooms
        self._pause = pause
        self._numbers = count(1)
        self._callers = {url: Caller(url, scene.admin_key) for url in scene.urls}

    async def run(self) -> None:
        """Send until it all ends; what has begun is finished."""
        while not self._scene.ending.is_set():
            await self.produce()
            if self._pause:
                await self._scene.pause(self._rng, self._pause)

    def close(self) -> None:
        """Let go of the connections."""
        for caller in self._callers.values():
            caller.close()

    async def produce(self) -> None:
        """Send one request, of any kind."""
        number = next(self._numbers)
        kind = self._rng.choices(("one", "many", "batch", "refused", "later"), (10, 6, 5, 1, 1))[0]
        size = self._rng.randint(2, IN_BATCH) if kind in {"batch", "refused"} else 1
        events = tuple([self._event(f"{self._name}.{number}.{n}", kind) for n in range(size)])
        # What is put off says when, and so is another request each time; its id is what makes it safe.
        key = f"{self._name}-{number}" if kind != "later" and self._rng.random() < 0.4 else None
        await self.send(Posted(
            post=f"{self._name}.{number}", attempt=1, producer="admin", url="", events=events, key=key
        ), refused=kind == "refused")  # fmt: skip

    async def send(self, posted: Posted, *, refused: bool = False) -> bool:
        """Send a request, again and again if that is safe; tell whether it was accepted."""
        again = posted.key is not None or all(event.id is not None for event in posted.events)
        more = self._rng.random() < 0.1
        for attempt in range(1, MOST_ATTEMPTS if again else 2):
            url = self._rng.choice(self._scene.urls)
            status = await self._attempt(
                msgspec.structs.replace(posted, attempt=attempt, url=url, at=monotonic()), refused=refused
            )
            done = status not in {UNKNOWN, 409, 429, 503}
            if done and not (again and more and status == 202):
                return status == 202
            more = more and not done
            if not done:
                await asyncio.sleep(self._rng.uniform(0.5, 1.5) * RETRY_PAUSE)
        return False

    async def _attempt(self, posted: Posted, *, refused: bool) -> int:
        self._scene.history.add(posted)
        try:
            reply = await self._call(posted, refused=refused)
        except Unreachable as error:
            return self._note(posted, 503, why=f"unreachable: {error}")
        except Lost as error:
            return self._note(posted, UNKNOWN, why=f"lost: {error}")
        if reply.status != 202:
            code = _decode_problem(reply.body).code if reply.body[:1] == b"{" else ""
            return self._note(posted, UNKNOWN if code == "outcome_unknown" else reply.status, why=code)
        placed = [
            Placed(e.to, e.position, e.id) for e in _decode(reply.body).events if e.position is not None
        ]
        self._scene.placed += [one.position for one in placed]
        if not placed:
            self._scene.awaited |= {event.mark for event in posted.events}
        return self._note(posted, 202, tuple(placed))

    async def _call(self, posted: Posted, *, refused: bool) -> Reply:
        events = [_as_sent(event) for event in posted.events]
        if refused:
            events[-1]["to"] = "nobody:at-all"
        headers = {} if posted.key is None else {"Idempotency-Key": posted.key}
        caller = self._callers[posted.url]
        if len(events) == 1:
            return await caller.call("POST", "/v1/events", events[0], headers)
        return await caller.call("POST", "/v1/events/batch", {"events": events}, headers)

    def _note(self, posted: Posted, status: int, placed: tuple[Placed, ...] = (), why: str = "") -> int:
        self._scene.history.add(Answered(
            post=posted.post, attempt=posted.attempt, status=status, placed=placed, why=why
        ))  # fmt: skip
        return status

    def _event(self, mark: str, kind: str) -> Sent:
        rng = self._rng
        later = kind == "later"
        addresses = self._addresses(rng.randint(2, 4) if kind == "many" else 1, certain=later)
        return Sent(
            mark=mark,
            to=tuple(addresses),
            id=mark if later or rng.random() < 0.3 else None,
            exclude=(f"u{rng.randrange(self._users)}",) if not later and rng.random() < 0.2 else (),
            ttl=rng.choice((0.3, 3600.0)) if rng.random() < 0.1 else None,
            collapse_key=f"key-{rng.randrange(3)}" if rng.random() < 0.1 else None,
            after=rng.uniform(0.1, 0.5) if later else None,
        )

    def _addresses(self, number: int, *, certain: bool) -> list[str]:
        """Return some addresses; ``certain`` are those that always have somebody who is to receive it."""
        addresses = [f"user:u{self._rng.randrange(self._users)}", "everyone"]
        if certain:
            return [self._rng.choice(addresses)]
        addresses += [f"room:team.{n}" for n in range(self._rooms)]
        addresses += [f"room:chat.{n}" for n in range(self._rooms)]
        return self._rng.sample(addresses, number)


def _as_sent(event: Sent) -> dict[str, object]:
    fields: dict[str, object] = {"to": list(event.to), "type": "test", "data": {"mark": event.mark}}
    optional = {"id": event.id, "ttl": event.ttl, "collapse_key": event.collapse_key}
    fields |= {name: value for name, value in optional.items() if value is not None}
    if event.exclude:
        fields["exclude"] = list(event.exclude)
    if event.after is not None:
        fields["deliver_at"] = (datetime.now(UTC) + timedelta(seconds=event.after)).isoformat()
    return fields
