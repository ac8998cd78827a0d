"""The programs in the how-to pages about clients, as a reader would paste them."""

import ast
import signal
from pathlib import Path

import pytest

from tests.browser.conftest import Visit
from tests.clients import node
from tests.clients.pages import HOW_TO, ROOT, blocks
from tests.clients.programs import Program, Programs, variables
from tests.harness import Server, eventually, token


async def python(programs: Programs, server: Server, folder: Path, program: str, *before: str) -> Program:
    (folder / "program.py").write_text(program)
    return await programs.python(*before, "program.py", folder=folder, **variables(server))


async def test_python_receives(server: Server, programs: Programs, tmp_path: Path) -> None:
    (receive,) = blocks("python.md", "python", "## Receive")
    position = await server.publish("user:alice", "hello", {"n": 1})
    program = await python(programs, server, tmp_path, receive)
    assert await program.line() == f"{position} hello {{'n': 1}}"


async def test_python_sends(server: Server, programs: Programs, tmp_path: Path) -> None:
    (send,) = blocks("python.md", "python", "## Send")
    for _ in range(2):
        assert await (await python(programs, server, tmp_path, send)).end() == "1\n"


async def test_python_without_asyncio(server: Server, programs: Programs, tmp_path: Path) -> None:
    (script,) = blocks("python.md", "python", "## Without asyncio")
    for _ in range(2):  # the event of the first time does not come again
        program = await python(programs, server, tmp_path, script)
        assert await program.end() == "hello {'text': 'It works'}\n"


def test_the_ledger_is_the_example_s() -> None:
    (ledger,) = blocks("python.md", "python", "## Exactly once")
    example = (ROOT / "examples/python/worker.py").read_text()
    assert ledger.partition("\n")[2] in example.replace("key: str, value: str) -> None", "key, value)")


async def test_python_in_tests(server: Server, programs: Programs, tmp_path: Path) -> None:
    plugin, test = blocks("python.md", "python", "## In tests")
    (tmp_path / "conftest.py").write_text(plugin)
    options = ("-m", "pytest", "-p", "no:schemathesis", "--rootdir=.", "-o", "asyncio_mode=auto")
    assert "1 passed" in await (await python(programs, server, tmp_path, test, *options)).end()


async def test_node(server: Server, programs: Programs, tmp_path: Path) -> None:
    folder = node.install(tmp_path)
    listen, end, loop, send = javascript("node.md")
    begin = listen.partition("tidings.on")[0]
    ship = "async function ship(order) { console.log('shipped', order); if (order === 19) tidings.close() }\n"
    for name, source in {"send": send, "listen": listen + end, "loop": begin + ship + loop}.items():
        (folder / f"{name}.mjs").write_text(source)

    async def run(name: str) -> Program:
        return await programs.node(f"{name}.mjs", folder=folder, **variables(server))

    assert "position: 1" in await (await run("send")).end()
    program = await run("listen")
    assert await program.line() == "1 17"
    await program.end(signal.SIGTERM)
    await server.publish("user:alice", "order.shipped", {"order": 18})
    program = await run("loop")
    # What was handled before was acknowledged when the other one was closed.
    assert await program.line() == "shipped 18"
    await server.publish("user:alice", "order.shipped", {"order": 19})
    assert await program.line() == "shipped 19"
    await program.end()


def javascript(page: str) -> list[str]:
    """Return the blocks in JavaScript, also those within lists."""
    text = (HOW_TO / page).read_text()
    return [part.partition("```")[0] for part in text.split("```js\n")[1:]]


@pytest.mark.parametrize(
    "page", ["in-a-browser", "react", "react-native", "node", "coming-from", "identity-providers"]
)
async def test_everything_in_javascript_is_well_formed(page: str, programs: Programs, tmp_path: Path) -> None:
    found = [*javascript(f"{page}.md"), *blocks(f"{page}.md", "jsx")]
    assert found
    for number, block in enumerate(found):
        source = tmp_path / f"{number}.jsx"
        source.write_text(block)
        await node.check(programs, source)


@pytest.mark.parametrize("page", ["coming-from", "python", "write-a-client"])
def test_everything_in_python_is_well_formed(page: str) -> None:
    for block in blocks(f"{page}.md", "python"):
        # What is shown of a program may await as if it stood in a function.
        compile(block, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


async def test_the_page_without_a_build(server: Server, visit: Visit) -> None:
    (script,) = blocks("in-a-browser.md", "html")
    script = script.replace("http://127.0.0.1:8000", server.url).replace("eyJ…", token("alice"))
    page = await visit(f"{server.url}/healthz")
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text))
    await page.set_content(f"<!doctype html>{script}")
    await server.publish("user:alice", "order.shipped", {"order": 17})
    await eventually(lambda: heard)
    assert heard == ["1 {order: 17}"]
