"""``python -m tests.screenshots``: takes the pictures in docs/screenshots, of a service of its own."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from playwright.async_api import Browser, Locator, Page, async_playwright, expect

from service.store import embedded, schema
from tests.browser.conftest import ARGUMENTS
from tests.harness import Device, Server, eventually, serving, token

FOLDER: Final = Path(__file__).parent.parent / "docs/screenshots"
LIMIT: Final = 200_000
"""Bytes of a picture, so that a checkout stays small."""
DESK: Final[dict[str, Any]] = {"viewport": {"width": 1280, "height": 984}}
PHONE: Final[dict[str, Any]] = {
    "viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True,
}  # fmt: skip
NAMES: Final = (
    "maya",
    "jonas",
    "aylin",
    "tomás",
    "ines",
    "kofi",
    "lena",
    "noor",
    "piotr",
    "sara",
    "wei",
    "zoë",
)
LINES: Final = ("The parcel is at your door.", "Are you on the train?", "Never mind: it waits for you.")
SECONDS: Final = 40
"""How long the service is busy before the admin's page is taken: its charts need points."""


async def main() -> None:
    expect.set_options(timeout=30_000)
    FOLDER.mkdir(exist_ok=True)
    async with async_playwright() as playwright, served() as server:
        browser = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        await demonstration(browser, server)
        await administration(browser, server)
        await browser.close()
    for picture in sorted(FOLDER.glob("*.png")):
        size = picture.stat().st_size
        assert size < LIMIT, f"{picture.name} has {size} bytes"


@asynccontextmanager
async def served() -> AsyncIterator[Server]:
    with TemporaryDirectory(prefix="tidings-screenshots-") as folder:
        url = embedded.start(Path(folder))
        try:
            await schema.upgrade(url)
            async with serving(database_url=url) as server:
                await eventually(lambda: is_ready(server))
                yield server
        finally:
            embedded.stop(Path(folder))


async def is_ready(server: Server) -> bool:
    return (await server.http.get("/readyz")).status_code == 200


async def taken(what: Page | Locator, name: str) -> None:
    await what.screenshot(path=FOLDER / f"{name}.png", animations="disabled", caret="hide")


# The demonstration


async def demonstration(browser: Browser, server: Server) -> None:
    for name, options in (
        ("demo", DESK),
        ("demo-dark", DESK | {"color_scheme": "dark"}),
        ("demo-phone", PHONE),
    ):
        await read_all(server, "alice", "bob")
        async with page_of(browser, f"{server.url}/demo", **options) as page:
            await cut_off(page)
            if name == "demo-dark":
                await bob_of(page).get_by_role("button", name="Restore").click()
                await expect(alice_of(page).locator(".entry").last).to_contain_text("Bob has it")
                await expect(page.locator(".standing")).to_contain_text("Bob has everything")
            await page.mouse.move(0, 0)
            await page.evaluate("document.activeElement.blur()")
            await page.evaluate("scrollTo(0, 0)")
            await taken(page, name)
            if name == "demo":
                await taken_bell(page)


async def read_all(server: Server, *users: str) -> None:
    """Let the bells begin at nothing."""
    for user in users:
        headers = {"Authorization": f"Bearer {token(user)}"}
        badge = (await server.http.get("/v1/inbox/unread", headers=headers)).json()
        answer = await server.http.post("/v1/inbox/read", json={"up_to": badge["position"]}, headers=headers)
        assert answer.status_code == 200, answer.text


def alice_of(page: Page) -> Locator:
    return page.get_by_role("region", name="Alice")


def bob_of(page: Page) -> Locator:
    return page.get_by_role("region", name="Bob")


async def cut_off(page: Page) -> None:
    """Let Bob miss three lines."""
    alice, bob = alice_of(page), bob_of(page)
    await expect(alice.locator(".entry").filter(has_text="Bob has it")).to_have_count(1)
    await bob.get_by_role("button", name="Cut the network").click()
    for line in LINES:
        await alice.get_by_role("textbox").fill(line)
        await alice.get_by_role("textbox").press("Enter")
        await expect(alice.locator(".entry").last).to_contain_text("in the log")
    # The service has noticed, and so has everybody who is in the room.
    await expect(alice.get_by_role("button", name="Room lobby, there: Alice", exact=True)).to_be_visible()


async def taken_bell(page: Page) -> None:
    await bob_of(page).get_by_role("button", name="Restore").click()
    bell = bob_of(page).get_by_role("button", name="Notifications")
    await bell.click()
    dialog = bob_of(page).get_by_role("dialog")
    await expect(dialog.get_by_role("listitem").first).to_contain_text(LINES[-1])
    box = await dialog.bounding_box()
    assert box
    clip = {"x": box["x"] - 24, "y": box["y"] - 72, "width": box["width"] + 48, "height": 480}
    await page.screenshot(path=FOLDER / "bell.png", animations="disabled", clip=clip)  # type: ignore[arg-type]


# The page for admins


async def administration(browser: Browser, server: Server) -> None:
    async with AsyncExitStack() as stack:
        for name in NAMES:
            for device in ("phone", "laptop")[: 1 + len(name) % 2]:
                await stack.enter_async_context(reader(server, name, device))
        await equipped(server)
        pages = [
            (await stack.enter_async_context(admin_page(browser, server, **options)), name)
            for name, options in (("admin", DESK), ("admin-phone", PHONE))
        ]
        await busy(server)
        for page, name in pages:
            await taken(page, name)


@asynccontextmanager
async def reader(server: Server, user: str, device: str) -> AsyncIterator[Device]:
    """Somebody who is there and reads all that comes."""
    async with await server.live(user, device=device) as there:
        reading = asyncio.create_task(_read(there))
        yield there
        reading.cancel()


async def _read(device: Device) -> None:
    async for _ in device.socket:
        pass


async def equipped(server: Server) -> None:
    for name, scopes in (("shop", ["publish"]), ("billing", ["publish"]), ("dashboard", ["read"])):
        answer = await server.http.post("/v1/keys", json={"name": name, "scopes": scopes})
        assert answer.status_code == 201
    await server.join("orders", *NAMES[:7])
    await server.join("support", *NAMES[5:])


async def busy(server: Server) -> None:
    """Send what a shop would send, now more and now less."""
    chance = random.Random(17)
    for second in range(SECONDS):
        for _ in range(chance.randint(2, 6) + 6 * (second % 12 < 4)):
            order = chance.randint(1000, 9999)
            to = chance.choice(["room:orders", "room:support", *(f"user:{name}" for name in NAMES)])
            type_ = chance.choice(["order.placed", "order.shipped", "invoice.paid", "chat.message"])
            await server.publish(to, type_, {"order": order, "title": f"Order {order}"})
        await asyncio.sleep(1)


@asynccontextmanager
async def admin_page(browser: Browser, server: Server, **options: Any) -> AsyncIterator[Page]:
    async with page_of(browser, f"{server.url}/admin", **options) as page:
        made = await server.http.post("/v1/keys", json={"name": "operations", "scopes": ["admin"]})
        await page.get_by_label("Admin key").fill(made.json()["key"])
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        yield page


@asynccontextmanager
async def page_of(browser: Browser, url: str, **options: Any) -> AsyncIterator[Page]:
    context = await browser.new_context(locale="en-GB", **options)
    page = await context.new_page()
    await page.goto(url)
    yield page
    await context.close()


if __name__ == "__main__":
    asyncio.run(main())
