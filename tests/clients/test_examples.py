"""The programs in `examples`, as their first lines say that they are run."""

import asyncio
import json
import os
import re
import signal
import socket
import sqlite3
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clients import node
from tests.clients.pages import ROOT
from tests.harness import ADMIN_KEY, PATIENCE, Server, eventually, token

EXAMPLES = ROOT / "examples"
PYTHON = EXAMPLES / "python"


def environment(server: Server, user: str = "alice", **claims: Any) -> dict[str, str]:
    return {
        "TIDINGS_URL": server.url, "TIDINGS_KEY": ADMIN_KEY, "TIDINGS_TOKEN": token(user, **claims),
        "PYTHONPATH": str(ROOT / "clients/python"),
    }  # fmt: skip


async def started(folder: Path, server: Server, *command: object) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, *map(str, command), cwd=folder, env=os.environ | environment(server), stdout=PIPE
    )


async def printed(process: Process) -> str:
    """Return the next line."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        line = await process.stdout.readline()
    assert line, "it has ended"
    return line.decode().strip()


async def kill(process: Process) -> None:
    process.kill()
    await process.communicate()


@pytest.mark.parametrize("path", [path for path in EXAMPLES.rglob("*.*") if path.suffix != ".md"], ids=str)
def test_each_says_at_its_top_how_to_run_it(path: Path) -> None:
    top = path.read_text().split("import", 1)[0][:1200]
    assert re.search(rf"{re.escape(path.parent.name)}|<{path.stem} ", top), path


def test_the_list_has_each() -> None:
    listed = set(re.findall(r"\]\(([\w./]+\.\w+)\)", (EXAMPLES / "README.md").read_text()))
    here = {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.*")}
    assert {path for path in listed if not path.startswith("..")} == here - {"README.md"}


async def test_publish(server: Server, tmp_path: Path) -> None:
    event = ("user:alice", "hello", '{"text": "It works"}')
    process = await started(tmp_path, server, PYTHON / "publish.py", *event)
    assert "1" in await printed(process)
    assert await process.wait() == 0
    async with await server.device("alice") as device:
        assert (await device.until("event"))["data"] == {"text": "It works"}


async def test_listen_goes_on_where_it_was_killed(server: Server, tmp_path: Path) -> None:
    await goes_on(server, lambda: started(tmp_path, server, PYTHON / "listen.py"))


async def test_node_listens_as_well(server: Server, tmp_path: Path) -> None:
    folder = node.install(tmp_path)
    (folder / "listen.mjs").write_text((EXAMPLES / "node/listen.mjs").read_text())
    await goes_on(server, lambda: node.started(folder, "listen.mjs", **environment(server)))


async def goes_on(server: Server, start: Any) -> None:
    """Kill a listener while events come; over both its lives it prints each of them, in order."""
    for n in range(5):
        await server.publish("user:alice", "count", n)
    process = await start()
    seen = [await printed(process) for _ in range(3)]
    await kill(process)
    for n in range(5, 8):
        await server.publish("user:alice", "count", n)
    process = await start()
    while not seen[-1].endswith(" 7"):
        seen.append(await printed(process))
    await kill(process)
    numbers = [int(line.split()[-1]) for line in seen]
    assert sorted(set(numbers)) == list(range(8))
    # What was printed, but not yet kept, when it was killed may come again; nothing else.
    assert len(numbers) <= 8 + 1
    assert numbers[3:] == sorted(numbers[3:])


async def test_the_worker_counts_each_sale_once_however_often_it_is_killed(
    server: Server, tmp_path: Path
) -> None:
    database = tmp_path / "sales.db"

    def sold() -> int:
        with sqlite3.connect(database) as db:
            row = db.execute("select pieces from sold where article = 'tea'").fetchone()
        db.close()
        return int(row[0]) if row else 0

    for _ in range(40):
        await server.publish("user:alice", "sold", {"article": "tea", "pieces": 1})
    for lines in (1, 7, 3, 1, 2):
        process = await started(tmp_path, server, PYTHON / "worker.py", database)
        for _ in range(lines):
            await printed(process)
        await kill(process)
        assert sold() <= 40
    await server.publish("user:alice", "sold", {"article": "coffee", "pieces": 2})
    process = await started(tmp_path, server, PYTHON / "worker.py", database)
    while await printed(process) != "coffee":
        pass
    await eventually(lambda: sold() == 40)
    await kill(process)
    assert sold() == 40


@asynccontextmanager
async def backend(server: Server, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    command = ("-m", "uvicorn", "--app-dir", EXAMPLES / "fastapi", "app:app", "--port", port)
    process = await started(folder, server, *command)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:

        async def answers() -> bool:
            assert process.returncode is None
            try:
                return (await client.get("/docs")).status_code == httpx.codes.OK
            except httpx.TransportError:
                return False

        await eventually(answers)
        yield client
        process.send_signal(signal.SIGTERM)
        await process.communicate()


async def test_the_backend_gives_tokens_and_sends(server: Server, tmp_path: Path) -> None:
    async with backend(server, tmp_path) as client:
        answer = await client.get("/tidings-token", headers={"X-User": "alice"})
        assert answer.json()["expires_at"]
        device = await server.device(token=answer.json()["token"])
        await device.until("joined_room", room="orders")
        for _ in range(2):
            shipped = await client.post("/orders/17/ship", headers={"X-User": "bob"})
            assert shipped.json() == {"shipped": 17}
        await client.post("/orders/18/ship", headers={"X-User": "bob"})
        events = await device.events(2)
        assert [event["data"] for event in events] == [{"order": 17, "by": "bob"}, {"order": 18, "by": "bob"}]
        await device.close()


async def test_the_component_is_built(tmp_path: Path) -> None:
    folder = node.install(tmp_path)
    await node.bundle(folder, EXAMPLES / "react/Orders.jsx", folder / "orders.js")
    assert json.dumps("order.shipped") in (folder / "orders.js").read_text()
