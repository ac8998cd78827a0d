"""What some of the peers hand their messages to: Redis or PostgreSQL, each with its own data."""

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from bench import measure
from bench.processes import NotStarted, free_port, listens, running
from bench.tools import Tools
from service.store import embedded


class Store:
    """A server behind a server. While it runs, ``url`` and ``pid`` are set."""

    def __init__(self) -> None:
        self.url = ""
        self.pid = 0

    def running(self, tools: Tools, directory: Path) -> AbstractContextManager[None]:
        """Run it in ``directory`` until the context ends. Raises NotStarted."""
        raise NotImplementedError

    def cpu(self) -> float:
        """Return the CPU seconds it has spent so far, with its children that have ended."""
        return measure.cpu(self.pid) + measure.cpu_of_reaped(self.pid)

    def place(self, cores: set[int]) -> None:
        """Let it run beside the load generator, or anywhere if the server in front of it may."""
        measure.pin([self.pid], measure.ANY_CORE if cores == measure.ANY_CORE else measure.OTHER_CORE)


class Redis(Store):
    """Redis with its append-only file, empty at first."""

    @contextmanager
    def running(self, tools: Tools, directory: Path) -> Iterator[None]:
        """Start it with the file synchronised once a second, and no snapshots."""
        port = free_port()
        listening = ["--bind", "127.0.0.1", "--port", str(port)]
        durability = ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
        with tempfile.TemporaryDirectory(prefix="redis-", dir=directory) as own:
            command = [tools.redis, *listening, *durability]
            with running(command, Path(own), lambda: listens(port)) as self.pid:
                self.url = f"redis://127.0.0.1:{port}"
                yield


class Postgres(Store):
    """The embedded PostgreSQL, as Tidings uses it, in a cluster of its own."""

    @contextmanager
    def running(self, tools: Tools, directory: Path) -> Iterator[None]:
        """Start it, and make the cluster if this is the first time."""
        data_dir = directory / "data"
        try:
            self.url = embedded.start(data_dir)
        except embedded.EmbeddedPostgresFailed as error:
            raise NotStarted(str(error)) from error
        try:
            self.pid = int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0])
            yield
        finally:
            embedded.stop(data_dir)
