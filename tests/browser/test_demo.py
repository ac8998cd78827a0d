"""The demonstration, as somebody uses it who has just started the service."""

import re
from typing import Any

import pytest
from playwright.async_api import Locator, Page, expect

from tests.browser.conftest import Visit
from tests.harness import Server, eventually

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
SHIFTS = """() => new Promise((tell) => {
    let sum = 0
    const add = (list) => {
        for (const { hadRecentInput, value } of list.getEntries()) sum += hadRecentInput ? 0 : value
    }
    new PerformanceObserver(add).observe({ type: 'layout-shift', buffered: true })
    setTimeout(() => tell(sum), 50)
})"""
FOCUSED = """() => {
    let at = document.activeElement
    while (at.shadowRoot?.activeElement) at = at.shadowRoot.activeElement
    return at.getAttribute('aria-label') ?? (at.type === 'radio' ? at.value : at.innerText.trim())
}"""
GREETING = "Hi Alice! This came over the service that you have just started."


class Side:
    """One person's part of the page."""

    def __init__(self, page: Page, name: str) -> None:
        self.part = page.get_by_role("region", name=name)
        self.list = self.part.get_by_role("log")
        self.rows = self.list.locator(".entry")
        self.text = self.part.get_by_role("textbox")
        self.bell = self.part.get_by_role("button", name="Notifications")
        self.note = self.part.locator("> .note")
        self.state = self.part.locator(".name .state")

    def button(self, name: str | re.Pattern[str]) -> Locator:
        return self.part.get_by_role("button", name=name)

    async def write(self, *texts: str, to: str = "") -> None:
        if to:
            await self.part.get_by_role("radio", name=to).check(force=True)
        for text in texts:
            await self.text.fill(text)
            await self.text.press("Enter")

    async def words(self) -> list[str]:
        return await self.list.locator(".words").all_text_contents()


Opened = tuple[Page, Side, Side]


async def opened(server: Server, visit: Visit, **options: Any) -> Opened:
    """The page with both people, once the two first lines are there."""
    page = await visit(f"{server.url}/demo", **options)
    alice, bob = Side(page, "Alice"), Side(page, "Bob")
    for side in (alice, bob):
        await expect(side.rows).to_have_count(2)
    return page, alice, bob


@pytest.mark.parametrize("options", [{}, PHONE, {"color_scheme": "dark", "reduced_motion": "reduce"}])
async def test_something_arrives_by_itself_and_nothing_jumps(
    server: Server, visit: Visit, options: dict[str, Any]
) -> None:
    page, alice, bob = await opened(server, visit, **options)
    assert await alice.words() == [GREETING, "Got it, Bob."] == await bob.words()
    for side in (alice, bob):
        await expect(side.state).to_have_text("live")
        await expect(side.bell).to_have_accessible_name("Notifications, 1 unread")
    await expect(alice.note).to_contain_text("written by this page")
    assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert await page.evaluate(SHIFTS) < 0.01


async def test_what_one_writes_the_other_has(server: Server, visit: Visit) -> None:
    _, alice, bob = await opened(server, visit)
    await alice.write("Lunch?")
    await expect(bob.rows.last).to_contain_text("Lunch?")
    await expect(bob.rows.last).to_contain_text("to you")
    await expect(bob.bell).to_have_accessible_name("Notifications, 2 unread")
    await expect(alice.rows.last).to_contain_text("Bob has it")
    await expect(alice.text).to_be_focused()
    await expect(alice.text).to_have_value("")
    await bob.write("<b>For all</b>", to="everyone")
    for side in (alice, bob):
        await expect(side.rows.last.locator(".words")).to_have_text("<b>For all</b>")
        await expect(side.rows.last).to_contain_text("to everyone")
    await server.publish("user:alice", "hello", {"text": "It works"})
    await expect(alice.rows.last).to_contain_text("hello")
    await expect(alice.rows.last.locator(".words")).to_have_text("It works")


