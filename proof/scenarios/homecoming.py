"""A restart as clients of the package see it: each is at home elsewhere before it leaves."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import ceil
from random import Random
from time import monotonic, time
from typing import Final

from proof.crowd import AT_ONCE, until
from proof.instance import ADMIN_KEY, SECRET
from proof.play import Play
from proof.proxy import Ends, Proxy, proxying
from proof.stage import Stage
from service.auth.tokens import TokenMinter
from tidings_client import Publisher, Tidings

BOUND: Final = 120.0
SOME: Final = 50
"""Clients that an event is sent to: to all of them it would be this process that is measured."""
BETWEEN: Final = 0.5


class Door:
    """What stands before the instances: it leads everybody to one of them, and notes when they came."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.leads_to = 0
        self.came: list[float] = []

    async def connect(self) -> Ends:
        """Lead one more."""
        self.came.append(monotonic())
        return await asyncio.open_connection("127.0.0.1", self._stage.instances[self.leads_to].port)


class Guest:
    """A client of the package, and what it has been told."""

    def __init__(self, url: str, user: str, token: str) -> None:
        self.tidings = Tidings(url, token, device=user)
        self.user = user
        self.sent: list[object] = []
        self.got: list[object] = []
        self.offline = 0
        self.tidings.watch("state", self._note)

    async def listen(self) -> None:
        """Take what comes, until cancelled."""
        async for event in self.tidings:
            self.got.append(event.data)

    def _note(self, notice: object) -> None:
        self.offline += self.tidings.state == "offline"


async def homecoming(play: Play) -> None:
    """SIGTERM of the instance that has all clients, while events go on; the other takes them in."""
    size, window = play.count(5000, 300), play.count(60, 3)
    async with play.stage(2, DRAIN_TIMEOUT=str(window), HEARTBEAT="120") as stage:
        door = Door(stage)
        async with proxying(door.connect) as proxy, _guests(proxy, size) as guests:
            gc.collect()
            gc.freeze()  # or it would stop all clients of this process for a second, again and again
            door.leads_to = 1
            begun, arrived = monotonic(), len(door.came)
            ending = asyncio.create_task(stage.instances[0].terminate())
            watching = asyncio.create_task(_lateness(ending))
            async with Publisher(stage.instances[1].url, ADMIN_KEY) as publisher:
                while not ending.done():
                    await _send(publisher, guests, play.rng)
                    await asyncio.sleep(BETWEEN)
            await ending
            gc.unfreeze()
            await until(lambda: all(len(guest.got) >= len(guest.sent) for guest in guests), BOUND)
            late = await watching
            _tell(play, [at - begun for at in door.came[arrived:]], guests, late)


async def _send(publisher: Publisher, guests: list[Guest], rng: Random) -> None:
    """Send some of them an event."""
    some, number = rng.sample(guests, min(SOME, len(guests))), rng.getrandbits(32)
    for guest in some:
        guest.sent.append(number)
    await publisher.send([f"user:{guest.user}" for guest in some], "t", number)


async def _lateness(ending: asyncio.Task[None]) -> float:
    """Return for how long this process did nothing of what was due: nobody can have come in that time."""
    most = 0.0
    while not ending.done():
        begun = monotonic()
        await asyncio.sleep(0.05)
        most = max(most, monotonic() - begun - 0.05)
    return most


def _tell(play: Play, came: list[float], guests: list[Guest], late: float) -> None:
    size = len(guests)
    seconds = Counter(int(at - came[0]) for at in came)
    average = len(came) / ceil(came[-1] - came[0])
    once = sum(guest.got == guest.sent for guest in guests)
    play.figure(f"{size} clients came back within", came[-1], "s")
    # Three seconds of a hundred each say nothing of these: held up for a moment, this process comes too late.
    twice, one, nobody = (None, None, None) if play.quick else (2, 1, 0)
    play.figure("connections that were made for it, for each client", len(came) / size, most=one)
    play.figure("this process, which has them all, was late by at most", late, "s")
    play.figure("most in one second, of the average", max(seconds.values()) / average, "×", most=twice)
    play.figure("clients that were without a connection", sum(g.offline > 0 for g in guests), most=nobody)
    play.figure("clients that got every event once and in order", 100 * once / size, "%", least=100)


@asynccontextmanager
async def _guests(proxy: Proxy, size: int) -> AsyncIterator[list[Guest]]:
    minter, now = TokenMinter(SECRET.encode(), "HS256", None, None), int(time())
    guests = []
    for number in range(size):
        name = f"g{number}"
        token = minter.mint({"sub": name, "iat": now - 60, "exp": now + 7200})
        guests.append(Guest(f"http://127.0.0.1:{proxy.port}", name, token))
    tasks: list[asyncio.Task[None]] = []
    try:
        for first in range(0, size, AT_ONCE):
            some = guests[first : first + AT_ONCE]
            tasks += [asyncio.create_task(guest.listen()) for guest in some]
            await until(lambda some=some: all(guest.tidings.state == "live" for guest in some), BOUND)  # type: ignore[misc]
        yield guests
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
