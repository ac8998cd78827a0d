"""What the people who run it see, and what nobody may ever see."""

import io
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterator

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from service.observe import logs
from tests.harness import ADMIN_KEY, SECRET, Server, eventually, token

Start = Callable[..., Awaitable[Server]]


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """Everything that any logger of this process writes, through the handler of production."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure("DEBUG", "json", stream=stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)


async def test_no_token_and_no_key_is_ever_logged(start: Start, written: io.StringIO) -> None:
    server = await start(cookie="session", origins=("https://app.example",))
    good, expired = token("alice", jti="t"), token("alice", exp=int(time.time()) - 99)
    made = (await server.http.post("/v1/keys", json={"name": "n", "scopes": ["publish"]})).json()
    minted = (await server.http.post("/v1/tokens", json={"user": "alice"})).json()["token"]
    secrets = [good, expired, made["key"].split("_", 2)[2], minted, ADMIN_KEY, SECRET]
    origin = {"Origin": "https://app.example"}
    for presented in (good, expired, good[:-2], "x" * 9000, made["key"], minted):
        for url, options in (
            (server.ws_url(token=presented), {}),
            (server.ws_url(), {"additional_headers": {"Authorization": f"Bearer {presented}"}}),
            (server.ws_url(), {"subprotocols": ["tidings.v1", f"bearer.{presented}"]}),
            (server.ws_url(), {"additional_headers": {"Cookie": f"session={presented}", **origin}}),
        ):
            try:
                async with connect(url, compression=None, **options) as ws:
                    await ws.send(json.dumps({"type": "refresh_token", "token": presented}))
                    await ws.send(json.dumps({"type": presented, "token": presented}))
            except (InvalidStatus, ConnectionClosed):
                continue
        async with httpx.AsyncClient(base_url=server.url) as http:
            headers = {"Authorization": f"Bearer {presented}"}
            for path in ("/v1/rooms/r/events", "/v1/connections", f"/v1/keys?token={presented}"):
                await http.get(path, headers=headers)
            await http.post("/v1/events", headers=headers, content=presented)
            await http.get(f"/{presented}")
    await server.http.post("/v1/revocations", json={"jti": "t"})
    await server.http.delete(f"/v1/keys/{made['id']}")
    text = written.getvalue()
    assert "connection opened" in text
    for line in text.splitlines():
        assert not [s for s in secrets if s in line], line[:200]


async def test_one_line_for_each_connection_opened_and_closed(server: Server, written: io.StringIO) -> None:
    async with await server.live("alice", device="phone") as phone:
        for _ in range(20):
            await server.publish("user:alice")
        await phone.events(20)
    await eventually(lambda: server.gateway.count == 0)
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    about = [line for line in lines if line["logger"] == "tidings.gateway"]
    assert [line["message"] for line in about] == ["connection opened", "connection closed"]
    assert {line["user"] for line in about} == {"alice"}
    assert about[1]["code"] == 1000


async def test_at_the_usual_level_only_what_the_service_closed_is_told(
    server: Server, written: io.StringIO
) -> None:
    logging.getLogger().setLevel(logging.INFO)
    async with await server.live("alice"), await server.live("bob") as bob:
        await server.http.post("/v1/revocations", json={"user": "bob"})
        assert await bob.closed() == 4001
    await eventually(lambda: server.gateway.count == 0)
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    about = [line for line in lines if line["logger"] == "tidings.gateway"]
    assert [(line["user"], line["code"]) for line in about] == [("bob", 4001)]


async def test_metrics_and_stats_are_for_readers_unless_public(start: Start) -> None:
    closed, public = await start(), await start(metrics_public=True)
    for path in ("/metrics", "/stats"):
        async with httpx.AsyncClient() as http:
            assert (await http.get(closed.url + path)).status_code == 401
            assert (await http.get(public.url + path)).status_code == 200
        assert (await closed.http.get(path)).status_code == 200


async def test_metrics_tell_what_happened(start: Start) -> None:
    server = await start()
    async with await server.live("alice") as phone:
        for _ in range(3):
            await server.publish("user:alice")
        await phone.events(3)
        await server.http.post("/v1/events", json={"to": "nobody", "type": "t"})
        text = await eventually(lambda: _metrics_with(server, 'tidings_connections{state="live"} 1.0'))
    for line in (
        'tidings_append_outcomes_total{outcome="appended"} 3.0',
        "tidings_deliveries_total 3.0",
        'tidings_refusals_total{code="invalid"} 1.0',
        'tidings_http_requests_total{method="POST",route="/v1/events",status="202"} 3.0',
    ):
        assert line in text
    stats = (await server.http.get("/stats")).json()
    assert stats["total"]["delivered"] == 3


async def _metrics_with(server: Server, line: str) -> str:
    text = (await server.http.get("/metrics")).text
    return text if line in text and "tidings_deliveries_total 3.0" in text else ""


async def test_health_and_readiness(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url) as http:
        assert (await http.get("/healthz")).json() == {"status": "alive"}
        assert (await http.get("/readyz")).json()["status"] == "ready"


async def test_request_ids_are_kept_or_made(server: Server) -> None:
    given = await server.http.get("/healthz", headers={"X-Request-Id": "abc-1"})
    assert given.headers["x-request-id"] == "abc-1"
    made = await server.http.get("/nowhere", headers={"X-Request-Id": "a b"})
    assert made.status_code == 404
    assert made.json()["code"] == "not_found"
    assert made.headers["x-request-id"] != "a b"
    assert made.headers["x-request-id"] in made.json()["instance"]


TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


async def test_every_line_about_a_request_has_its_id_and_trace(
    server: Server, written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> bool:
        logging.getLogger("tidings.deep").warning("deep down")
        raise RuntimeError

    monkeypatch.setattr(server.service.follower, "reached_within", broken)
    for number, parent in enumerate([f"00-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01"]):
        headers = {"X-Request-Id": f"r-{number}", "traceparent": parent}
        answer = await server.http.post("/v1/revocations", json={"jti": "t"}, headers=headers)
        assert answer.status_code == 500
        assert "traceparent" not in answer.headers
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    about = [line for line in lines if line["logger"] in {"tidings.api", "tidings.deep"}]
    seen = [
        (line["message"], line["request_id"], line.get("trace_id"), line.get("span_id")) for line in about
    ]
    assert seen == [
        ("deep down", "r-0", TRACE, SPAN), ("a request failed", "r-0", TRACE, SPAN),
        ("deep down", "r-1", None, None), ("a request failed", "r-1", None, None),
    ]  # fmt: skip


@pytest.mark.parametrize(("path", "allowed"), [
    ("/v1/keys", "GET, POST"),
    ("/v1/keys/x", "DELETE"),
    ("/v1/rooms/r/members/u", "PUT, DELETE"),
    ("/v1/events", "GET, POST"),
    ("/v1/events/batch", "POST"),
])  # fmt: skip
async def test_a_method_that_is_not_there_is_told_those_that_are(
    server: Server, path: str, allowed: str
) -> None:
    for method in ("TRACE", "PATCH"):
        answer = await server.http.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == 405


@pytest.mark.parametrize("way", [{}, {"Origin": "https://elsewhere.example"}], ids=["short", "general"])
async def test_a_line_about_an_event_has_its_id_and_trace(
    server: Server, written: io.StringIO, monkeypatch: pytest.MonkeyPatch, way: dict[str, str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(server.service.appender, "submit", broken)
    headers = {"X-Request-Id": "r-1", "traceparent": f"00-{TRACE}-{SPAN}-01", **way}
    answer = await server.http.post("/v1/events", json={"to": "user:a", "type": "t"}, headers=headers)
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "r-1")
    [line] = [each for each in map(json.loads, written.getvalue().splitlines()) if each["level"] == "ERROR"]
    assert (line["request_id"], line["trace_id"], line["span_id"]) == ("r-1", TRACE, SPAN)
    assert line["path"] == "/v1/events"


async def test_only_allowed_origins_may_read_answers(start: Start) -> None:
    server = await start(origins=("https://app.example",))
    for origin, allowed in (("https://app.example", True), ("https://evil.example", False)):
        preflight = await server.http.options(
            "/v1/rooms/r/events",
            headers={"Origin": origin, "Access-Control-Request-Method": "GET",
                     "Access-Control-Request-Headers": "authorization"},
        )  # fmt: skip
        answer = await server.http.get("/v1/rooms/r/events", headers={"Origin": origin})
        assert (preflight.headers.get("access-control-allow-origin") == origin) is allowed
        assert (answer.headers.get("access-control-allow-origin") == origin) is allowed


async def test_the_description_names_every_route(server: Server) -> None:
    description = (await server.http.get("/openapi.json")).json()
    assert description["openapi"].startswith("3.1")
    operations = [o["operationId"] for path in description["paths"].values() for o in path.values()]
    assert len(operations) == len(set(operations))
    assert {"publishEvent", "revoke", "mintToken", "changeMembers"} <= set(operations)
