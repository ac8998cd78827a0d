"""Rooms: who is in them, by whose word, and what that entitles to."""

from collections.abc import Awaitable, Callable

from tests.harness import ADMIN_KEY, Device, Server, token

Start = Callable[..., Awaitable[Server]]
CHAT = {"rooms": ["chat*"]}


def positions(device: Device) -> list[int]:
    return [f["position"] for f in device.frames if f["type"] == "event"]


async def test_members_get_the_rooms_events_and_others_do_not(server: Server) -> None:
    await server.join("orders", "alice")
    async with await server.live("alice") as alice, await server.live("bob") as bob:
        position = await server.publish("room:orders")
        await alice.until("event", position=position)
        assert await bob.quiet() == []


async def test_all_devices_follow_when_one_joins(server: Server) -> None:
    async with (
        await server.live("alice", claims=CHAT, device="phone") as phone,
        await server.live("alice", claims=CHAT, device="laptop") as laptop,
    ):
        assert (await phone.ask("join_room", room="chat"))["type"] == "ok"
        joined = await laptop.until("joined_room", room="chat")
        assert {"type": "joined_room", "room": "chat", "position": joined["position"]} in phone.frames
        position = await server.publish("room:chat")
        assert position > joined["position"]
        for device in (phone, laptop):
            await device.until("event", position=position)
        assert (await laptop.ask("leave_room", room="chat"))["type"] == "ok"
        await phone.until("left_room", room="chat")
        await server.publish("room:chat")
        assert await phone.quiet() == []
        assert await laptop.quiet() == []


async def test_a_token_without_the_grant_is_refused(server: Server) -> None:
    async with await server.live("alice", claims=CHAT) as phone:
        refused = await phone.ask("join_room", room="orders")
        assert (refused["type"], refused["code"]) == ("error", "forbidden")
        members = await phone.ask("room_members", room="orders")
        assert members["code"] == "forbidden"
        await server.publish("room:orders")
        assert await phone.quiet() == []


async def test_a_clients_membership_is_received_only_under_the_grant(server: Server) -> None:
    async with await server.live("alice", claims=CHAT) as phone:
        await phone.ask("join_room", room="chat")
    withheld = await server.publish("room:chat")
    async with await server.live("alice", device="bare") as bare:
        assert positions(bare) == []
        await server.publish("room:chat")
        assert await bare.quiet() == []
    async with await server.live("alice", claims=CHAT) as phone:
        assert withheld in positions(phone)


async def test_the_apis_membership_needs_no_grant_and_only_the_api_ends_it(server: Server) -> None:
    await server.join("chat", "alice")
    async with await server.live("alice", claims=CHAT) as phone:
        refused = await phone.ask("leave_room", room="chat")
        assert refused["code"] == "forbidden"
        gone = await server.http.delete("/v1/rooms/chat/members/alice")
        assert gone.json()[0]["member"] is False
        await phone.until("left_room", room="chat")


async def test_membership_counts_at_the_events_own_position(server: Server) -> None:
    async with await server.live("alice", ack="client"):
        pass
    await server.publish("room:orders", data="before")
    await server.join("orders", "alice")
    during = await server.publish("room:orders", data="during")
    await server.http.delete("/v1/rooms/orders/members/alice")
    await server.publish("room:orders", data="between")
    await server.join("orders", "alice")
    again = await server.publish("room:orders", data="again")
    async with await server.live("alice") as phone:
        assert positions(phone) == [during, again]
        kinds = [f["type"] for f in phone.frames if f["type"].endswith("_room")]
        assert kinds == ["joined_room", "left_room", "joined_room"]


async def test_rooms_named_in_the_token_are_joined_at_connect(server: Server) -> None:
    claims = {"rooms": ["chat*"], "join": ["chat.1", "secret"]}
    async with await server.device("alice", claims=claims) as phone:
        await phone.until("joined_room", room="chat.1")
        refused = await phone.until("error")
        assert refused["code"] == "forbidden"
    listed = await server.http.get("/v1/users/alice/rooms")
    assert [r["room"] for r in listed.json()["data"]] == ["chat.1"]
    async with await server.device("alice", claims=claims) as again:
        assert (await again.receive())["rooms"] == ["chat.1"]


