"""A revoked token is dead: its sockets close, it opens no other, and a restart changes nothing."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.harness import Server, eventually, serving, token

Start = Callable[..., Awaitable[Server]]


async def revoke(server: Server, **what: Any) -> dict[str, Any]:
    answer = await server.http.post("/v1/revocations", json=what)
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def refused(server: Server, presented: str) -> bool:
    try:
        async with await server.device(token=presented):
            return False
    except InvalidStatus as error:
        status = error.response.status_code
    return status == 401


async def test_by_token_id(server: Server) -> None:
    dead, alive = token("alice", jti="a"), token("alice", jti="b")
    async with await server.device(token=dead) as one, await server.device(token=alive, device="x") as two:
        await one.until("live")
        await two.until("live")
        done = await revoke(server, jti="a")
        assert (done["closed"], done["complete"]) == (1, True)
        assert await one.closed() == 4001
        assert one.frames[-1]["type"] == "disconnect"
        assert one.frames[-1]["reconnect"] is False
        await two.quiet()
    assert await refused(server, dead)
    assert not await refused(server, alive)


async def test_by_user_all_tokens_so_far(server: Server) -> None:
    now = int(time.time())
    old, undated = token("alice", iat=now - 10), token("alice", iat=None)
    async with await server.live("alice", token=old) as phone, await server.live("bob") as bob:
        assert (await revoke(server, user="alice"))["closed"] == 1
        assert await phone.closed() == 4001
        await bob.quiet()
    assert await refused(server, old)
    assert await refused(server, undated)
    assert not await refused(server, token("alice", iat=int(time.time()) + 1))


async def test_by_user_and_time_of_issue(server: Server) -> None:
    now = int(time.time())
    await revoke(server, user="alice", issued_before=now - 100)
    assert await refused(server, token("alice", iat=now - 100))
    assert not await refused(server, token("alice", iat=now - 99))


async def test_a_ban_refuses_tokens_of_any_age(server: Server) -> None:
    await revoke(server, user="alice", ban=True)
    assert await refused(server, token("alice", iat=int(time.time()) + 5))


async def test_a_token_minted_right_after_a_revocation_is_good(server: Server) -> None:
    await revoke(server, user="alice")
    minted = await server.http.post("/v1/tokens", json={"user": "alice", "rooms": ["a*"]})
    assert minted.status_code == 201
    assert not await refused(server, minted.json()["token"])


async def test_a_revocation_survives_a_restart(start: Start) -> None:
    first = await start()
    dead = token("alice", jti="a")
    await revoke(first, jti="a")
    url = first.service.settings.database_url.get_secret_value()
    async with serving(database_url=url) as second:
        assert await refused(second, dead)


async def test_a_revocation_reaches_the_other_instances(start: Start) -> None:
    one, two = await start(), await start()
    async with await two.live("alice") as phone:
        done = await revoke(one, user="alice")
        assert (done["closed"], done["complete"]) == (1, True)
        assert await phone.closed() == 4001
    assert await refused(two, token("alice", iat=int(time.time()) - 1))


async def test_a_lifted_revocation_lets_the_token_in_again(server: Server) -> None:
    presented = token("alice", jti="a")
    done = await revoke(server, jti="a")
    listed = (await server.http.get("/v1/revocations")).json()["data"]
    assert [(r["id"], r["jti"], r["user"]) for r in listed] == [(done["id"], "a", None)]
    assert (await server.http.delete(f"/v1/revocations/{done['id']}")).status_code == 204
    assert not await refused(server, presented)
    assert (await server.http.delete(f"/v1/revocations/{done['id']}")).status_code == 404


async def test_a_socket_whose_peer_does_not_read_is_gone_at_once(start: Start) -> None:
    server = await start(write_buffer=4096)
    phone = await server.live("alice")
    phone.socket.transport.pause_reading()
    connection = next(iter(server.gateway.hub))
    wire = connection.transport.get_extra_info("socket")
    payload = "x" * 30_000
    while not connection.paused:
        await server.publish("user:alice", data=payload)
    assert (await revoke(server, user="alice"))["closed"] == 1
    # It was aborted in the very step that closed it: no buffer has to drain first.
    assert connection.transport.is_closing()
    await eventually(lambda: wire.fileno() == -1)
    phone.socket.transport.abort()


@asynccontextmanager
async def held_handshake(server: Server) -> AsyncIterator[asyncio.Task[Any]]:
    """A handshake whose session, loaded before, arrives when the block ends: what comes meanwhile counts."""
    sessions = server.gateway.sessions
    loaded, go_on = asyncio.Event(), asyncio.Event()
    original = sessions.open

    async def slow(*wanted: Any) -> Any:
        session = await original(*wanted)
        loaded.set()
        await go_on.wait()
        return session

    sessions.open = slow
    attempt = asyncio.create_task(server.device("alice"))
    await loaded.wait()
    sessions.open = original
    yield attempt
    go_on.set()
    await asyncio.wait([attempt])
    assert list(server.gateway.hub) == []
    assert server.gateway.count == 0


async def test_a_revocation_during_the_handshake_refuses_it(server: Server) -> None:
    async with held_handshake(server) as attempt:
        assert (await revoke(server, user="alice"))["closed"] == 1
    with pytest.raises(InvalidStatus, match="401"):
        attempt.result()


async def test_a_disconnect_during_the_handshake_ends_it(server: Server) -> None:
    async with held_handshake(server) as attempt:
        connection = next(iter(server.gateway.hub))
        done = await server.http.delete(f"/v1/connections/{connection.id}")
        assert done.json()["closed"] == 1
    with pytest.raises(InvalidStatus, match="503"):
        attempt.result()


async def test_nothing_is_written_while_it_is_not_known_what_has_been_revoked(start: Start) -> None:
    """An instance that goes on after a stall has events at hand for a user who was revoked meanwhile."""
    here, elsewhere = await start(), await start()
    async with await here.live("alice") as phone:
        follower = here.service.follower
        here.service.courier._key = b"hears nobody"
        confirm, go_on = follower._confirm, asyncio.Event()

        async def stalled(link: Any) -> None:
            await go_on.wait()
            await confirm(link)

        committed: list[Any] = []
        appender = here.service.appender
        follower._confirm, offer, appender._committed = stalled, appender._committed, committed.append
        await here.publish("user:alice")
        await revoke(elsewhere, user="alice")
        follower._confirmed -= 3600
        offer(committed[0])
        assert await phone.quiet() == []
        go_on.set()
        assert await phone.closed() == 4001
        assert not any(f["type"] == "event" for f in phone.frames)


async def test_a_refresh_with_a_revoked_token_is_refused(server: Server) -> None:
    await revoke(server, jti="dead")
    async with await server.live("alice") as phone:
        answer = await phone.ask("refresh_token", token=token("alice", jti="dead"))
        assert answer["code"] == "unauthorized"


async def test_a_revoked_token_reads_no_history(server: Server) -> None:
    presented = token("alice", jti="a", rooms=["r"])
    headers = {"Authorization": f"Bearer {presented}"}
    assert (await server.http.get("/v1/rooms/r/events", headers=headers)).status_code == 200
    await revoke(server, jti="a")
    assert (await server.http.get("/v1/rooms/r/events", headers=headers)).status_code == 401


async def test_an_admin_can_look_and_disconnect(server: Server) -> None:
    async with await server.live("alice", claims={"name": "Alice"}) as phone, await server.live("bob"):
        listed = (await server.http.get("/v1/connections", params={"user": "alice"})).json()["data"]
        assert [(c["user"], c["device"], c["state"]) for c in listed] == [("alice", "default", "live")]
        assert listed[0]["info"] == {"name": "Alice"}
        done = await server.http.delete(f"/v1/connections/{listed[0]['id']}")
        assert done.json()["closed"] == 1
        assert await phone.closed() == 4010
    async with await server.live("alice"):
        pass


@pytest.mark.parametrize(
    "order",
    [{}, {"jti": "a", "user": "b"}, {"jti": "a", "ban": True}, {"user": ""}, {"user": "a", "what": 1},
     {"user": "a", "ban": True, "issued_before": 1}],
)  # fmt: skip
async def test_an_order_that_makes_no_sense_is_refused(server: Server, order: dict[str, Any]) -> None:
    answer = await server.http.post("/v1/revocations", json=order)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


async def test_only_admins_revoke(server: Server) -> None:
    made = await server.http.post("/v1/keys", json={"name": "p", "scopes": ["publish", "read", "tokens"]})
    headers = {"Authorization": f"Bearer {made.json()['key']}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers) as producer:
        assert (await producer.post("/v1/revocations", json={"jti": "a"})).status_code == 403
