"""``python -m bench.scaling``: what one PostgreSQL takes, on disks of three speeds (docs/scaling.md).

A disk of a cloud needs a millisecond or more for a flush. Here one is made slower by a library that is
loaded into PostgreSQL and waits before each ``fdatasync``: there the time goes by at the same place, with
the same locks held.
"""

import argparse
import asyncio
import os
import random
import shlex
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import uuid4

import asyncpg
import uvloop

from bench import measure
from bench.tools import HERE
from service.domain.events import Draft, Submission, Unit
from service.store import embedded, schema
from service.store.append import append
from service.store.log import between, confirm
from service.store.sessions import move_cursors

DELAYS: Final = (0, 1, 4)
"""Milliseconds that each flush takes longer."""
INSTANCES: Final = (1, 4, 16)
GROUPS: Final = (1, 50, 1000)
DATA: Final = '{"order":42,"note":"' + "x" * 180 + '"}'
DEVICES: Final = 100_000
_DEVICES: Final = """
insert into tidings.devices (user_id, device, start, cursor)
select 'user-' || n, 'bench', 0, 0 from generate_series(0, $1::int - 1) n
"""
_PUBLISH: Final = "select tidings.publish('user:nobody', 'bench', $1)"


class Run(NamedTuple):
    """What some callers at once got done, and what that cost the database."""

    calls: int
    seconds: float
    waits: list[float]
    cpu: float

    @property
    def wait(self) -> str:
        """Return the median and the 99th percentile of a call, in milliseconds."""
        ordered = sorted(self.waits)
        late = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
        return f"{statistics.median(ordered) * 1e3:.1f} ms | {late * 1e3:.1f} ms"


class Database:
    """One that runs on a disk of a known speed."""

    def __init__(self, url: str, postmaster: int, seconds: float) -> None:
        self.url = url
        self._seconds = seconds
        self._postmaster = postmaster

    def cpu(self) -> float:
        """Return the CPU seconds that it has spent."""
        return measure.cpu(self._postmaster) + measure.cpu_of_reaped(self._postmaster)

    @asynccontextmanager
    async def connections(self, count: int) -> AsyncIterator[list[asyncpg.Connection]]:
        """Open some."""
        opened = [await asyncpg.connect(self.url) for _ in range(count)]
        try:
            yield opened
        finally:
            for connection in opened:
                await connection.close()

    async def run(self, callers: int, call: Callable[[asyncpg.Connection], Awaitable[object]]) -> Run:
        """Have each caller call again and again, on a connection of its own."""
        waits: list[float] = []
        async with self.connections(callers) as opened:
            for connection in opened:
                await call(connection)  # prepared, and in the caches
            spent, begun = self.cpu(), time.perf_counter()
            await asyncio.gather(*(_repeat(c, call, begun + self._seconds, waits) for c in opened))
            return Run(len(waits), time.perf_counter() - begun, waits, self.cpu() - spent)


async def _repeat(
    connection: asyncpg.Connection,
    call: Callable[[asyncpg.Connection], Awaitable[object]],
    end: float,
    waits: list[float],
) -> None:
    while (begun := time.perf_counter()) < end:
        await call(connection)
        waits.append(time.perf_counter() - begun)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description="What one PostgreSQL takes.")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement (default: 1)")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory(prefix="tidings-scaling-") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL runs as another user where we are root
        library = _library(Path(folder))
        for delay in DELAYS:
            with _database(Path(folder) / str(delay), library, delay, seconds) as database:
                print(f"\n## A flush that takes {delay} ms longer\n", flush=True)
                uvloop.run(_measure(database))


def _library(folder: Path) -> Path:
    built = folder / "slow_disk.so"
    command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(built), str(HERE / "slow_disk.c"), "-ldl"]
    subprocess.run(command, check=True)
    return built


@contextmanager
def _database(directory: Path, library: Path, delay: int, seconds: float) -> Iterator[Database]:
    """Run the embedded PostgreSQL by its own command, but with the library."""
    embedded.start(directory)
    embedded.stop(directory)
    cluster = directory / "postgres"
    command = shlex.split((cluster / "postmaster.opts").read_text())
    status = cluster.stat()
    owner: dict[str, Any] = {"user": status.st_uid, "group": status.st_gid, "extra_groups": []}
    environment = {
        "PATH": os.defpath,
        "LC_ALL": "C",
        "LD_PRELOAD": str(library),
        "SLOW_DISK_US": f"{delay}000",
    }
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "-k", str(cluster)],
            cwd="/",
            env=environment,
            stdout=log,
            stderr=log,
            **(owner if os.geteuid() == 0 else {}),
        )
    try:
        url = f"postgresql://postgres@/postgres?host={cluster}&port={embedded.PORT}"
        asyncio.run(_ready(url))
        asyncio.run(schema.upgrade(url))
        yield Database(url, server.pid, seconds)
    finally:
        server.send_signal(signal.SIGINT)  # a fast shutdown
        server.wait()


