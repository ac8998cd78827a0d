"""What admins do is on record, in the same commit as the act; nobody else's doing is."""

from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

import service.api
from service.api import events
from service.api.access import Admin
from service.app import create_app
from service.settings import Settings
from tests.harness import Server, eventually

Start = Callable[..., Awaitable[Server]]
ADMIN = Admin.__metadata__[0].dependency


def needs_admin(dependant: Dependant) -> bool:
    return any(d.call is ADMIN or needs_admin(d) for d in dependant.dependencies)


def routes() -> Iterator[tuple[str, APIRoute]]:
    """Yield every call of the API that is a route of FastAPI, by its method and path."""
    for module in iter_modules(service.api.__path__):
        router = getattr(import_module(f"service.api.{module.name}"), "router", None)
        for route in router.routes if router is not None else ():
            assert isinstance(route, APIRoute)
            yield from ((f"{method} {route.path_format}", route) for method in route.methods)


def admin_routes() -> Iterator[str]:
    """Yield every call that is for admins and may change something."""
    for call, route in routes():
        if needs_admin(route.dependant) and not call.startswith("GET "):
            yield call


def test_no_call_of_the_api_is_overlooked() -> None:
    paths = create_app(Settings(_env_file=None)).openapi()["paths"]
    everything = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert {call for call, _ in routes()} | {f"POST {r.path}" for r in events.ROUTES} == everything


async def made_key(server: Server, **order: Any) -> dict[str, Any]:
    answer = await server.http.post("/v1/keys", json={"name": "shop", "scopes": ["publish"], **order})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def revocation(server: Server) -> str:
    return str((await server.http.post("/v1/revocations", json={"jti": "a"})).json()["id"])


# How each of them is called so that it does something: what the path needs is made first.
async def _revoke(server: Server) -> tuple[str, Any]:
    return "/v1/revocations", {"user": "alice", "ban": True}


async def _lift(server: Server) -> tuple[str, Any]:
    return f"/v1/revocations/{await revocation(server)}", None


async def _disconnect(server: Server) -> tuple[str, Any]:
    return "/v1/connections/some-connection", None


async def _create(server: Server) -> tuple[str, Any]:
    return "/v1/keys", {"name": "n", "scopes": ["read"], "quota": 5, "expires_at": "2100-01-01T00:00:00Z"}


async def _rotate(server: Server) -> tuple[str, Any]:
    return f"/v1/keys/{(await made_key(server))['id']}/rotate", {"overlap": 60}


async def _delete(server: Server) -> tuple[str, Any]:
    return f"/v1/keys/{(await made_key(server))['id']}", None


async def _forget(server: Server) -> tuple[str, Any]:
    await (await server.live("alice", device="phone")).close()
    return "/v1/users/alice/devices/phone", None


async def _erase(server: Server) -> tuple[str, Any]:
    return "/v1/users/alice", None


CALLS: dict[str, tuple[str, Callable[[Server], Awaitable[tuple[str, Any]]]]] = {
    "POST /v1/revocations": ("token.revoke", _revoke),
    "DELETE /v1/revocations/{id}": ("revocation.lift", _lift),
    "DELETE /v1/connections/{id}": ("connection.disconnect", _disconnect),
    "POST /v1/keys": ("key.create", _create),
    "POST /v1/keys/{id}/rotate": ("key.rotate", _rotate),
    "DELETE /v1/keys/{id}": ("key.delete", _delete),
    "DELETE /v1/users/{user}/devices/{device}": ("device.forget", _forget),
    "DELETE /v1/users/{user}": ("user.erase", _erase),
}


@pytest.mark.parametrize("route", sorted(admin_routes()))
async def test_every_call_of_an_admin_that_changes_something_is_on_record(server: Server, route: str) -> None:
    assert route in CALLS, "say here how this call is made, so that its record can be looked for"
    action, prepare = CALLS[route]
    admin = await made_key(server, scopes=["admin"])
    path, body = await prepare(server)
    headers = {"Authorization": f"Bearer {admin['key']}", "X-Request-Id": "for-the-record"}
    before = (await records(server))[0]["id"]
    answer = await server.http.request(route.split(maxsplit=1)[0], path, json=body, headers=headers)
    assert answer.status_code < 300, answer.text
    [record] = await records(server, before=before)
    assert (record["action"], record["actor"]) == (action, admin["id"])
    assert record["request_id"] == "for-the-record"
    shown = answer.json() if answer.content else {}
    assert record["subject"] == (shown["id"] if path == route.split()[1] else path.split("/")[3])
    assert datetime.fromisoformat(record["at"]).tzinfo is not None
    assert isinstance(record["detail"], dict)


async def records(server: Server, **query: Any) -> list[dict[str, Any]]:
    answer = await server.http.get("/v1/audit", params=query)
    assert answer.status_code == 200, answer.text
    listed: list[dict[str, Any]] = answer.json()["data"]
    return listed