async def test_who_was_cut_off_gets_what_was_missed_in_order_and_once(server: Server, visit: Visit) -> None:
    page, alice, bob = await opened(server, visit)

    async def has_gone() -> bool:
        there = (await server.http.get("/v1/connections", params={"user": "bob"})).json()
        return not there["data"]

    await bob.button("Cut the network").click()
    await expect(bob.state).to_have_text("offline")
    await expect(alice.note).to_have_text("Bob is offline. What you send is in the log and waits for Bob.")
    await eventually(has_gone)
    await alice.write("one", "two", "three")
    await expect(alice.note).to_have_text("Bob is offline. 3 events are in the log and wait for Bob.")
    await expect(alice.rows.last).to_contain_text("in the log")
    await expect(page.locator(".standing")).to_contain_text("Bob has 3 events to come")
    await bob.write("from the tunnel")
    await expect(bob.rows.last).to_contain_text("not sent yet")
    await expect(bob.note).to_contain_text("It goes out by itself")
    await expect(bob.rows).to_have_count(3)
    await expect(alice.rows).to_have_count(5)
    assert await has_gone()  # however often it has tried
    await bob.button("Restore").click()
    await expect(bob.list.locator(".missed")).to_have_text(
        re.compile(r"^3 events that Bob missed, replayed in \d+ ms$")
    )
    await expect(bob.state).to_have_text("live")
    await expect(alice.rows).to_have_count(6)
    assert (await bob.words())[-3:] == ["one", "two", "three"]
    again = bob.rows.filter(has_text="replayed").locator(".words")
    assert await again.all_text_contents() == ["one", "two", "three"]
    await expect(bob.note).to_have_text("Bob is back: 3 events came from the log, in order, each once.")
    await expect(alice.rows.last).to_contain_text("from the tunnel")
    await expect(alice.rows.filter(has_text="Bob has it")).to_have_count(4)
    await expect(page.locator(".standing")).to_contain_text("Bob has everything")
    await expect(bob.bell).to_have_accessible_name("Notifications, 4 unread")


async def test_the_bell_too_is_cut_off(server: Server, visit: Visit) -> None:
    _, alice, bob = await opened(server, visit)
    await bob.button("Cut the network").click()
    await bob.bell.click()
    await expect(bob.button("Try again")).to_be_visible()
    await bob.button("Restore").click()
    await expect(bob.bell).to_have_accessible_name("Notifications, 1 unread")
    await alice.bell.click()
    await expect(alice.part.get_by_role("dialog")).to_contain_text(f"Bob: {GREETING}")


async def test_rooms_and_who_is_there(server: Server, visit: Visit) -> None:
    _, alice, bob = await opened(server, visit)
    for side in (alice, bob):
        await expect(side.button("Room lobby, there: Alice, Bob")).to_have_attribute("aria-pressed", "true")
    await alice.button("Join room orders").click()
    await expect(alice.button("Room orders, there: Alice")).to_be_visible()
    await bob.write("17 is late", to="#orders")
    await expect(alice.rows.last).to_contain_text("17 is late")
    await expect(alice.rows.last).to_contain_text("to #orders")
    await alice.button(re.compile("Room lobby")).click()
    await expect(alice.button("Join room lobby")).to_have_attribute("aria-pressed", "false")
    await expect(bob.button("Room lobby, there: Bob")).to_be_visible()
    await bob.write("Alone?", to="#lobby")
    await bob.write("Still there?", to="Alice")
    await expect(alice.rows.last).to_contain_text("Still there?")
    assert "Alone?" not in await alice.words()
    assert (await bob.words())[-2:] == ["Alone?", "Still there?"]


async def test_typing_is_seen_until_it_is_sent(server: Server, visit: Visit) -> None:
    _, alice, bob = await opened(server, visit)
    typing = alice.part.locator(".typing")
    await expect(typing).to_have_css("opacity", "0")

    async def seen() -> bool:
        """Type, and look: what is seen of it is gone three seconds later."""
        await bob.text.press_sequentially("On my")
        return bool(await typing.evaluate(
            "(at) => getComputedStyle(at).opacity === '1' && at.textContent === 'Bob is typing…'"
        ))  # fmt: skip

    await eventually(seen)
    await bob.text.press("Enter")
    await expect(alice.rows.last).to_contain_text("On my")
    await expect(typing).to_have_css("opacity", "0")


