"""Who has an event: what is said of each device, and that nothing is said that is not so."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import asyncpg
import httpx
import pytest

from service.domain.events import Draft, Unit
from service.stream import receipts
from tests.harness import PATIENCE, Device, Server, eventually

Start = Callable[..., Awaitable[Server]]


async def said(server: Server, position: int) -> dict[tuple[str, str], str]:
    """Return the states of an event's devices, each with its reason."""
    answer = await server.http.get(f"/v1/events/{position}/deliveries")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert sum(body["counts"].values()) == len(body["data"])
    return {
        (row["user"], row["device"]): " ".join(filter(None, (row["state"], row.get("reason"))))
        for row in body["data"]
    }


async def acked(device: Device, position: int) -> None:
    answer = await device.ask("ack", position=position)
    assert answer["position"] == position, answer


async def key(server: Server, *scopes: str, **more: Any) -> dict[str, str]:
    made = await server.http.post("/v1/keys", json={"name": "k", "scopes": scopes, **more})
    return {"Authorization": f"Bearer {made.json()['key']}"}


async def test_an_event_has_been_received_once_it_is_acknowledged(server: Server) -> None:
    async with await server.live("alice", device="phone", ack="client") as phone:
        position = await server.publish("user:alice")
        assert await said(server, position) == {("alice", "phone"): "pending"}
        await phone.until("event", position=position)
        assert await said(server, position) == {("alice", "phone"): "pending"}
        await acked(phone, position)
        assert await said(server, position) == {("alice", "phone"): "received"}


async def test_a_pong_acknowledges(server: Server) -> None:
    async with await server.live("alice", device="phone"):
        position = await server.publish("user:alice")

        async def received() -> bool:
            return await said(server, position) == {("alice", "phone"): "received"}

        await eventually(received)


async def test_nobody_has_what_was_sent_before_they_came(server: Server) -> None:
    position = await server.publish("user:alice")
    assert await said(server, position) == {}
    async with await server.live("alice", device="phone", ack="client") as phone:
        assert await said(server, position) == {("alice", "phone"): "pending"}
        await acked(phone, position)
        await server.service.cursors.flush()
        async with await server.live("alice", device="laptop", ack="client"):
            assert await said(server, position) == {
                ("alice", "phone"): "received",
                ("alice", "laptop"): "skipped started_later",
            }


async def test_what_a_device_asked_to_start_after_it_has_not_received(server: Server) -> None:
    async with await server.live("alice", ack="client") as phone:
        first = await server.publish("user:alice")
        await phone.until("event", position=first)
        await acked(phone, first)
    over = [await server.publish("user:alice") for _ in range(3)]
    async with await server.live("alice", ack="client", after=over[1]) as phone:
        assert [f["position"] for f in phone.frames if f["type"] == "event"] == over[2:]
        await acked(phone, over[2])
    states = [(await said(server, at))["alice", "default"] for at in (first, *over)]
    assert states == ["received", "skipped after", "skipped after", "received"]


async def test_what_was_acknowledged_just_before_is_not_passed_over(server: Server) -> None:
    server.service.cursors.flush = _never  # as if the database were slow
    async with await server.live("alice", ack="client") as phone:
        position = await server.publish("user:alice")
        await phone.until("event", position=position)
        await acked(phone, position)
        async with await server.live("alice", ack="client", after=position):
            del server.service.cursors.flush
            assert await said(server, position) == {("alice", "default"): "received"}


async def _never() -> None:
    return None


async def test_a_start_that_lies_beyond_the_log_passes_nothing_over(server: Server) -> None:
    position = await server.publish("user:alice")
    async with await server.live("alice", ack="client", after=position + 1000):
        assert await said(server, position) == {("alice", "default"): "pending"}


async def test_of_many_jumps_the_oldest_are_no_longer_told_apart(
    server: Server, db: asyncpg.Connection
) -> None:
    jumped = []
    kept = []
    for _ in range(40):
        jumped.append(await server.publish("user:alice"))
        kept.append(await server.publish("user:alice"))
        async with await server.live("alice", ack="client", after=jumped[-1]) as phone:
            await acked(phone, kept[-1])
            await server.service.cursors.flush()
    ranges = await db.fetchval("select count(*) from tidings.devices d, unnest(d.skipped)")
    assert ranges == 32
    states = [(await said(server, at))["alice", "default"] for at in jumped]
    assert states == ["unknown forgotten"] * 9 + ["skipped after"] * 31
    assert (await said(server, kept[0]))["alice", "default"] == "unknown forgotten"
    assert (await said(server, kept[-1]))["alice", "default"] == "received"
    await db.execute("update tidings.log set floor = $1", jumped[20])
    last = await server.publish("user:alice")
    async with await server.live("alice", ack="client", after=last):
        pass
    ranges = await db.fetchval("select count(*) from tidings.devices d, unnest(d.skipped)")
    assert ranges == 40 - 21 + 1


