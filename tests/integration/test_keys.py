"""API keys over their life: rotated, limited to addresses, expired, deleted; the same on every instance."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from time import time
from typing import Any

import asyncpg
import httpx
import pytest

from service.store import keys
from tests.harness import Server, eventually, serving
from tests.integration.test_audit import made_key, needs_admin, routes

Start = Callable[..., Awaitable[Server]]


async def send(server: Server, key: str, to: str = "user:alice") -> int:
    """Send an event with a key; return the status."""
    headers = {"Authorization": f"Bearer {key}"}
    return (await server.http.post("/v1/events", json={"to": to, "type": "t"}, headers=headers)).status_code


async def rotate(server: Server, key_id: str, **order: Any) -> dict[str, Any]:
    answer = await server.http.post(f"/v1/keys/{key_id}/rotate", json=order)
    assert answer.status_code == 200, answer.text
    rotated: dict[str, Any] = answer.json()
    assert rotated["id"] == key_id
    return rotated


async def listed(server: Server, key_id: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = (await server.http.get("/v1/keys")).json()["data"]
    return next(key for key in found if key["id"] == key_id)


async def status_is(server: Server, key: str, status: int) -> None:
    async def is_so() -> bool:
        return await send(server, key) == status

    await eventually(is_so)


def go_forward(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Put the clock forward by which keys are believed."""
    for module in ("access", "intake"):
        monkeypatch.setattr(f"service.api.{module}.time", lambda: time() + seconds)


async def test_two_secrets_are_good_on_every_instance_and_the_one_before_ends_them(start: Start) -> None:
    here, elsewhere = await start(), await start()
    first = await made_key(here)
    second = await rotate(here, first["id"])
    assert [await send(here, each["key"]) for each in (first, second)] == [202, 202]
    await status_is(elsewhere, second["key"], 202)
    assert await send(elsewhere, first["key"]) == 202
    third = await rotate(elsewhere, first["id"])
    assert [await send(elsewhere, each["key"]) for each in (first, second, third)] == [401, 202, 202]
    await status_is(here, third["key"], 202)
    assert [await send(here, each["key"]) for each in (first, second)] == [401, 202]
    assert len({each["key"] for each in (first, second, third)}) == 3
    late = await start()
    assert [await send(late, each["key"]) for each in (first, second, third)] == [401, 202, 202]
    await here.http.delete(f"/v1/keys/{first['id']}")
    for server in (here, elsewhere, late):
        await status_is(server, third["key"], 401)
        assert await send(server, second["key"]) == 401


