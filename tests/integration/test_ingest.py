"""What POST /v1/events promises: 202 means committed, once; anything else is said clearly."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest

from proof.proxy import database_proxy
from service.domain.errors import Invalid, OutcomeUnknown, Unavailable
from service.domain.events import Draft, Submission, Unit
from service.observe.metrics import Metrics
from service.store import append as store
from service.store.database import Database
from service.stream import appender as appender_module
from service.stream.appender import Appender
from tests.harness import PATIENCE, Server, eventually
from tests.pending import held_up

Start = Callable[..., Awaitable[Server]]


async def count(db: asyncpg.Connection, type_: str = "test") -> int:
    value: int = await db.fetchval("select count(*) from tidings.events where type = $1", type_)
    return value


async def test_a_202_names_positions_that_are_committed(server: Server, db: asyncpg.Connection) -> None:
    body = {"to": ["user:a", "room:b"], "type": "t", "data": [1], "id": "given"}
    answer = await server.http.post("/v1/events", json=body)
    assert answer.status_code == 202
    events = answer.json()["events"]
    rows = await db.fetch("select position, address, id, data from tidings.events order by position")
    assert [(r["position"], r["address"]) for r in rows] == [(e["position"], e["to"]) for e in events]
    assert {r["id"] for r in rows} == {"given"} == {e["id"] for e in events}
    assert rows[0]["data"] == "[1]"


async def test_an_id_is_accepted_once_for_each_producer(server: Server, db: asyncpg.Connection) -> None:
    body = {"to": ["user:a", "user:b"], "type": "t", "id": "e1"}
    first = await server.http.post("/v1/events", json=body)
    again = await server.http.post("/v1/events", json=body)
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["idempotent-replayed"] == "true"
    assert await count(db, "t") == 2
    made = await server.http.post("/v1/keys", json={"name": "p", "scopes": ["publish"]})
    other = {"Authorization": f"Bearer {made.json()['key']}"}
    third = await server.http.post("/v1/events", json=body, headers=other)
    assert third.json() != first.json()
    assert await count(db, "t") == 4


async def test_of_many_at_once_with_one_id_one_is_stored(server: Server, db: asyncpg.Connection) -> None:
    body = {"to": "user:a", "type": "t", "id": "same"}
    answers = await asyncio.gather(*(server.http.post("/v1/events", json=body) for _ in range(20)))
    assert {a.status_code for a in answers} == {202}
    assert len({json.dumps(a.json()) for a in answers}) == 1
    assert await count(db, "t") == 1


BAD: list[tuple[Any, int, str | None]] = [
    ({}, 422, None),
    ({"to": "user:a"}, 422, None),
    ({"to": "nobody", "type": "t"}, 422, "#/to"),
    ({"to": "user:", "type": "t"}, 422, "#/to"),
    ({"to": "room:a b", "type": "t"}, 422, "#/to"),
    ({"to": "control", "type": "t"}, 422, "#/to"),
    ({"to": [], "type": "t"}, 422, "#/to"),
    ({"to": ["user:a"] * 1001, "type": "t"}, 422, "#/to"),
    ({"to": ["user:a", 5], "type": "t"}, 422, "#/to/1"),
    ({"to": ["user:a", "x"], "type": "t"}, 422, "#/to/1"),
    ({"to": "user:a", "type": ""}, 422, "#/type"),
    ({"to": "user:a", "type": "a\u0000"}, 422, "#/type"),
    ({"to": "user:a", "type": 5}, 422, "#/type"),
    ({"to": "user:a", "type": "t", "id": ""}, 422, "#/id"),
    ({"to": "user:a", "type": "t", "more": 1}, 422, None),
    ({"to": "user:a", "type": "t", "exclude": ["a"] * 101}, 422, "#/exclude"),
    ({"to": "user:a", "type": "t", "exclude": ["a", ""]}, 422, "#/exclude/1"),
    ({"to": "user:a", "type": "t", "data": "x" * 32768}, 413, "#/data"),
    ([], 422, None),
]


@pytest.mark.parametrize(("body", "status", "pointer"), BAD)
async def test_a_bad_event_is_refused_with_the_field(
    server: Server, db: asyncpg.Connection, body: Any, status: int, pointer: str | None
) -> None:
    answer = await server.http.post("/v1/events", json=body)
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, problem["status"]) == (status, status)
    if pointer is not None:
        assert problem["errors"][0]["pointer"] == pointer
    assert answer.headers["x-request-id"]
    assert await db.fetchval("select count(*) from tidings.events") == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400), (b"nonsense", 400), (b'{"to":"user:a","type":"t","data":"\xff"}', 400),
        (b'{"to":"user:a","type":"t","data":"\\ud800"}', 400),
        (b'{"to":"user:a","type":"t","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
        (b'{"to":"user:a","type":"t","data":' + b"[" * 100 + b"]" * 100 + b"}", 400),
        (b'{"to":"user:a","type":"t","data":NaN}', 400),
        (b"[" * 1_048_577, 413),
    ],
)  # fmt: skip
async def test_a_body_that_cannot_be_read_is_refused(server: Server, body: bytes, status: int) -> None:
    answer = await server.http.post("/v1/events", content=body)
    assert (answer.status_code, answer.json()["status"]) == (status, status)


async def test_a_body_sent_in_chunks_is_bounded_too(server: Server) -> None:
    async def chunks() -> Any:
        for _ in range(20):
            yield b"x" * 100_000

    answer = await server.http.post("/v1/events", content=chunks())
    assert answer.status_code == 413


async def test_data_times_addresses_is_bounded(server: Server) -> None:
    body = {"to": [f"user:{n}" for n in range(1000)], "type": "t", "data": "x" * 9000}
    assert (await server.http.post("/v1/events", json=body)).status_code == 413


async def test_keys_scopes_and_address_patterns(server: Server) -> None:
    event = {"to": "room:orders.1", "type": "t"}
    order = {"name": "p", "scopes": ["publish"], "addresses": ["room:orders.*"]}
    made = (await server.http.post("/v1/keys", json=order)).json()
    limited = {"Authorization": f"Bearer {made['key']}"}
    reader = (await server.http.post("/v1/keys", json={"name": "r", "scopes": ["read"]})).json()["key"]
    async with httpx.AsyncClient(base_url=server.url) as http:
        assert (await http.post("/v1/events", json=event)).status_code == 401
        assert (await http.post("/v1/events", json=event, headers=limited)).status_code == 202
        elsewhere = await http.post("/v1/events", json={**event, "to": "user:a"}, headers=limited)
        assert (elsewhere.status_code, elsewhere.json()["code"]) == (403, "forbidden")
        headers = {"Authorization": f"Bearer {reader}"}
        assert (await http.post("/v1/events", json=event, headers=headers)).status_code == 403
        listed = (await server.http.get("/v1/keys")).json()["data"]
        assert made["key"] not in json.dumps(listed)
        assert {k["name"] for k in listed} == {"p", "r"}
        assert (await server.http.delete(f"/v1/keys/{made['id']}")).status_code == 204
        assert (await http.post("/v1/events", json=event, headers=limited)).status_code == 401


# An index takes 2,704 bytes, compressed; a CloudEvent's source may be longer where it is no ASCII.
LONG = "".join(Random(1).choices([chr(n) for n in range(0x4E00, 0x9FFF)], k=1024))


@pytest.mark.parametrize(
    "poison",
    [Unit([Draft("user:a", "test", '"\x00"')]), Unit([Draft("user:a", "test", "0")], "p", f"ce:{LONG}\n1")],
    ids=["data", "key"],
)
async def test_a_value_the_database_refuses_hurts_nobody_else(
    server: Server, db: asyncpg.Connection, poison: Unit
) -> None:
    appender = server.service.appender
    good = [Unit([Draft("user:a", "test", str(n))]) for n in range(50)]
    units = [*good[:20], poison, *good[20:35], poison, *good[35:]]
    results = await asyncio.gather(*(appender.append(u) for u in units), return_exceptions=True)
    refused = [r for r in results if isinstance(r, Exception)]
    assert [type(r) for r in refused] == [Invalid, Invalid]
    assert await count(db) == 50


async def test_a_commit_whose_answer_was_lost_is_found_and_not_repeated(
    start: Start, database_url: str, db: asyncpg.Connection
) -> None:
    async with database_proxy(database_url) as (proxy, through):
        server = await start(database_url=through)
        await server.publish("user:a")
        proxy.replies.lose = True
        pending = asyncio.create_task(server.publish("user:a", data="once"))
        await eventually(lambda: _there(db, 2))
        proxy.cut()
        position = await pending
        rows = await db.fetch("select position from tidings.events where data = '\"once\"'")
        assert [r["position"] for r in rows] == [position]


async def _there(db: asyncpg.Connection, entries: int) -> bool:
    return await count(db) == entries


async def test_a_commit_that_never_arrived_is_made_once(
    start: Start, database_url: str, db: asyncpg.Connection
) -> None:
    async with database_proxy(database_url) as (proxy, through):
        server = await start(database_url=through)
        await server.publish("user:a")
        proxy.lost.clear()
        proxy.requests.lose = True
        pending = asyncio.create_task(server.publish("user:a", data="once"))
        await eventually(proxy.lost.is_set)
        proxy.cut()
        await pending
        assert await count(db) == 2


async def test_what_cannot_be_found_out_in_time_is_said(
    start: Start, database_url: str, db: asyncpg.Connection
) -> None:
    async with database_proxy(database_url) as (proxy, through):
        server = await start(database_url=through)
        await server.publish("user:a")
        server.service.appender._timeout = 0.5
        proxy.replies.lose = True
        answer = await server.http.post("/v1/events", json={"to": "user:a", "type": "test"})
        assert (answer.status_code, answer.json()["code"]) == (503, "outcome_unknown")
        proxy.cut()
        assert await eventually(lambda: _publishes(server)) == 202
        assert await count(db) in {2, 3}


async def _publishes(server: Server) -> int:
    answer = await server.http.post("/v1/events", json={"to": "user:a", "type": "test"})
    return answer.status_code if answer.status_code == 202 else 0


async def test_a_database_that_is_away_means_503_in_time_and_no_restart(
    start: Start, database_url: str
) -> None:
    async with database_proxy(database_url) as (proxy, through):
        server = await start(database_url=through, append_timeout=0.5)
        async with await server.live("alice") as phone:
            proxy.refuse = True
            proxy.cut()
            answer = await server.http.post("/v1/events", json={"to": "user:alice", "type": "test"})
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
            await eventually(lambda: _ready(server, 503))
            refused = await server.http.post("/v1/revocations", json={"jti": "x"})
            assert refused.status_code == 503
            proxy.refuse = False
            assert await eventually(lambda: _publishes(server)) == 202
            position = await server.publish("user:alice")
            await phone.until("event", position=position)
            await eventually(lambda: _ready(server, 200))


async def _ready(server: Server, status: int) -> bool:
    return (await server.http.get("/readyz")).status_code == status


async def test_what_waits_to_be_committed_is_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appender_module, "MAX_WAITING_ENTRIES", 10)
    units = [Unit([Draft("user:a", "test", "1")]) for _ in range(30)]
    results = await asyncio.gather(
        *(server.service.appender.append(u) for u in units), return_exceptions=True
    )
    refused = [r for r in results if isinstance(r, BaseException)]
    assert len(refused) == 20
    assert all(type(r) is Unavailable for r in refused)
    assert await server.publish("user:a") > 0


async def test_who_stops_waiting_takes_nothing_from_the_others(
    server: Server, db: asyncpg.Connection
) -> None:
    units = [[Unit([Draft(f"user:{n}", "t", "1")])] for n in range(3)]
    futures = [server.service.appender.submit(each) for each in units]
    futures[0].cancel()
    outcomes = [(await future)[0] for future in futures[1:]]
    rows = await db.fetch("select position, address from tidings.events where type = 't' order by position")
    assert [row["address"] for row in rows] == ["user:0", "user:1", "user:2"]
    assert [outcome.first for outcome in outcomes] == [row["position"] for row in rows[1:]]


async def test_what_a_refused_value_kept_waiting_is_told_when_the_service_ends(
    database_url: str, db: asyncpg.Connection
) -> None:
    good, poison = (Unit([Draft("user:a", "test", data)]) for data in ("1", '"\x00"'))
    database = Database(database_url, 1)
    appender = Appender(
        database, Metrics(), committed=lambda _: None, seen=lambda: 0, timeout=PATIENCE, window=60.0
    )
    running = asyncio.create_task(appender.run())
    async with held_up(db):
        futures = [appender.submit([unit]) for unit in (good, poison, good)]
        await eventually(lambda: db.fetchval("select exists (select from pg_locks where not granted)"))
        running.cancel()
        async with asyncio.timeout(PATIENCE):
            results = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(result) for result in results] == [OutcomeUnknown, Unavailable, Unavailable]
    await asyncio.gather(running, return_exceptions=True)
    await database.close()


async def test_a_retry_goes_by_the_window_of_the_first_attempt(db: asyncpg.Connection) -> None:
    """Else a key that it repeated would count as new, and everything behind it stand one further."""
    window, batch = 60.0, uuid4()
    old = Submission([Unit([Draft("user:a", "t", "1", id="old")], "p", "id:old")])
    new = Submission([Unit([Draft("user:a", "t", "1", id="new")], "p", "id:new")])
    await store.append(db, uuid4(), [old], seen=0, retry=False, window=window)
    _, first = await store.append(db, batch, [old, new], seen=1, retry=False, window=window)
    # Until the retry comes the key passes the end of its window: all that was moves into the past.
    await db.execute("update tidings.events set time = time - interval '60.5 s'")
    await db.execute("update tidings.idempotency_keys set created_at = created_at - interval '60.5 s'")
    _, again = await store.append(db, batch, [old, new], seen=1, retry=True, window=window)
    assert again == first
    assert [outcome.replayed for [outcome] in again] == [True, False]