async def test_a_join_for_this_connection_only_ends_with_it(server: Server) -> None:
    async with await server.live("alice", claims=CHAT) as phone:
        assert (await phone.ask("join_room", room="chat", durable=False))["type"] == "ok"
        position = await server.publish("room:chat")
        await phone.until("event", position=position)
        await phone.ask("leave_room", room="chat")
        await server.publish("room:chat")
        assert await phone.quiet() == []
        await phone.ask("join_room", room="chat", durable=False)
    missed = await server.publish("room:chat")
    async with await server.live("alice", claims=CHAT) as again:
        assert missed not in positions(again)


async def test_many_members_change_in_one_call(server: Server) -> None:
    added = await server.http.post("/v1/rooms/r/members", json={"add": ["a", "b", "c"]})
    assert [(c["user"], c["member"]) for c in added.json()] == [("a", True), ("b", True), ("c", True)]
    mixed = await server.http.post("/v1/rooms/r/members", json={"add": ["a", "d"], "remove": ["b"]})
    assert {(c["user"], c["member"]) for c in mixed.json()} == {("d", True), ("b", False)}
    page = (await server.http.get("/v1/rooms/r/members", params={"limit": 2})).json()
    assert [m["user"] for m in page["data"]] == ["a", "c"]
    assert page["has_more"] is True
    rest = await server.http.get("/v1/rooms/r/members", params={"after": page["next_cursor"]})
    assert [m["user"] for m in rest.json()["data"]] == ["d"]


async def test_a_client_publishes_as_itself_where_its_token_grants_it(server: Server) -> None:
    claims = {"rooms": ["chat"], "publish": ["room:chat", "user:bob"]}
    await server.join("chat", "alice", "bob")
    async with await server.live("alice", claims=claims) as alice, await server.live("bob") as bob:
        ok = await alice.ask("publish", to="room:chat", event="said", data={"x": 1})
        event = await bob.until("event")
        assert (event["from"], event["event"], event["data"]) == ("alice", "said", {"x": 1})
        assert (ok["position"], ok["id"]) == (event["position"], str(event["position"]))
        await alice.send("direct_message", to="bob", content="psst")
        direct = await bob.until("event")
        assert (direct["to"], direct["event"]) == ("user:bob", "direct_message")
        assert direct["data"] == {"content": "psst"}
        await alice.send("room_message", room="chat", content=[1])
        assert (await bob.until("event"))["event"] == "room_message"
        assert (await alice.ask("broadcast", content="no"))["code"] == "forbidden"
        assert (await alice.ask("publish", to="user:carol", event="x"))["code"] == "forbidden"


async def test_echo_false_spares_the_sending_device_and_no_other(server: Server) -> None:
    claims = {"rooms": ["chat"], "publish": ["room:chat"], "join": ["chat"]}
    async with (
        await server.live("alice", claims=claims, device="phone") as phone,
        await server.live("alice", claims=claims, device="laptop") as laptop,
    ):
        await phone.ask("join_room", room="chat")
        ok = await phone.ask("publish", to="room:chat", event="said", echo=False)
        await laptop.until("event", position=ok["position"])
        assert [f for f in await phone.quiet() if f["type"] == "event"] == []


async def test_a_retried_publish_with_an_id_is_stored_once(server: Server) -> None:
    claims = {"publish": ["user:alice"]}
    async with await server.live("alice", claims=claims) as phone:
        first = await phone.ask("publish", to="user:alice", event="e", id="m1")
        second = await phone.ask("publish", to="user:alice", event="e", id="m1")
        assert (first["position"], first["id"]) == (second["position"], "m1")
        assert [f["position"] for f in phone.frames if f["type"] == "event"] == [first["position"]]


