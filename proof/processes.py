"""Processes on a stage: started on ports of their own, signalled, waited for, and always ended."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import SystemRandom
from typing import Final, NamedTuple

PATIENCE: Final = 60.0
PAUSE: Final = 0.01
_PORTS: Final = range(15_000, 32_000)
"""Below those that the kernel gives to whoever connects: a port of ours stays ours while nobody listens."""
_given: Final[set[int]] = set()
"""Ports of which somebody may be about to listen: nobody else is given them."""


class NotStarted(Exception):
    """A process did not come up; the message has its last words."""


class Owner(NamedTuple):
    """Whom a process runs as."""

    user: int
    group: int


class Child:
    """A process of one command that can be started again and again; its output is appended to ``log``."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, *,
        environment: Mapping[str, str] | None = None, cwd: Path = Path("/"), owner: Owner | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.log = log
        self.environment = dict(environment or {})
        self._command = [*command]
        self._cwd = cwd
        self._owner = owner
        self.deaths = 0
        """How often it was found dead without having been ended."""
        self._process: subprocess.Popen[bytes] | None = None
        self._spared = False

    @property
    def pid(self) -> int:
        """Return its process id, also when it is dead; 0 if it was never started."""
        return 0 if self._process is None else self._process.pid

    @property
    def lives(self) -> bool:
        """Tell whether it runs."""
        return self._process is not None and self._process.poll() is None

    async def start(self, ready: Callable[[], Awaitable[bool]], patience: float = PATIENCE) -> None:
        """Start it, unless it runs, and wait until it serves. Raises NotStarted."""
        if not self.lives:
            self.deaths += self._spared
            self._begin()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self.lives:
                    if await ready():
                        return
                    await asyncio.sleep(PAUSE)
        raise NotStarted(f"{self.name} does not serve: {self.last_words}")

    @property
    def last_words(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-1000:]

    def _begin(self) -> None:
        self._spared = True
        user, group = self._owner or (None, None)
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self._cwd,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **self.environment},
                user=user, group=group, extra_groups=None if user is None else [],
            )  # fmt: skip

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self._process is not None:
            self._process.send_signal(number)

    async def end(self, number: signal.Signals, patience: float = PATIENCE) -> int | None:
        """End it by a signal, and wait until it has; return its status, None if it never ran."""
        self._spared = False
        self.send(number)
        return await self._ended(patience)

    async def run(self) -> int | None:
        """Run it to its end; return its status."""
        self._begin()
        return await self._ended(PATIENCE)

    async def _ended(self, patience: float) -> int | None:
        try:
            async with asyncio.timeout(patience):
                while self.lives:
                    await asyncio.sleep(PAUSE)
        except TimeoutError:
            self.kill()
            raise
        return None if self._process is None else self._process.returncode

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it at once, and without a word where it does not end by this signal."""
        self._spared = False
        if self._process is not None:
            self._process.send_signal(number)
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    @property
    def memory(self) -> int:
        """Return what it holds in memory, in bytes."""
        words = Path(f"/proc/{self.pid}/status").read_text().split()
        return int(words[words.index("VmRSS:") + 1]) * 1024


def free_port() -> int:
    """Return a port that nobody listens on, and that nobody is given by chance."""
    while True:
        port = SystemRandom().choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


async def listens(port: int) -> bool:
    """Tell whether somebody does."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.transport.abort()
    return True
