"""The inbox: what it shows and to whom, what is read, and that every device agrees on the badge."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import httpx
import pytest

from service.store import inbox
from service.stream.follower import Follower
from tests.harness import ADMIN_KEY, PATIENCE, Device, Server, eventually, token

Start = Callable[..., Awaitable[Server]]
APPEND_LOCK = 32766977284925299


class Owner:
    """A user at their inbox."""

    def __init__(self, server: Server, user: str, **claims: Any) -> None:
        self.http = server.http
        self.headers = {"Authorization": f"Bearer {token(user, **claims)}"}

    async def ask(self, path: str = "", **params: Any) -> httpx.Response:
        return await self.http.get(f"/v1/inbox{path}", params=params, headers=self.headers)

    async def page(self, **params: Any) -> list[int]:
        answer = await self.ask(**params)
        assert answer.status_code == 200, answer.text
        return [item["position"] for item in answer.json()["data"]]

    async def unread(self) -> dict[str, Any]:
        """Return the answer but for its position."""
        answer: dict[str, Any] = (await self.ask("/unread")).json()
        assert answer.pop("position") >= 0
        return answer

    async def mark(self, **what: Any) -> httpx.Response:
        return await self.http.post("/v1/inbox/read", json=what, headers=self.headers)


def reads(device: Device) -> list[dict[str, Any]]:
    return [frame for frame in device.frames if frame["type"] == "inbox_read"]


async def change(db: asyncpg.Connection, position: int, **columns: Any) -> None:
    for column, value in columns.items():
        await db.execute(f"update tidings.events set {column} = $2 where position = $1", position, value)


async def look_at_most(db: asyncpg.Connection, entries: int) -> None:
    """Let a page or a count look at so many entries instead of 1,000."""
    for function in ("newest", "oldest", "within"):
        source: str = await db.fetchval("select pg_get_functiondef($1::regproc)", f"tidings.inbox_{function}")
        assert "most constant integer := 1000" in source
        await db.execute(source.replace("1000", str(entries)))


# --- What it shows


async def test_it_shows_what_was_sent_to_the_user_and_to_everyone_since_the_first_connect(
    server: Server,
) -> None:
    alice = Owner(server, "alice")
    before = await server.publish("user:alice", "early", {"n": 1})
    await server.publish("everyone", "before they came")
    async with await server.live("alice"):
        pass
    await server.join("red", "alice")
    to_all = await server.publish("everyone", "news")
    for other in ("user:bob", "room:red"):
        await server.publish(other)
    own = await server.publish("user:alice", "order.shipped", {"order": 17})

    answer = await alice.ask()
    assert answer.json() == {
        "data": [
            {"position": own, "id": str(own), "to": "user:alice", "event": "order.shipped",
             "data": {"order": 17}, "time": answer.json()["data"][0]["time"], "read": False},
            {"position": to_all, "id": str(to_all), "to": "everyone", "event": "news", "data": None,
             "time": answer.json()["data"][1]["time"], "read": False},
            {"position": before, "id": str(before), "to": "user:alice", "event": "early", "data": {"n": 1},
             "time": answer.json()["data"][2]["time"], "read": False},
        ],
        "next_cursor": None,
        "has_more": False,
    }  # fmt: skip
    assert (await alice.ask("/unread")).json() == {"unread": 3, "position": own}
    assert await alice.page(order="oldest") == [before, to_all, own]
    assert await alice.page(after=before) == [to_all, own], "oldest first, as a room's history"
    assert await alice.page(after=before, order="newest") == [own, to_all]
    assert await alice.page(after=before, before=own) == [to_all]
    assert await alice.page(type="order.shipped") == [own]
    assert await alice.page(type="order.*") == [own]
    assert await alice.page(type="order") == []


async def test_a_first_look_counts_as_the_first_connect(server: Server, db: asyncpg.Connection) -> None:
    await server.publish("everyone")
    own = await server.publish("user:alice")
    alice = Owner(server, "alice")
    assert await alice.page() == [own]
    later = await server.publish("everyone")
    assert await alice.page() == [later, own]
    assert await db.fetch("select * from tidings.users") == [("alice", own)]


async def test_what_is_excluded_expired_recalled_or_replaced_is_left_out(
    server: Server, db: asyncpg.Connection
) -> None:
    alice, bob = Owner(server, "alice"), Owner(server, "bob")
    assert await alice.page() == await bob.page() == []
    kept = await server.publish("everyone")
    excluded = await server.publish("everyone", exclude=["alice"])
    recalled, expired = await server.publish("user:alice"), await server.publish("user:alice")
    await db.fetchval("select tidings.recall(0, $1)", recalled)
    await db.execute("update tidings.events set expires_at = now() where position = $1", expired)
    old, new = await server.publish("user:alice"), await server.publish("user:alice")
    elsewhere = await server.publish("everyone")
    for position in (old, new, elsewhere):
        await change(db, position, collapse_key="order-17")
    not_for_alice = await server.publish("user:alice", exclude=["alice"])
    await change(db, not_for_alice, collapse_key="order-17")

    assert await alice.page() == [elsewhere, new, kept]
    assert await bob.page() == [elsewhere, excluded, kept]
    assert (await alice.unread(), await bob.unread()) == ({"unread": 3}, {"unread": 3})

    await db.execute("update tidings.events set expires_at = now() where position = $1", new)
    assert await alice.page() == [elsewhere, old, kept], "nothing stands in its place any more"
    assert await alice.unread() == {"unread": 3}
    await db.execute("update tidings.log set floor = $1", old)
    assert await alice.page() == [elsewhere]
    assert await alice.unread() == {"unread": 1}


async def test_pages_lead_to_each_other(server: Server) -> None:
    alice = Owner(server, "alice")
    sent = [await server.publish("user:alice", "chat.said") for _ in range(7)]
    await server.publish("user:alice", "order")
    for order, wanted in (("newest", sent[::-1]), ("oldest", sent)):
        answer = await alice.ask(limit=3, type="chat.*", order=order, after=sent[0] - 1)
        found = []
        while True:
            page = answer.json()
            found.append([item["position"] for item in page["data"]])
            assert page["has_more"] == ("Link" in answer.headers) == (page["next_cursor"] is not None)
            if not page["has_more"]:
                break
            assert answer.links["next"]["url"].startswith("/v1/inbox?")
            answer = await server.http.get(answer.links["next"]["url"], headers=alice.headers)
        assert found == [wanted[:3], wanted[3:6], wanted[6:]]


async def test_a_page_may_end_before_it_is_full(server: Server, db: asyncpg.Connection) -> None:
    """Whoever asks for a rare type does not have the whole log read at once."""
    await look_at_most(db, 10)
    alice = Owner(server, "alice")
    rare = await server.publish("user:alice", "rare")
    await db.execute(
        "select tidings.append_one(0, 'event', 'user:alice', 'common', '1') from generate_series(1, 25)"
    )
    answer, looks = await alice.ask(type="rare"), 1
    while answer.json()["data"] == []:
        answer = await server.http.get(answer.links["next"]["url"], headers=alice.headers)
        looks += 1
    assert ([item["position"] for item in answer.json()["data"]], looks) == ([rare], 3)
    assert answer.json()["has_more"] is False


# --- What is read


async def test_all_devices_are_told_live_and_in_replay(server: Server) -> None:
    alice = Owner(server, "alice")
    async with (
        await server.live("alice", device="phone") as phone,
        await server.live("alice", device="laptop") as laptop,
        await server.live("bob") as bob,
    ):
        first, second, third = [await server.publish("user:alice") for _ in range(3)]
        some = (await alice.mark(positions=[third, first])).json()
        fourth = await server.publish("everyone")
        rest = (await alice.mark(up_to=third)).json()
        assert (some["unread"], rest["unread"]) == (1, 1)
        wanted = [
            {"type": "inbox_read", "position": some["position"], "positions": [first, third], "unread": 1},
            {"type": "inbox_read", "position": rest["position"], "up_to": third, "unread": 1},
        ]
        for device in (phone, laptop):
            await device.until("inbox_read", position=rest["position"])
            assert reads(device) == wanted
            in_order = [f["position"] for f in device.frames if f["type"] in ("event", "inbox_read")]
            assert in_order == [first, second, third, some["position"], fourth, rest["position"]]
        await bob.quiet()
        assert reads(bob) == []
    async with await server.live("alice", device="watch", after=0) as watch:
        assert reads(watch) == wanted
    shown = {item["position"]: item["read"] for item in (await alice.ask()).json()["data"]}
    assert shown == {first: True, second: True, third: True, fourth: False}


async def test_an_instance_that_was_not_asked_tells_its_devices_too(start: Start) -> None:
    one, other = await start(), await start()
    async with await other.live("alice") as phone:
        position = await one.publish("user:alice")
        marked = (await Owner(one, "alice").mark(up_to=position)).json()
        assert await phone.until("inbox_read") == {
            "type": "inbox_read", "position": marked["position"], "up_to": position, "unread": 0,
        }  # fmt: skip


async def test_marking_again_changes_nothing_and_says_the_same(
    server: Server, db: asyncpg.Connection
) -> None:
    alice = Owner(server, "alice")
    await server.publish("user:bob")
    assert (await alice.mark(up_to=2**53)).json() == {"unread": 0, "position": None}
    first, second = await server.publish("user:alice"), await server.publish("user:alice")
    none = await alice.mark(positions=[second + 1, second + 10_000])
    assert none.json() == {"unread": 2, "position": None}, "nothing of theirs, nothing there"

    done = await alice.mark(positions=[second, second])
    assert done.json() == {"unread": 1, "position": second + 1}
    for what in ({"positions": [second]}, {"up_to": first - 1}):
        again = await alice.mark(**what)
        assert (again.status_code, again.json()) == (200, done.json())
    assert (await alice.mark(up_to=first)).json() == {"unread": 0, "position": second + 2}
    await server.publish("user:bob")
    assert (await alice.mark(up_to=2**53)).json() == {"unread": 0, "position": second + 2}
    assert await db.fetchval("select count(*) from tidings.events where kind = 'read'") == 2


async def test_what_is_still_to_come_cannot_be_marked(server: Server) -> None:
    alice = Owner(server, "alice")
    async with await server.live("alice") as phone:
        head = await server.publish("user:alice")
        await alice.mark(up_to=2**53)
        assert (await phone.until("inbox_read"))["up_to"] == head
        later = await server.publish("user:alice")
        assert later < 2**53
        assert await alice.unread() == {"unread": 1}


async def test_what_others_got_cannot_be_marked(server: Server, db: asyncpg.Connection) -> None:
    alice = Owner(server, "alice")
    early = await server.publish("everyone")
    async with await server.live("alice"):
        pass
    hidden = await server.publish("user:alice", exclude=["alice"])
    others = [await server.publish(to) for to in ("user:bob", "room:red")]
    assert (await alice.mark(positions=[early, hidden, *others])).json()["position"] is None
    assert await db.fetchval("select count(*) from tidings.reads") == 0


async def test_read_state_is_one_range_between_runs_of_unread_events(
    server: Server, db: asyncpg.Connection
) -> None:
    """However many are read one by one, in whatever order, and whatever else was at the address."""
    alice = Owner(server, "alice")
    positions = [await server.publish("user:alice") for _ in range(9)]
    for n in (8, 1, 3, 0, 2, 7):
        await server.join(f"r{n}", "alice")
        await alice.mark(positions=[positions[n]])
    left = [positions[n] for n in (4, 5, 6)]
    state = await db.fetchval("select tidings.reads.read::text from tidings.reads where user_id = 'alice'")
    head = await db.fetchval("select tidings.head()")
    assert state == f"{{[0,{left[0]}),[{left[-1] + 1},{head + 1})}}"
    await alice.mark(positions=left)
    assert await db.fetchval("select count(*) from tidings.reads r, unnest(r.read)") == 1


async def test_a_count_ends_after_a_thousand_entries_and_says_so(
    server: Server, db: asyncpg.Connection
) -> None:
    alice = Owner(server, "alice")
    assert await alice.unread() == {"unread": 0}
    many = "select tidings.append_one(0, 'event', $1, 't', '1') from generate_series(1, $2)"
    first = (await db.fetch(many, "user:alice", 500))[0][0]
    await db.fetch(many, "everyone", 501)
    assert await alice.unread() == {"unread": 1000, "more": True}
    async with await server.live("alice") as phone:
        answer = (await alice.mark(positions=[first])).json()
        assert answer == {"unread": 1000, "more": True, "position": first + 1001}
        assert (await phone.until("inbox_read")) == {
            "type": "inbox_read", "positions": [first], **answer,
        }  # fmt: skip
    await alice.mark(up_to=first + 9)
    assert await alice.unread() == {"unread": 991}


async def test_more_than_a_thousand_runs_are_refused_and_nothing_is_written(
    server: Server, db: asyncpg.Connection
) -> None:
    """Else every other event of a large inbox would cost each later count a look of its own."""
    alice = Owner(server, "alice")
    many = "select tidings.append_one(0, 'event', 'user:alice', 't', '1') from generate_series(1, 2010)"
    positions = [row[0] for row in await db.fetch(many)]
    assert (await alice.mark(positions=positions[1:1980:2])).status_code == 200
    before = await db.fetchval("select tidings.head()")
    refused = await alice.mark(positions=positions[1981::2])
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert await db.fetchval("select tidings.head()") == before
    assert (await alice.mark(up_to=positions[100])).status_code == 200
    assert (await alice.mark(positions=positions[1981::2])).status_code == 200


# --- At once


async def waiting(db: asyncpg.Connection) -> int:
    count: int = await db.fetchval(
        "select count(*) from pg_locks where locktype = 'advisory' and not granted"
        " and database = (select oid from pg_database where datname = current_database())"
    )
    return count


async def test_two_devices_that_mark_at_once_lose_nothing(server: Server, db: asyncpg.Connection) -> None:
    alice = Owner(server, "alice")
    assert await alice.page() == []
    positions = [await server.publish("user:alice") for _ in range(3)]
    async with db.transaction():
        mark = "select unread from tidings.mark_read(0, 'alice', null, $1)"
        assert await db.fetchval(mark, positions[:1]) == 2
        other = asyncio.create_task(alice.mark(positions=positions[1:2]))
        await eventually(lambda: waiting(db))
    assert (await other).json()["unread"] == 1
    assert await alice.unread() == {"unread": 1}


async def test_a_count_is_right_although_it_was_taken_before_the_lock(
    server: Server, db: asyncpg.Connection
) -> None:
    """What comes between the count and the entry is in it."""
    alice = Owner(server, "alice")
    assert await alice.page() == []
    first, second = await server.publish("user:alice"), await server.publish("everyone")
    for address in ("user:alice", "everyone"):
        async with db.transaction():
            await db.fetchval("select tidings.append_one(0, 'event', 'user:bob', 't', '1')")
            mark = asyncio.create_task(alice.mark(positions=[first if address != "everyone" else second]))
            await eventually(lambda: waiting(db))
            await db.fetchval("select tidings.append_one(0, 'event', $1, 't', '1')", address)
        assert (await mark).json()["unread"] == 2


async def test_who_counts_or_marks_nothing_new_waits_for_no_append(
    server: Server, db: asyncpg.Connection
) -> None:
    alice = Owner(server, "alice")
    position = await server.publish("user:alice")
    done = (await alice.mark(up_to=position)).json()
    async with db.transaction():
        await db.execute("select pg_advisory_xact_lock($1)", APPEND_LOCK)
        async with asyncio.timeout(PATIENCE):
            assert (await alice.mark(up_to=position)).json() == done
            assert await alice.unread() == {"unread": 0}
            assert await alice.page() == [position]


async def test_every_count_is_right_at_its_position_whatever_happens_at_once(
    start: Start, db: asyncpg.Connection
) -> None:
    """Two devices mark while events come; afterwards the log itself tells what each count had to be."""
    server = await start(user_rate=0)
    alice = Owner(server, "alice")
    assert await alice.page() == []

    async def publish() -> None:
        for n in range(60):
            await server.publish("everyone" if n % 3 else "user:alice")

    async def mark(part: int) -> None:
        while not publishing.done():
            unread = [p for p in await alice.page(limit=20) if p % 3 == part]
            answer = await alice.mark(positions=unread) if unread else await alice.mark(up_to=2**53)
            assert answer.status_code == 200, answer.text

    publishing = asyncio.create_task(publish())
    await asyncio.gather(publishing, mark(0), mark(1), mark(2))

    unread: set[int] = set()
    checked = 0
    theirs = "address in ('user:alice', 'everyone')"
    for position, kind, data in await db.fetch(
        f"select position, kind, data from tidings.events where {theirs} order by position"
    ):
        if kind == "event":
            unread.add(position)
            continue
        told = json.loads(data)
        unread -= set(told.get("positions", ()))
        unread = {p for p in unread if p > told.get("up_to", 0)}
        assert told["unread"] == len(unread), position
        checked += 1
    assert checked > 10
    assert await alice.unread() == {"unread": len(unread)}


# --- Who may


async def test_only_a_believed_token_opens_an_inbox(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [("GET", ""), ("GET", "/unread"), ("POST", "/read")]

    async def statuses(authorization: str | None) -> set[int]:
        headers = {"Authorization": authorization or ""}
        answers = [
            await server.http.request(
                method, f"/v1/inbox{path}", headers=headers, json={"up_to": 1} if method == "POST" else None
            )
            for method, path in calls
        ]
        return {answer.status_code for answer in answers}

    good = f"Bearer {token('alice', jti='t1')}"
    assert await statuses(good) == {200}
    assert await statuses(f"Bearer {ADMIN_KEY}") == {403}
    for bad in (
        None,
        "Bearer x.y.z",
        "Bearer tk_no_key",
        f"Bearer {token('alice', exp=int(time.time()) - 1)}",
    ):
        assert await statuses(bad) == {401}, bad
    assert (await server.http.post("/v1/revocations", json={"jti": "t1"})).status_code == 201
    assert await statuses(good) == {401}
    other = f"Bearer {token('alice')}"
    assert await statuses(other) == {200}
    monkeypatch.setattr(Follower, "trusted", property(lambda self: False))
    assert await statuses(other) == {503}


@pytest.mark.parametrize(("credentials", "status"), [("x.y.z", 401), ("nothing", 401), (ADMIN_KEY, 403)])
async def test_the_token_is_asked_for_before_the_body(server: Server, credentials: str, status: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        f"POST /v1/inbox/read HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {credentials}\r\n"
        "Content-Type: application/json\r\nContent-Length: 20\r\n\r\n".encode()
    )
    async with asyncio.timeout(PATIENCE):
        assert (await reader.readline()).split()[1] == str(status).encode()
    writer.close()


BAD = [
    ({}, "#/"),
    ({"up_to": 1, "positions": [1]}, "#/"),
    ({"up_to": -1}, "#/up_to"),
    ({"up_to": 2**53 + 1}, "#/up_to"),
    ({"up_to": "1"}, "#/up_to"),
    ({"up_to": True}, "#/up_to"),
    ({"positions": []}, "#/positions"),
    ({"positions": list(range(1001))}, "#/positions"),
    ({"positions": [1, "2"]}, "#/positions/1"),
    ({"up_to": 1, "more": 1}, "#/more"),
]


@pytest.mark.parametrize(("what", "pointer"), BAD)
async def test_what_makes_no_sense_is_refused_by_name(
    server: Server, what: dict[str, Any], pointer: str
) -> None:
    refused = await Owner(server, "alice").mark(**what)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid")
    assert refused.json()["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize("query", [
    {"after": -1}, {"before": "x"}, {"limit": 0}, {"limit": 1001}, {"order": "up"}, {"type": "a*b"},
    {"type": ""}, {"type": "\0"}, {"after": 2**53 + 1},
])  # fmt: skip
async def test_a_query_that_makes_no_sense_is_refused_by_name(server: Server, query: dict[str, Any]) -> None:
    refused = await Owner(server, "alice").ask(**query)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid")
    assert refused.json()["errors"][0]["pointer"] == f"#/{next(iter(query))}"


# --- What it costs

FILL = """
insert into tidings.events
    (position, kind, address, type, data, time, lead, collapse_key, expires_at, exclude)
