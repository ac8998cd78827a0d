"""What runs beside PostgreSQL on a stage: instances of the service, and Redis."""

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Final

import msgspec

from proof.postgres import Missing
from proof.processes import Child, free_port, listens
from proof.wire import Caller, Lost, Unreachable

SECRET: Final = "a secret of the proof's own, longer than 32 bytes"  # noqa: S105 - signs nothing else
ADMIN_KEY: Final = "an admin key of the proof's own"
_REPOSITORY: Final = Path(__file__).parent.parent


class Instance:
    """One ``tidings serve`` on a fixed port; ``settings`` are variables without their prefix."""

    def __init__(self, folder: Path, number: int, **settings: str) -> None:
        self.name = f"instance{number}"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        defaults = {
            "JWT_SECRET": SECRET, "ADMIN_KEY": ADMIN_KEY, "LOG_FORMAT": "human", "DRAIN_TIMEOUT": "3",
        }  # fmt: skip
        variables = {f"TIDINGS_{name}": value for name, value in (defaults | settings).items()}
        # The working directory has no .env, which would count too.
        variables["PYTHONPATH"] = f"{_REPOSITORY}:{_REPOSITORY}/clients/python"
        command = [sys.executable, "-m", "service", "serve", "--port", str(self.port)]
        self.process = Child(
            self.name, command, folder / f"{self.name}.log", environment=variables, cwd=folder
        )  # fmt: skip

    async def start(self) -> None:
        """Start it, and wait until it serves. Raises NotStarted."""
        await self.process.start(self.ready)

    async def ready(self) -> bool:
        """Tell whether it says that it can serve."""
        return (await self.get("/readyz")) is not None

    async def get(self, path: str) -> dict[str, object] | None:
        """Return what it says, or None where it says nothing or is not well."""
        caller = Caller(self.url, ADMIN_KEY)
        try:
            reply = await caller.call("GET", path)
        except (Lost, Unreachable):
            return None
        finally:
            caller.close()
        return msgspec.json.decode(reply.body, type=dict[str, object]) if reply.status == 200 else None

    def kill(self) -> None:
        """End it without a word (SIGKILL)."""
        self.process.kill()

    async def terminate(self) -> None:
        """End it as an orchestrator does (SIGTERM), and wait for its drain."""
        await self.process.end(signal.SIGTERM)

    def freeze(self) -> None:
        """Stop the whole process (SIGSTOP)."""
        self.process.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send(signal.SIGCONT)


class Redis:
    """A Redis on a fixed port that keeps nothing."""

    def __init__(self, folder: Path) -> None:
        binary = shutil.which("redis-server", path=os.environ.get("PATH", "") + ":/usr/sbin")
        if binary is None:
            raise Missing("redis-server is not installed")
        self.port = free_port()
        command = [
            binary, "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(folder),
            "--save", "", "--appendonly", "no",
        ]  # fmt: skip
        self.process = Child("redis", command, folder / "redis.log")

    async def start(self) -> None:
        """Start it, empty. Raises NotStarted."""
        await self.process.start(lambda: listens(self.port))

    def kill(self) -> None:
        """End it without a word (SIGKILL)."""
        self.process.kill()
