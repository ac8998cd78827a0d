"""The AsyncAPI document is true: of each frame that a running service sends, each command that it takes."""

from collections.abc import Awaitable, Callable
from typing import Any

from websockets.asyncio.client import connect

from tests import contract
from tests.eventsource import EventSource, subscribe
from tests.harness import Device, Server, token

Start = Callable[..., Awaitable[Server]]

ALL = {"rooms": ["*"], "publish": ["*"], "presence": True, "name": "Alice"}


def check(*devices: Device | EventSource, operation: str = "push") -> set[str]:
    """Hold what devices received to the document; return the types of it."""
    described = contract.messages(operation)
    frames = [frame for device in devices for frame in device.frames]
    for frame in frames:
        schema = contract.payload(described[frame["type"]])
        assert contract.fits(schema, frame, contract.pushes()) == [], frame
    return {frame["type"] for frame in frames}


def examples() -> list[tuple[str, dict[str, Any]]]:
    """Return the commands of the document's examples, with their fields; a token has to be a real one."""
    payloads = [
        e["payload"] for command in contract.messages("command").values() for e in command["examples"]
    ]
    real = {"token": token("alice", **ALL)}
    return [
        (sent["type"], {name: real.get(name, value) for name, value in sent.items() if name != "type"})
        for sent in payloads
    ]


async def read_and_recalled(server: Server) -> None:
    """Have something of alice's read, and something taken back."""
    client = {"Authorization": f"Bearer {token('alice')}"}
    for order in ({"up_to": 1}, {"positions": [await server.publish("user:alice")]}):
        answer = await server.http.post("/v1/inbox/read", headers=client, json=order)
        assert answer.status_code == 200
    await server.http.delete(f"/v1/events/{await server.publish('user:alice')}")


async def test_every_frame_that_is_sent_is_described(start: Start) -> None:
    server = await start(heartbeat=0.3)
    await server.publish("user:alice")
    alice = await server.live("alice", claims=ALL, presence=1, after=99_999)
    await alice.until("ping")
    for name, fields in examples():
        await alice.send(name, **fields)
    await alice.ask("publish", to="nowhere", event="e")
    await alice.ask("join_room", room="orders", presence=True)
    bob = await server.live("bob", claims=ALL)
    await bob.ask("join_room", room="orders")
    await alice.until("user_joined_room", user="bob")
    await bob.ask("leave_room", room="orders")
    await alice.until("user_left_room", user="bob")
    await read_and_recalled(server)
    await alice.until("recalled")
    await bob.close()
    await alice.until("user_disconnected", user="bob")
    [connection] = (await server.http.get("/v1/connections?user=alice")).json()["data"]
    await server.http.delete(f"/v1/connections/{connection['id']}")
    assert await alice.closed() == 4010
    assert check(alice, bob) == contract.messages("push").keys()


async def test_every_message_of_a_stream_is_described(server: Server) -> None:
    await server.publish("user:alice")
    async with await subscribe(server, "alice", claims=ALL, presence=1, after=99_999) as alice:
        await alice.until("live")
        async with await server.live("bob", claims=ALL):
            await alice.until("user_connected", user="bob")
        await alice.until("user_disconnected", user="bob")
        await server.join("orders", "alice")
        await server.http.delete("/v1/rooms/orders/members/alice")
        await read_and_recalled(server)
        await alice.until("recalled")
        [connection] = (await server.http.get("/v1/connections?user=alice")).json()["data"]
        await server.http.delete(f"/v1/connections/{connection['id']}")
        assert (await alice.ended())["code"] == 4010
        assert check(alice, operation="stream") == contract.messages("stream").keys()


async def test_every_command_that_is_described_is_taken(server: Server) -> None:
    async with await server.live("alice", claims=ALL) as alice:
        for name, fields in examples():
            await alice.send(name, **fields)
        await alice.quiet()
        assert "error" not in check(alice)


async def test_what_a_refused_client_is_told_is_described(server: Server) -> None:
    socket = await connect(server.ws_url(token="no"), subprotocols=["tidings.v1"], compression=None)
    device = Device(socket)
    assert await device.closed() == 4001
    assert check(device) == {"disconnect"}
