"""A user who is erased is nowhere any more, and comes back as somebody new."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import asyncpg
import httpx
import pytest
from websockets.exceptions import InvalidStatus

from service.store import erasure
from service.store.audit import Actor
from service.stream import erasures
from tests.harness import PATIENCE, Server, eventually, token

Start = Callable[..., Awaitable[Server]]

ALICE = "alice o'hara"
SECRET_WORDS = "a secret that she told"
GRANTS: dict[str, Any] = {"rooms": ["*"], "publish": ["*"]}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasures, "GRACE", 0.3)
    monkeypatch.setattr(erasures, "EVERY", 0.05)


async def erase(server: Server, user: str = ALICE) -> dict[str, Any]:
    answer = await server.http.delete(f"/v1/users/{quote(user, safe='')}")
    assert answer.status_code == 202, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def erased(server: Server) -> None:
    """Wait until nothing is left to do."""

    async def done() -> bool:
        return (await server.http.get("/v1/erasures")).json()["data"] == []

    await eventually(done)


async def mentions(db: asyncpg.Connection, *words: str) -> set[tuple[str, str]]:
    """Return every table and column of text, of whatever kind, that has one of the words in it."""
    columns = await db.fetch(
        "select c.relname, a.attname from pg_attribute a join pg_class c on c.oid = a.attrelid"
        " join pg_type t on t.oid = a.atttypid"
        " where c.relnamespace = 'tidings'::regnamespace and c.relkind = 'r' and a.attnum > 0"
        " and t.typname in ('text', '_text', 'varchar', 'json', 'jsonb', 'bytea')"
    )
    found = set()
    for table, column in columns:
        for word in words:
            if await db.fetchval(
                f'select exists (select from tidings.{table} where position($1 in "{column}"::text) > 0)',
                word,
            ):
                found.add((table.rstrip("0123456789"), column))
    return found


async def a_life(server: Server) -> None:
    """Leave a trace of her wherever a user can leave one."""
    await server.join("made-by-api", ALICE, "bob")
    await server.http.delete(f"/v1/rooms/left-again/members/{ALICE}")
    await server.publish(f"user:{ALICE}", data={"to her": SECRET_WORDS})
    await server.publish("room:made-by-api", exclude=["bob", ALICE])
    async with await server.live(ALICE, claims=GRANTS, device="phone") as phone:
        for room in ("own", "left-again"):
            assert (await phone.ask("join_room", room=room))["type"] == "ok"
        await phone.ask("leave_room", room="left-again")
        for to in ("room:own", "room:made-by-api", "everyone", "user:bob", f"user:{ALICE}"):
            sent = await phone.ask(
                "publish", to=to, event="said", data=SECRET_WORDS, id=f"{SECRET_WORDS} {to}"
            )
            assert sent["type"] == "ok"
        sent = await phone.ask("publish", to="room:made-by-api", event="said", data=SECRET_WORDS, echo=False)
        assert (await server.http.delete(f"/v1/events/{sent['position']}")).status_code == 200
    async with await server.live(ALICE, device="laptop"):
        pass
    await (await server.live(ALICE, device="a phone of hers")).close()
    forgotten = f"/v1/users/{ALICE}/devices/a phone of hers"
    assert (await server.http.delete(forgotten)).status_code == 204
    mark = {"Authorization": f"Bearer {token(ALICE)}"}
    read = await server.http.post("/v1/inbox/read", json={"up_to": 10**9}, headers=mark)
    assert read.status_code == 200, read.text
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    for to in (f"user:{ALICE}", [f"user:{ALICE}", "user:bob"]):
        put_off = {
            "to": to, "type": "t", "deliver_at": later, "data": SECRET_WORDS * isinstance(to, str),
            "exclude": ["bob", ALICE],
        }  # fmt: skip
        assert (await server.http.post("/v1/events", json=put_off)).status_code == 202
    for exclude in ([ALICE], ["bob", ALICE]):
        put_off = {"to": "room:later", "type": "t", "deliver_at": later, "exclude": exclude}
        assert (await server.http.post("/v1/events", json=put_off)).status_code == 202
    await server.publish("room:made-by-api", data="kept")


async def _nobody_noted(db: asyncpg.Connection) -> bool:
    """Tell whether the ends of connections have been swept: they are kept for a moment."""
    return not await db.fetchval("select exists (select from tidings.connections)")


async def test_after_an_erasure_no_table_knows_the_user(server: Server, db: asyncpg.Connection) -> None:
    await a_life(server)
    before = await mentions(db, ALICE, SECRET_WORDS)
    assert {table for table, _ in before} >= {
        "events_",
        "users",
        "devices",
        "memberships",
        "idempotency_keys",
        "pending",
        "reads",
    }
    positions = [row[0] for row in await db.fetch("select position from tidings.events order by 1")]
    await erase(server)
    await erased(server)
    await eventually(lambda: _nobody_noted(db))
    # Their revocation stays, until no token can live that long; its entry, until retention takes it; and who
    # asked for the erasure is on record.
    assert await mentions(db, ALICE, SECRET_WORDS) == {
        ("revocations", "user_id"), ("events_", "data"), ("audit", "subject"),
    }  # fmt: skip
    assert await db.fetch("select addresses, exclude from tidings.pending order by id") == [
        (["user:bob"], '["bob"]'), (["room:later"], None), (["room:later"], '["bob"]'),
    ]  # fmt: skip
    named = await db.fetch("select kind, address from tidings.events where position($1 in data) > 0", ALICE)
    assert [tuple(row) for row in named] == [("revoked", "control")]
    assert await mentions(db, SECRET_WORDS) == set()
    after = [row[0] for row in await db.fetch("select position from tidings.events order by 1")]
    assert after[: len(positions)] == positions
    assert await db.fetchval("select data from tidings.events where data like '%kept%'") == '"kept"'
    assert await db.fetchval("select exclude from tidings.events where exclude is not null") == '["bob"]'


async def test_the_sockets_are_closed_and_the_tokens_are_dead(start: Start) -> None:
    one, two = await start(), await start()
    async with (
        await one.live(ALICE) as phone,
        await two.live(ALICE, device="b") as laptop,
        await two.live("bob") as bob,
    ):
        answer = await erase(one)
        assert (answer["closed"], answer["complete"]) == (2, True)
        assert await phone.closed() == 4001
        assert await laptop.closed() == 4001
        assert await bob.quiet() == []
    with pytest.raises(InvalidStatus):
        await two.live(ALICE, token=token(ALICE, iat=int(time.time()) - 5))


async def test_what_is_held_in_memory_is_forgotten_by_every_instance(start: Start) -> None:
    one, two = await start(), await start()
    await one.join("r", "bob")
    async with await one.live(ALICE, claims=GRANTS) as phone:
        said = (await phone.ask("publish", to="room:r", event="said", data=SECRET_WORDS))["position"]
    await two.reached(said)
    await erase(one)
    await erased(one)
    for server in (one, two):
        await eventually(lambda s=server: s.gateway.hub.recent.base > said)
        async with await server.live("bob", after=0) as bob:
            events = [f for f in bob.frames if f["type"] == "event"]
            assert [(f["position"], f["data"], f.get("from")) for f in events] == [(said, None, None)]
    history = (await two.http.get("/v1/rooms/r/events")).json()["data"]
    assert [(e["position"], e["data"]) for e in history] == [(said, None)]


async def test_who_comes_back_is_new(server: Server, db: asyncpg.Connection) -> None:
    await a_life(server)
    await erase(server)
    await erased(server)
    later = token(ALICE, iat=int(time.time()) + 5)
    for query in ({"after": 0}, {"device": "laptop"}, {"device": "never seen"}):
        async with await server.live(ALICE, token=later, **query) as phone:
            assert [f for f in phone.frames if f["type"] not in {"welcome", "live"}] == []
            assert phone.frames[0]["rooms"] == []
    new = await server.publish(f"user:{ALICE}")
    async with await server.live(ALICE, token=later) as phone:
        assert [f["position"] for f in phone.frames if f["type"] == "event"] == [new]


async def test_rooms_are_told_that_she_left(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasures, "GRACE", 3)
    await server.join("r", ALICE, "bob")
    async with await server.live("bob", claims={"rooms": ["*"], "presence": True}) as bob:
        await bob.ask("join_room", room="r", presence=True)
        await erase(server)
        await bob.until("user_left_room", room="r", user=ALICE)
    listed = (await server.http.get("/v1/rooms/r/members")).json()["data"]
    assert [m["user"] for m in listed] == ["bob"]


async def test_others_of_a_similar_name_are_left_alone(server: Server, db: asyncpg.Connection) -> None:
    await server.join("r", "al")
    async with await server.live("al", claims=GRANTS) as phone:
        await phone.ask("publish", to="room:r", event="said", data="mine", echo=False)
    await server.publish("room:r", exclude=["al", "ali"])
    before = await db.fetch("select * from tidings.events order by position")
    for user in ("a", "l", "ali%", "%", "al\\"):
        await erase(server, user)
    await erased(server)
    after = await db.fetch("select * from tidings.events order by position")
    assert after[: len(before)] == before
    assert await db.fetchval("select count(*) from tidings.memberships") == 1


async def test_an_erasure_in_many_steps_goes_on_where_another_left_off(
    start: Start, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "ROWS", 2)
    monkeypatch.setattr(erasures, "GRACE", 3600)
    one = await start()
    await a_life(one)
    await erase(one)
    assert (await one.http.get("/v1/erasures")).json()["data"][0]["user"] == ALICE
    # As an instance that dies after a few steps would leave it; two of the others go on.
    for _ in range(9):
        assert await erasure.erase_some(db, 0, ALICE)
    await start()
    monkeypatch.setattr(erasures, "GRACE", 0)
    await erased(one)
    assert await mentions(db, SECRET_WORDS) == set()
    assert await db.fetchval("select count(*) from tidings.events where kind = 'erased'") == 1


async def test_a_step_is_done_by_one_at_a_time(db: asyncpg.Connection, database_url: str) -> None:
    await erasure.erase(db, 0, Actor("k", "r"), ALICE, issued_before=1)
    other = await asyncpg.connect(database_url)
    async with db.transaction():
        assert await erasure.erase_some(db, 0, ALICE)
        async with asyncio.timeout(PATIENCE):
            assert not await erasure.erase_some(other, 0, ALICE)
    assert await other.fetchval("select count(*) from tidings.erasures") == 1
    await other.close()


async def test_what_a_dying_socket_still_leaves_behind_is_erased_too(
    server: Server, db: asyncpg.Connection
) -> None:
    """A handshake and a publish that were under way on another instance when the revocation came."""
    await erase(server)
    await db.fetch("select * from tidings.open_sessions($1, $2, '{null}', 10, 0)", [ALICE], ["late"])
    await db.execute(
        "select last from tidings.append(gen_random_uuid(), 0, false, '0', '{}', '{}', '{everyone}', '{t}',"
        " '{\"late\"}', '{}', '{}', array[$1], '{}', '{}', '{}', '{}', '{}', '{}')", ALICE
    )  # fmt: skip
    await erased(server)
    assert {table for table, _ in await mentions(db, ALICE, "late")} == {"revocations", "events_", "audit"}
    assert await db.fetchval("select count(*) from tidings.events where sender is not null") == 0


async def test_erasing_twice_and_erasing_nobody_do_no_harm(server: Server, db: asyncpg.Connection) -> None:
    await server.publish("user:bob", data="kept")
    for user in (ALICE, ALICE, "nobody", "with/a/slash"):
        await erase(server, user)
    await erased(server)
    assert await db.fetchval("select data from tidings.events where address = 'user:bob'") == '"kept"'
    assert await db.fetchval("select count(*) from tidings.events where kind = 'erased'") == 3


@pytest.mark.parametrize("scopes", [["publish", "read", "tokens"], None])
async def test_only_admins_erase(server: Server, db: asyncpg.Connection, scopes: list[str] | None) -> None:
    key = token(ALICE)
    if scopes:
        key = (await server.http.post("/v1/keys", json={"name": "p", "scopes": scopes})).json()["key"]
    async with httpx.AsyncClient(base_url=server.url, headers={"Authorization": f"Bearer {key}"}) as other:
        assert (await other.delete("/v1/users/alice")).status_code in {401, 403}
        assert (await other.get("/v1/erasures")).status_code in {401, 403}
    assert await db.fetchval("select count(*) from tidings.erasures") == 0


async def test_there_is_no_event_where_one_was_blanked(server: Server) -> None:
    position = await server.publish(f"user:{ALICE}")
    await erase(server)
    await erased(server)
    for method, below in (("GET", ""), ("GET", "/deliveries"), ("DELETE", "")):
        answer = await server.http.request(method, f"/v1/events/{position}{below}")
        assert answer.status_code == 404


@pytest.mark.parametrize("path", ["alice/devices", "alice/rooms", "alice/"])
async def test_what_stands_below_a_user_is_no_user_to_erase(
    server: Server, db: asyncpg.Connection, path: str
) -> None:
    answer = await server.http.delete(f"/v1/users/{path}")
    assert answer.status_code in {404, 405}
    assert await db.fetchval("select count(*) from tidings.erasures") == 0


async def test_a_user_that_cannot_be_is_refused(server: Server) -> None:
    answer = await server.http.delete("/v1/users/a%01b")
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/user")


async def test_a_mark_and_the_last_step_do_not_wait_for_each_other(
    db: asyncpg.Connection, database_url: str
) -> None:
    """Whoever came back too early marks something as read; neither may keep the appends waiting."""
    mark = "select * from tidings.mark_read(0, $1, $2, null)"
    await db.execute("select tidings.first_seen($1)", ALICE)
    for upto in range(2):
        await db.execute("select tidings.append_one(0, 'event', 'everyone', 't', '1')")
        if not upto:
            await db.execute(mark, ALICE, 100)
    await db.execute("update tidings.events set address = 'erased' where kind = 'read'")
    await erasure.erase(db, 0, Actor("k", "r"), ALICE, issued_before=1)
    await db.execute("update tidings.erasures set searched_to = tidings.head()")
    one, two = await asyncpg.connect(database_url), await asyncpg.connect(database_url)

    async def waiting(count: int) -> None:
        async def wait() -> bool:
            return bool(await db.fetchval(
                "select count(*) = $1 from pg_stat_activity"
                " where datname = current_database() and wait_event_type = 'Lock'", count
            ))  # fmt: skip

        await eventually(wait)

    async with db.transaction():
        await db.execute("select pg_advisory_xact_lock(32766977284925299)")
        marking = asyncio.create_task(one.fetchrow(mark, ALICE, 100))
        await waiting(1)
        erasing = asyncio.create_task(erasure.erase_some(two, 0, ALICE))
        await waiting(2)
    await asyncio.gather(marking, erasing)
    await one.close()
    await two.close()


async def test_who_comes_back_in_the_middle_of_it_can_connect(server: Server, db: asyncpg.Connection) -> None:
    """A step may come between the two rows of a handshake: it takes the user, and the device is made then."""
    await db.execute(
        "insert into tidings.devices (user_id, device, start, cursor) values ($1, 'default', 0, 0)", ALICE
    )
    async with await server.live(ALICE) as phone:
        seen = await server.publish("everyone")
        assert (await phone.events(1))[0]["position"] == seen
    async with await server.live(ALICE, after=0) as phone:
        assert [f["position"] for f in phone.frames if f["type"] == "event"] == [seen]