async def test_who_is_excluded_has_not_received_it(server: Server) -> None:
    await server.join("r", "alice", "bob")
    async with await server.live("alice"), await server.live("bob", ack="client") as bob:
        position = await server.publish("room:r", exclude=["alice"])
        await bob.until("event", position=position)
        await acked(bob, position)
        server.service.cursors.mark("alice", "default", position)
        assert await said(server, position) == {
            ("alice", "default"): "skipped excluded",
            ("bob", "default"): "received",
        }


async def test_one_device_of_a_user_may_be_excluded(server: Server) -> None:
    claims = {"publish": ["user:alice"]}
    async with (
        await server.live("alice", device="phone", claims=claims) as phone,
        await server.live("alice", device="laptop", ack="client") as laptop,
    ):
        answer = await phone.ask("publish", to="user:alice", event="e", data=1, echo=False)
        await laptop.until("event", position=answer["position"])
        assert (await said(server, answer["position"]))["alice", "phone"] == "skipped excluded"


async def test_a_rooms_event_is_for_those_who_were_members_then(server: Server) -> None:
    await server.join("r", "alice", "bob", "carol")
    for user in ("alice", "bob", "carol", "dave"):
        await (await server.live(user, ack="client")).close()
    await server.http.delete("/v1/rooms/r/members/carol")
    async with await server.live("alice", ack="client") as alice:
        position = await server.publish("room:r")
        await alice.until("event", position=position)
        await acked(alice, position)
        await server.join("r", "carol", "dave")
        await server.http.delete("/v1/rooms/r/members/bob")
        # A cursor that has passed it is no receipt of somebody it was not for.
        server.service.cursors.mark("dave", "default", position + 1)
        expected = {("alice", "default"): "received", ("bob", "default"): "pending"}
        assert await said(server, position) == expected


async def test_a_membership_of_the_users_own_may_have_been_withheld(server: Server) -> None:
    claims = {"rooms": ["r"], "join": ["r"]}
    async with await server.live("alice", claims=claims, ack="client") as alice:
        await alice.until("joined_room")
        position = await server.publish("room:r")
        assert await said(server, position) == {("alice", "default"): "pending"}
        await alice.until("event", position=position)
        await acked(alice, position)
        assert await said(server, position) == {("alice", "default"): "unknown grant"}


async def test_everyone_are_those_who_had_come_by_then(server: Server) -> None:
    async with await server.live("alice", ack="client") as alice:
        position = await server.publish("everyone")
        async with await server.live("bob", ack="client"):
            await alice.until("event", position=position)
            await acked(alice, position)
            server.service.cursors.mark("bob", "default", position)
            assert await said(server, position) == {("alice", "default"): "received"}


async def test_what_cannot_be_decided_is_unknown(server: Server, db: asyncpg.Connection) -> None:
    async def append(**more: Any) -> int:
        outcome = await server.service.appender.append(Unit([Draft("user:alice", "t", "1", **more)]))
        return outcome.first

    async with await server.live("alice", device="phone", ack="client") as phone:
        await (await server.live("alice", device="tablet", ack="client")).close()
        kept = await append(lifetime=60, collapse_key="kept")
        expired, older = await append(lifetime=0.05), await append(collapse_key="k")
        await append(collapse_key="k")
        taken = await append()
        await db.fetchval("select tidings.recall(0, $1)", taken)
        last = await append()
        await phone.until("event", position=last)
        await acked(phone, last)

        async def over() -> bool:
            states = await said(server, expired)
            return states == {("alice", "phone"): "unknown expired", ("alice", "tablet"): "skipped expired"}

        await eventually(over)
        assert await said(server, kept) == {("alice", "phone"): "received", ("alice", "tablet"): "pending"}
        assert await said(server, older) == {
            ("alice", "phone"): "unknown collapsed",
            ("alice", "tablet"): "pending",
        }
        assert await said(server, taken) == {
            ("alice", "phone"): "unknown recalled",
            ("alice", "tablet"): "skipped recalled",
        }


