"""The main job: what is posted arrives, live or replayed, once and in order."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from uuid import uuid4

import asyncpg
import pytest
from websockets.exceptions import InvalidStatus

from service.domain.events import Draft, Unit
from tests.harness import Device, Server, eventually, serving

Start = Callable[..., Awaitable[Server]]


async def cursor_of(db: asyncpg.Connection, user: str, device: str = "default") -> int:
    value: int = await db.fetchval(
        "select cursor from tidings.devices where user_id = $1 and device = $2", user, device
    )
    return value


def positions(device: Device) -> list[int]:
    return [f["position"] for f in device.frames if f["type"] == "event"]


async def test_an_event_posted_before_the_connect_arrives_at_the_connect(server: Server) -> None:
    position = await server.publish("user:alice", "order.shipped", {"order": 42})
    async with await server.device("alice") as phone:
        welcome = await phone.receive()
        event = await phone.receive()
        live = await phone.receive()
    assert welcome["type"] == "welcome"
    assert welcome["user"] == "alice"
    assert welcome["device"] == "default"
    assert event["position"] == position
    assert event["event"] == "order.shipped"
    assert event["data"] == {"order": 42}
    assert event["to"] == "user:alice"
    assert event["id"] == str(position)
    assert live == {"type": "live", "position": position}


async def test_an_event_posted_while_connected_arrives_live(server: Server) -> None:
    async with await server.live("alice") as phone:
        position = await server.publish("user:alice", data="now")
        event = await phone.until("event")
    assert event["position"] == position
    assert event["data"] == "now"


async def test_a_bare_client_gets_each_event_once_over_a_reconnect(
    server: Server, db: asyncpg.Connection
) -> None:
    first = await server.publish("user:alice")
    async with await server.live("alice") as phone:
        second = await server.publish("user:alice")
        await phone.until("event", position=second)
        await eventually(lambda: _at(db, "alice", second))
    third = await server.publish("user:alice")
    async with await server.live("alice") as again:
        assert positions(again) == [third]
    assert positions(phone) == [first, second]


async def _at(db: asyncpg.Connection, user: str, position: int) -> bool:
    return await cursor_of(db, user) >= position


async def test_a_client_that_acknowledges_by_itself_gets_the_rest_again(
    server: Server, db: asyncpg.Connection
) -> None:
    one, two = [await server.publish("user:alice", data=n) for n in (1, 2)]
    async with await server.live("alice", ack="client") as phone:
        await phone.send("ack", position=one)
        await phone.quiet()
        await eventually(lambda: _at(db, "alice", one))
    assert await cursor_of(db, "alice") == one
    async with await server.live("alice", ack="client") as again:
        assert positions(again) == [two]


async def test_an_acknowledgement_is_clamped_to_what_was_written(
    server: Server, db: asyncpg.Connection
) -> None:
    position = await server.publish("user:alice")
    async with await server.live("alice", ack="client") as phone:
        await phone.send("ack", position=2**52)
        await phone.quiet()
        await eventually(lambda: _at(db, "alice", position))
        assert await cursor_of(db, "alice") == position


async def test_after_gives_exactly_the_rest(server: Server) -> None:
    sent = [await server.publish("user:alice", data=n) for n in range(5)]
    async with await server.live("alice", after=sent[2]) as phone:
        assert positions(phone) == sent[3:]
    async with await server.live("alice", after=sent[0], device="other") as other:
        assert positions(other) == sent[1:]


async def test_resume_gives_exactly_the_rest_and_acknowledges_what_was_before(
    server: Server, db: asyncpg.Connection
) -> None:
    sent = [await server.publish("user:alice", data=n) for n in range(4)]
    async with await server.live("alice", ack="client") as phone:
        log = phone.frames[0]["log"]
    async with await server.live("alice", ack="client", resume=f"{log}:{sent[1]}") as phone:
        assert positions(phone) == sent[2:]
    await eventually(lambda: _at(db, "alice", sent[1]))
    held = (await server.http.get(f"/v1/events/{sent[1]}/deliveries")).json()["data"]
    assert [each["state"] for each in held] == ["received"]
    async with await server.live("alice", resume=f"{log}:{sent[1]}", after=sent[2]) as phone:
        assert positions(phone) == sent[3:]


async def test_a_position_of_another_log_counts_for_nothing(server: Server, db: asyncpg.Connection) -> None:
    sent = [await server.publish("user:alice", data=n) for n in range(3)]
    for other in (uuid4(), "", ":"):
        async with await server.live("alice", ack="client", resume=f"{other}:{sent[1]}") as phone:
            assert positions(phone) == sent
    assert await cursor_of(db, "alice") == 0
    for wrong in ("x", "a:-1", f"a:{10**17}", "a:"):
        with pytest.raises(InvalidStatus) as refused:
            await server.device("alice", resume=wrong)
        assert refused.value.response.status_code == 422


async def test_devices_of_one_user_have_backlogs_of_their_own(server: Server, db: asyncpg.Connection) -> None:
    async with await server.live("alice", device="phone"), await server.live("alice", device="tablet"):
        pass
    one = await server.publish("user:alice")
    async with await server.live("alice", device="phone") as phone:
        assert positions(phone) == [one]
        await eventually(lambda: _phone_at(db, one))
    two = await server.publish("user:alice")
    async with await server.live("alice", device="phone") as phone:
        assert positions(phone) == [two]
    async with await server.live("alice", device="tablet") as tablet:
        assert positions(tablet) == [one, two]


async def _phone_at(db: asyncpg.Connection, position: int) -> bool:
    return await cursor_of(db, "alice", "phone") >= position


async def test_several_sockets_of_one_device_share_its_cursor(server: Server, db: asyncpg.Connection) -> None:
    async with (
        await server.live("alice", ack="client") as one,
        await server.live("alice", ack="client") as two,
    ):
        sent = [await server.publish("user:alice", data=n) for n in range(3)]
        for tab in (one, two):
            assert [e["position"] for e in await tab.events(3)] == sent
        await one.ask("ack", position=sent[2])
        await two.ask("ack", position=sent[0])
        await eventually(lambda: _at(db, "alice", sent[2]))
    await eventually(lambda: server.gateway.count == 0)
    assert await cursor_of(db, "alice") == sent[2]
    async with await server.live("alice") as again:
        assert positions(again) == []


async def test_a_new_device_starts_where_the_others_are(server: Server, db: asyncpg.Connection) -> None:
    async with await server.live("alice", device="phone") as phone:
        old = await server.publish("user:alice")
        await phone.until("event")
        await eventually(lambda: _phone_at(db, old))
    new = await server.publish("user:alice")
    async with await server.live("alice", device="laptop") as laptop:
        assert positions(laptop) == [new]


async def test_everyone_is_received_from_the_first_connect_on(server: Server) -> None:
    await server.publish("everyone", data="before")
    async with await server.live("alice"):
        pass
    position = await server.publish("everyone", data="after")
    async with await server.live("alice") as phone:
        assert positions(phone) == [position]


async def test_one_post_to_many_addresses_has_one_id_and_one_order(server: Server) -> None:
    await server.join("orders", "alice")
    async with await server.live("alice") as phone:
        first = await server.publish(["user:alice", "room:orders", "everyone"], data=1)
        events = await phone.events(3)
    assert [e["position"] for e in events] == [first, first + 1, first + 2]
    assert [e["to"] for e in events] == ["user:alice", "room:orders", "everyone"]
    assert {e["id"] for e in events} == {str(first)}


async def test_whoever_is_excluded_gets_it_neither_live_nor_replayed(server: Server) -> None:
    async with await server.live("alice") as alice, await server.live("bob") as bob:
        position = await server.publish("everyone", exclude=["bob"])
        await alice.until("event", position=position)
        assert await bob.quiet() == []
    async with await server.live("bob", after=0, device="other") as again:
        assert position not in positions(again)


async def test_data_comes_out_as_it_went_in(server: Server) -> None:
    data = '{"b":1,"a":[1.0,1e400,"\\u0000","é","\\/"],"b":2, "big":123456789012345678901234567890}'
    async with await server.live("alice") as phone:
        answer = await server.http.post(
            "/v1/events",
            content=f'{{"to":"user:alice","type":"t","data":{data}}}'.encode(),
            headers={"content-type": "application/json"},
        )
        assert answer.status_code == 202
        raw = await phone.socket.recv()
    assert data in raw


async def test_many_posts_at_once_arrive_in_the_order_of_their_positions(server: Server) -> None:
    async with await server.live("alice") as phone:
        sent = await asyncio.gather(*(server.publish("user:alice", data=n) for n in range(200)))
        events = await phone.events(200)
    assert [e["position"] for e in events] == sorted(sent)
    by_position = {e["position"]: e["data"] for e in events}
    assert [by_position[p] for p in sent] == list(range(200))


async def test_a_long_backlog_comes_from_the_log_page_by_page(start: Start) -> None:
    server = await start(recent_bytes=2000)
    unit = Unit([Draft("user:alice", "test", '"' + "x" * 3000 + '"')] * 900)
    await server.service.appender.append(unit)
    async with await server.live("alice") as phone:
        assert len(positions(phone)) == 900
        assert positions(phone) == sorted(set(positions(phone)))


async def test_a_restart_in_between_loses_nothing(start: Start) -> None:
    first = await start()
    position = await first.publish("user:alice", data="kept")
    url = first.service.settings.database_url.get_secret_value()
    async with serving(database_url=url) as second, await second.live("alice") as phone:
        assert positions(phone) == [position]


async def test_another_instance_delivers_what_this_one_accepted(start: Start) -> None:
    one, two = await start(), await start()
    async with await two.live("alice") as phone:
        position = await one.publish("user:alice")
        assert (await phone.until("event"))["position"] == position


async def test_a_position_this_log_never_gave_is_told_with_a_gap(server: Server) -> None:
    position = await server.publish("user:alice")
    async with await server.live("alice", after=position + 1000) as phone:
        gap = next(f for f in phone.frames if f["type"] == "gap")
        assert gap["reason"] == "unknown_position"
        assert positions(phone) == [position]


async def test_a_cursor_below_the_retention_floor_is_told_with_a_gap(
    server: Server, db: asyncpg.Connection
) -> None:
    async with await server.live("alice"):
        pass
    lost, kept = [await server.publish("user:alice") for _ in range(2)]
    await db.execute("delete from tidings.events where position <= $1", lost)
    await db.execute("update tidings.log set floor = $1", lost)
    server.service.follower.hub.recent.forget(kept)
    async with await server.live("alice", after=0) as phone:
        gap = next(f for f in phone.frames if f["type"] == "gap")
        assert gap == {"type": "gap", "from": 0, "to": lost, "reason": "retention"}
        assert positions(phone) == [kept]


async def test_frames_are_json_text_with_type_first(server: Server) -> None:
    async with await server.device("alice") as phone:
        raw = await phone.socket.recv()
    assert isinstance(raw, str)
    assert next(iter(json.loads(raw))) == "type"