async def test_presence_is_told_to_those_who_may_and_asked(server: Server) -> None:
    watcher = {"rooms": ["chat"], "presence": True}
    async with await server.live("alice", claims=watcher) as alice:
        assert (await alice.ask("join_room", room="chat", presence=True))["type"] == "ok"
        async with await server.live("bob", claims={**CHAT, "name": "Bob"}) as bob:
            await bob.ask("join_room", room="chat")
            await alice.until("user_joined_room", room="chat", user="bob")
            await bob.ask("leave_room", room="chat")
            await alice.until("user_left_room", room="chat", user="bob")
            await bob.ask("join_room", room="chat")
        await alice.until("user_disconnected", user="bob")
        async with await server.live("bob", claims={**CHAT, "name": "Bob"}):
            assert (await alice.until("user_connected", user="bob"))["info"] == {"name": "Bob"}
    async with await server.live("carol", claims=CHAT) as carol:
        refused = await carol.ask("join_room", room="chat", presence=True)
        assert refused["code"] == "forbidden"


async def test_presence_at_connect_shows_all_users(server: Server) -> None:
    async with await server.live("alice", claims={"presence": True}, presence="1") as alice:
        async with await server.live("bob"):
            await alice.until("user_connected", user="bob")
        await alice.until("user_disconnected", user="bob")


async def test_a_rooms_history_is_for_readers_and_for_clients_with_the_grant(server: Server) -> None:
    sent = [await server.publish("room:chat", data=n) for n in range(5)]
    page = (await server.http.get("/v1/rooms/chat/events", params={"limit": 2})).json()
    assert [e["position"] for e in page["data"]] == [sent[4], sent[3]]
    older = await server.http.get("/v1/rooms/chat/events", params={"before": page["next_cursor"]})
    assert [e["position"] for e in older.json()["data"]] == [sent[2], sent[1], sent[0]]
    newer = await server.http.get("/v1/rooms/chat/events", params={"after": sent[2]})
    assert [e["data"] for e in newer.json()["data"]] == [3, 4]
    for claims, status in ((CHAT, 200), ({}, 403)):
        headers = {"Authorization": f"Bearer {token('alice', **claims)}"}
        answer = await server.http.get("/v1/rooms/chat/events", headers=headers)
        assert answer.status_code == status
    assert ADMIN_KEY not in page


async def test_rooms_and_members_can_be_listed_over_the_socket(server: Server) -> None:
    await server.join("chat", "alice", "bob")
    async with await server.live("alice") as phone:
        assert (await phone.ask("rooms"))["rooms"] == [{"room": "chat", "source": "api"}]
        answer = await phone.ask("room_members", room="chat")
        assert [m["user"] for m in answer["members"]] == ["alice", "bob"]


async def test_rooms_per_user_are_limited(start: Start) -> None:
    server = await start(max_rooms_per_user=2)
    async with await server.live("alice", claims=CHAT) as phone:
        for room in ("chat1", "chat2"):
            assert (await phone.ask("join_room", room=room))["type"] == "ok"
        assert (await phone.ask("join_room", room="chat3"))["code"] == "rate_limited"
        assert (await phone.ask("join_room", room="chat3", durable=False))["code"] == "rate_limited"


async def test_a_refreshed_token_changes_what_is_received_at_once(server: Server) -> None:
    async with await server.live("alice", claims=CHAT) as phone:
        await phone.ask("join_room", room="chat")
        assert (await phone.ask("refresh_token", token=token("alice")))["type"] == "ok"
        await server.publish("room:chat")
        assert [f for f in await phone.quiet() if f["type"] == "event"] == []
        await phone.ask("refresh_token", token=token("alice", **CHAT))
        position = await server.publish("room:chat")
        await phone.until("event", position=position)
        other = await phone.ask("refresh_token", token=token("bob", **CHAT))
        assert other["code"] == "forbidden"