select g, case when g % 50 = 7 then 'joined' else 'event' end,
       case when g % 100 = 0 then 'everyone'
            else 'user:u' || (hashint4(g) & 2147483647) % 100000 end,
       'order.shipped', '{"order": 17}', now(), 0,
       case when g % 10 = 3 then 'k' || g % 7 end,
       case when g % 20 = 4 then now() - interval '1 day' end,
       case when g % 100 = 50 then '["u1", "bob"]' end
from generate_series(1, 1000000) g
"""


async def touched(db: asyncpg.Connection, statement: str, *values: Any) -> int:
    """Return how many buffers a statement touches, with the plan that its functions come to in the end."""
    for _ in range(7):
        text = await db.fetchval(f"explain (analyze, buffers, format json) {statement}", *values)
    plan = json.loads(text)[0]["Plan"]
    blocks: int = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    return blocks


async def test_a_page_and_a_count_touch_little_of_a_long_log(db: asyncpg.Connection) -> None:
    """A million events of 100,000 users, 10,000 of them to everyone."""
    await db.execute(FILL)
    await db.execute("select setval('tidings.position', 1000000)")
    await db.execute("analyze tidings.events")
    await db.execute("insert into tidings.users values ('u42', 0)")
    for order, direction in (("newest", "desc"), ("oldest", "asc")):
        page = inbox.PAGE.format(order=order, direction=direction)
        for beyond in (0, 500_000):
            for pattern in ((None, ""), ("order.shipped", None)):
                assert await touched(db, page, "u42", 0, beyond, 2**53 - beyond, 101, *pattern) < 1_000
        assert await touched(db, page, "u42", 0, 0, 2**53, 101, "rare", None) < 2_500
        assert await touched(db, page, "u43", 1_000_000, 0, 2**53, 101, None, "") < 200
    assert await touched(db, inbox.UNREAD, "u43", 1_000_000) < 100
    assert await touched(db, inbox.UNREAD, "u42", 0) < 2_500
    for upto, bound in ((990_000, 500), (1_000_000, 100)):
        await db.execute("select * from tidings.mark_read(0, 'u42', $1, null)", upto)
        assert await touched(db, inbox.UNREAD, "u42", 0) < bound
