"""Chromium, as a person has it before them; a page that complains on its console fails its test."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import (
    Browser,
    BrowserContext,
    CDPSession,
    ConsoleMessage,
    Page,
    async_playwright,
    expect,
)

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
PATIENCE = 30_000
"""Milliseconds that a page gets for anything, however slow the machine."""
expect.set_options(timeout=PATIENCE)

Visit = Callable[..., Awaitable[Page]]
"""Opens a page of a context of its own, unless ``beside`` names a page whose context it is to share."""


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        yield browser
        await browser.close()


@pytest.fixture
async def complaints() -> AsyncIterator[list[str]]:
    """What pages print as errors or fail with; a test that expects some takes them out."""
    told: list[str] = []
    yield told
    assert told == []


@pytest.fixture
async def visit(chromium: Browser, complaints: list[str]) -> Visit:
    async def visit_page(url: str, *, beside: Page | None = None, **options: Any) -> Page:
        context = await chromium.new_context(**options) if beside is None else beside.context
        context.set_default_timeout(PATIENCE)
        await context.route("**/favicon.ico", lambda route: route.fulfill(status=204))
        page = await context.new_page()

        def hear(message: ConsoleMessage) -> None:
            if message.type in {"error", "warning"}:
                complaints.append(f"{message.type}: {message.text}")

        page.on("console", hear)
        page.on("pageerror", lambda error: complaints.append(f"thrown: {error}"))
        await page.goto(url)
        return page

    return visit_page


@pytest.fixture
async def attended(tmp_path: Path) -> AsyncIterator[BrowserContext]:
    """A browser that shows one page at a time, as a person's does, and may freeze the others.

    Playwright's own make every page believe that it is looked at (Emulation.setFocusEmulationEnabled).
    """
    process = await asyncio.create_subprocess_exec(
        "/usr/bin/chromium", *ARGUMENTS, "--headless=new", "--remote-debugging-port=0",
        f"--user-data-dir={tmp_path}", "about:blank",
        stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        address = await _listening_on(process.stderr)
        drained = asyncio.create_task(process.stderr.read())
        async with async_playwright() as playwright:
            browser = await playwright.chromium.connect_over_cdp(address, no_defaults=True)
            browser.contexts[0].set_default_timeout(PATIENCE)
            yield browser.contexts[0]
            await browser.close()
    finally:
        process.terminate()
        await process.wait()
    await drained


async def _listening_on(stderr: asyncio.StreamReader) -> str:
    async for line in stderr:
        if b"DevTools listening on " in line:
            return line.split()[-1].decode()
    raise AssertionError("Chromium did not start")


async def freeze(page: Page) -> CDPSession:
    """Stop a page, as a browser stops those that nobody looks at."""
    session = await page.context.new_cdp_session(page)
    await session.send("Page.setWebLifecycleState", {"state": "frozen"})
    return session


async def thaw(session: CDPSession) -> None:
    await session.send("Page.setWebLifecycleState", {"state": "active"})
