"""Several instances, which tell each other at once what happens: by PostgreSQL and by Redis."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import msgspec
import pytest
from redis.asyncio import Redis

from service.domain.errors import TooLarge
from service.domain.messages import Closed, Envelope, Ephemeral, opened, sealed, written
from service.store import log as store
from service.stream import courier as couriers
from service.stream.follower import Follower
from tests.harness import Server, eventually
from tests.redis import RedisServer

Start = Callable[..., Awaitable[Server]]


@pytest.fixture(params=["postgres", "redis"])
async def two(
    request: pytest.FixtureRequest, start: Start, redis_server: RedisServer
) -> tuple[Server, Server]:
    """Two instances that know of each other."""
    more = {"redis_url": redis_server.url} if request.param == "redis" else {}
    here, there = await start(**more), await start(**more)
    await acquainted(here, there)
    return here, there


async def acquainted(*servers: Server) -> None:
    for server in servers:
        others = {s.service.instance for s in servers} - {server.service.instance}
        await eventually(lambda s=server, o=others: s.service.courier.others == o and listens(s))


def listens(server: Server) -> bool:
    return server.service.metrics.notifier_listening._value.get() == 1


def outcomes(server: Server, outcome: str) -> float:
    return server.service.metrics.notifier_outcomes.labels(outcome)._value.get()


def stop_polling(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an instance trust what it knows of the log, and find out nothing by itself."""
    follower = server.service.follower

    async def confirm(_: Any) -> None:
        follower._confirmed = asyncio.get_running_loop().time()

    monkeypatch.setattr(follower, "_confirm", confirm)


async def whisper(
    server: Server, to: str | list[str], type: str = "test", data: Any = None, **more: Any
) -> None:
    event = {"to": to, "type": type, "data": data, "ephemeral": True, **more}
    answer = await server.http.post("/v1/events", json=event)
    assert answer.status_code == 202, answer.text


async def revoked_everywhere(server: Server) -> bool:
    done = (await server.http.post("/v1/revocations", json={"user": "alice"})).json()
    return bool(done["complete"])


