"""Chromium, as a person has it before them; a page that complains on its console fails its test."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
PATIENCE = 10_000
"""Milliseconds that a page gets for anything."""

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