@pytest.mark.parametrize("seed", range(3))
async def test_received_is_never_said_of_what_was_not(server: Server, seed: int) -> None:
    """A client connects anywhere, acknowledges anything, and keeps books of what it has really got."""
    chance = random.Random(seed)
    sent: list[int] = []
    got: set[int] = set()
    for _ in range(12):
        sent += [await server.publish("user:alice") for _ in range(chance.randrange(4))]
        after = {"after": chance.choice(sent)} if sent and chance.random() < 0.6 else {}
        async with await server.live("alice", ack="client", **after) as phone:
            live = [await server.publish("user:alice") for _ in range(chance.randrange(3))]
            sent += live
            for position in live:
                await phone.until("event", position=position)
            here = [f["position"] for f in phone.frames if f["type"] == "event"]
            if here and chance.random() < 0.8:
                upto = chance.choice(here)
                await phone.ask("ack", position=upto)
                got.update(p for p in here if p <= upto)
        if chance.random() < 0.5:
            await server.service.cursors.flush()
    states = {at: (await said(server, at))["alice", "default"] for at in sent}
    received = {at for at, state in states.items() if state == "received"}
    assert received <= got
    assert received, "it would prove nothing"


async def test_an_event_is_shown_with_all_that_is_known_of_it(server: Server, db: asyncpg.Connection) -> None:
    plain = await server.publish("user:alice", data={"a": [1.50]}, id="mine")
    answer = await server.http.get(f"/v1/events/{plain}")
    assert b'"data":{"a": [1.5]}' in answer.content or b'"data":{"a":[1.5]}' in answer.content
    shown = answer.json()
    assert shown.keys() == {"position", "id", "to", "event", "data", "time"}
    assert (shown["id"], shown["to"], shown["event"]) == ("mine", "user:alice", "test")
    draft = Draft("user:alice", "t", "1", lifetime=60, collapse_key="k")
    full = (await server.service.appender.append(Unit([draft]))).first
    recall = await db.fetchval("select tidings.recall(0, $1)", full)
    shown = (await server.http.get(f"/v1/events/{full}")).json()
    assert (shown["recalled"], shown["collapse_key"]) == (recall, "k")
    assert shown["expires_at"] > shown["time"]
    assert len(shown["expires_at"]) == len(shown["time"])


async def test_there_is_nothing_where_there_is_no_event(server: Server, db: asyncpg.Connection) -> None:
    await server.join("r", "alice")  # an entry, and no event
    head = await db.fetchval("select tidings.head()")
    event = await server.publish("user:alice")
    for path in (f"/v1/events/{head}", f"/v1/events/{event + 9}", f"/v1/events/{event + 9}/deliveries"):
        answer = await server.http.get(path)
        assert (answer.status_code, answer.json()["detail"]) == (404, "there is no event at this position")
    for path in ("/v1/events/0", "/v1/events/x", f"/v1/events/{2**53}", f"/v1/events/{2**70}"):
        assert (await server.http.get(path)).json()["code"] == "invalid"
    await db.execute("update tidings.log set floor = $1", event)
    answer = await server.http.get(f"/v1/events/{event}")
    assert (answer.status_code, answer.json()["detail"]) == (404, "retention has deleted it")


async def test_a_key_sees_the_events_and_devices_that_it_reaches(server: Server) -> None:
    position = await server.publish("user:alice")
    await (await server.live("alice")).close()
    paths = [f"/v1/events/{position}", f"/v1/events/{position}/deliveries", "/v1/users/alice/devices"]
    for headers, status in (
        (await key(server, "read", addresses=["user:alice"]), 200),
        (await key(server, "read", addresses=["user:bob"]), 403),
        (await key(server, "publish"), 403),
        ({"Authorization": "Bearer tk_no_no"}, 401),
    ):
        for path in paths:
            assert (await server.http.get(path, headers=headers)).status_code == status, path
    reader = await key(server, "read")
    assert (await server.http.delete("/v1/users/alice/devices/default", headers=reader)).status_code == 403


async def test_deliveries_come_in_pages(server: Server) -> None:
    await server.join("r", "alice", "bob")
    for user, device in (("alice", "a"), ("alice", "b"), ("bob", "a")):
        await (await server.live(user, device=device)).close()
    position = await server.publish("room:r")
    pages: list[dict[str, Any]] = []
    while not pages or pages[-1]["has_more"]:
        after = {"after": pages[-1]["next_cursor"]} if pages else {}
        answer = await server.http.get(f"/v1/events/{position}/deliveries", params={"limit": 1, **after})
        pages.append(answer.json())
    rows = [(row["user"], row["device"]) for page in pages for row in page["data"]]
    assert rows == [("alice", "a"), ("alice", "b"), ("bob", "a")]
    assert pages[0]["counts"] == {"received": 0, "pending": 3, "skipped": 0, "unknown": 0}
    assert [page["counts"] for page in pages[1:]] == [None, None]