async def test_an_event_reaches_the_other_instances_devices_without_a_look_at_the_log(
    two: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = two
    async with await there.live("alice") as phone:
        stop_polling(there, monkeypatch)

        async def never(*_: Any) -> Any:
            raise AssertionError("it was read")

        monkeypatch.setattr(store, "between", never)
        positions = [await here.publish("user:alice", data={"n": n, "bell": "\U0001f514"}) for n in range(20)]
        frames = await phone.events(20)
    assert [f["position"] for f in frames] == positions
    assert [f["data"] for f in frames] == [{"n": n, "bell": "\U0001f514"} for n in range(20)]


async def test_what_is_too_large_to_be_carried_is_read_at_once(
    two: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = two
    async with await there.live("alice") as phone:
        stop_polling(there, monkeypatch)
        large = "x" * 30_000
        await here.http.post("/v1/events/batch", json={"events": [
            {"to": "user:alice", "type": "large", "data": large} for _ in range(5)
        ]})  # fmt: skip
        assert [f["data"] for f in await phone.events(5)] == [large] * 5


async def test_memberships_reads_and_recalls_come_at_once_too(
    two: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = two
    async with await there.live("alice") as phone:
        stop_polling(there, monkeypatch)
        await here.join("r", "alice")
        await phone.until("joined_room", room="r")
        position = await here.publish("room:r")
        await phone.until("event", position=position)
        await here.http.delete(f"/v1/events/{position}")
        await phone.until("recalled", recalled=position)


async def test_what_comes_due_comes_at_once_by_whoever_moves_it(two: tuple[Server, Server]) -> None:
    here, there = two
    async with await there.live("alice") as phone, await here.live("alice", device="b") as other:
        await whisper(here, "user:alice")
        answer = await here.http.post("/v1/events", json={
            "to": "user:alice", "type": "later", "deliver_at": "2020-01-01T00:00:00Z"})  # fmt: skip
        assert answer.status_code == 202
        await phone.until("event", event="later")
        await other.until("event", event="later")


async def test_an_order_counts_what_every_instance_closed(two: tuple[Server, Server]) -> None:
    here, there = two
    devices = [await s.live("alice", device=f"{n}") for n, s in enumerate((here, there, there))]
    answer = (await here.http.post("/v1/revocations", json={"user": "alice"})).json()
    assert (answer["closed"], answer["complete"]) == (3, True)
    assert [await d.closed() for d in devices] == [4001] * 3


async def test_an_instance_that_does_not_tell_makes_the_count_incomplete(two: tuple[Server, Server]) -> None:
    here, there = two
    there.service.courier.send = lambda _: None
    async with await there.live("alice") as phone:
        answer = (await here.http.post("/v1/revocations", json={"user": "alice"})).json()
        assert (answer["closed"], answer["complete"]) == (0, False)
        assert await phone.closed() == 4001


async def test_a_connection_elsewhere_is_closed_and_counted(two: tuple[Server, Server]) -> None:
    here, there = two
    async with await there.device("alice") as phone:
        welcome = await phone.until("welcome")
        answer = (await here.http.delete(f"/v1/connections/{welcome['connection']}")).json()
        assert (answer["closed"], answer["complete"]) == (1, True)
        assert await phone.closed() == 4010


async def test_ephemeral_events_reach_who_is_connected_elsewhere(two: tuple[Server, Server]) -> None:
    here, there = two
    await here.join("r", "alice", "bob")
    claims = {"rooms": ["r"], "publish": ["room:r"]}
    async with (
        await there.live("alice", claims=claims) as alice,
        await here.live("bob", claims=claims) as bob,
        await there.live("bob", device="other") as other,
        await there.live("carol") as carol,
    ):
        await whisper(here, "room:r", "typing", {"who": "x"})
        for device in (alice, bob, other):
            frame = await device.until("event")
            assert (frame["event"], frame["data"], frame["ephemeral"]) == ("typing", {"who": "x"}, True)
            assert "position" not in frame
        await alice.ask("publish", to="room:r", event="cursor", data=1, ephemeral=True, echo=False)
        assert (await bob.until("event"))["from"] == "alice"
        assert (await other.until("event"))["event"] == "cursor"
        await whisper(here, "room:r", "nudge", exclude=["bob"])
        await here.publish("everyone", "end")
        for device, due in ((alice, ["nudge", "end"]), (bob, ["end"]), (carol, ["end"])):
            assert [f["event"] for f in await device.events(len(due))] == due


async def test_an_ephemeral_event_with_many_addresses_is_told_in_parts(two: tuple[Server, Server]) -> None:
    here, there = two
    users = [f"{n:03}-{'u' * 200}" for n in range(40)]
    async with await there.live(users[0]) as first, await there.live(users[39]) as last:
        await whisper(here, [f"user:{u}" for u in users], "typing", "x" * 1000)
        assert (await first.until("event"))["to"] == f"user:{users[0]}"
        assert (await last.until("event"))["to"] == f"user:{users[39]}"


async def test_an_ephemeral_event_that_cannot_be_told_is_refused_before_anything_is_done(
    server: Server,
) -> None:
    async with await server.live("alice", claims={"publish": ["user:*"]}) as phone:
        events = [
            {"to": "user:alice", "type": "kept"},
            {"to": "user:alice", "type": "typing", "data": "x" * 4096, "ephemeral": True},
        ]
        answer = await server.http.post("/v1/events/batch", json={"events": events})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (413, "#/events/1/data")
        refused = await phone.ask("publish", to="user:alice", event="x", data="x" * 4096, ephemeral=True)
        assert (refused["type"], refused["code"]) == ("error", "too_large")
        assert await phone.quiet() == []


async def test_an_ephemeral_event_does_not_overtake_a_revocation(
    two: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The revocation's own envelope is lost, and so is the next look at the log."""
    here, there = two
    async with await there.live("alice") as phone, await there.live("bob") as bob:
        heard = there.service.courier._take_in
        lost: list[Envelope] = []
        there.service.courier._take_in = lost.append
        stop_polling(there, monkeypatch)
        await here.http.post("/v1/revocations", json={"user": "alice"})
        there.service.courier._take_in = heard
        await whisper(here, ["user:alice", "user:bob"], "secret")
        assert (await bob.until("event"))["event"] == "secret"
        assert await phone.closed() == 4001
        assert not any(f["type"] == "event" for f in phone.frames)
        assert lost


async def test_a_message_from_beyond_what_can_be_read_is_dropped(
    two: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = two
    monkeypatch.setattr(couriers, "PATIENCE", 0.2)
    async with await there.live("alice") as phone:
        stop_polling(there, monkeypatch)

        async def nothing(*_: Any) -> Any:
            await asyncio.Event().wait()

        monkeypatch.setattr(store, "between", nothing)
        monkeypatch.setattr(Follower, "known", property(lambda follower: follower.hub.position + 5))
        await whisper(here, "user:alice")
        await eventually(lambda: outcomes(there, "late") == 1)
        assert await phone.quiet() == []


async def test_nobody_else_can_tell_an_instance_anything(
    two: tuple[Server, Server], database_url: str, redis_server: RedisServer
) -> None:
    here, there = two
    follower = there.service.follower
    forged = Ephemeral(["everyone"], "phish", b"1", "")  # type: ignore[arg-type]
    envelope = Envelope("evil", follower.lineage, follower.hub.position + 100, (), (written(forged),))  # type: ignore[arg-type]
    async with await there.live("alice") as phone:
        await there.service.courier._notifier.publish(
            [sealed(envelope, b"a guess"), "", "nonsense", "é" * 40]
        )
        await eventually(lambda: outcomes(here, "refused") == outcomes(there, "refused") == 4)
        assert await phone.quiet() == []
        assert follower.hub.position < envelope.head


async def test_where_the_log_went_back_nobody_is_told_of_what_was_lost(
    two: tuple[Server, Server], db: asyncpg.Connection
) -> None:
    here, there = two
    kept = await here.publish("user:alice")
    lost = await here.publish("user:alice")
    await there.reached(lost)
    await db.execute("delete from tidings.events where position = $1", lost)
    await eventually(lambda: all(s.service.follower.hub.position == kept for s in two))
    async with await there.live("alice", after=kept) as phone:
        await whisper(here, "user:alice", "typing")
        await phone.until("event", event="typing")
        assert there.service.follower.hub.position == kept
        # Nor of what comes with words that were on their way when it happened.
        past = Envelope(
            "other", there.service.follower.lineage - 1, lost + 5, (), (written(Closed("a", "b", 1)),)
        )  # type: ignore[arg-type]
        late = outcomes(there, "late")
        there.service.courier._take_in(past)
        await eventually(lambda: outcomes(there, "late") > late)
        assert there.service.follower._tail.known == kept


async def test_what_is_no_text_is_refused_like_all_that_is_not_sealed(
    start: Start, redis_server: RedisServer
) -> None:
    server = await start(redis_url=redis_server.url)
    await eventually(lambda: listens(server))
    channel = server.service.courier._notifier._channel
    async with Redis.from_url(redis_server.url) as redis:
        await redis.publish(channel, b"\xff\xfe")
    await eventually(lambda: outcomes(server, "refused") == 1)


def test_an_ephemeral_event_fits_by_its_bytes_not_its_characters() -> None:
    addresses = ["user:" + "a" * 200, "user:" + "\U0001f600" * 150]
    data = msgspec.Raw(b'"' + b"x" * 3500 + b'"')
    with pytest.raises(TooLarge):
        Ephemeral(addresses, "t", data, "").check_size()


async def test_who_is_alone_tells_nobody(server: Server) -> None:
    await eventually(lambda: outcomes(server, "sent") == 1)  # that it is there
    for _ in range(20):
        await server.publish("user:alice")
        await whisper(server, "user:alice")
    assert outcomes(server, "sent") == 1


async def test_what_a_past_history_of_the_log_says_is_not_believed(
    two: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failover began another: positions that were told before may be lost, or somebody else's now."""
    here, there = two
    follower = there.service.follower
    stood = follower.hub.position
    here.service.follower.lineage -= 1
    position = await here.publish("user:alice")
    await eventually(lambda: follower.hub.position == position)  # read, not carried
    monkeypatch.setattr(Follower, "known", property(lambda follower: follower.hub.position + 10))
    here.service.courier._due.set()
    heard = outcomes(there, "heard")
    await eventually(lambda: outcomes(there, "heard") > heard)
    assert stood < follower.hub.position == follower._tail.known == position


async def test_a_newer_versions_words_do_no_harm(two: tuple[Server, Server]) -> None:
    here, there = two
    courier, follower = here.service.courier, there.service.follower
    async with await there.live("alice") as phone:
        known = Ephemeral(["user:alice"], "known", b"1", "now")  # type: ignore[arg-type]
        courier._messages += [b'{"kind":"new","of":[1]}', written(known), b'{"kind":"closed"}']
        courier._appended += [b'[0,1,[["new"]]]', b"[9]"]
        courier._due.set()
        assert (await phone.until("event"))["event"] == "known"
        position = await here.publish("user:alice")
        await phone.until("event", position=position)
        assert follower.trusted


async def test_redis_away_costs_time_only(start: Start, tmp_path: Any) -> None:
    with RedisServer(tmp_path) as redis:
        here, there = await start(redis_url=redis.url), await start(redis_url=redis.url)
        await acquainted(here, there)
        async with await there.live("alice") as phone:
            redis.kill()
            sent = [await here.publish("user:alice") for _ in range(5)]
            assert [f["position"] for f in await phone.events(5)] == sent
            assert not await revoked_everywhere(here)
            assert await phone.closed() == 4001
            redis.start()
            await eventually(lambda: revoked_everywhere(here))


async def test_the_listening_connection_is_opened_again(start: Start, db: asyncpg.Connection) -> None:
    here, there = await start(), await start()
    await acquainted(here, there)
    await eventually(lambda: outcomes(here, "sent") and outcomes(there, "sent"))
    greeted = outcomes(here, "sent"), outcomes(there, "sent")
    ended = await db.fetchval(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity"
        " where datname = current_database() and query like 'LISTEN \"tidings:%'"
        " or datname = current_database() and query like 'select pg_notify%'"
    )
    assert ended == 2
    await eventually(lambda: outcomes(here, "sent") > greeted[0] and outcomes(there, "sent") > greeted[1])
    async with await there.live("alice") as phone:
        await whisper(here, "user:alice")
        await phone.until("event")


async def test_a_lease_ends_with_its_instance(start: Start, db: asyncpg.Connection) -> None:
    here, there = await start(), await start(drain_timeout=10.0)
    await acquainted(here, there)
    await there.parts["drain"]()
    rows = await db.fetch("select id from tidings.instances where seen_at > '-infinity'")
    assert [row["id"] for row in rows] == [here.service.instance]
    assert await revoked_everywhere(here)


def test_what_is_sealed_is_opened_by_the_same_key_only() -> None:
    closed = Closed("a", "b", 3)
    envelope = Envelope("me", 0, 7, (), (written(closed),))  # type: ignore[arg-type]
    text = sealed(envelope, b"key")
    assert opened(text, b"key") is not None
    assert opened(text, b"other") is None
    assert opened(text[:-1] + " ", b"key") is None
