"""Real Node processes that run the JavaScript client, and say what happens to them line by line."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import chromium, complaints, visit  # noqa: F401 - fixtures here too
from tests.clients.programs import Programs
from tests.harness import Frame, eventually

PACKAGE = Path(__file__).parents[2] / "clients" / "js"
SCENARIOS = Path(__file__).parent / "js"


@pytest.fixture(scope="session")
def node() -> str:
    """The Node that runs scenarios; fails where the client is not built."""
    path = shutil.which("node")
    if path is None or not (PACKAGE / "node_modules" / "ws").is_dir() or not (PACKAGE / "dist").is_dir():
        pytest.fail('the JavaScript client is not built: run "make clients" (it needs Node 20 and npm)')
    return path


class Script:
    """A scenario that runs: its lines of JSON are ``lines``, and it can be told what to do."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[Frame] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def said(self, kind: str, **fields: Any) -> list[Frame]:
        return [
            line
            for line in self.lines
            if line["is"] == kind and all(line.get(k) == v for k, v in fields.items())
        ]

    async def until(self, kind: str, count: int = 1, patience: float = 20, **fields: Any) -> Frame:
        """Wait until it has said so; return the last line that did."""

        def there() -> list[Frame] | None:
            said = self.said(kind, **fields)
            assert len(said) >= count or self.process.returncode is None, self.lines[-20:]
            return said if len(said) >= count else None

        return (await eventually(there, patience))[-1]

    async def tell(self, **command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        await self.process.stdin.drain()

    async def ask(self, call: str, *arguments: Any) -> Frame:
        """Call a method of the client; return what came of it."""
        number = len(self.said("answer")) + 1
        await self.tell(call=call, arguments=arguments, number=number)
        return await self.until("answer", number=number)

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self._reading


Run = Callable[..., Any]


@asynccontextmanager
async def running(node: str, scenario: str, *flags: str, **options: Any) -> AsyncIterator[Script]:
    """Run a scenario with these options."""
    process = await asyncio.create_subprocess_exec(
        node, *flags, str(SCENARIOS / f"{scenario}.mjs"), json.dumps(options), cwd=PACKAGE,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**20,
        env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    script = Script(process)
    try:
        yield script
    finally:
        await script.kill()


@pytest.fixture
async def run(node: str) -> AsyncIterator[Run]:
    """Start scenarios; they are killed at the test's end."""
    async with AsyncExitStack() as stack:

        async def start(scenario: str = "client", *flags: str, **options: Any) -> Script:
            return await stack.enter_async_context(running(node, scenario, *flags, **options))

        yield start


@pytest.fixture
async def programs() -> AsyncIterator[Programs]:
    """Start programs; they are killed at the test's end."""
    async with Programs.ended_at_last() as started:
        yield started
