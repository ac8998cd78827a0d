"""The transcript and the reference client of `docs/how-to/write-a-client.md`, as they stand there."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tests.clients.pages import blocks
from tests.clients.programs import Programs
from tests.harness import PATIENCE, Device, Frame, Server, eventually, token

PAGE = "write-a-client.md"
LOG = "52052e3c-3ed7-4388-abb1-46da6f75b2a9"
OURS = {"connection", "log", "time"}
"""What is another one in each run."""


def comparable(frame: Frame) -> Frame:
    return {name: None if name in OURS else value for name, value in frame.items()}


async def replay(server: Server, transcript: str, log: str) -> str:
    """Say what the client says in a transcript; check that the server answers what it does there."""
    request, *lines = transcript.splitlines()
    query = {name: values[0].replace(LOG, log) for name, values in parse_qs(urlsplit(request).query).items()}
    device: Device = await server.device(
        "alice", claims={"rooms": ["chat"], "publish": ["room:chat"]}, **query
    )
    async with device:
        for line in lines:
            if line.startswith(">"):
                await device.socket.send(line[2:])
            else:
                frame = await device.receive()
                log = frame.get("log", log)
                assert comparable(frame) == comparable(json.loads(line[2:]))
    return log


async def test_the_transcript_is_what_happens(server: Server) -> None:
    first, second = (block for block in blocks(PAGE, "") if block.startswith("GET"))
    await server.publish("user:alice", "hello", {"text": "It works"})
    await server.publish("user:alice", "order.shipped", {"order": 17}, id="order-17")
    log = await replay(server, first, "")
    await replay(server, second, log)


@pytest.fixture
def source() -> str:
    (program,) = blocks(PAGE, "python")
    return program


@pytest.fixture
def client(source: str) -> Any:
    """The reference client's class, and what it needs to be told from others."""
    namespace: dict[str, Any] = {"__name__": "client"}
    exec(compile(source, PAGE, "exec"), namespace)
    return namespace


async def test_the_program_gets_what_it_missed_and_nothing_twice(
    source: str, server: Server, programs: Programs, tmp_path: Path
) -> None:
    (tmp_path / "client.py").write_text(source)
    url, file = f"ws://127.0.0.1:{server.port}", tmp_path / "position.json"
    for n in range(3):
        await server.publish("user:alice", data=n)
    program = await programs.python("client.py", folder=tmp_path, URL=url, TOKEN=token("alice"))
    assert [json.loads(await program.line())["data"] for _ in range(3)] == [0, 1, 2]
    await program.kill()
    # It may have been killed between showing the last one and saving that.
    saved = json.loads(file.read_text())["position"]
    for n in range(3, 6):
        await server.publish("user:alice", data=n)
    program = await programs.python("client.py", folder=tmp_path, URL=url, TOKEN=token("alice"))
    await server.publish("user:alice", data="last")
    seen = [json.loads(await program.line())]
    while seen[-1]["data"] != "last":
        seen.append(json.loads(await program.line()))
    assert seen[0]["position"] > saved
    assert [frame["data"] for frame in seen][-4:] == [3, 4, 5, "last"]
    assert len(seen) <= 5


async def test_an_event_is_acknowledged_after_it_was_handled(
    client: Any, server: Server, tmp_path: Path
) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def handle(_: Frame) -> None:
        begun.set()
        await may_end.wait()

    async def get_token() -> str:
        return token("alice")

    url, file = f"ws://127.0.0.1:{server.port}", tmp_path / "position.json"
    position = await server.publish("user:alice")
    running = asyncio.create_task(client["Client"](url, "tv", get_token, handle, file).run())

    async def cursor() -> int:
        devices = (await server.http.get("/v1/users/alice/devices")).json()["data"]
        return int(devices[0]["cursor"])

    await begun.wait()
    assert await cursor() < position
    assert not file.exists()
    may_end.set()
    await eventually(lambda: _reached(cursor, position))
    assert json.loads(file.read_text())["position"] >= position
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def _reached(cursor: Callable[[], Awaitable[int]], position: int) -> bool:
    return await cursor() >= position


