"""A page costs what is in it, whatever else the log holds and whatever the planner believes of it.

The log has a million events in three partitions, each with a trap: one whose statistics know a dozen
addresses, so that a walk along the positions seems to find any of them soon; one with those of
100,000 users; and one that was never analyzed.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, NamedTuple

import asyncpg
import pytest

from service.store import log, receipts
from service.store.database import Database

PARTITION = 4_194_304
HEAD = 3 * PARTITION - 1
ROOMS = [f"room:r{number}" for number in range(200)]
"""Of which twelve have news."""
ADDRESSES = ["user:u7", "everyone", *ROOMS]
LIMIT = 256
BLOCKS = 4 * 5 + 1
"""Of an index, to find out what is at an address: so many levels in so many partitions, about."""

EVENTS = """
insert into tidings.events (position, kind, address, type, data, time, lead, collapse_key)
select {begin} + n * 10, 'event', {address}, 'test', '"something of an ordinary length, as such things are"',
       now(), 0, case when n % 30 = 0 then 'k' || n % 50 end
from generate_series(1, {count}) n
"""
FEW = "'room:r' || n % 12"
MANY = "case when n % 25 = 0 then 'room:r' || n % 12 else 'user:u' || n::bigint * 7919 % 100000 end"

PREPARE = """
prepare page (bigint, bigint, text[], bigint[], bigint[], integer, float8, text[]) as {page}
"""
EXECUTE = """
explain (analyze, buffers, format json) execute page (
    {after}, {head}, array[{addresses}], array_fill(0::bigint, array[{n}]),
    array_fill(9007199254740992, array[{n}]), {limit}, 1900000000, array['u7', 'u7']
)
"""


class Plan(NamedTuple):
    """What a statement did: rows that it took out of indexes, blocks that it looked at."""

    indexes: set[str]
    scans: set[str]
    rows: float
    blocks: int
    text: str


@pytest.fixture(scope="module")
def crowded(lasting_database_url: str) -> str:
    url = lasting_database_url.replace("+asyncpg", "")
    asyncio.run(fill(url))
    return url


async def fill(url: str) -> None:
    connection = await asyncpg.connect(url)
    for number, (address, count) in enumerate([(FEW, 200_000), (MANY, 400_000), (MANY, 400_000)]):
        child = f"tidings.events_{number * PARTITION}"
        await connection.execute(f"alter table {child} set (autovacuum_enabled = false)")
        await connection.execute(
            EVENTS.format(begin=number * PARTITION, address=address, count=count), timeout=120
        )
        if number < 2:
            await connection.execute(f"analyze {child}")
    await connection.execute(
        "insert into tidings.users values ('u7', 0), ('idle', 9000000000);"
        "insert into tidings.devices values ('u7', 'd', 0, 0), ('idle', 'd', 0, 0)"
    )
    await connection.execute(
        "insert into tidings.memberships (user_id, room, since, source)"
        " select 'u7', 'r' || n, 0, 'api' from generate_series(0, 199) n"
        " union all select 'idle', 'idle' || n, 0, 'api' from generate_series(0, 199) n"
    )
    await connection.close()


@pytest.fixture(params=["force_custom_plan", "force_generic_plan"])
async def connection(crowded: str, request: pytest.FixtureRequest) -> AsyncIterator[asyncpg.Connection]:
    """A connection as the service has it; a statement that is prepared may be planned in either way."""
    database = Database(crowded, 1)
    async with database.connection() as lent:
        await lent.execute(f"set plan_cache_mode = {request.param}")
        yield lent
        await lent.execute("deallocate all")
    await database.close()


async def explained(connection: asyncpg.Connection, statement: str) -> Plan:
    [top] = await connection.fetchval(statement)
    nodes = list(nodes_of(top["Plan"]))
    reads = [node for node in nodes if str(node.get("Relation Name", "")).startswith("events")]
    return Plan(
        {node["Index Name"].partition("_address")[2] for node in reads if "Index Name" in node},
        {node["Node Type"] for node in reads},
        sum((n["Actual Rows"] + n.get("Rows Removed by Filter", 0)) * n["Actual Loops"] for n in reads),
        top["Plan"]["Shared Hit Blocks"] + top["Plan"]["Shared Read Blocks"],
        json.dumps(top, indent=1),
    )


def nodes_of(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from nodes_of(child)


async def page(connection: asyncpg.Connection, after: int, addresses: Sequence[str]) -> Plan:
    await connection.execute(PREPARE.format(page=log.PAGE))
    quoted = ", ".join(f"'{address}'" for address in addresses)
    return await explained(
        connection,
        EXECUTE.format(after=after, head=HEAD, addresses=quoted, n=len(addresses), limit=LIMIT),
    )


@pytest.mark.parametrize("after", [PARTITION // 2, 3 * PARTITION // 2, 5 * PARTITION // 2])
@pytest.mark.parametrize(
    "addresses", [ADDRESSES, [f"room:idle{n}" for n in range(200)]], ids=["news", "none"]
)
async def test_a_page_reads_each_address_by_its_index_and_no_more_than_is_in_it(
    connection: asyncpg.Connection, after: int, addresses: list[str]
) -> None:
    plan = await page(connection, after, addresses)
    assert plan.scans == {"Index Scan"}, plan.text
    assert plan.indexes <= {"_position_idx", "_collapse_key_position_idx"}, plan.text
    replaced = 2 * LIMIT  # each of the page's may look for a newer one
    assert plan.rows <= (13 * LIMIT + replaced if addresses is ADDRESSES else 0), plan.text
    assert plan.blocks <= len(addresses) * BLOCKS + 4 * plan.rows, plan.text


async def test_partitions_before_the_cursor_are_not_looked_at(connection: asyncpg.Connection) -> None:
    whole = await page(connection, 0, ADDRESSES[-100:])
    await connection.execute("deallocate page")
    end = await page(connection, 5 * PARTITION // 2, ADDRESSES[-100:])
    assert end.blocks < whole.blocks * 2 / 3, end.text


@pytest.mark.parametrize("user", ["u7", "idle"])
async def test_a_session_costs_the_same(connection: asyncpg.Connection, user: str) -> None:
    for after in (1, PARTITION // 2, HEAD - 1000, HEAD - 1):
        plan = await explained(
            connection,
            "explain (analyze, buffers, format json) select * from tidings.open_sessions("
            f"array['{user}'], array['d'], array[{after}::bigint], array[0::bigint], 100, {HEAD})",
        )
        assert plan.blocks <= BLOCKS * len(ADDRESSES), plan.text


@pytest.mark.parametrize("statement", [
    "select * from tidings.inbox_oldest('idle', 0, 0, 9007199254740991, 100, null, '')",
    "select * from tidings.inbox_newest('idle', 0, 0, 9007199254740991, 100, null, '')",
    "select * from tidings.inbox_within('idle', 0, '{[0,)}')",
    "select tidings.erase_some(0, 'nobody', 100)",
    receipts.DEVICES.replace("$1", "'idle'").replace("$2", "''").replace("$3", "10").replace("$4", "1000"),
    log.CONFIRM.replace("$1", "0").replace("$2", "0"),
], ids=["oldest", "newest", "within", "erasure", "devices", "confirm"])  # fmt: skip
async def test_who_has_nothing_in_the_log_is_found_to_have_nothing_at_once(
    connection: asyncpg.Connection, statement: str
) -> None:
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute("insert into tidings.erasures values ('nobody', now(), 2 ^ 52)")
        plan = await explained(connection, f"explain (analyze, buffers, format json) {statement}")
    finally:
        await transaction.rollback()
    assert plan.blocks <= BLOCKS * len(ADDRESSES), plan.text


async def test_nothing_is_compiled(connection: asyncpg.Connection) -> None:
    """By its estimates a page would be worth 20 to 50 ms of the compiler's, where it runs for one."""
    assert await connection.fetchval("show jit") == "off"
