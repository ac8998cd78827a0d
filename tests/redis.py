"""A real Redis on a socket of its own."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from shutil import which
from typing import Self

from proof.proxy import Ends, Proxy, proxying


class RedisServer:
    """Listens on a Unix socket in ``folder``; ``kill`` and ``start`` may come again and again."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        program = which("redis-server")
        assert program, "redis-server is not installed (on Debian: apt-get install redis-server)"
        self.socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [program, "--port", "0", "--unixsocket", self.socket, "--save", "", "--appendonly", "no"],
            stdout=subprocess.PIPE, cwd=self.socket.parent,
        )  # fmt: skip
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if b"eady to accept connections" in line or b"is now ready to accept" in line:
                return
        raise RuntimeError("redis-server did not start")

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    @asynccontextmanager
    async def proxy(self) -> AsyncIterator[tuple[Proxy, str]]:
        """Run a proxy before it; also gives the URL that goes by way of it."""

        async def connect() -> Ends:
            return await asyncio.open_unix_connection(self.socket)

        async with proxying(connect) as proxy:
            yield proxy, f"redis://127.0.0.1:{proxy.port}"
