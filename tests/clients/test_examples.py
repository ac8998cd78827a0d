"""The programs in `examples`, as their first lines say that they are run."""

import re
import signal
import socket
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.browser.conftest import Visit
from tests.clients import node
from tests.clients.pages import ROOT
from tests.clients.programs import Program, Programs, variables
from tests.harness import PATIENCE, Server, eventually, token

Start = Callable[..., Awaitable[Server]]

EXAMPLES = ROOT / "examples"
PYTHON = EXAMPLES / "python"
ALL = [path for path in EXAMPLES.rglob("*.*") if path.suffix in {".html", ".jsx", ".mjs", ".py", ".sh"}]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_each_says_at_its_top_how_to_run_it(path: Path) -> None:
    top = path.read_text()[:700]
    assert re.search(
        rf"{path.parent.name}/{path.name}|-dir examples/{path.parent.name}|-d examples|<Orders ", top
    )


def test_the_list_has_each() -> None:
    listed = re.findall(r"\]\((\w[\w./]+)\)", (EXAMPLES / "README.md").read_text())
    assert sorted(listed) == sorted(path.relative_to(EXAMPLES).as_posix() for path in ALL)


async def test_publish(server: Server, programs: Programs, tmp_path: Path) -> None:
    event = ("user:alice", "hello", '{"text": "It works"}')
    program = await programs.python(PYTHON / "publish.py", *event, folder=tmp_path, **variables(server))
    assert "1" in await program.end()
    async with await server.device("alice") as device:
        assert (await device.until("event"))["data"] == {"text": "It works"}


async def test_listen_goes_on_where_it_was_killed(server: Server, programs: Programs, tmp_path: Path) -> None:
    await goes_on(server, lambda: programs.python(PYTHON / "listen.py", folder=tmp_path, **variables(server)))


async def test_node_listens_as_well(server: Server, programs: Programs, tmp_path: Path) -> None:
    folder = node.install(tmp_path)
    (folder / "listen.mjs").write_text((EXAMPLES / "node/listen.mjs").read_text())
    await goes_on(server, lambda: programs.node("listen.mjs", folder=folder, **variables(server)))


async def goes_on(server: Server, start: Callable[[], Awaitable[Program]]) -> None:
    """Kill a listener while events come; over both its lives it prints each of them, in order."""
    for n in range(5):
        await server.publish("user:alice", "count", n)
    program = await start()
    first = [await number(program) for _ in range(3)]
    await program.kill()
    for n in range(5, 8):
        await server.publish("user:alice", "count", n)
    program = await start()
    then = [await number(program)]
    while then[-1] != 7:
        then.append(await number(program))
    assert first == [0, 1, 2]
    # It may have gone on before it was killed; and what it had printed, but not yet kept, comes again.
    assert then == list(range(then[0], 8))
    assert then[0] >= 2


async def number(program: Program) -> int:
    return int((await program.line()).split()[-1])


async def test_the_worker_counts_each_sale_once_however_often_it_is_killed(
    server: Server, programs: Programs, tmp_path: Path
) -> None:
    database = tmp_path / "sales.db"

    def sold(article: str) -> int:
        with closing(sqlite3.connect(database)) as db:
            row = db.execute("select pieces from sold where article = ?", (article,)).fetchone()
        return int(row[0]) if row else 0

    async def work() -> Program:
        return await programs.python(PYTHON / "worker.py", database, folder=tmp_path, **variables(server))

    for lines in (1, 7, 3, 1, 2):
        for _ in range(8):  # each time some more: the one before may have got through all there were
            await server.publish("user:alice", "sold", {"article": "tea", "pieces": 1})
        program = await work()
        for _ in range(lines):
            assert await program.line() == "tea"
        await program.kill()
    await server.publish("user:alice", "sold", {"article": "coffee", "pieces": 2})
    program = await work()
    await program.line("coffee")
    await eventually(lambda: sold("coffee"))
    assert (sold("tea"), sold("coffee")) == (40, 2)


async def test_the_backend_gives_tokens_and_sends(server: Server, programs: Programs, tmp_path: Path) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    command = ("-m", "uvicorn", "--app-dir", EXAMPLES / "fastapi", "app:app", "--port", port)
    program = await programs.python(*command, folder=tmp_path, **variables(server))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:

        async def answers() -> bool:
            assert program.process.returncode is None
            try:
                return (await client.get("/docs")).status_code == httpx.codes.OK
            except httpx.TransportError:
                return False

        await eventually(answers)
        answer = (await client.get("/tidings-token", headers={"X-User": "alice"})).json()
        assert answer["expires_at"]
        async with await server.device(token=answer["token"]) as device:
            await device.until("joined_room", room="orders")
            for order in (17, 17, 18):
                shipped = await client.post(f"/orders/{order}/ship", headers={"X-User": "bob"})
                assert shipped.json() == {"shipped": order}
            events = [event["data"] for event in await device.events(2)]
        assert events == [{"order": 17, "by": "bob"}, {"order": 18, "by": "bob"}]
    program.process.send_signal(signal.SIGTERM)
    await program.process.communicate()


@pytest.mark.parametrize("named", [False, True])
async def test_the_page_shows_events_and_says_something(
    start: Start, visit: Visit, programs: Programs, tmp_path: Path, *, named: bool
) -> None:
    site = await programs.python(
        "-m", "http.server", "0", "--bind", "127.0.0.1", "-d", EXAMPLES / "browser", folder=tmp_path
    )
    origin = re.findall(r"http://[^/]+", await site.line())[0]
    server = await start(origins=(origin,) if named else ())
    await server.publish("user:alice", "hello", {"text": "<b>It works</b>"})
    words = token("alice", rooms=["chat"], publish=["room:chat"])
    page = await visit(f"{origin}/#{server.url}|{words}")
    await page.get_by_text('hello: {"text":"<b>It works</b>"}').wait_for()
    await page.wait_for_function("document.querySelector('#state').textContent === 'live'")
    await page.get_by_label("Say something").fill("hi")
    await page.get_by_role("button").click()
    last = page.get_by_text('said: {"text":"hi"}')
    await last.wait_for()
    # What is handled is kept; after a reload it does not come again.
    await page.reload()
    await page.wait_for_function("document.querySelector('#state').textContent === 'live'")
    await server.publish("user:alice", "hello", "again")
    await page.get_by_text('hello: "again"').wait_for()
    assert await page.locator("li").count() == 1


async def test_the_component_shows_events(
    server: Server, visit: Visit, programs: Programs, tmp_path: Path
) -> None:
    """In StrictMode, where React mounts everything twice."""
    (tmp_path / "page.jsx").write_text(f"""
        import {{ StrictMode }} from 'react'
        import {{ createRoot }} from 'react-dom/client'
        import {{ Orders }} from '{EXAMPLES}/react/Orders.jsx'
        const getToken = async () => '{token("alice")}'
        const root = createRoot(document.getElementById('root'))
        root.render(<StrictMode><Orders url='{server.url}' getToken={{getToken}} /></StrictMode>)
    """)
    await node.bundle(programs, tmp_path / "page.jsx", tmp_path / "page.js")
    page = await visit(f"{server.url}/healthz")
    await page.set_content('<!doctype html><div id="root"></div>')
    await page.add_script_tag(path=tmp_path / "page.js", type="module")
    await page.get_by_text("Up to date").wait_for()
    for order in (17, 18):
        await server.publish("user:alice", "order.shipped", {"order": order})
    await page.get_by_text("Order 18 has been shipped").wait_for()
    shown = await page.locator("li").all_text_contents()
    assert shown == ["Order 17 has been shipped", "Order 18 has been shipped"]
