"""Programs that are started, listened to and ended, whatever becomes of the test."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.clients.pages import ROOT
from tests.harness import ADMIN_KEY, Server, token

PATIENCE = 20.0


def variables(server: Server, user: str = "alice", **claims: Any) -> dict[str, str]:
    """Return what a program needs to know to find the server, and the packages of this checkout."""
    return {
        "TIDINGS_URL": server.url, "TIDINGS_KEY": ADMIN_KEY, "TIDINGS_TOKEN": token(user, **claims),
        "PYTHONPATH": f"{ROOT}:{ROOT / 'clients/python'}",
    }  # fmt: skip


class Program:
    """One that runs, in a process group of its own."""

    def __init__(self, process: Process) -> None:
        self.process = process

    async def line(self, part: str = "") -> str:
        """Return the next line that has ``part`` in it."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while part not in (text := (await self.process.stdout.readline()).decode()):
                assert text, "it has ended"
        assert text, "it has ended"
        return text.strip()

    async def end(self, number: signal.Signals | None = None) -> str:
        """Wait until it has ended, well, by itself or by a signal; return what else it printed."""
        if number is not None:
            self.process.send_signal(number)
        async with asyncio.timeout(2 * PATIENCE):
            output, complaints = await self.process.communicate()
        assert self.process.returncode == 0, (output + complaints).decode()
        return output.decode()

    async def kill(self) -> None:
        """End it, and what it has started, without a word."""
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.communicate()


class Programs:
    """Those of one test."""

    def __init__(self) -> None:
        self._all: list[Program] = []

    async def start(self, *command: object, folder: Path, **environment: str) -> Program:
        process = await asyncio.create_subprocess_exec(
            *map(str, command), cwd=folder, env=os.environ | environment, stdout=PIPE, stderr=PIPE,
            start_new_session=True,
        )  # fmt: skip
        self._all.append(Program(process))
        return self._all[-1]

    async def python(self, *command: object, folder: Path, **environment: str) -> Program:
        return await self.start(sys.executable, "-u", *command, folder=folder, **environment)

    async def node(self, program: str, *, folder: Path, **environment: str) -> Program:
        # Links stay links: what is linked finds its neighbours here, and not where it is in truth.
        return await self.start("node", "--preserve-symlinks", program, folder=folder, **environment)

    @classmethod
    @asynccontextmanager
    async def ended_at_last(cls) -> AsyncIterator["Programs"]:
        programs = cls()
        try:
            yield programs
        finally:
            for program in programs._all:
                await program.kill()
