"""The checker is proven: what is planted in the service is found, by the claim that it breaks, and nothing else is."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest

from proof.checker import Bounds, check
from proof.history import Answered, Fault, History, Posted, Received
from proof.planted import Instances
from proof.plants import PLANTS, Plant
from proof.workload import Size, Workload
from tests.harness import ADMIN_KEY, SECRET, eventually

SEED = 7
POSTS = 150
BOUNDS = Bounds(flush=1.5, revocation=2.5)
SIZE = Size(users=4, posts=100, orders=8)

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


async def found(database_url: str, db: asyncpg.Connection, run: Run, plant: Plant | None) -> list[str]:
    """Run the service; return what is claimed and not so."""
    if plant is not None and plant.sql is not None:
        await plant.sql(db)
    history = History()
    async with instances(database_url, plant, SETTINGS.get(run, {})) as running:
        async with Workload(running.urls, SECRET, ADMIN_KEY, SEED, history, SIZE) as work:
            await run(work, running, db)
    return [str(violation) for violation in check(history.records, BOUNDS)]


async def plain(work: Workload, _: Instances, __: asyncpg.Connection) -> None:
    """Run, long enough that a revocation is overdue where it was missed."""
    work_begun = asyncio.get_running_loop().time()
    await work.run(posts=POSTS)
    await work.admin.revoke_user()
    left = 3.5 - (asyncio.get_running_loop().time() - work_begun)
    await work.run(max(left, 0.1))
    await work.settle(5)


async def revoked(work: Workload, _: Instances, __: asyncpg.Connection) -> None:
    await work.admin.revoke_user()
    await work.run(BOUNDS.revocation + 1)
    await work.settle(5)


async def killed(work: Workload, running: Instances, _: asyncpg.Connection) -> None:
    """Kill an instance right after it has answered, and start it again."""
    await work.run(posts=POSTS // 3)
    first = running.urls[0]
    seen = len(work.history)

    def has_answered() -> bool:
        new = work.history.records[seen:]
        posts = {record.post for record in new if isinstance(record, Posted) and record.url == first}
        answers = [record for record in new[-5:] if isinstance(record, Answered) and record.post in posts]
        return any(placed.to == "everyone" for answer in answers for placed in answer.placed)

    await eventually(has_answered)
    work.history.add(Fault(kind="kill", detail=first))
    running.kill(0)
    await work.run(posts=POSTS // 2)
    await asyncio.to_thread(running.start, 0)
    work.history.add(Fault(kind="kill", detail=first, begins=False))
    await work.run(posts=POSTS // 2)
    await work.settle(8)


async def pruned(work: Workload, _: Instances, db: asyncpg.Connection) -> None:
    """Delete what a device has not received, while it is away."""
    away = work.devices[0]
    await work.run(posts=POSTS // 2)
    away.wanted.clear()
    await eventually(lambda: away.socket is None)
    await work.run(posts=POSTS // 2)
    await work.stop()
    await work.everywhere()
    work.history.add(Fault(kind="retention", floor=await prune(db)))
    work.history.add(Fault(kind="retention", begins=False))
    await work.settle(5)


async def prune(db: asyncpg.Connection) -> int:
    async with db.transaction():
        await db.execute("select pg_advisory_xact_lock(32766977284925299)")
        floor: int = await db.fetchval("update tidings.log set floor = tidings.head() returning floor")
        await db.execute("delete from tidings.events where position <= $1", floor)
    return floor


async def restored(work: Workload, _: Instances, db: asyncpg.Connection) -> None:
    """Put the log back to where it was some events ago, as a restore or a failover does."""
    await work.run(posts=POSTS)
    work.history.add(Fault(kind="restore"))
    work.history.add(Fault(kind="restore", begins=False, lost_from=await restore(db)))
    await work.run(posts=POSTS)
    await work.settle(8)


async def restore(db: asyncpg.Connection) -> int:
    async with db.transaction():
        await db.execute("select pg_advisory_xact_lock(32766977284925299)")
        kept: int = await db.fetchval(
            "select greatest((select max(position) from tidings.events where kind <> 'event'),"
            " tidings.head() - 10)"
        )
        await db.execute("delete from tidings.events where position > $1", kept)
        await db.execute("delete from tidings.idempotency_keys where position > $1", kept)
        await db.execute("select setval('tidings.position', $1)", kept)
        await db.execute("update tidings.log set timeline = 'former'")
    return kept


SETTINGS = {pruned: {"TIDINGS_RECENT_BYTES": "1"}}  # what memory holds is not gone yet
RUNS: dict[str, Run] = {
    "plain": plain, "killed": killed, "pruned": pruned, "restored": restored, "revoked": revoked,
}  # fmt: skip


@pytest.mark.parametrize("run", RUNS)
async def test_what_is_sound_is_found_so(database_url: str, db: asyncpg.Connection, run: str) -> None:
    assert not await found(database_url, db, RUNS[run], None)


@pytest.mark.parametrize("name", PLANTS)
async def test_what_is_planted_is_found(database_url: str, db: asyncpg.Connection, name: str) -> None:
    plant = PLANTS[name]
    violations = await found(database_url, db, RUNS[plant.run], plant)
    if "SHOW" in os.environ:
        import collections

        print(name, plant.claim, collections.Counter(v.split(":")[0] for v in violations))
        print("   ", *violations[:2], sep="\n   ")
    assert any(violation.startswith(f"{plant.claim}:") for violation in violations), violations[:10]
