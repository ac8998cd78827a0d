"""Rates and quotas, by either way in: over them nothing is done, and it is said when to come back."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import httpx
import pytest

from tests.harness import Server, eventually, serving, token
from tests.integration.test_audit import made_key

Start = Callable[..., Awaitable[Server]]

# The short way in does not know this header, so a connection that begins with it goes by the routes.
WAYS = [{}, {"Expect": "100-continue"}]


async def post(server: Server, key: str, events: int = 1, **headers: str) -> httpx.Response:
    """Send events with a key: one alone, or several as a batch."""
    event = {"to": ["user:alice", "user:bob"], "type": "t"}
    path, body = ("/v1/events", event) if events == 1 else ("/v1/events/batch", {"events": [event] * events})
    async with httpx.AsyncClient(base_url=server.url) as http:
        return await http.post(path, json=body, headers={"Authorization": f"Bearer {key}", **headers})


async def entries(db: asyncpg.Connection) -> int:
    count: int = await db.fetchval("select count(*) from tidings.events where kind = 'event'")
    return count


def standing(answer: httpx.Response, policy: str) -> tuple[int, int]:
    """Return what an answer says is left of a policy, and for how long."""
    found = re.search(rf'"{policy}";r=(\d+);t=(\d+)', answer.headers["ratelimit"])
    assert found is not None, answer.headers
    return int(found[1]), int(found[2])


@pytest.mark.parametrize("way", WAYS, ids=["short", "routes"])
async def test_a_key_over_its_rate_is_told_when_to_come_back_and_nothing_is_done(
    server: Server, db: asyncpg.Connection, way: dict[str, str]
) -> None:
    key = (await made_key(server, rate=0.001, burst=5))["key"]
    first = await post(server, key, 3, **way)
    assert first.status_code == 202
    assert first.headers["ratelimit-policy"] == '"events";q=5;w=5000'
    left, until = standing(first, "events")
    assert left == 2
    assert 2990 <= until <= 3000
    refused = await post(server, key, 3, **way)
    assert refused.status_code == 429
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["code"] == "rate_limited"
    assert refused.json()["instance"].endswith(refused.headers["x-request-id"])
    assert 990 <= int(refused.headers["retry-after"]) <= 1000
    assert standing(refused, "events")[0] == 2
    assert refused.headers["ratelimit-policy"] == first.headers["ratelimit-policy"]
    assert await entries(db) == 6
    # What is left is left: the refusal took nothing.
    assert [(await post(server, key, **way)).status_code for _ in range(3)] == [202, 202, 429]
    assert await entries(db) == 10


@pytest.mark.parametrize("way", WAYS, ids=["short", "routes"])
async def test_a_request_that_could_never_fit_is_refused_for_good(
    server: Server, db: asyncpg.Connection, way: dict[str, str]
) -> None:
    for limits in ({"rate": 100, "burst": 5}, {"quota": 5}):
        key = (await made_key(server, **limits))["key"]
        answer = await post(server, key, 6, **way)
        assert answer.status_code == 413
        assert "retry-after" not in answer.headers
        assert "more than 5 events" in answer.json()["detail"]
        assert (await post(server, key, 5, **way)).status_code == 202
    assert await entries(db) == 20


async def test_who_comes_back_as_told_is_let_through(server: Server) -> None:
    key = (await made_key(server, rate=2, burst=1))["key"]
    assert (await post(server, key)).status_code == 202
    began = time.monotonic()

    async def accepted() -> bool:
        return (await post(server, key)).status_code == 202

    await eventually(accepted)
    assert time.monotonic() - began > 0.4


async def test_a_batch_fits_a_slow_key_by_default(server: Server) -> None:
    key = (await made_key(server, rate=0.01))["key"]
    assert (await post(server, key, 1000)).status_code == 202
    assert (await post(server, key)).status_code == 429


@pytest.mark.parametrize("limits", [{"rate": 0.001, "burst": 25}, {"quota": 25}], ids=["rate", "quota"])
async def test_posts_at_once_never_exceed_a_limit(
    server: Server, db: asyncpg.Connection, limits: dict[str, Any]
) -> None:
    key = (await made_key(server, **limits))["key"]
    sizes = [1, 2, 3, 4] * 10
    answers = await asyncio.gather(*(post(server, key, n, **WAYS[n % 2]) for n in sizes))
    assert {a.status_code for a in answers} == {202, 429}
    accepted = sum(n for n, a in zip(sizes, answers, strict=True) if a.status_code == 202)
    assert accepted == 25
    assert await entries(db) == 50


async def test_what_is_wrong_with_a_request_costs_nothing(server: Server) -> None:
    key = (await made_key(server, rate=0.001, burst=1, addresses=["user:*"]))["key"]
    headers = {"Authorization": f"Bearer {key}"}
    for body in ({"to": "nobody", "type": "t"}, {"to": "everyone", "type": "t"}, {}):
        assert (await server.http.post("/v1/events", json=body, headers=headers)).status_code in {403, 422}
    assert (await post(server, key)).status_code == 202


async def test_keys_do_not_share_and_a_rotation_does_not_refill(server: Server) -> None:
    made = await made_key(server, rate=0.001, burst=1)
    other = await made_key(server, rate=0.001, burst=1)
    assert (await post(server, made["key"])).status_code == 202
    rotated = (await server.http.post(f"/v1/keys/{made['id']}/rotate", json={})).json()
    assert (await post(server, rotated["key"])).status_code == 429
    assert (await post(server, other["key"])).status_code == 202


async def test_a_default_is_for_keys_without_a_rate_of_their_own(start: Start) -> None:
    server = await start(key_rate=0.01)
    own, none = await made_key(server, rate=5000), await made_key(server)
    for _ in range(2):
        assert (await post(server, own["key"], 1000)).status_code == 202
    assert (await post(server, none["key"], 1000)).status_code == 202
    assert (await post(server, none["key"])).status_code == 429
    first_admin = await server.http.post("/v1/events", json={"to": "everyone", "type": "t"})
    assert first_admin.headers["ratelimit-policy"] == '"events";q=1000;w=100000'


async def test_without_limits_there_are_no_headers(server: Server) -> None:
    key = (await made_key(server))["key"]
    for way in WAYS:
        answer = await post(server, key, 3, **way)
        assert answer.status_code == 202
        assert not [name for name in answer.headers if name.startswith("ratelimit")]


@pytest.mark.parametrize("way", WAYS, ids=["short", "routes"])
async def test_a_quota_is_for_the_day(server: Server, way: dict[str, str]) -> None:
    key = (await made_key(server, quota=4, rate=100))["key"]
    first = await post(server, key, 3, **way)
    assert first.headers["ratelimit-policy"] == '"daily-events";q=4;w=86400, "events";q=1000;w=10'
    left, until = standing(first, "daily-events")
    assert left == 1
    assert abs(until - (86400 - time.time() % 86400)) < 2
    refused = await post(server, key, 2, **way)
    assert refused.status_code == 429
    assert abs(int(refused.headers["retry-after"]) - until) < 10
    assert standing(refused, "daily-events")[0] == 1
    assert standing(refused, "events")[0] in {997, 998, 999, 1000}  # a quota's refusal takes nothing here
    assert (await post(server, key, **way)).status_code == 202
    assert (await post(server, key, **way)).status_code == 429


async def test_a_quota_survives_a_restart_and_is_shared(
    start: Start, database_url: str, db: asyncpg.Connection
) -> None:
    async with serving(database_url=database_url, drain_timeout=10.0) as server:
        made = await made_key(server, quota=10)
        assert (await post(server, made["key"], 4)).status_code == 202
    here, elsewhere = await start(), await start()
    refused = await post(here, made["key"], 7)
    assert (refused.status_code, standing(refused, "daily-events")[0]) == (429, 6)
    assert (await post(here, made["key"], 3)).status_code == 202

    async def known() -> bool:
        answer = await post(elsewhere, made["key"], 10)
        return standing(answer, "daily-events")[0] == 3

    await eventually(known)
    assert (await post(elsewhere, made["key"], 3)).status_code == 202
    assert (await post(elsewhere, made["key"])).status_code == 429

    async def stored() -> bool:
        return bool(await db.fetchval("select events = 10 from tidings.usage where key_id = $1", made["id"]))

    await eventually(stored)


@pytest.mark.parametrize(
    ("order", "field"),
    [({"rate": 0}, "rate"), ({"rate": -1}, "rate"), ({"rate": 1e9}, "rate"), ({"burst": 5}, ""),
     ({"rate": 1, "burst": 0}, "burst"), ({"quota": 0}, "quota"), ({"quota": 1.5}, "quota")],
)  # fmt: skip
async def test_limits_that_make_no_sense_are_refused(
    server: Server, order: dict[str, Any], field: str
) -> None:
    answer = await server.http.post("/v1/keys", json={"name": "n", "scopes": ["publish"], **order})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == f"#/{field}"


async def test_a_key_shows_its_limits(server: Server) -> None:
    await made_key(server, rate=2.5, burst=7, quota=99)
    [shown] = (await server.http.get("/v1/keys")).json()["data"]
    assert (shown["rate"], shown["burst"], shown["quota"]) == (2.5, 7, 99)


async def test_a_user_over_the_rate_gets_an_error_and_stays(start: Start, db: asyncpg.Connection) -> None:
    server = await start(user_rate=0.001, user_burst=3, commands_per_second=10_000)
    grants = {"publish": ["*"]}
    async with (
        await server.live("alice", claims=grants) as phone,
        await server.live("alice", claims=grants, device="laptop") as laptop,
        await server.live("bob", claims=grants) as bob,
    ):
        for device in (phone, laptop, phone):
            assert (await device.ask("publish", to="everyone", event="e"))["type"] == "ok"
        refused = await laptop.ask("publish", to="everyone", event="e")
        assert (refused["type"], refused["code"]) == ("error", "rate_limited")
        assert 990_000 <= refused["retry_after_ms"] <= 1_000_000
        for wrong in ({"to": "nobody"}, {"to": "everyone", "event": ""}):
            assert (await laptop.ask("publish", **({"event": "e"} | wrong)))["code"] == "invalid"
        assert (await bob.ask("publish", to="everyone", event="e"))["type"] == "ok"
        assert await entries(db) == 4
        assert (await phone.quiet()) is not None


async def test_a_user_who_comes_back_is_let_through(start: Start) -> None:
    server = await start(user_rate=0.2, user_burst=1, commands_per_second=10_000)
    async with await server.live("alice", claims={"publish": ["*"]}) as phone:

        async def answered(kind: str) -> bool:
            return bool((await phone.ask("publish", to="everyone", event="e"))["type"] == kind)

        await eventually(lambda: answered("error"))
        await eventually(lambda: answered("ok"))


async def test_a_users_calls_over_http_are_charged_with_them(start: Start) -> None:
    server = await start(user_rate=0.001, user_burst=3)
    presented = token("alice", rooms=["r"], publish=["*"])
    async with (
        httpx.AsyncClient(base_url=server.url, headers={"Authorization": f"Bearer {presented}"}) as http,
        await server.live("alice", token=presented) as phone,
    ):
        assert (await phone.ask("publish", to="everyone", event="e"))["type"] == "ok"
        first = await http.get("/v1/rooms/r/events")
        assert first.status_code == 200
        assert first.headers["ratelimit-policy"] == '"events";q=3;w=3000'
        left, until = standing(first, "events")
        assert left == 1
        assert 1990 <= until <= 2000
        foreign = await http.get("/v1/rooms/other/events")
        assert (foreign.status_code, standing(foreign, "events")[0]) == (403, 0)
        refused = await http.get("/v1/rooms/r/events")
        assert refused.status_code == 429
        assert 990 <= int(refused.headers["retry-after"]) <= 1000
        assert standing(refused, "events")[0] == 0
        assert (await phone.ask("publish", to="everyone", event="e"))["code"] == "rate_limited"
        assert (await server.http.get("/v1/rooms/r/events")).status_code == 200


async def test_users_may_be_unlimited(start: Start) -> None:
    server = await start(user_rate=0)
    headers = {"Authorization": f"Bearer {token('alice', rooms=['r'])}"}
    for _ in range(120):
        answer = await server.http.get("/v1/rooms/r/events", headers=headers)
        assert answer.status_code == 200
    assert "ratelimit" not in answer.headers