class Script:
    """A server that says what it is told to: frames, and perhaps a close code, for each connection.

    Before it closes it waits until its last event is acknowledged.
    """

    def __init__(self, *connections: list[Frame | int]) -> None:
        self.connections = iter(connections)
        self.asked: list[dict[str, str]] = []
        self.tokens: list[str] = []
        self.heard: list[Frame] = []
        self.over = asyncio.Event()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        async with serve(self._talk, "127.0.0.1", 0, select_subprotocol=lambda *_: "tidings.v1") as server:
            yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"

    async def _talk(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        query = parse_qs(urlsplit(connection.request.path).query)
        self.asked.append({name: values[0] for name, values in query.items()})
        self.tokens.append(connection.request.headers["Sec-WebSocket-Protocol"])
        last = 0
        for said in next(self.connections, []):
            if isinstance(said, int):
                await self._hear(connection, last)
                await connection.close(said)
                return
            await connection.send(json.dumps(said))
            last = said["position"] if said["type"] == "event" and "position" in said else last
        with suppress(ConnectionClosed):
            await self._hear(connection, END["position"])
            self.over.set()
            await connection.wait_closed()

    async def _hear(self, connection: ServerConnection, position: int) -> None:
        """Read until this is acknowledged."""
        while position and position not in positions(self.heard):
            self.heard.append(json.loads(await connection.recv()))


def welcome(position: int, log: str = "one") -> Frame:
    return {"type": "welcome", "user": "alice", "log": log, "position": position, "heartbeat": 25.0}


def event(position: int) -> Frame:
    return {"type": "event", "position": position, "event": "test", "data": position}


END = event(99)


async def run(client: Any, script: Script, file: Path) -> list[Frame]:
    """Run the client on a script, until it has acknowledged the end; return what it handled."""
    handled: list[Frame] = []

    async def handle(frame: Frame) -> None:
        handled.append(frame)
        if frame.get("data") == 13:
            raise ValueError("an unlucky one")

    async def get_token() -> str:
        return f"token-{len(script.tokens)}"

    async with script.serve() as url:
        running = asyncio.create_task(client["Client"](url, "tv", get_token, handle, file).run())
        waiting = asyncio.create_task(script.over.wait())
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if running.done():
            running.result()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return handled


def positions(frames: list[Frame]) -> list[int]:
    return [frame["position"] for frame in frames if "position" in frame]


async def test_it_resumes_and_drops_what_comes_again(client: Any, tmp_path: Path) -> None:
    script = Script(
        [welcome(0), event(1), event(2), {"type": "live", "position": 2}, 1012],
        [welcome(1), event(2), event(3), {"type": "news of tomorrow", "position": 4}, END],
    )
    assert positions(await run(client, script, tmp_path / "f")) == [1, 2, 3, 99]
    assert "resume" not in script.asked[0]
    assert script.asked[1] == {"device": "tv", "ack": "client", "resume": "one:2"}
    assert [ack["position"] for ack in script.heard] == [1, 2, 3, 99]
    assert json.loads((tmp_path / "f").read_text()) == {"log": "one", "position": 99}


async def test_a_gap_replaces_the_position_also_by_a_lesser_one(client: Any, tmp_path: Path) -> None:
    gap = {"type": "gap", "from": 50, "to": 10, "reason": "failover"}
    script = Script([welcome(49), event(50), gap, event(11), END])
    handled = await run(client, script, tmp_path / "f")
    assert positions(handled) == [50, 11, 99]
    assert gap in handled
    assert [ack["position"] for ack in script.heard] == [50, 10, 11, 99]


async def test_another_log_has_other_positions(client: Any, tmp_path: Path) -> None:
    (tmp_path / "f").write_text('{"log": "another", "position": 70}')
    script = Script([welcome(0), event(1), END])
    assert positions(await run(client, script, tmp_path / "f")) == [1, 99]
    assert script.asked[0]["resume"] == "another:70"


async def test_ephemeral_events_are_handled_and_not_acknowledged(client: Any, tmp_path: Path) -> None:
    fleeting = {"type": "event", "event": "typing", "data": None, "ephemeral": True}
    script = Script([welcome(0), event(1), fleeting, END])
    assert fleeting in await run(client, script, tmp_path / "f")
    assert [ack["position"] for ack in script.heard] == [1, 99]


async def test_an_event_that_cannot_be_handled_holds_up_no_other(
    client: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script([welcome(12), event(13), event(14), END])
    assert positions(await run(client, script, tmp_path / "f")) == [13, 14, 99]
    assert "was not handled" in caplog.text


async def test_a_dead_token_is_replaced_once(client: Any, tmp_path: Path) -> None:
    script = Script([welcome(0), 4001], [welcome(0), END])
    await run(client, script, tmp_path / "f")
    assert script.tokens == ["tidings.v1, bearer.token-0", "tidings.v1, bearer.token-1"]
    with pytest.raises(client["Refused"], match="4001"):
        await run(client, Script([4001], [4001]), tmp_path / "f")


@pytest.mark.parametrize("code", [1008, 4003, 4010])
async def test_some_codes_are_final(client: Any, tmp_path: Path, code: int) -> None:
    with pytest.raises(client["Refused"], match=str(code)):
        await run(client, Script([welcome(0), code]), tmp_path / "f")


async def test_pauses(client: Any, tmp_path: Path) -> None:
    one = client["Client"]("", "tv", None, None, tmp_path / "f")
    assert all(0 <= one.pause(1006) <= 30 for _ in range(1100))
    assert one.failures == 1100
    assert 5 <= one.pause(4029) <= 60
    one.again_at = client["monotonic"]() + 20
    assert 19 < one.pause(1012) <= 20


async def test_a_silent_link_is_dropped(client: Any, tmp_path: Path) -> None:
    script = Script([{**welcome(0), "heartbeat": 0.1}], [welcome(0), END])
    await run(client, script, tmp_path / "f")
    assert len(script.asked) == 2
