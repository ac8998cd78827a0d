"""The checker is proven: it finds each bug, by the claim that the bug breaks, and none where none is."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic

import asyncpg
import pytest

from proof.checker import Bounds, check
from proof.devices import Device
from proof.history import Answered, Fault, History, Posted
from proof.planted import Instances
from proof.plants import PLANTS, Plant
from proof.workload import Size, Workload
from tests.harness import ADMIN_KEY, SECRET, eventually

SEED = 7
EVENTS = 450
SIZE = Size(users=4, posts=100, orders=8)
BOUNDS = Bounds(flush=1.5, revocation=2.5, delivery=5.0)
WIDE = Bounds(flush=10.0, revocation=15.0, delivery=20.0)
"""Where nothing is planted: no machine is so slow that it seems to be."""
SETTLE = 1.5
"""Times the bound of the delivery that it may take to settle, so that what is late is seen to be."""

Run = Callable[[Workload, Instances, asyncpg.Connection], Awaitable[None]]


@asynccontextmanager
async def instances(
    database_url: str, plant: Plant | None, settings: dict[str, str]
) -> AsyncIterator[Instances]:
    environment = {
        "TIDINGS_DATABASE_URL": database_url, "TIDINGS_JWT_SECRET": SECRET, "TIDINGS_ADMIN_KEY": ADMIN_KEY,
        "TIDINGS_ACK_INTERVAL": "0.05", "TIDINGS_DRAIN_TIMEOUT": "0.2", "TIDINGS_USER_RATE": "0",
    }  # fmt: skip
    running = Instances(2, environment | settings, None if plant is None else plant.patch)
    await asyncio.to_thread(running.__enter__)
    try:
        yield running
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)


async def found(database_url: str, db: asyncpg.Connection, name: str, plant: Plant | None) -> list[str]:
    """Run the service; return what contradicts the promise."""
    if plant is not None and plant.sql is not None:
        await plant.sql(db)
    history, bounds = History(), WIDE if plant is None else BOUNDS
    async with (
        instances(database_url, plant, SETTINGS.get(name, {})) as running,
        Workload(running.urls, SECRET, ADMIN_KEY, SEED, history, SIZE) as work,
    ):
        await RUNS[name](work, running, db)
        await work.settle(SETTLE * bounds.delivery)
    return [str(violation) for violation in check(history.records, bounds)]


async def short(work: Workload, _: Instances, __: asyncpg.Connection) -> None:
    await work.run(events=EVENTS)


async def long(work: Workload, _: Instances, __: asyncpg.Connection) -> None:
    """Run until what was revoked must be cut off, and what was acknowledged stored."""
    await work.run(events=EVENTS // 3)
    await work.admin.revoke_user()
    await work.admin.ban(work.accounts[-1])
    await work.run(BOUNDS.revocation + 1.5)


async def away(work: Workload, _: Instances, __: asyncpg.Connection) -> None:
    """Let all devices miss something."""
    await work.run(events=EVENTS // 3)
    for device in work.devices:
        if device.rooms:
            device.change_room("chat.0", joins=True)
    await work.run(events=EVENTS // 3)
    for device in work.devices:
        device.wanted.clear()
    await work.run(events=EVENTS // 3)


async def leave(device: Device) -> None:
    device.wanted.clear()
    await eventually(lambda: device.socket is None)


async def killed(work: Workload, running: Instances, _: asyncpg.Connection) -> None:
    """Kill an instance right after it has answered, and start it again; a device only comes after that."""
    await work.run(events=EVENTS // 9)
    await leave(work.devices[0])
    first, seen = running.urls[0], len(work.history)

    def has_just_answered() -> bool:
        new = work.history.records[seen:]
        posts = {record.post for record in new if isinstance(record, Posted) and record.url == first}
        answers = [
            r for r in new if isinstance(r, Answered) and r.post in posts and r.at > monotonic() - 0.05
        ]
        return any(placed.to == "everyone" for answer in answers for placed in answer.placed)

    await eventually(has_just_answered)
    work.history.add(Fault(kind="kill", detail=first))
    running.kill(0)
    await work.run(events=EVENTS // 9)
    await asyncio.to_thread(running.start, 0)
    work.history.add(Fault(kind="kill", detail=first, begins=False))
    await work.run(events=EVENTS // 9)


async def pruned(work: Workload, _: Instances, db: asyncpg.Connection) -> None:
    """Delete what a device has not received, while it is away."""
    await work.run(events=EVENTS // 2)
    await leave(work.devices[0])
    await work.run(events=EVENTS // 2)
    await work.stop()
    floor = await work.everywhere()  # an instance that has not read what goes would end
    await prune(db, floor)
    work.history.add(Fault(kind="retention", floor=floor))
    work.history.add(Fault(kind="retention", begins=False))


async def prune(db: asyncpg.Connection, floor: int) -> None:
    async with db.transaction():
        await db.execute("update tidings.log set floor = $1", floor)
        await db.execute("delete from tidings.events where position <= $1", floor)


async def restored(work: Workload, _: Instances, db: asyncpg.Connection) -> None:
    """Put the log back to where it was some events ago, on another timeline, as a failover does."""
    await work.run(events=EVENTS)
    work.history.add(Fault(kind="restore"))
    kept = await eventually(lambda: restore(db))
    work.history.add(Fault(kind="restore", begins=False, lost_from=kept))
    await work.run(events=EVENTS)


async def restore(db: asyncpg.Connection) -> int | None:
    """Return the last position that is kept; do nothing where next to nothing would be lost."""
    async with db.transaction():
        await db.execute("select pg_advisory_xact_lock(32766977284925299)")
        # Memberships stay as they are, and so must what the log says of them.
        kept: int = await db.fetchval(
            "select greatest((select max(position) from tidings.events where kind <> 'event'),"
            " tidings.head() - 10)"
        )
        if await db.fetchval("select count(*) from tidings.events where position > $1", kept) < 3:
            return None
        await db.execute("delete from tidings.events where position > $1", kept)
        await db.execute("delete from tidings.idempotency_keys where position > $1", kept)
        await db.execute("select setval('tidings.position', $1)", kept)
        await db.execute("update tidings.log set timeline = 'former'")
    return kept


FORGETFUL = {"TIDINGS_RECENT_BYTES": "1"}  # what memory holds is not gone yet
SETTINGS = {"pruned": FORGETFUL, "killed": FORGETFUL}
RUNS: dict[str, Run] = {
    "short": short, "long": long, "away": away, "killed": killed, "pruned": pruned, "restored": restored,
}  # fmt: skip


@pytest.mark.parametrize("run", RUNS)
async def test_nothing_is_found_where_nothing_is(database_url: str, db: asyncpg.Connection, run: str) -> None:
    assert not await found(database_url, db, run, None)


@pytest.mark.parametrize("name", PLANTS)
async def test_what_is_planted_is_found(database_url: str, db: asyncpg.Connection, name: str) -> None:
    plant = PLANTS[name]
    violations = await found(database_url, db, plant.run, plant)
    assert any(violation.startswith(f"{plant.claim}: ") for violation in violations), violations[:10]
