"""Through the real nginx, as ``deploy/nginx.conf`` has it."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.harness import PATIENCE, Server, eventually, serving, token
from tests.nginx import Nginx, nginx_before


class Site:
    """Two instances, and nginx before them; each can be stopped."""

    def __init__(self, nginx: Nginx, servers: list[Server], stacks: list[AsyncExitStack]) -> None:
        self.nginx = nginx
        self.servers = servers
        self._stacks = stacks

    async def stop(self, number: int) -> None:
        await self._stacks[number].aclose()

    def holder_of(self, user: str) -> int:
        """Return the number of the instance that the user is connected to."""
        [number] = [n for n, s in enumerate(self.servers) if user in s.service.follower.hub.users]
        return number


@pytest.fixture
async def site(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    async with AsyncExitStack() as whole:
        stacks = [await whole.enter_async_context(AsyncExitStack()) for _ in range(2)]
        servers = [await s.enter_async_context(serving(database_url=database_url)) for s in stacks]
        nginx = await whole.enter_async_context(nginx_before(tmp_path, *(s.port for s in servers)))
        yield Site(nginx, servers, stacks)


async def test_a_socket_through_it_gets_what_is_posted_through_it(site: Site) -> None:
    async with await site.nginx.live("alice") as device, site.nginx.client() as http:
        answer = await http.post("/v1/events", json={"to": "user:alice", "type": "hello", "data": 1})
        assert answer.status_code == 202
        [event] = await device.events(1)
        assert event["position"] == answer.json()["events"][0]["position"]


async def test_a_stream_through_it_is_not_held_back(site: Site) -> None:
    async with (
        site.nginx.client() as http,
        http.stream(
            "GET", f"/v1/stream?token={token('alice')}", headers={"Accept": "text/event-stream"}
        ) as it,
    ):
        assert it.headers["content-type"] == "text/event-stream"
        lines = it.aiter_lines()

        async def until(kind: str) -> None:
            async with asyncio.timeout(PATIENCE):
                async for line in lines:
                    if line.startswith("data:") and json.loads(line[5:])["type"] == kind:
                        return

        await until("live")
        # Far less than any buffer holds: it arrives only if nginx passes on what it has.
        await site.servers[0].publish("user:alice")
        await until("event")


@pytest.mark.parametrize("code", [4001, 4010])
async def test_close_codes_pass(site: Site, code: int) -> None:
    async with await site.nginx.live("alice") as device:
        http = site.servers[0].http
        if code == 4001:
            await http.post("/v1/revocations", json={"user": "alice"})
        else:
            await http.delete(f"/v1/connections/{device.frames[0]['connection']}")
        assert await device.closed() == code


async def test_a_restart_of_an_instance_is_told_through_it(site: Site) -> None:
    async with await site.nginx.live("alice") as device:
        await site.stop(site.holder_of("alice"))
        assert await device.closed() == 1012
        assert device.frames[-1]["reconnect"] is True


async def test_the_other_instance_takes_over_and_nobody_is_refused(site: Site) -> None:
    async with await site.nginx.live("alice") as device:
        stopped = site.holder_of("alice")
        await site.stop(stopped)
        await device.closed()
    async with site.nginx.client() as http:
        answers = [
            await http.post("/v1/events", json={"to": "user:alice", "type": "n", "data": n}) for n in range(4)
        ]
    assert [a.status_code for a in answers] == [202] * 4
    for _ in range(4):  # whomever nginx would have asked first
        async with await site.nginx.device("alice", after=0) as again:
            assert [e["data"] for e in await again.events(4)] == [0, 1, 2, 3]
        assert "alice" not in site.servers[stopped].service.follower.hub.users


async def test_an_instance_that_is_stopping_is_passed_over(site: Site) -> None:
    site.servers[0].gateway.draining = True
    for _ in range(4):
        async with await site.nginx.live("alice"):
            assert site.holder_of("alice") == 1


async def test_producers_are_served_while_no_instance_takes_clients(site: Site) -> None:
    for server in site.servers:
        server.gateway.draining = True
    async with site.nginx.client() as http:
        for _ in range(4):
            refused = await http.get(f"/v1/stream?token={token('alice')}")
            assert refused.status_code in {502, 503}
            assert (await http.post("/v1/events", json={"to": "user:alice", "type": "n"})).status_code == 202


async def test_a_reload_leaves_sockets_alone(site: Site) -> None:
    nginx = site.nginx
    before = nginx.workers
    async with await nginx.live("alice") as device:
        nginx.reload()
        await eventually(lambda: nginx.workers - before)
        assert before < nginx.workers  # the old one lives on for its socket
        await site.servers[0].publish("user:alice", data="after the reload")
        assert (await device.events(1))[0]["data"] == "after the reload"
        async with await nginx.live("bob"):
            pass
    await eventually(lambda: not before & nginx.workers)


async def test_no_token_is_in_its_logs_whatever_goes_wrong(site: Site) -> None:
    nginx, secret = site.nginx, token("alice")
    referer = {"Referer": f"https://app.example.com/?token={secret}"}
    async with await nginx.device("alice", token=secret, headers=referer):
        pass
    async with nginx.client() as http:
        for path in ("ws", "stream", "inbox", "nothing"):
            await http.get(f"/v1/{path}?token={secret}x", headers=referer)
        for number in range(2):
            await site.stop(number)
        # Nobody is there any more: what nginx finds worth an error.
        for path in ("ws", "stream"):
            answer = await http.get(f"/v1/{path}?token={secret}", headers=referer)
            assert answer.status_code == 502
        assert (await http.get("/v1/inbox")).status_code == 502
    assert "/v1/ws 502" in nginx.logged.replace('"', "")
    assert (
        "connect() failed" in nginx.logged or "no live upstreams" in nginx.logged
    )  # errors are told elsewhere
    assert secret.rpartition(".")[2] not in nginx.logged
    assert "token=" not in nginx.logged


async def test_the_address_of_a_client_is_in_the_log_of_nginx_and_decides_nothing_here(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    forged = {"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9", "X-Real-IP": "203.0.113.9"}
    with caplog.at_level(logging.DEBUG, "tidings.gateway"):
        async with await site.nginx.live("alice", headers=forged):
            pass
    [opened] = [r for r in caplog.records if r.message == "connection opened"]
    assert opened.peer.startswith("127.0.0.1:")  # type: ignore[attr-defined]
    assert "127.0.0.1 [" in await eventually(lambda: site.nginx.logged)
    assert "203.0.113.9" not in site.nginx.logged


async def test_one_request_has_one_id_in_both_logs(site: Site) -> None:
    async with site.nginx.client() as http:
        given = await http.get("/healthz", headers={"X-Request-Id": "of-the-caller"})
        made = await http.get("/healthz")
    assert given.headers["x-request-id"] == "of-the-caller"
    for answer in (given, made):
        own_id = answer.headers["x-request-id"]
        await eventually(lambda i=own_id: i in site.nginx.logged)  # it is written after the answer


async def test_connections_to_the_instances_are_used_again(site: Site) -> None:
    async with site.nginx.client() as http:
        for _ in range(8):
            assert (await http.get("/healthz")).status_code == 200
    assert sum(len(server.state.connections) for server in site.servers) == 2  # one each, not eight


async def test_metrics_are_not_for_the_outside(site: Site) -> None:
    async with site.nginx.client() as http:
        for path in ("/metrics", "/stats"):
            assert (await http.get(path)).status_code == 404


async def test_the_largest_token_passes(site: Site) -> None:
    largest = token("alice", padding="x" * 5950)
    assert 8 * 1024 - 100 < len(largest) <= 8 * 1024
    async with await site.nginx.live("alice", token=largest, device="d" * 128):
        pass


async def test_a_reload_waits_for_sockets_as_long_as_it_says(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "brief"
    folder.mkdir()
    brief = {"worker_shutdown_timeout 1h": "worker_shutdown_timeout 1s"}
    async with (
        nginx_before(folder, *(s.port for s in site.servers), **brief) as nginx,
        await nginx.live("alice") as device,
    ):
        nginx.reload()
        assert await device.closed() == 1006  # cut off, without a word


async def test_a_refusal_keeps_its_problem(site: Site) -> None:
    async with site.nginx.client() as http:
        large = await http.post("/v1/events", content=b" " * (1024 * 1024 + 1))
        unknown = await http.get("/v1/ws?token=no")
    assert (large.status_code, large.json()["code"]) == (413, "too_large")
    assert unknown.status_code == 400  # no handshake