# Devices


async def devices(server: Server, user: str) -> dict[str, dict[str, Any]]:
    answer = await server.http.get(f"/v1/users/{quote(user, safe='')}/devices")
    assert answer.status_code == 200, answer.text
    return {row["device"]: row for row in answer.json()["data"]}


async def test_devices_are_listed_with_what_they_are_behind(server: Server, db: asyncpg.Connection) -> None:
    await server.join("r", "alice")
    async with await server.live("alice", device="phone", ack="client") as phone:
        first = await server.publish("user:alice")
        await phone.until("event", position=first)
        await acked(phone, first)
        await server.service.cursors.flush()
        await (await server.live("alice", device="tablet", ack="client")).close()
        await server.publish("room:r")
        await server.publish("room:r", exclude=["alice"])
        await server.publish("room:other")
        taken = await server.publish("user:alice")
        await db.fetchval("select tidings.recall(0, $1)", taken)
        last = await server.publish("everyone")
        await phone.until("event", position=last)
        await acked(phone, last)
        await server.service.cursors.flush()
        await (await server.live("alice", device="watch")).close()
        found = await devices(server, "alice")
    shown = {
        name: (row["cursor"], row["lag"], row["behind"], row["connected"]) for name, row in found.items()
    }
    assert shown == {
        "phone": (last, 0, 0, True),
        "tablet": (first, last - first, 2, False),
        "watch": (last, 0, 0, False),
    }
    assert found["watch"]["start"] == last
    assert found["phone"]["seen_at"].endswith("Z")
    assert await devices(server, "nobody") == {}


async def test_what_a_device_is_behind_is_counted_up_to_a_bound(server: Server) -> None:
    await (await server.live("alice", ack="client")).close()
    for _ in range(3):
        await server.service.appender.append(Unit([Draft("user:alice", "t", "1")] * 500))
    assert (await devices(server, "alice"))["default"]["behind"] == 1000


async def test_a_forgotten_device_is_sent_away_and_new_the_next_time(server: Server) -> None:
    async with await server.live("alice", device="old", ack="client") as old:
        first = await server.publish("user:alice")
        await old.until("event", position=first)
        await acked(old, first)
    async with await server.live("alice", device="phone", ack="client") as phone:
        last = await server.publish("user:alice")
        await phone.until("event", position=last)
        await acked(phone, last)
        await server.service.cursors.flush()
        server.service.cursors.flush = _never
        server.service.cursors.mark("alice", "phone", last + 100)  # on its way to the database
        answer = await server.http.delete("/v1/users/alice/devices/phone")
        assert answer.status_code == 204
        assert await phone.closed() == 4010
        assert phone.frames[-1]["reconnect"] is False
    assert (await devices(server, "alice")).keys() == {"old"}
    async with await server.device("alice", device="phone", ack="client") as phone:
        assert (await phone.until("welcome"))["position"] == first
        await phone.until("event", position=last)
    del server.service.cursors.flush
    assert (await server.http.delete("/v1/users/alice/devices/none")).json()["code"] == "not_found"


async def test_a_forgotten_device_is_sent_away_by_whichever_instance(start: Start) -> None:
    one, other = await start(), await start()
    async with await other.live("alice/1", device="pho/ne") as phone:
        answer = await one.http.delete(
            f"/v1/users/{quote('alice/1', safe='')}/devices/{quote('pho/ne', safe='')}"
        )
        assert answer.status_code == 204
        assert await phone.closed() == 4010
    assert await devices(one, "alice/1") == {}


# Waiting for the first


async def first(server: Server, to: dict[str, int], seconds: float = 5) -> receipts.First:
    return await server.service.receipts.first(to, seconds)


async def listening(server: Server) -> bool:
    """Tell whether whoever waits has looked once, and listens now."""
    waiting = list(server.service.receipts._waiting)
    return bool(waiting) and all(each.heard._getters for each in waiting)


