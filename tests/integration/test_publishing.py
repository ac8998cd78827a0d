"""What an event may say besides where it goes and what it is; batches that are taken in part."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest
from cloudevents.core.bindings.http import HTTPMessage, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

from tests.harness import Server

EVENT = {"to": "user:a", "type": "t"}
WAYS = [{}, {"Origin": "http://elsewhere"}]
ways = pytest.mark.parametrize("way", WAYS, ids=["short", "general"])


async def posted(
    server: Server, body: Any, way: dict[str, str] | None = None, path: str = ""
) -> httpx.Response:
    return await server.http.post(f"/v1/events{path}", content=json.dumps(body), headers=way or {})


# --- Options


@ways
async def test_what_an_event_says_is_stored_with_it(
    server: Server, db: asyncpg.Connection, way: dict[str, str]
) -> None:
    body = EVENT | {"ttl": 60, "collapse_key": "score"}
    assert (await posted(server, body, way)).status_code == 202
    row = await db.fetchrow(
        "select extract(epoch from expires_at - time) as ttl, collapse_key from tidings.events"
    )
    assert row is not None
    assert (float(row["ttl"]), row["collapse_key"]) == (60, "score")


@ways
async def test_an_event_for_later_waits_outside_of_the_log(
    server: Server, db: asyncpg.Connection, way: dict[str, str]
) -> None:
    at = datetime.now(UTC) + timedelta(days=1)
    body = {"to": ["user:a", "room:b"], "type": "t", "deliver_at": at.isoformat(), "ttl": 5, "exclude": ["u"]}
    answer = await posted(server, body, way)
    assert answer.status_code == 202
    row = await db.fetchrow("select * from tidings.pending")
    assert row is not None
    shown = {"scheduled": str(row["id"]), "id": str(row["id"])}
    assert [{k: e[k] for k in ("scheduled", "id", "to")} for e in answer.json()["events"]] == [
        {**shown, "to": "user:a"}, {**shown, "to": "room:b"}
    ]  # fmt: skip
    assert row["addresses"] == ["user:a", "room:b"]
    assert (row["lifetime"], row["exclude"], row["due_at"]) == (5, '["u"]', at)
    assert datetime.fromisoformat(answer.json()["events"][0]["deliver_at"]) - at < timedelta(milliseconds=1)
    assert await db.fetchval("select count(*) from tidings.events") == 0


@ways
async def test_an_event_for_a_time_long_past_is_delivered_now(server: Server, way: dict[str, str]) -> None:
    async with await server.live("a") as phone:
        answer = await posted(server, EVENT | {"deliver_at": "0001-01-01T00:00:00+14:00"}, way)
        assert answer.status_code == 202, answer.text
        await phone.until("event", id=answer.json()["events"][0]["id"])


@ways
async def test_an_id_that_was_put_off_is_answered_with_the_original(
    server: Server, way: dict[str, str]
) -> None:
    at = (datetime.now(UTC) + timedelta(days=1)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    first = await posted(server, EVENT | {"id": "own", "deliver_at": at}, way)
    again = await posted(server, EVENT | {"id": "own", "to": "user:other"}, way)
    assert again.json() == first.json()
    assert first.json()["events"] == [
        {"scheduled": first.json()["events"][0]["scheduled"], "to": "user:a", "id": "own", "deliver_at": at}
    ]


FAR = "2999-01-01T00:00:00Z"
BAD: list[tuple[dict[str, Any], str]] = [
    ({"ttl": 0}, "#/ttl"),
    ({"ttl": -1}, "#/ttl"),
    ({"ttl": 1e9}, "#/ttl"),
    ({"ttl": "60"}, "#/ttl"),
    ({"collapse_key": ""}, "#/collapse_key"),
    ({"collapse_key": "x" * 256}, "#/collapse_key"),
    ({"collapse_key": "a\nb"}, "#/collapse_key"),
    ({"deliver_at": "tomorrow"}, "#/deliver_at"),
    ({"deliver_at": "2026-12-01T00:00:00"}, "#/deliver_at"),
    ({"deliver_at": 5}, "#/deliver_at"),
    ({"deliver_at": FAR}, "#/deliver_at"),
    ({"ephemeral": "yes"}, "#/ephemeral"),
    ({"ephemeral": True, "ttl": 5}, "#/ttl"),
    ({"ephemeral": True, "collapse_key": "k"}, "#/collapse_key"),
    ({"ephemeral": True, "deliver_at": "2026-12-01T00:00:00Z"}, "#/deliver_at"),
    ({"ephemeral": True, "undelivered_after": 5}, "#/undelivered_after"),
    ({"undelivered_after": 0}, "#/undelivered_after"),
    ({"undelivered_after": 5, "to": ["user:a", "room:b"]}, "#/undelivered_after"),
    ({"undelivered_after": 5}, "#/undelivered_after"),
    ({"undelivered_unless": "read"}, "#/undelivered_unless"),
    ({"undelivered_after": 5, "undelivered_unless": "seen"}, "#/undelivered_unless"),
]


@pytest.mark.parametrize(("wrong", "pointer"), BAD, ids=[json.dumps(wrong)[:60] for wrong, _ in BAD])
async def test_what_makes_no_sense_is_refused_with_its_pointer(
    server: Server, wrong: dict[str, Any], pointer: str
) -> None:
    for way in WAYS:
        refused = await posted(server, EVENT | wrong, way)
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, pointer)
    refused = await posted(server, {"events": [EVENT, EVENT | wrong]}, path="/batch")
    assert refused.json()["errors"][0]["pointer"] == pointer.replace("#", "#/events/1")
    assert server.service.follower.hub.position == 0


# --- Ephemeral


@ways
async def test_an_ephemeral_event_goes_to_who_is_connected_and_is_not_stored(
    server: Server, db: asyncpg.Connection, way: dict[str, str]
) -> None:
    async with await server.live("a") as phone, await server.live("b") as other:
        body = {
            "to": ["user:a", "everyone"],
            "type": "typing",
            "data": {"x": 1},
            "ephemeral": True,
            "exclude": ["b"],
        }
        answer = await posted(server, body, way)
        assert (answer.status_code, answer.json()) == (
            202,
            {"events": [{"to": "user:a"}, {"to": "everyone"}]},
        )
        for to in ("user:a", "everyone"):
            frame = await phone.until("event")
            assert frame.pop("time")
            assert frame == {
                "type": "event",
                "to": to,
                "event": "typing",
                "data": {"x": 1},
                "ephemeral": True,
            }
        assert await other.quiet() == []
    assert await db.fetchval("select count(*) from tidings.events") == 0
    async with await server.live("a") as phone:
        assert [f for f in phone.frames if f["type"] == "event"] == []


async def test_a_client_may_publish_what_is_ephemeral(server: Server, db: asyncpg.Connection) -> None:
    claims = {"publish": ["user:*"]}
    async with (
        await server.live("a", device="x", claims=claims) as phone,
        await server.live("a", device="y") as pad,
    ):
        answer = await phone.ask("publish", to="user:a", event="typing", ephemeral=True, echo=False, id="i")
        assert answer == {"type": "ok", "ref": answer["ref"]}
        assert {**await pad.until("event"), "time": 0} == {
            "type": "event", "to": "user:a", "event": "typing", "data": None, "time": 0, "id": "i",
            "from": "a", "ephemeral": True,
        }  # fmt: skip
        assert await phone.quiet() == []
        refused = await phone.ask("publish", to="room:a", event="typing", ephemeral=True)
        assert refused["code"] == "forbidden"
    assert await db.fetchval("select count(*) from tidings.events") == 0


# --- Batches


@ways
async def test_a_partial_batch_is_judged_event_by_event(
    server: Server, db: asyncpg.Connection, way: dict[str, str]
) -> None:
    made = await server.http.post(
        "/v1/keys", json={"name": "p", "scopes": ["publish"], "addresses": ["user:*"]}
    )
    key = {"Authorization": f"Bearer {made.json()['key']}", **way}
    events: list[Any] = [
        EVENT, {"to": "nobody", "type": "t"}, {"to": "room:a", "type": "t"}, "no event", EVENT | {"id": "i"},
        EVENT | {"id": "i"}, EVENT | {"more": 1}, EVENT | {"ephemeral": True},
    ]  # fmt: skip
    answer = await posted(server, {"mode": "partial", "events": events}, key, "/batch")
    results = answer.json()["results"]
    assert answer.status_code == 207
    assert [r["status"] for r in results] == [202, 422, 403, 422, 202, 422, 422, 202]
    problems = [r["problem"] for r in results if r["status"] != 202]
    assert [p["errors"][0]["pointer"] if "errors" in p else None for p in problems] == [
        "#/to", None, None, "#/id", "#/more",
    ]  # fmt: skip
    assert [r["events"] for r in results if r["status"] == 202] == [
        [{"position": 2, "to": "user:a", "id": "2"}],
        [{"position": 3, "to": "user:a", "id": "i"}],
        [{"to": "user:a"}],
    ]  # fmt: skip
    assert await db.fetchval("select count(*) from tidings.events where kind = 'event'") == 2


@ways
async def test_of_a_partial_batch_all_may_be_refused(server: Server, way: dict[str, str]) -> None:
    answer = await posted(server, {"mode": "partial", "events": [{}, 5]}, way, "/batch")
    assert (answer.status_code, [r["status"] for r in answer.json()["results"]]) == (207, [422, 422])


@ways
async def test_validation_alone_sends_nothing(
    server: Server, db: asyncpg.Connection, way: dict[str, str]
) -> None:
    later = EVENT | {"deliver_at": "2026-12-01T00:00:00Z"}
    good = [EVENT, EVENT | {"ephemeral": True}, EVENT | {"id": "i"}, later]
    async with await server.live("a") as phone:
        answer = await posted(
            server, {"validate_only": True, "events": good}, way | {"Idempotency-Key": "k"}, "/batch"
        )
        assert (answer.status_code, answer.json()) == (200, {"events": [{"to": "user:a"}] * 4})
        bad = await posted(server, {"validate_only": True, "events": [EVENT, {}]}, way, "/batch")
        assert bad.status_code == 422
        body = {"validate_only": True, "mode": "partial", "events": [EVENT, {}]}
        mixed = await posted(server, body, way, "/batch")
        assert [r["status"] for r in mixed.json()["results"]] == [200, 422]
        assert await phone.quiet() == []
    for table in ("events", "pending", "idempotency_keys"):
        assert await db.fetchval(f"select count(*) from tidings.{table}") == 0
    assert (
        await posted(server, {"events": [EVENT]}, way | {"Idempotency-Key": "k"}, "/batch")
    ).status_code == 202


async def test_a_mode_that_is_none_is_refused(server: Server) -> None:
    for wrong in ({"mode": "some"}, {"validate_only": "yes"}, {"mode": "partial", "other": 1}):
        assert (await posted(server, {"events": [EVENT], **wrong}, path="/batch")).status_code == 422


# --- CloudEvents, as the official SDK writes them


def cloud_event(data: Any = None, **attributes: Any) -> CloudEvent:
    given = {"id": "e-1", "source": "/shop", "type": "order.shipped", "subject": "user:a", **attributes}
    return CloudEvent({k: v for k, v in given.items() if v is not None}, data)


async def sent(server: Server, message: HTTPMessage) -> httpx.Response:
    return await server.http.post("/v1/events", content=message.body, headers=message.headers)


DATA: list[tuple[Any, str | None, Any]] = [
    ({"order": [1, "ü"]}, "application/json", {"order": [1, "ü"]}),
    ({"order": 1}, "application/vnd.shop+json", {"order": 1}),
    ("plain text, ü", "text/plain", "plain text, ü"),
    ("plain text, ü", "Text/Plain; charset=UTF-8", "plain text, ü"),
    (b"\x00\xff", "application/octet-stream", "AP8="),
    (None, None, None),
]


@pytest.mark.parametrize("mode", [to_structured_event, to_binary_event])
@pytest.mark.parametrize(("data", "kind", "shown"), DATA, ids=[str(kind) for _, kind, _ in DATA])
async def test_a_cloud_event_comes_in(
    server: Server, mode: Any, data: Any, kind: str | None, shown: Any
) -> None:
    async with await server.live("a") as phone:
        answer = await sent(server, mode(cloud_event(data, datacontenttype=kind)))
        assert answer.status_code == 202, answer.text
        frame = await phone.until("event")
        assert (frame["event"], frame["id"], frame["data"]) == ("order.shipped", "e-1", shown)


async def test_a_cloud_event_is_accepted_once_by_its_source_and_id(
    server: Server, db: asyncpg.Connection
) -> None:
    first = await sent(server, to_binary_event(cloud_event()))
    for mode in (to_structured_event, to_binary_event):
        again = await sent(server, mode(cloud_event()))
        assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
    for other in (cloud_event(source="/elsewhere"), cloud_event(id="e-2")):
        assert "idempotent-replayed" not in (await sent(server, to_structured_event(other))).headers
    assert (await posted(server, EVENT | {"id": "e-1"})).json() != first.json()
    assert await db.fetchval("select count(*) from tidings.events") == 4


async def test_what_a_cloud_event_says_by_extensions_counts(server: Server, db: asyncpg.Connection) -> None:
    extensions = {"ttl": 60, "collapsekey": "score", "unknown": "x"}
    for number, mode in enumerate((to_structured_event, to_binary_event)):
        answer = await sent(server, mode(cloud_event(id=f"e-{number}", **extensions)))
        assert answer.status_code == 202, answer.text
    rows = await db.fetch("select collapse_key, expires_at - time as ttl from tidings.events")
    assert [tuple(row) for row in rows] == [("score", timedelta(seconds=60))] * 2


async def test_an_attribute_that_is_null_is_none(server: Server) -> None:
    event = json.loads(bytes(to_structured_event(cloud_event([1])).body))
    null = dict.fromkeys(["data_base64", "time", "ttl", "dataschema"])
    answer = await posted(server, event | null, {"Content-Type": "application/cloudevents+json"})
    assert answer.status_code == 202, answer.text


async def test_an_attribute_that_is_given_twice_is_refused(server: Server) -> None:
    message = to_binary_event(cloud_event([1]))
    headers = [*message.headers.items(), ("ce-subject", "user:b")]
    answer = await server.http.post("/v1/events", content=message.body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")


async def test_cloud_events_come_in_batches(server: Server, db: asyncpg.Connection) -> None:
    events = [json.loads(bytes(to_structured_event(cloud_event(id=f"e-{n}")).body)) for n in range(3)]
    kind = {"Content-Type": "application/cloudevents-batch+json; charset=utf-8"}
    answer = await posted(server, events, kind)
    assert (answer.status_code, [e["id"] for e in answer.json()["events"]]) == (202, ["e-0", "e-1", "e-2"])
    del events[2]["subject"]
    refused = await posted(server, [*events, events[0]], kind)
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "#/2/subject")
    assert await db.fetchval("select count(*) from tidings.events") == 3
    assert (await posted(server, [], kind)).status_code == 422


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"subject": None}, "#/subject"),
        ({"subject": "nobody"}, "#/subject"),
        ({"type": "x" * 129}, "#/type"),
        ({"source": "x" * 1025}, "#/source"),
        ({"ttl": 0}, "#/ttl"),
        ({"ttl": "soon"}, "#/ttl"),
        ({"collapsekey": "x" * 256}, "#/collapsekey"),
    ],
)
async def test_a_cloud_event_that_makes_no_sense_is_refused(
    server: Server, change: dict[str, Any], pointer: str
) -> None:
    for mode in (to_structured_event, to_binary_event):
        refused = await sent(server, mode(cloud_event(**change)))
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, pointer)


@pytest.mark.parametrize(
    "body",
    ["5", "[]", "{}", '{"specversion":"0.3","id":"1","source":"/s","type":"t","subject":"user:a"}',
     '{"specversion":"1.0","id":5,"source":"/s","type":"t","subject":"user:a"}',
     '{"specversion":"1.0","id":"1","source":"/s","type":"t","subject":"user:a","data":1,"data_base64":""}',
     '{"specversion":"1.0","id":"1","source":"/s","type":"t","subject":"user:a","data_base64":"?"}',
     '{"specversion":"1.0","id":"1","source":"/s","type":"t","subject":"user:a","other":[1]}', "{",
     '{"specversion":"1.0","id":"1","source":"/s","type":"t","subject":"user:a","ttl":1e999}',
     '{"specversion":"1.0","id":"1","source":"/s","type":"t","subject":"user:a","data_base64":1e999}'],
)  # fmt: skip
async def test_what_is_no_cloud_event_is_refused(server: Server, body: str) -> None:
    kind = {"Content-Type": "application/cloudevents+json"}
    answer = await server.http.post("/v1/events", content=body, headers=kind)
    assert answer.status_code in {400, 422}
    assert server.service.follower.hub.position == 0
