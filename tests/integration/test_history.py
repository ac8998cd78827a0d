"""``GET /v1/events``: what has been sent, newest first."""

from typing import Any

import asyncpg
import httpx
import pytest

from service.store import log
from tests.harness import Server, token


async def sent(server: Server, **query: Any) -> dict[str, Any]:
    answer = await server.http.get("/v1/events", params=query)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


async def test_the_newest_come_first_whoever_they_are_for(server: Server) -> None:
    positions = [await server.publish(to, data=to) for to in ("user:alice", "room:r", "everyone")]
    await server.join("r", "alice")  # an entry, and no event
    page = await sent(server)
    assert [e["position"] for e in page["data"]] == positions[::-1]
    assert (page["next_cursor"], page["has_more"]) == (None, False)
    assert page["data"][0] | {"time": ""} == {
        "position": positions[2], "id": str(positions[2]), "to": "everyone", "event": "test",
        "data": "everyone", "time": "",
    }  # fmt: skip


async def test_pages_follow_each_other_to_the_end(server: Server) -> None:
    positions = [await server.publish("user:alice") for _ in range(5)]
    seen, query = [], {}
    while True:
        page = await sent(server, limit=2, **query)
        seen += [e["position"] for e in page["data"]]
        if not page["has_more"]:
            break
        query = {"before": page["next_cursor"]}
    assert seen == positions[::-1]


async def test_address_and_type_are_names_or_beginnings(server: Server) -> None:
    for to, about in (("user:al", "a.x"), ("user:alice", "a.y"), ("room:al_ce", "b")):
        await server.publish(to, about)

    async def found(**query: str) -> list[str]:
        return [e["to"] for e in (await sent(server, **query))["data"]][::-1]

    assert await found(to="user:al") == ["user:al"]
    assert await found(to="user:al*") == ["user:al", "user:alice"]
    assert await found(to="room:al_*") == ["room:al_ce"]
    assert await found(type="a.*") == ["user:al", "user:alice"]
    assert await found(type="b") == ["room:al_ce"]
    assert await found(to="*", type="*") == ["user:al", "user:alice", "room:al_ce"]
    assert (await server.http.get("/v1/events", params={"to": "a*b"})).status_code == 422


async def test_what_is_not_replayed_any_more_is_shown_and_says_so(
    server: Server, db: asyncpg.Connection
) -> None:
    recalled = await server.publish("user:alice", collapse_key="k")
    taken = (await server.http.delete(f"/v1/events/{recalled}")).json()
    expired = await server.publish("user:alice", ttl=1)
    await db.execute(
        "update tidings.events set expires_at = now() - interval '1 h' where position = $1", expired
    )
    second, first = (await sent(server))["data"]
    assert (first["position"], first["recalled"], first["collapse_key"]) == (recalled, taken["position"], "k")
    assert second["expires_at"] < second["time"]


async def test_it_looks_at_so_many_entries_and_tells_that_there_are_more(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "LOOKED_AT", 3)
    first = await server.publish("user:alice", "rare")
    for _ in range(4):
        await server.publish("user:bob")
    page = await sent(server, type="rare")
    assert (page["data"], page["has_more"]) == ([], True)
    page = await sent(server, type="rare", before=page["next_cursor"])
    assert [e["position"] for e in page["data"]] == [first]


async def test_below_the_floor_there_is_nothing(server: Server, db: asyncpg.Connection) -> None:
    positions = [await server.publish("user:alice") for _ in range(3)]
    await db.execute("update tidings.log set floor = $1", positions[1])
    assert [e["position"] for e in (await sent(server))["data"]] == positions[2:]


async def test_a_key_sees_what_its_addresses_match_and_a_client_nothing(server: Server) -> None:
    for to in ("user:alice", "user:bob"):
        await server.publish(to)
    order = {"name": "k", "scopes": ["read"], "addresses": ["user:a*"]}
    key = (await server.http.post("/v1/keys", json=order)).json()["key"]
    limited = httpx.Headers({"Authorization": f"Bearer {key}"})
    page = (await server.http.get("/v1/events", headers=limited)).json()
    assert [e["to"] for e in page["data"]] == ["user:alice"]
    order = {"name": "p", "scopes": ["publish"]}
    key = (await server.http.post("/v1/keys", json=order)).json()["key"]
    for presented in (key, token("alice")):
        refused = httpx.Headers({"Authorization": f"Bearer {presented}"})
        assert (await server.http.get("/v1/events", headers=refused)).status_code in {401, 403}
