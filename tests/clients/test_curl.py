"""What `docs/how-to/curl-and-wscat.md` has for curl, and the script of the examples."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.clients.pages import ROOT, blocks
from tests.clients.programs import Program, Programs, variables
from tests.harness import ADMIN_KEY, Server, eventually

PAGE = "curl-and-wscat.md"
SEND = ROOT / "examples/curl/send.sh"


Shell = Callable[[str], Awaitable[Program]]


@pytest.fixture
def shell(programs: Programs, server: Server, tmp_path: Path) -> Shell:
    """Run a command as a reader would."""

    async def run(command: str) -> Program:
        command = command.replace("http://127.0.0.1:8000", server.url)
        return await programs.start(
            "bash", "-c", command, folder=tmp_path, KEY=ADMIN_KEY, **variables(server)
        )

    return run


async def test_the_page_for_curl(server: Server, shell: Shell) -> None:
    token, ask = blocks(PAGE, "sh", "## A token")
    send, retry = blocks(PAGE, "sh", "## Send")
    watch, work = (block.removeprefix("timeout 2 ") for block in blocks(PAGE, "sh", "## Receive with curl"))

    printed = await (await shell(f"set -e\n{token}{ask}{send}{retry}{retry}")).end()
    assert '"unread":0' in printed
    # What has an Idempotency-Key is sent once.
    assert [printed.count(f'"position":{n},') for n in (1, 2, 3)] == [1, 2, 0]

    watching = await shell(token + watch)
    assert '"event":"hello"' in await watching.line('"position":1')
    await watching.kill()

    async def acknowledged(position: int) -> bool:
        devices = (await server.http.get("/v1/users/alice/devices")).json()["data"]
        return any(each["device"] == "script" and each["cursor"] >= position for each in devices)

    working = await shell(token + work)
    assert '"event":"hello"' in await working.line("did ")
    assert '"event":"backup.done"' in await working.line("did ")
    await eventually(lambda: acknowledged(2))
    await working.kill()
    await (await shell(send)).end()
    working = await shell(token + work)
    assert json.loads((await working.line("did ")).removeprefix("did "))["position"] > 2
    await working.kill()


async def test_the_script_sends_once(server: Server, shell: Shell) -> None:
    event = '{"to": "user:alice", "type": "backup.done", "data": {"size": 17}}'
    for _ in range(2):
        printed = await (await shell(f"{SEND} backup-1 '{event}'")).end()
        assert json.loads(printed)["events"] == [{"position": 1, "to": "user:alice", "id": "1"}]
    async with await server.device("alice") as device:
        assert (await device.until("event"))["data"] == {"size": 17}
        assert (await device.until("live"))["position"] == 1


async def test_the_script_fails_where_the_event_is_wrong(shell: Shell) -> None:
    script = await shell(f'{SEND} wrong \'{{"to": "nobody", "type": "a"}}\'')
    assert "an address is" in await script.line()
    assert await script.process.wait() == 22