async def test_the_former_secret_ends_with_the_overlap(
    start: Start, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(database_url=database_url) as server:
        first = await made_key(server)
        second = await rotate(server, first["id"], overlap=3600)
        until = datetime.fromisoformat(second["former_until"])
        assert timedelta(seconds=3590) < until - datetime.now(UTC) < timedelta(seconds=3610)
        shown = await listed(server, first["id"])
        assert datetime.fromisoformat(shown["former_until"]) == until
        assert not [field for field in shown if "hash" in field]
        ended = await rotate(server, first["id"], overlap=0)
        assert ended["former_until"] is None
        assert [await send(server, each["key"]) for each in (first, second, ended)] == [401, 401, 202]
        last = await rotate(server, first["id"], overlap=60)
        assert await send(server, ended["key"]) == 202
        go_forward(monkeypatch, 60)
        assert await send(server, ended["key"]) == 401
        assert await send(server, last["key"]) == 202
    again = await start()
    assert [await send(again, each["key"]) for each in (ended, last)] == [401, 202]


async def test_a_rotation_without_a_body_overlaps_for_a_day(server: Server) -> None:
    first = await made_key(server)
    answer = await server.http.post(f"/v1/keys/{first['id']}/rotate")
    assert answer.status_code == 200, answer.text
    left = datetime.fromisoformat(answer.json()["former_until"]) - datetime.now(UTC)
    assert timedelta(hours=23.9) < left < timedelta(hours=24.1)


@pytest.mark.parametrize(
    "order", [{"overlap": -1}, {"overlap": 30 * 86400 + 1}, {"overlap": "x"}, {"and": 1}]
)
async def test_a_rotation_that_makes_no_sense_changes_nothing(server: Server, order: dict[str, Any]) -> None:
    made = await made_key(server)
    assert (await server.http.post(f"/v1/keys/{made['id']}/rotate", json=order)).status_code == 422
    assert await send(server, made["key"]) == 202
    assert (await listed(server, made["id"]))["former_until"] is None


async def test_a_rotated_key_keeps_what_it_may_and_what_it_sent(server: Server) -> None:
    made = await made_key(server, addresses=["room:a"], rate=1, burst=5, quota=9)
    before = await listed(server, made["id"])
    rotated = await rotate(server, made["id"])
    after = await listed(server, made["id"])
    assert before == after | {"former_until": None}
    assert await send(server, rotated["key"], "room:b") == 403
    order = {"to": "room:a", "type": "t", "id": "once"}
    answers = []
    for each in (made, rotated):
        headers = {"Authorization": f"Bearer {each['key']}"}
        answers.append((await server.http.post("/v1/events", json=order, headers=headers)).json())
    assert answers[0] == answers[1]


async def test_the_first_admin_is_not_rotated_and_goes_on(server: Server) -> None:
    assert (await server.http.post("/v1/keys/admin/rotate", json={})).status_code == 404
    assert await server.publish("user:alice") > 0


async def test_an_expired_key_is_refused_everywhere_also_by_its_former_secret(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, elsewhere = await start(), await start()
    soon = (datetime.now(UTC) + timedelta(seconds=60)).isoformat()
    made = await made_key(here, expires_at=soon)
    rotated = await rotate(here, made["id"])
    assert await send(here, made["key"]) == 202
    await status_is(elsewhere, rotated["key"], 202)
    go_forward(monkeypatch, 60)
    for server in (here, elsewhere):
        for each in (made, rotated):
            assert await send(server, each["key"]) == 401


@pytest.mark.parametrize(
    "never", ["9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00Z"]
)
async def test_a_time_that_a_driver_takes_for_infinite_ends_no_instance(server: Server, never: str) -> None:
    order = {"name": "n", "scopes": ["publish"], "expires_at": never}
    answer = await server.http.post("/v1/keys", json=order)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/expires_at")
    last = await made_key(server, expires_at="9998-12-31T23:59:59-14:00")
    await status_is(server, last["key"], 202)


async def test_the_last_use_is_the_latest_on_any_instance_and_outlives_a_restart(
    start: Start, database_url: str
) -> None:
    unhurried = {"database_url": database_url, "drain_timeout": 10.0}
    async with serving(**unhurried) as here, serving(**unhurried) as elsewhere:
        made = await made_key(here)
        assert (await listed(here, made["id"]))["last_used_at"] is None
        await send(here, made["key"])
        first = (await listed(here, made["id"]))["last_used_at"]
        await status_is(elsewhere, made["key"], 202)
        later = (await listed(elsewhere, made["id"]))["last_used_at"]
        assert later > first

        async def known() -> bool:
            return (await listed(here, made["id"]))["last_used_at"] == later

        await eventually(known)  # which has an older use of its own
        await send(elsewhere, made["key"])
        last = (await listed(elsewhere, made["id"]))["last_used_at"]
        assert last > later
    # It was written down at the end, not only every two seconds.
    again = await start()
    assert (await listed(again, made["id"]))["last_used_at"] == last


@pytest.mark.parametrize("at", [1795682728.2059815, 1795681811.3462865])
async def test_a_use_is_written_down_as_it_is_shown_before(
    server: Server, db: asyncpg.Connection, at: float
) -> None:
    """Also between two microseconds, where PostgreSQL rounds another way."""
    made = await made_key(server)
    await keys.used(db, {made["id"]: at})
    shown = datetime.fromisoformat((await listed(server, made["id"]))["last_used_at"])
    assert shown == datetime.fromtimestamp(at, UTC)


async def test_a_key_limited_to_addresses_reaches_nothing_else_by_any_call(server: Server) -> None:
    """Every call with a room or a user in its path is tried: one that is added is tried too."""
    await server.join("orders", "bob")
    limited = await made_key(
        server, scopes=["publish", "read", "tokens"], addresses=["room:shop.*", "user:alice"]
    )
    headers = {"Authorization": f"Bearer {limited['key']}"}
    foreign = {
        "room": "orders", "user": "bob", "id": "1", "device": "phone",
        "position": await server.publish("user:bob", data="kept"),
    }  # fmt: skip
    tried = 0
    async with httpx.AsyncClient(base_url=server.url, headers=headers) as http:
        for call, route in routes():
            method, path = call.split()
            if needs_admin(route.dependant):
                answer = await http.request(method, path.format(**foreign), json={})
                assert answer.status_code in {403, 422}, call
            elif "{" in path:
                body = {"add": ["carol"]} if method == "POST" else None
                answer = await http.request(method, path.format(**foreign), json=body)
                assert answer.status_code == 404 if "{id}" in path else answer.status_code in {401, 403}, call
                tried += 1
        assert tried >= 10
        for to in ("user:bob", "room:orders", "everyone", ["user:alice", "user:bob"]):
            for path, body in (
                ("/v1/events", {"to": to, "type": "t"}),
                ("/v1/events/batch", {"events": [{"to": to, "type": "t"}]}),
            ):
                assert (await http.post(path, json=body)).status_code == 403
        assert (await http.post("/v1/events", json={"to": "user:alice", "type": "t"})).status_code == 202
        assert (await http.get("/v1/rooms/shop.1/members")).status_code == 200
        assert (await http.get("/v1/users/alice/rooms")).status_code == 200
    assert [m["user"] for m in (await server.http.get("/v1/rooms/orders/members")).json()["data"]] == ["bob"]


@pytest.mark.parametrize(
    "grants",
    [{"user": "bob"}, {"rooms": ["orders"]}, {"rooms": ["*"]}, {"join": ["orders"]}, {"presence": True},
     {"publish": ["everyone"]}, {"publish": ["user:*"]}],
)  # fmt: skip
async def test_nor_by_a_token_that_it_mints(server: Server, grants: dict[str, Any]) -> None:
    limited = await made_key(server, scopes=["tokens"], addresses=["room:shop.*", "user:alice"])
    headers = {"Authorization": f"Bearer {limited['key']}"}
    order = {"user": "alice", "rooms": ["shop.*"], "join": ["shop.1"], "publish": ["room:shop.1"]}
    good = await server.http.post("/v1/tokens", json=order, headers=headers)
    assert good.status_code == 201, good.text
    refused = await server.http.post("/v1/tokens", json=order | grants, headers=headers)
    assert refused.status_code == 403


async def test_an_admin_is_not_limited_to_addresses(server: Server) -> None:
    order = {"name": "a", "scopes": ["admin"], "addresses": ["room:a"]}
    refused = await server.http.post("/v1/keys", json=order)
    assert refused.status_code == 422
    assert "admin" in refused.json()["detail"]


async def test_rotations_at_once_leave_one_way_in_order(start: Start) -> None:
    """However two admins race, all instances agree on which secrets are good."""
    here, elsewhere = await start(), await start()
    made = await made_key(here)
    made_by = [rotate(server, made["id"]) for server in (here, elsewhere) for _ in range(4)]
    rotated = await asyncio.gather(*made_by)

    async def agreed() -> bool:
        by_server = [[await send(server, each["key"]) for each in rotated] for server in (here, elsewhere)]
        return by_server[0] == by_server[1] and by_server[0].count(202) == 2

    await eventually(agreed)