async def test_a_page_loaded_anew_shows_nothing_twice(server: Server, visit: Visit) -> None:
    page, alice, bob = await opened(server, visit)
    await alice.write("for all", to="everyone")
    await expect(bob.rows).to_have_count(3)
    await bob.button("Cut the network").click()
    await bob.write("before the end")
    await expect(bob.rows.last).to_contain_text("not sent yet")
    before = await alice.words()
    await page.reload()
    await expect(bob.rows.last).to_contain_text("Alice has it")
    assert await alice.words() == [*before, "before the end"]
    assert await bob.words() == [*before, "before the end"]
    for side in (alice, bob):  # what Bob sent as soon as he was back may have been there before Alice was
        replayed = side.rows.filter(has_text="replayed", has_not_text="before the end")
        assert await replayed.count() == 0
    await page.goto("about:blank")
    await server.publish("user:alice", "hello", {"text": "while it was closed"})
    await page.goto(f"{server.url}/demo")
    await expect(alice.list.locator(".missed")).to_contain_text("1 event that Alice missed, replayed in")
    await expect(alice.rows.filter(has_text="replayed")).to_have_count(1)
    assert (await alice.words())[-1] == "while it was closed"


async def test_what_belongs_to_another_log_is_forgotten(server: Server, visit: Visit) -> None:
    page, alice, bob = await opened(server, visit)
    await expect(alice.rows.last).to_contain_text("Bob has it")  # after that, nothing is kept any more
    await page.evaluate("""() => {
        const key = 'tidings-demo:alice:entries'
        const kept = JSON.parse(localStorage.getItem(key))
        localStorage.setItem(key, JSON.stringify({ ...kept, log: 'another' }))
    }""")
    await page.reload()
    await expect(alice.rows).to_have_count(0)
    await expect(bob.rows).to_have_count(2)


async def test_an_end_by_an_admin_is_told_and_can_be_undone(server: Server, visit: Visit) -> None:
    _, alice, _ = await opened(server, visit)
    (there,) = (await server.http.get("/v1/connections", params={"user": "alice"})).json()["data"]
    await server.http.delete(f"/v1/connections/{there['id']}")
    await expect(alice.state).to_have_text("closed")
    await expect(alice.note).to_contain_text("disconnected by an admin")
    await alice.button("Connect again").click()
    await expect(alice.state).to_have_text("live")


async def test_keys_alone_will_do(server: Server, visit: Visit) -> None:
    page, alice, bob = await opened(server, visit)
    for side in (alice, bob):
        await expect(side.button("Room lobby, there: Alice, Bob")).to_be_visible()
        await expect(side.button("Notifications, 1 unread")).to_be_visible()
    await page.evaluate("document.activeElement.blur()")
    order = []
    for _ in range(20):
        await page.keyboard.press("Tab")
        order.append(await page.evaluate(FOCUSED))
    assert order[:4] == ["Tidings", "API docs", "Admin", "Events by position, newest last"]
    assert order[4:12] == [
        "Notifications, 1 unread", "Cut the network", "Room lobby, there: Alice, Bob", "Join room orders",
        "Events for Alice", "user:bob", "What Alice sends", "Send",
    ]  # fmt: skip
    assert order[12] == "Notifications, 1 unread"
    assert order[17] == "user:alice"
    await page.keyboard.press("Shift+Tab")
    await page.keyboard.press("Shift+Tab")
    await page.keyboard.press("ArrowRight")
    await page.keyboard.press("Tab")
    await page.keyboard.type("by keys")
    await page.keyboard.press("Enter")
    await expect(bob.rows.last).to_contain_text("by keys")
    await expect(bob.rows.last).to_contain_text("to #lobby")


async def test_the_lines_for_the_terminal_are_copied_without_a_key(server: Server, visit: Visit) -> None:
    page, _, _ = await opened(server, visit, permissions=["clipboard-read", "clipboard-write"])
    part = page.get_by_role("region", name="Now from your terminal")
    for which, begin in (("With the command", ".venv/bin/tidings send user:alice"), ("From any", "curl ")):
        button = part.get_by_role("button", name=f"Copy: {which}")
        await button.click()
        await expect(button).to_have_text("Copied")
        copied = await page.evaluate("navigator.clipboard.readText()")
        assert copied.startswith(begin)
        assert server.url in copied
        assert "admin-" not in copied
