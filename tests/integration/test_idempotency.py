"""A request with an Idempotency-Key is carried out once, and a repeat is told what the first was told."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from proof.proxy import database_proxy
from service.store import admin
from tests.harness import PATIENCE, Server, eventually

Start = Callable[..., Awaitable[Server]]

EVENT = {"to": ["user:a", "room:b"], "type": "t", "data": [1]}
LATER = (datetime.now(UTC) + timedelta(days=1)).isoformat()
WAYS = [{}, {"Origin": "http://elsewhere"}]
"""Headers for the short way in, and for the general one."""

ways = pytest.mark.parametrize("way", WAYS, ids=["short", "general"])


async def entries(db: asyncpg.Connection) -> int:
    value: int = await db.fetchval("select count(*) from tidings.events where kind = 'event'")
    return value


async def sent(server: Server, body: Any, key: str, way: dict[str, str], path: str = "") -> httpx.Response:
    headers = {"Idempotency-Key": key, **way}
    return await server.http.post(f"/v1/events{path}", content=json.dumps(body), headers=headers)


REQUESTS: dict[str, tuple[str, Any]] = {
    "an event": ("", EVENT),
    "an event with an id": ("", EVENT | {"id": "own"}),
    "an event for later": ("", EVENT | {"deliver_at": LATER}),
    "a batch of all kinds": ("/batch", {"events": [
        EVENT, EVENT, EVENT | {"id": "own"}, EVENT | {"deliver_at": LATER}, EVENT | {"ephemeral": True},
        EVENT | {"id": "later", "deliver_at": LATER}, EVENT, EVENT | {"deliver_at": LATER},
    ]}),
    "a partial batch": ("/batch", {"mode": "partial", "events": [
        EVENT, {"to": "nobody", "type": "t"}, EVENT | {"id": "own"}, EVENT | {"id": "own"}, 5,
    ]}),
}  # fmt: skip


@ways
@pytest.mark.parametrize("name", REQUESTS)
async def test_a_repeat_gets_the_original_answer_and_changes_nothing(
    server: Server, db: asyncpg.Connection, name: str, way: dict[str, str]
) -> None:
    path, body = REQUESTS[name]
    await server.publish("user:z")
    first = await sent(server, body, "k", way, path)
    assert first.status_code in {202, 207}
    assert "idempotent-replayed" not in first.headers
    before = await entries(db), await db.fetchval("select count(*) from tidings.pending")
    for other in WAYS:
        again = await sent(server, body, "k", other, path)
        assert (again.status_code, again.content) == (first.status_code, first.content)
        assert again.headers["idempotent-replayed"] == "true"
    assert (await entries(db), await db.fetchval("select count(*) from tidings.pending")) == before
    assert (await sent(server, body, "another", way, path)).status_code == first.status_code


@ways
async def test_a_repeat_among_events_that_were_accepted_by_their_ids(
    server: Server, db: asyncpg.Connection, way: dict[str, str]
) -> None:
    """What it repeats then may be forgotten by itself before the request is."""
    old = (await sent(server, {"to": "user:old", "type": "t", "id": "own"}, "first", way)).json()
    await db.execute("update tidings.idempotency_keys set created_at = created_at - interval '23 h'")
    batch = {"events": [EVENT, EVENT | {"id": "own"}, EVENT | {"id": "new"}, EVENT]}
    first = await sent(server, batch, "k", way, "/batch")
    assert old["events"][0] in first.json()["events"]
    await db.execute("update tidings.idempotency_keys set created_at = created_at - interval '2 h'")
    again = await sent(server, batch, "k", way, "/batch")
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"


@ways
@pytest.mark.parametrize("other", [EVENT, EVENT | {"deliver_at": LATER}], ids=["at once", "for later"])
async def test_a_repeat_among_events_that_had_been_put_off_by_their_ids(
    server: Server, other: dict[str, Any], way: dict[str, str]
) -> None:
    old = await sent(server, EVENT | {"id": "own", "deliver_at": LATER}, "first", way)
    batch = {"events": [EVENT, other | {"id": "own"}, EVENT | {"deliver_at": LATER}]}
    first = await sent(server, batch, "k", way, "/batch")
    assert first.json()["events"][2:4] == old.json()["events"]
    assert (await sent(server, batch, "k", way, "/batch")).content == first.content


async def test_what_was_left_out_of_a_request_and_is_cancelled_is_nowhere(server: Server) -> None:
    later = EVENT | {"id": "own", "deliver_at": LATER}
    [scheduled, _] = (await sent(server, later, "first", {})).json()["events"]
    batch = {"events": [EVENT, later]}
    first = await sent(server, batch, "k", {}, "/batch")
    assert (await server.http.delete(f"/v1/scheduled/{scheduled['scheduled']}")).status_code == 204
    again = await sent(server, batch, "k", {}, "/batch")
    assert again.json()["events"] == first.json()["events"][:2]


@ways
@pytest.mark.parametrize("before", [0, 1])
async def test_what_is_ephemeral_is_not_passed_on_again(
    server: Server, before: int, way: dict[str, str]
) -> None:
    device = await server.live("a")
    own = {"to": "user:b", "type": "t", "id": "own"}
    for _ in range(before):
        await sent(server, own, "first", way)
    batch = {"events": [own, {"to": "user:a", "type": "ephemeral", "ephemeral": True}]}
    for _ in range(2):
        assert (await sent(server, batch, "k", way, "/batch")).status_code == 202
    await server.publish("user:a", "last")
    await device.until("event", event="last")
    assert [f["event"] for f in device.frames if f["type"] == "event"] == ["ephemeral", "last"]


async def test_a_partial_batch_that_is_judged_otherwise_by_now_is_no_repeat(
    start: Start, db: asyncpg.Connection
) -> None:
    before, since = await start(max_data=100), await start(max_data=200)
    batch = {"mode": "partial", "events": [EVENT | {"data": "x" * 150}, EVENT]}
    first = await sent(before, batch, "k", {}, "/batch")
    assert [result["status"] for result in first.json()["results"]] == [413, 202]
    assert (await sent(before, batch, "k", {}, "/batch")).content == first.content
    assert (await sent(since, batch, "k", {}, "/batch")).json()["code"] == "idempotency_key_reused"
    assert await entries(db) == 2


@pytest.mark.parametrize("first", [EVENT, EVENT | {"deliver_at": LATER}], ids=["at once", "for later"])
async def test_a_key_that_is_used_for_another_kind_of_event_is_refused(
    server: Server, db: asyncpg.Connection, first: dict[str, Any]
) -> None:
    """What the first request put off and what this one would put off need not be as many."""
    assert (await sent(server, first, "k", {})).status_code == 202
    later = {"events": [EVENT | {"deliver_at": LATER, "type": f"t{n}"} for n in range(3)]}
    assert (await sent(server, later, "b", {}, "/batch")).status_code == 202
    for other in (EVENT | {"type": "u"}, EVENT | {"type": "u", "deliver_at": LATER}):
        refused = await sent(server, other, "k", {})
        assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    fewer_then = {"events": [*later["events"], *later["events"]]}
    assert (await sent(server, fewer_then, "b", {}, "/batch")).json()["code"] == "idempotency_key_reused"
    assert await server.publish("user:a") > 0
    assert await db.fetchval("select count(*) from tidings.pending") == 3 + ("deliver_at" in first)


@ways
async def test_the_same_key_with_another_body_is_refused(
    server: Server, db: asyncpg.Connection, way: dict[str, str]
) -> None:
    assert (await sent(server, EVENT, "k", way)).status_code == 202
    refused = await sent(server, EVENT | {"data": [2]}, "k", way)
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    assert await entries(db) == 2
    # The refusal hurt nobody in its group, and the key is good for its own request as before.
    answers = await asyncio.gather(
        sent(server, EVENT | {"data": [3]}, "k", way),
        sent(server, EVENT, "other", way),
        sent(server, EVENT, "k", way),
    )
    assert sorted(a.status_code for a in answers) in ([202, 202, 422], [202, 409, 422], [202, 202, 409])


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ('"k"', 202), ("k", 202), (r'"a \"quoted\" one"', 202), ("x" * 255, 202), (f'"{"x" * 255}"', 202),
        ("x" * 256, 422), ('""', 422), ("a\tb", 422), ("ö", 422),
    ],
)  # fmt: skip
@ways
async def test_which_keys_there_are(server: Server, given: str, status: int, way: dict[str, str]) -> None:
    headers = [(b"Idempotency-Key", given.encode())]
    headers += [(name.encode(), value.encode()) for name, value in way.items()]
    answer = await server.http.post("/v1/events", content=json.dumps(EVENT), headers=headers)
    assert answer.status_code == status


async def test_a_key_means_the_same_bare_and_quoted(server: Server) -> None:
    first = await sent(server, EVENT, "k", {})
    assert (await sent(server, EVENT, '"k"', {})).content == first.content


async def test_a_key_counts_for_its_producer_and_path(server: Server) -> None:
    made = await server.http.post("/v1/keys", json={"name": "p", "scopes": ["publish"]})
    other = {"Authorization": f"Bearer {made.json()['key']}"}
    batch = {"events": [EVENT]}
    answers = [await sent(server, EVENT, "k", {}), await sent(server, EVENT, "k", other),
               await sent(server, batch, "k", {}, "/batch")]  # fmt: skip
    assert [a.status_code for a in answers] == [202] * 3
    assert len({a.json()["events"][0]["position"] for a in answers}) == 3


@ways
async def test_a_request_that_was_refused_has_used_up_no_key(server: Server, way: dict[str, str]) -> None:
    assert (await sent(server, EVENT | {"to": "nobody"}, "k", way)).status_code == 422
    assert (await sent(server, EVENT, "k", way)).status_code == 202


@ways
async def test_of_many_at_once_on_two_instances_one_is_carried_out(
    start: Start, db: asyncpg.Connection, way: dict[str, str]
) -> None:
    servers = [await start(), await start()]
    bodies = [EVENT | {"id": None}, EVENT | {"id": "own"}]
    for number in range(10):
        body = bodies[number % 2] | {"data": number}
        if body["id"] is None:
            del body["id"]
        answers = await asyncio.gather(*(sent(servers[n % 2], body, f"k{number}", way) for n in range(12)))
        statuses = Counter(a.status_code for a in answers)
        assert set(statuses) <= {202, 409}
        assert all(a.headers["retry-after"] == "1" for a in answers if a.status_code == 409)
        accepted = [a for a in answers if a.status_code == 202]
        assert len({a.content for a in accepted}) == 1
        assert sum("idempotent-replayed" not in a.headers for a in accepted) == 1
        if number % 2:
            await db.execute("delete from tidings.idempotency_keys where key = 'id:own'")
    assert await entries(db) == 20


async def test_a_request_in_flight_is_told_to_come_back(
    start: Start, database_url: str, db: asyncpg.Connection
) -> None:
    async with database_proxy(database_url) as (proxy, through):
        server = await start(database_url=through)
        await server.publish("user:z")
        proxy.replies.lose = True
        first = asyncio.create_task(sent(server, EVENT, "k", {}))
        await eventually(lambda: _there(db, 3))
        for way in WAYS:
            busy = await sent(server, EVENT, "k", way)
            assert (busy.status_code, busy.json()["code"], busy.headers["retry-after"]) == (
                409,
                "conflict",
                "1",
            )
        proxy.cut()
        again = await eventually(lambda: _answered(first))
        assert (await sent(server, EVENT, "k", {})).content == again.content
        assert await entries(db) == 3


async def _there(db: asyncpg.Connection, number: int) -> bool:
    return await entries(db) == number


def _answered(task: "asyncio.Task[httpx.Response]") -> httpx.Response | None:
    return task.result() if task.done() else None


@pytest.mark.parametrize("body", [EVENT, EVENT | {"deliver_at": LATER}], ids=["now", "later"])
async def test_after_an_unknown_outcome_a_repeat_finds_out(
    start: Start, database_url: str, db: asyncpg.Connection, body: Any
) -> None:
    async with database_proxy(database_url) as (proxy, through):
        server = await start(database_url=through)
        await server.publish("user:z")
        server.service.appender._timeout = 0.5
        proxy.replies.lose = True
        unknown = await sent(server, body, "k", {})
        assert (unknown.status_code, unknown.json()["code"]) == (503, "outcome_unknown")
        proxy.cut()
        known = await eventually(lambda: _accepted(server, body))
        assert known.headers["idempotent-replayed"] == "true"
        stored = await entries(db) - 1, await db.fetchval("select count(*) from tidings.pending")
        assert stored == ((0, 1) if "deliver_at" in body else (2, 0))


async def _accepted(server: Server, body: Any) -> httpx.Response | None:
    answer = await sent(server, body, "k", {})
    return answer if answer.status_code == 202 else None


async def test_what_was_put_off_is_once_even_where_the_answer_was_lost(
    start: Start, database_url: str, db: asyncpg.Connection
) -> None:
    async with database_proxy(database_url) as (proxy, through):
        server = await start(database_url=through)
        await server.publish("user:z")
        proxy.replies.lose = True
        batch = {"events": [EVENT, EVENT | {"deliver_at": LATER}]}
        first = asyncio.create_task(server.http.post("/v1/events/batch", json=batch))
        await eventually(lambda: _there(db, 3))
        proxy.cut()
        answer = await eventually(lambda: _answered(first))
        shown = answer.json()["events"]
        assert [e["position"] for e in shown[:2]] == [2, 3]
        assert shown[2]["scheduled"] == str(await db.fetchval("select id from tidings.pending"))
        assert await entries(db) == 3


async def test_forgetting_keys_waits_for_nobody_who_uses_one_anew(
    db: asyncpg.Connection, database_url: str
) -> None:
    """An append that is using several waits for the forgetting: the other way round too would be a circle."""
    await db.execute(
        "insert into tidings.idempotency_keys (producer, key, position, entries, created_at)"
        " select 'p', n::text, 1, 1, now() - interval '9 days' from generate_series(1, 3) n"
    )
    other = await asyncpg.connect(database_url)
    async with other.transaction():
        await other.execute("update tidings.idempotency_keys set created_at = now() where key = '2'")
        async with asyncio.timeout(PATIENCE):
            await admin.forget_keys(db, 86400)
    assert await other.fetch("select key from tidings.idempotency_keys") == [("2",)]
    await other.close()


async def test_a_key_is_forgotten_after_its_window(server: Server, db: asyncpg.Connection) -> None:
    first = await sent(server, EVENT, "k", {})
    await db.execute("update tidings.idempotency_keys set created_at = created_at - interval '25 h'")
    again = await sent(server, EVENT | {"data": 2}, "k", {})
    assert again.status_code == 202
    assert again.content != first.content