async def test_a_record_says_what_was_asked_for_and_holds_no_secret(
    server: Server, db: asyncpg.Connection
) -> None:
    made = await made_key(server, addresses=["user:*"], rate=5)
    rotated = (await server.http.post(f"/v1/keys/{made['id']}/rotate", json={})).json()
    created, turned = reversed(await records(server))
    assert created["actor"] == turned["actor"] == "admin"
    assert created["detail"] == {
        "name": "shop", "scopes": ["publish"], "addresses": ["user:*"], "expires_at": None,
        "rate": 5.0, "burst": 1000, "quota": None,
    }  # fmt: skip
    assert turned["detail"] == {"overlap": 86400}
    text = str(await db.fetch("select * from tidings.audit"))
    hashes = await db.fetchrow("select secret_hash, former_hash from tidings.api_keys")
    for secret in (made["key"], rotated["key"]):
        assert secret.split("_", 2)[2] not in text
    for digest in hashes:
        assert digest.hex() not in text


async def test_what_was_refused_or_found_nothing_is_not_on_record(server: Server) -> None:
    made = await made_key(server)
    for method, path, body in (
        ("DELETE", "/v1/keys/none", None), ("DELETE", "/v1/revocations/none", None),
        ("POST", "/v1/keys/none/rotate", {}), ("POST", "/v1/keys/admin/rotate", {}),
        ("POST", f"/v1/keys/{made['id']}/rotate", {"overlap": -1}),
        ("POST", "/v1/revocations", {"user": "a", "jti": "b"}),
    ):  # fmt: skip
        assert (await server.http.request(method, path, json=body)).status_code in {404, 422}
    headers = {"Authorization": f"Bearer {made['key']}"}
    for method, path in (("DELETE", f"/v1/keys/{made['id']}"), ("GET", "/v1/audit")):
        assert (await server.http.request(method, path, headers=headers)).status_code == 403
    await server.http.post("/v1/tokens", json={"user": "alice"})
    assert [r["action"] for r in await records(server)] == ["key.create"]


async def test_an_act_that_cannot_be_recorded_is_not_done(server: Server, db: asyncpg.Connection) -> None:
    made, lifted = await made_key(server), await revocation(server)
    head = await db.fetchval("select tidings.head()")
    await db.execute("alter table tidings.audit add check (false) not valid")
    for method, path, body in (
        ("POST", "/v1/keys", {"name": "n", "scopes": ["read"]}), ("DELETE", f"/v1/keys/{made['id']}", None),
        ("POST", f"/v1/keys/{made['id']}/rotate", {}), ("POST", "/v1/revocations", {"jti": "z"}),
        ("DELETE", f"/v1/revocations/{lifted}", None), ("DELETE", "/v1/connections/c", None),
    ):  # fmt: skip
        assert (await server.http.request(method, path, json=body)).status_code == 422
    assert await db.fetchval("select tidings.head()") == head
    assert await db.fetchval("select count(*) from tidings.revocations") == 1
    headers = {"Authorization": f"Bearer {made['key']}"}
    sent = await server.http.post("/v1/events", json={"to": "everyone", "type": "t"}, headers=headers)
    assert sent.status_code == 202


async def test_records_come_newest_first_in_pages_and_by_what_they_are_about(server: Server) -> None:
    ids = [(await made_key(server, name=str(n)))["id"] for n in range(5)]
    await server.http.delete(f"/v1/keys/{ids[2]}")
    everything = await records(server)
    assert [r["subject"] for r in everything] == [ids[2], *reversed(ids)]
    page = (await server.http.get("/v1/audit", params={"limit": 4})).json()
    assert page["has_more"] is True
    rest = (await server.http.get("/v1/audit", params={"after": page["next_cursor"]})).json()
    assert page["data"] + rest["data"] == everything
    assert (rest["has_more"], rest["next_cursor"]) == (False, None)
    assert await records(server, before=everything[2]["id"]) == everything[:2]
    assert [r["action"] for r in await records(server, subject=ids[2])] == ["key.delete", "key.create"]
    assert len(await records(server, action="key.create")) == 5
    assert await records(server, actor="nobody") == []
    assert (await server.http.get("/v1/audit", params={"after": "x"})).status_code == 422


async def test_records_are_forgotten_after_their_time(start: Start, db: asyncpg.Connection) -> None:
    await db.execute(
        "insert into tidings.audit (at, actor, action, subject, request_id, detail)"
        " select clock_timestamp() - interval '30 days' * (n % 2), 'a', 'x', n::text, 'r', '{}'"
        " from generate_series(1, 25000) n"
    )
    await db.execute("insert into tidings.usage values ('k', current_date - 90, 1), ('k', current_date, 1)")
    await start(audit_retention=86400)

    async def left() -> bool:
        return bool(await db.fetchval("select count(*) = 12500 from tidings.audit"))

    await eventually(left)
    await eventually(lambda: db.fetchval("select count(*) = 1 from tidings.usage"))


async def test_only_admins_read_it(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url) as nobody:
        assert (await nobody.get("/v1/audit")).status_code == 401