async def test_who_waits_is_told_of_the_first_receipt(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipts, "LOOK_EVERY", 60)  # it has to be heard
    async with (
        await server.live("alice", device="phone", ack="client") as phone,
        await server.live("bob", ack="client"),
    ):
        positions = {
            "user:bob": await server.publish("user:bob"),
            "user:alice": await server.publish("user:alice"),
        }
        waiting = asyncio.create_task(first(server, positions, 30))
        await eventually(lambda: listening(server))
        await phone.until("event")
        await acked(phone, positions["user:alice"])
        found = await waiting
        assert found.receipt == ("alice", "phone", positions["user:alice"])
        assert found.waited
        assert found.after < 20
        assert server.service.cursors.heard is None


async def test_a_receipt_by_another_instance_is_found(start: Start) -> None:
    one, other = await start(), await start()
    async with await other.live("alice", device="phone", ack="client") as phone:
        position = await one.publish("user:alice")
        waiting = asyncio.create_task(first(one, {"user:alice": position}))
        await phone.until("event", position=position)
        await acked(phone, position)
        assert (await waiting).receipt == ("alice", "phone", position)


async def test_nobody_is_said_to_have_what_nobody_has(server: Server) -> None:
    await server.join("r", "alice", "bob")
    async with await server.live("alice", ack="client"), await server.live("carol", ack="client"):
        position = await server.publish("room:r", exclude=["alice"])
        waiting = asyncio.create_task(first(server, {"room:r": position, "everyone": position}, 3))
        await eventually(lambda: listening(server))
        for user in ("alice", "carol"):  # not for them
            server.service.cursors.mark(user, "default", position)
        # Neither has bob received it who starts behind it.
        await (await server.live("bob", ack="client", after=position)).close()
        found = await waiting
        assert found.receipt is None
        assert found.waited
        assert found.after >= 3


async def test_a_rooms_first_receipt(server: Server) -> None:
    await server.join("r", "alice", "bob")
    async with await server.live("bob") as bob:
        position = await server.publish("room:r")
        found = await first(server, {"room:r": position})
        assert found.receipt == ("bob", "default", position)
        await bob.until("event", position=position)
        assert (await first(server, {"room:r": position})).receipt is not None  # known already


async def test_a_post_waits_for_the_first_receipt(server: Server) -> None:
    async def post(wait: Any, path: str = "/v1/events", **more: Any) -> httpx.Response:
        event = {"to": ["user:bob", "user:alice"], "type": "t", **more}
        return await server.http.post(path, params={"wait": wait}, json=event)

    async with await server.live("alice", device="phone"):
        answer = await post(30, id="mine")
        assert answer.status_code == 202
        received = answer.json()["received"]
        position = answer.json()["events"][1]["position"]
        assert (received["user"], received["device"], received["position"]) == ("alice", "phone", position)
        assert received["after_ms"] >= 0
        again = await post(30, id="mine")
        assert again.headers["idempotent-replayed"] == "true"
        assert again.json()["received"]["position"] == position
    answer = await post(0.1)
    assert answer.json()["received"] is None
    assert "waited" not in answer.json()
    assert len(answer.json()["events"]) == 2
    for wrong in ("0", "-1", "30.1", "nan", "inf", "x", ""):
        answer = await post(wrong)
        assert answer.json()["errors"][0]["pointer"] == "#/wait", wrong
    assert (await post(1, "/v1/events/batch")).json()["code"] == "invalid"
    answer = await server.http.post("/v1/events", json={"to": "user:alice", "type": "t"})
    assert answer.json().keys() == {"events"}


async def test_who_waits_is_counted(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "MAX_WAITING", 2)
    position = await server.publish("user:alice")
    waiting = [asyncio.create_task(first(server, {"user:alice": position}, 0.5)) for _ in range(3)]
    assert [found.waited for found in await asyncio.gather(*waiting)] == [True, True, False]
    assert (await first(server, {"user:alice": position}, 0.01)).waited
    monkeypatch.setattr(receipts, "MAX_WAITING", 0)
    body = {"to": "user:alice", "type": "t"}
    answer = (await server.http.post("/v1/events", params={"wait": 5}, json=body)).json()
    assert (answer["received"], answer["waited"]) == (None, False)


async def test_who_waits_is_answered_before_the_instance_ends(server: Server) -> None:
    body = {"to": "user:alice", "type": "t"}
    post = asyncio.create_task(server.http.post("/v1/events", params={"wait": 30}, json=body))
    await eventually(lambda: server.service.receipts._waiting)
    await server.parts["drain"]()
    answer = await asyncio.wait_for(post, PATIENCE)
    assert answer.status_code == 202
    assert (answer.json()["received"], answer.json()["waited"]) == (None, False)
    late = (await server.http.post("/v1/events", params={"wait": 30}, json=body)).json()
    assert (late["received"], late["waited"]) == (None, False)
