"""What `docs/how-to/curl-and-wscat.md` has for curl, and the script of the examples."""

import asyncio
import json
import os
import signal
from asyncio.subprocess import PIPE, STDOUT, Process

from tests.clients.pages import ROOT, blocks
from tests.harness import ADMIN_KEY, PATIENCE, Server, eventually

PAGE = "curl-and-wscat.md"
SEND = ROOT / "examples/curl/send.sh"


async def started(command: str, server: Server) -> Process:
    """Start a command as a reader would, in a group of its own."""
    environment = os.environ | {"KEY": ADMIN_KEY, "TIDINGS_KEY": ADMIN_KEY, "TIDINGS_URL": server.url}
    return await asyncio.create_subprocess_exec(
        "bash", "-c", command.replace("http://127.0.0.1:8000", server.url),
        env=environment, stdout=PIPE, stderr=STDOUT, start_new_session=True,
    )  # fmt: skip


async def run(command: str, server: Server) -> tuple[int, str]:
    """Return its status and what it printed."""
    process = await started(command, server)
    printed, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, printed.decode()


async def line(process: Process, part: str) -> str:
    """Return the next line that has ``part`` in it."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        while part not in (text := (await process.stdout.readline()).decode()):
            assert text, "it has ended"
    return text


async def end(process: Process) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    await process.communicate()


async def test_the_page_for_curl(server: Server) -> None:
    token, ask = blocks(PAGE, "sh", "## A token")
    send, retry = blocks(PAGE, "sh", "## Send")
    watch, work = (block.removeprefix("timeout 2 ") for block in blocks(PAGE, "sh", "## Receive with curl"))

    status, printed = await run(f"set -e\n{token}{ask}{send}{retry}{retry}", server)
    assert status == 0, printed
    assert '"unread":0' in printed
    # What has an Idempotency-Key is sent once.
    assert [printed.count(f'"position":{n},') for n in (1, 2, 3)] == [1, 2, 0]

    watching = await started(token + watch, server)
    assert '"event":"hello"' in await line(watching, '"position":1')
    await end(watching)

    async def acknowledged(position: int) -> bool:
        devices = (await server.http.get("/v1/users/alice/devices")).json()["data"]
        return any(each["device"] == "script" and each["cursor"] >= position for each in devices)

    working = await started(token + work, server)
    assert '"event":"hello"' in await line(working, "did ")
    assert '"event":"backup.done"' in await line(working, "did ")
    await eventually(lambda: acknowledged(2))
    await end(working)
    await run(send, server)
    working = await started(token + work, server)
    assert json.loads((await line(working, "did ")).removeprefix("did "))["position"] > 2
    await end(working)


async def test_the_script_sends_once(server: Server) -> None:
    event = '{"to": "user:alice", "type": "backup.done", "data": {"size": 17}}'
    for _ in range(2):
        status, printed = await run(f"{SEND} backup-1 '{event}'", server)
        assert status == 0
        assert json.loads(printed)["events"] == [{"position": 1, "to": "user:alice", "id": "1"}]
    async with await server.device("alice") as device:
        assert (await device.until("event"))["data"] == {"size": 17}
        assert (await device.until("live"))["position"] == 1


async def test_the_script_fails_where_the_event_is_wrong(server: Server) -> None:
    status, printed = await run(f'{SEND} wrong \'{{"to": "nobody", "type": "a"}}\'', server)
    assert status == 22
    assert "an address is" in printed