async def _ready(url: str) -> None:
    while True:
        try:
            await (await asyncpg.connect(url)).close()
        except (OSError, asyncpg.CannotConnectNowError):
            await asyncio.sleep(0.05)
        else:
            return


async def _measure(database: Database) -> None:
    await _appends(database)
    await _follows(database)
    await _cursors(database)
    await _publishes(database)


def _group(size: int) -> list[Submission]:
    return [Submission([Unit([Draft("user:nobody", "bench", DATA)])]) for _ in range(size)]


async def _appends(database: Database) -> None:
    print("| instances | entries in a group | events/s | groups/s | median | 99th | DB µs of CPU per event |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for instances in INSTANCES:
        for size in GROUPS:
            group = _group(size)

            async def call(connection: asyncpg.Connection, group: list[Submission] = group) -> object:
                return await append(connection, uuid4(), group, seen=0, retry=False, window=86400)

            run = await database.run(instances, call)
            rate, cpu = run.calls / run.seconds, run.cpu / run.calls / size * 1e6
            cells = [instances, size, f"{rate * size:,.0f}", f"{rate:,.0f}", run.wait, f"{cpu:.1f}"]
            print("|", *_joined(cells), "|", flush=True)


async def _follows(database: Database) -> None:
    """Measure what each instance costs that reads what the others have appended."""
    async with database.connections(1) as [connection]:
        head = (await confirm(connection, 0, 0)).head

    async def poll(connection: asyncpg.Connection) -> object:
        return await confirm(connection, head, 0)

    print("\n| reading | DB µs of CPU per entry | instance's µs of CPU per entry |\n| --- | --- | --- |")
    for size in (50, 1000):

        async def read(connection: asyncpg.Connection, size: int = size) -> object:
            return await between(connection, head - size, head, 1000)

        own = time.process_time()
        run = await database.run(1, read)
        own = time.process_time() - own
        entries = run.calls * size / 1e6
        print("|", *_joined([f"{size} at a time", f"{run.cpu / entries:.1f}", f"{own / entries:.1f}"]), "|")
    run = await database.run(1, poll)
    print("|", *_joined(["a look at the head", f"{run.cpu / run.calls * 1e6:.0f} for each", ""]), "|")


async def _cursors(database: Database) -> None:
    """Measure what it costs to store how far devices have got, a thousand in a statement."""
    async with database.connections(1) as [connection]:
        await connection.execute(_DEVICES, DEVICES)
    position = 0

    async def move(connection: asyncpg.Connection) -> None:
        nonlocal position
        position += 1
        moved = random.sample(range(DEVICES), 1000)
        await move_cursors(connection, {(f"user-{n}", "bench"): position for n in moved})

    run = await database.run(1, move)
    rate, cpu = run.calls * 1000 / run.seconds, run.cpu / run.calls * 1e3
    print(f"\nCursors: {rate:,.0f} a second over one connection, {cpu:.1f} DB µs of CPU for each.")


async def _publishes(database: Database) -> None:
    """Measure what NOTIFY does to those who publish in transactions of their own."""
    print("\n| transactions/s | an insert alone | and `tidings.publish` | and with NOTIFY |")
    print("| --- | --- | --- | --- |")
    async with database.connections(2) as [connection, listener]:
        await connection.execute("create table orders (id bigserial primary key, note text)")
        await listener.add_listener("tidings.pending", lambda *_: None)
        for callers in INSTANCES:
            rates = [await _rate(database, callers, publishes=False)]
            for notify in (False, True):
                await connection.execute("update tidings.log set sql_notify = $1", notify)
                rates.append(await _rate(database, callers, publishes=True))
            names = [f"{callers} connection{'s' if callers > 1 else ''}"]
            print("|", *_joined([*names, *(f"{rate:,.0f}" for rate in rates)]), "|", flush=True)


async def _rate(database: Database, callers: int, *, publishes: bool) -> float:
    async def call(connection: asyncpg.Connection) -> object:
        async with connection.transaction():
            await connection.execute("insert into orders (note) values ('of a customer')")
            if publishes:
                await connection.execute(_PUBLISH, DATA)
        return None

    run = await database.run(callers, call)
    return run.calls / run.seconds


def _joined(cells: Sequence[object]) -> list[str]:
    return [" | ".join(map(str, cells))]


if __name__ == "__main__":
    main()
