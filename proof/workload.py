"""The workload: producers, devices and admins at once, at instances any of which may be down."""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from itertools import count
from random import Random
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from proof.admins import Admin, Thief
from proof.devices import Device
from proof.history import Healed, History, Over, Posted, Sent
from proof.producers import Producer
from proof.scene import Account, Scene

KINDS: Final[Sequence[dict[str, bool]]] = (
    {"steady": True}, {"manual": True}, {}, {"manual": True, "steady": True},
    {"narrow": True}, {"steady": True, "narrow": True},
)  # fmt: skip
"""Of devices, each user's in turn."""
LATE: Final = 5.0
"""Seconds after which nothing that was put off is to come any more, where all is well, if slow."""


PAUSE: Final = 0.02
"""Seconds."""


class Size(NamedTuple):
    """How much of everything; ``posts`` and ``orders`` are for each second, together."""

    users: int = 6
    devices: int = 3
    """Of each user."""
    rooms: int = 3
    """That the API fills, and as many that clients join by themselves."""
    producers: int = 4
    posts: float = 60.0
    orders: float = 4.0


class Workload:
    """Drives a service by the dice of one seed, and writes down what its clients see.

    ``urls`` are those of the instances, which stay the same. Use it as a context, whose end closes all
    connections; call ``run``, any number of times, and then ``settle``.
    """

    def __init__(
        self, urls: Sequence[str], secret: str, admin_key: str, seed: int, history: History,
        size: Size = Size(),  # noqa: B008 - it cannot be changed
    ) -> None:  # fmt: skip
        rng = Random(seed)
        self.history = history
        self._scene = Scene(urls, secret, admin_key, history)
        self._size = size
        self.accounts = [Account(f"u{number}") for number in range(size.users)]
        self.devices = [
            Device(self._scene, account, f"d{n}", _fork(rng), **KINDS[(number + n) % len(KINDS)])
            for number, account in enumerate(self.accounts)
            for n in range(size.devices)
        ]
        pause = size.producers / size.posts if size.posts else 0.0
        self.producers = [
            Producer(
                self._scene, f"p{number}", _fork(rng), users=size.users, rooms=size.rooms, pause=pause
            )
            for number in range(size.producers)
        ]  # fmt: skip
        self.admin = Admin(
            self._scene, _fork(rng), self.accounts, self.devices,
            rooms=size.rooms, pause=1 / size.orders if size.orders else 0.0,
        )  # fmt: skip
        self._numbers = count(1)
        self._thief = Thief(self._scene, _fork(rng), self.admin)
        self._listening: list[asyncio.Task[None]] = []
        self._acting: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._listening = [_begun(device.run()) for device in self.devices]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in (*self._acting, *self._listening):
            task.cancel()
        await asyncio.gather(*self._acting, *self._listening, return_exceptions=True)
        for producer in self.producers:
            producer.close()
        self.admin.close()
        if error is None:
            for task in (*self._acting, *self._listening):
                if not task.cancelled():
                    task.result()

    async def run(self, seconds: float = 3600.0, *, events: int | None = None) -> None:
        """Let all of them act for so long, or until so many more events have positions."""
        if not self._acting:
            self._acting = [_begun(producer.run()) for producer in self.producers]
            if self._size.orders:
                self._acting += [_begun(self.admin.run()), _begun(self._thief.run())]
        enough = None if events is None else len(self._scene.placed) + events
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while enough is None or len(self._scene.placed) < enough:
                    self._check()
                    await asyncio.sleep(0.05)

    def _check(self) -> None:
        """Raise what an actor has raised: that is a mistake of ours."""
        for task in (*self._acting, *self._listening):
            if task.done() and not task.cancelled():
                task.result()

    async def stop(self) -> None:
        """Let producers and admins finish what they have begun, and begin nothing more."""
        self._scene.ending.set()
        await asyncio.gather(*self._acting)

    async def settle(self, bound: float = 10.0) -> None:
        """Stop, have all devices connected, and wait until each has everything: at most ``bound`` seconds.

        Call it once nothing is broken any more. What is still missing after that is the checker's to say.
        """
        await self.stop()
        self.history.add(Healed())
        self._scene.settled.set()
        for device in self.devices:
            device.wanted.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(bound):
                await self.everywhere()
        for account in self.accounts:
            await self.admin.ask_about(account)
        self.history.add(Over())

    async def everywhere(self) -> int:
        """Send everyone an event, and wait until it is with every device that is not away.

        Return its position: whoever has it has all before it, and after ``stop`` there is nothing behind.
        """
        here = [d for d in self.devices if d.wanted.is_set() and not d.account.banned]
        await self._until_all_is_said(here)
        name = f"last.{next(self._numbers)}"
        sent = Sent(name, ("everyone",), id=name)
        await self.producers[0].send(Posted(post=name, attempt=1, producer="admin", url="", events=(sent,)))
        last = self._scene.placed[-1]
        await asyncio.gather(*[_reached(device, last) for device in here])
        return last

    async def _until_all_is_said(self, devices: Sequence[Device]) -> None:
        """Wait for what was put off, which may never come, and for what devices have not been answered."""
        late = asyncio.get_running_loop().time() + LATE
        while any(device.asks for device in devices) or (
            self._scene.awaited and asyncio.get_running_loop().time() < late
        ):
            await asyncio.sleep(PAUSE)


async def _reached(device: Device, position: int) -> None:
    while device.reached < position:
        device.moved.clear()
        await device.moved.wait()


def _begun(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(work)


def _fork(rng: Random) -> Random:
    """Return dice of one's own: what one actor throws changes nothing for another."""
    return Random(rng.getrandbits(64))
