"""`<tidings-bell>` on a page that allows no more than it must."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Locator, Page, expect

from tests.browser.conftest import Visit
from tests.browser.pages import POLICY, Pages, page, site
from tests.harness import Server, eventually, token

STYLE = """
    html { color-scheme: light dark } body { margin: 0 } header { display: flex; justify-content: end }
    tidings-bell:not(:defined) { display: inline-block; width: 40px; height: 40px }
"""
SHIPPED = {"title": "Order 17 has shipped", "text": "It is with you on Friday."}

Scene = Any


@pytest.fixture
async def scene(server: Server, visit: Visit) -> AsyncIterator[Scene]:
    """Opens a page of the service's origin with a bell of alice's."""
    pages: Pages = {"/page.css": STYLE, "/order": page("the order", script="/client/index.js")}
    async with site(pages, server.port, POLICY) as origin:

        async def open_page(*, script: str = "", bells: int = 1, **options: Any) -> Page:
            bell = f'<tidings-bell token="{token("alice")}"></tidings-bell>' * bells
            pages["/"] = page(f'<header><a href="#a">before</a>{bell}<a href="#b">after</a></header>')
            begin = "import '/client/bell.js'\nconst bell = document.querySelector('tidings-bell')\n"
            pages["/page.js"] = begin + script
            return await visit(f"{origin}/", **options)

        yield open_page


def bell(page: Page) -> Locator:
    return page.get_by_role("button", name="Notifications").first


async def known(server: Server, user: str = "alice") -> None:
    """Let the service know the user, so that what is sent to everyone is for them."""
    await (await server.live(user)).close()


async def unread(server: Server, user: str = "alice") -> Any:
    headers = {"Authorization": f"Bearer {token(user)}"}
    return (await server.http.get("/v1/inbox/unread", headers=headers)).json()["unread"]


async def focused(page: Page) -> str:
    """Return the text of what has the focus, however deep it is."""
    text: str = await page.evaluate("""() => {
        let at = document.activeElement
        while (at.shadowRoot?.activeElement) at = at.shadowRoot.activeElement
        return at.getAttribute('aria-label') ?? at.innerText.replace(/\\s+/g, ' ')
    }""")
    return text


async def holds(page: Page, condition: str) -> None:
    """Wait for a condition. Playwright's own wait evaluates a string, which the page's policy forbids."""
    await eventually(lambda: page.evaluate(condition))


async def inside(page: Page) -> None:
    """Wait until the focus is on an item."""
    await holds(page, "document.activeElement.shadowRoot?.activeElement?.matches('.item')")


async def test_a_bell_is_used_by_keys_alone(server: Server, scene: Scene) -> None:
    await server.publish("user:alice", "order.shipped", SHIPPED)
    await server.publish("user:alice", "chat.said", {"text": "Hello"})
    page = await scene()
    await expect(bell(page)).to_have_accessible_name("Notifications, 2 unread")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Tab")
    assert await focused(page) == "Notifications, 2 unread"
    await page.keyboard.press("ArrowDown")
    await expect(page.get_by_role("dialog", name="Notifications")).to_be_visible()
    await expect(page.get_by_role("listitem")).to_have_count(2)
    await inside(page)
    assert (await focused(page)).startswith("Unread Hello")
    await page.keyboard.press("ArrowUp")  # there is nothing above
    await page.keyboard.press("ArrowDown")
    assert "Order 17 has shipped" in await focused(page)
    await page.keyboard.press("Enter")
    await expect(bell(page)).to_have_accessible_name("Notifications, 1 unread")
    assert await unread(server) == 1
    await page.keyboard.press("Home")
    assert "Hello" in await focused(page)
    await page.keyboard.press("Shift+Tab")
    assert await focused(page) == "Mark all as read"
    await page.keyboard.press("Enter")
    await expect(bell(page)).to_have_accessible_name("Notifications")
    assert await unread(server) == 0
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    assert await focused(page) == "Notifications"
    await expect(bell(page)).to_have_attribute("aria-expanded", "false")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog")).to_be_visible()
    await inside(page)
    await page.keyboard.press("Tab")
    assert await focused(page) == "after"
    await expect(page.get_by_role("dialog")).to_have_count(0)


async def test_what_a_screen_reader_has_of_it(server: Server, scene: Scene) -> None:
    await server.publish("user:alice", "order.shipped", SHIPPED | {"url": "/order"})
    await server.publish("user:alice", "odd", {"amount": 12, "paid": True})
    page = await scene()
    await bell(page).click()
    await expect(page.get_by_role("dialog")).to_match_aria_snapshot("""
        - dialog "Notifications":
          - heading "Notifications" [level=2]
          - status
          - button "Mark all as read"
          - list "Notifications":
            - listitem:
              - 'button "Unread odd amount: 12 · paid: true now"'
            - listitem:
              - link "Unread Order 17 has shipped It is with you on Friday. now":
                - /url: /.*/order/
    """)
    said = page.locator("tidings-bell .unseen[aria-live=polite]")
    await expect(said).to_be_attached()
    await eventually(lambda: _is_live(server))
    await server.publish("user:alice", "chat.said", {"title": "Maya", "text": "Hello"})
    await expect(said).to_have_text("New notification: Maya. Hello")


async def _is_live(server: Server) -> bool:
    there = (await server.http.get("/v1/connections", params={"user": "alice"})).json()["data"]
    return "live" in [connection["state"] for connection in there]


async def test_the_number_agrees_on_all_devices(server: Server, scene: Scene) -> None:
    await known(server)
    pages = [await scene(), await scene()]
    for n in range(3):
        await server.publish("everyone" if n == 1 else "user:alice", data={"title": f"No. {n}"})
    await server.publish("user:bob", data={"title": "for somebody else"})
    for each in pages:
        await expect(bell(each)).to_have_accessible_name("Notifications, 3 unread")
        await bell(each).click()
        await expect(each.get_by_role("listitem")).to_have_count(3)
    await pages[0].get_by_role("button", name="No. 1").click()
    for each in pages:
        await expect(bell(each)).to_have_accessible_name("Notifications, 2 unread")
        await expect(each.get_by_role("button", name="Unread No.")).to_have_count(2)
    await pages[1].get_by_role("button", name="Mark all as read").click()
    for each in pages:
        await expect(bell(each)).to_have_accessible_name("Notifications")
        await expect(each.get_by_role("button", name="Unread No.")).to_have_count(0)
    await server.publish("user:alice", data={"title": "another"})
    for each in pages:
        await expect(bell(each)).to_have_accessible_name("Notifications, 1 unread")


async def test_what_replaces_another_counts_once(server: Server, scene: Scene) -> None:
    """Which only the server knows: the bell asks again."""
    await server.publish("user:alice", data={"title": "Build 1"}, collapse_key="build")
    page = await scene()
    await bell(page).click()
    await expect(page.get_by_role("button", name="Build 1")).to_be_visible()
    await server.publish("user:alice", data={"title": "Build 2"}, collapse_key="build")
    await expect(page.get_by_role("button", name="Build 2")).to_be_visible()
    await expect(page.get_by_role("button", name="Build 1")).to_have_count(0)
    await expect(bell(page)).to_have_accessible_name("Notifications, 1 unread")


async def test_a_count_that_is_not_all_says_so(server: Server, scene: Scene) -> None:
    count = {"unread": 50, "more": True, "position": 9}
    page = await scene()
    await page.context.route("**/v1/inbox/unread", lambda route: route.fulfill(json=count))
    await page.reload()
    await expect(bell(page)).to_have_accessible_name("Notifications, 50 or more unread")
    await expect(page.locator("tidings-bell .badge")).to_have_text("50+")


async def test_what_is_taken_back_goes(server: Server, scene: Scene) -> None:
    """And where it had the focus, the next one has it."""
    wrong = await server.publish("user:alice", data={"title": "Wrong"})
    await server.publish("user:alice", data={"title": "Right"})
    page = await scene()
    await bell(page).click()
    await expect(page.get_by_role("listitem")).to_have_count(2)
    await inside(page)
    await page.keyboard.press("End")
    assert "Wrong" in await focused(page)
    await server.http.delete(f"/v1/events/{wrong}")
    await expect(page.get_by_role("listitem")).to_have_count(1)
    assert "Right" in await focused(page)
    await expect(bell(page)).to_have_accessible_name("Notifications, 1 unread")


async def test_a_long_inbox_comes_page_by_page(server: Server, scene: Scene) -> None:
    for n in range(120):
        await server.publish("user:alice", data={"title": f"No. {n}"})
    page = await scene()
    await expect(page.locator("tidings-bell .badge")).to_have_text("99+")
    await expect(bell(page)).to_have_accessible_name("Notifications, 120 unread")
    await bell(page).click()
    items = page.get_by_role("listitem")
    await expect(items).to_have_count(20)
    await items.last.scroll_into_view_if_needed()
    await eventually(lambda: _more(page, 20))
    await page.get_by_role("button", name="Show older").focus()
    await eventually(lambda: _at_the_end(page))
    await expect(items).to_have_count(120)
    await expect(items.last).to_contain_text("No. 0")
    await page.keyboard.press("Escape")
    await bell(page).click()
    await expect(items).to_have_count(20)


async def _at_the_end(page: Page) -> bool:
    """Go to the end of the list; tell whether nothing is left to be loaded there."""
    await page.keyboard.press("End")
    await page.get_by_role("listitem").last.scroll_into_view_if_needed()
    return not await page.get_by_role("button", name="Show older").count()


async def _more(page: Page, than: int) -> bool:
    return await page.get_by_role("listitem").count() > than


async def test_data_is_text_and_links_lead_to_pages_only(server: Server, scene: Scene) -> None:
    html = "<img src=x onerror=alert(1)>"
    for url in ("javascript:alert(1)", "data:text/html,x", "/order", "https://shop.example/", "//[", 5):
        await server.publish("user:alice", data={"title": html, "text": html, "url": url})
    page = await scene()
    await bell(page).click()
    items = page.get_by_role("listitem")
    await expect(items).to_have_count(6)
    links = page.get_by_role("dialog").get_by_role("link")
    assert [await link.get_attribute("href") for link in await links.all()] == [
        "https://shop.example/", page.url + "order",
    ]  # fmt: skip
    assert await page.locator("tidings-bell img").count() == 0
    await expect(items.first).to_contain_text(html)


async def test_opening_one_marks_it_though_the_page_goes(server: Server, scene: Scene) -> None:
    await server.publish("user:alice", data={"title": "Order 17", "url": "/order"})
    page = await scene()
    await bell(page).click()
    await page.get_by_role("link", name="Order 17").click()
    await page.wait_for_url("**/order")

    async def all_read() -> bool:
        return await unread(server) == 0

    await eventually(all_read)


async def test_a_page_takes_part(server: Server, scene: Scene) -> None:
    """Its own rendering and words, its own routing, and the number for its title."""
    await server.publish("user:alice", "order.shipped", {"order": 17, "url": "/order"})
    await server.publish("user:alice", "broken", {"title": "still shown"})
    script = """
        bell.texts = { title: 'Mitteilungen', unread: 'Ungelesen', count: (n) => `${n} ungelesen` }
        bell.render = ({ type, data }) => {
            if (type === 'broken') throw new Error('the hook fails')
            const node = document.createElement('em')
            node.textContent = `order ${data.order}`
            return node
        }
        bell.addEventListener('tidings-open', (event) => {
            event.preventDefault()
            document.title = event.detail.data.url
        })
        window.told = []
        window.addEventListener('tidings-unread', ({ detail }) => window.told.push(detail.unread))
        window.addEventListener('error', (event) => event.preventDefault())
    """
    page = await scene(script=script)
    await page.evaluate("document.documentElement.lang = 'de'")
    button = page.get_by_role("button", name="Mitteilungen, 2 ungelesen")
    await button.click()
    await expect(page.get_by_role("button", name="still shown")).to_be_visible()
    link = page.get_by_role("link", name="Ungelesen order 17")
    await link.click()
    assert await page.title() == "/order"
    await holds(page, "window.told.at(-1) === 1")
    assert not page.url.endswith("/order")


async def test_nothing_failure_and_being_offline_are_said(
    server: Server, scene: Scene, complaints: list[str]
) -> None:
    page = await scene()
    await bell(page).click()
    await expect(page.get_by_text("You are all caught up")).to_be_visible()
    await page.keyboard.press("Escape")
    await page.context.route("**/v1/inbox?*", lambda route: route.abort())
    await page.reload()
    await bell(page).click()
    await expect(page.get_by_text("This did not work")).to_be_visible()
    await page.context.unroute("**/v1/inbox?*")
    await server.publish("user:alice", data={"title": "after all"})
    await page.get_by_role("button", name="Try again").click()
    await expect(page.get_by_role("listitem")).to_have_count(1)
    await page.context.set_offline(True)
    await expect(page.get_by_role("status").filter(has_text="Offline")).to_be_visible()
    await server.publish("user:alice", data={"title": "meanwhile"})
    await page.context.set_offline(False)
    await expect(page.get_by_role("listitem")).to_have_count(2)
    await expect(page.get_by_role("status").filter(has_text="Offline")).to_have_count(0)
    complaints[:] = [
        told for told in complaints if not re.search("ERR_FAILED|ERR_INTERNET_DISCONNECTED", told)
    ]


async def test_two_bells_on_a_page_show_the_same(server: Server, scene: Scene) -> None:
    await server.publish("user:alice", data={"title": "Order 17"})
    page = await scene(bells=2)
    bells = page.get_by_role("button", name="Notifications, 1 unread")
    await expect(bells).to_have_count(2)
    await bells.first.click()
    await expect(page.get_by_role("dialog")).to_have_count(1)
    await bells.last.click()
    await expect(page.get_by_role("dialog")).to_have_count(1)
    await page.get_by_role("button", name="Order 17").click()
    await expect(page.get_by_role("button", name="Notifications", exact=True)).to_have_count(2)


async def test_nothing_on_the_page_moves(server: Server, scene: Scene) -> None:
    page = await scene()
    before = await page.get_by_text("after").bounding_box()
    for n in range(12):
        await server.publish("user:alice", data={"title": f"No. {n}"})
    await expect(bell(page)).to_have_accessible_name("Notifications, 12 unread")
    assert await page.get_by_text("after").bounding_box() == before
    await bell(page).click()
    await expect(page.get_by_role("listitem")).to_have_count(12)
    assert await page.get_by_text("after").bounding_box() == before
    assert await page.evaluate(SHIFTED) == 0


SHIFTED = """() => new Promise((resolve) => {
    const observer = new PerformanceObserver((list) => resolve(
        list.getEntries().filter(({ hadRecentInput }) => !hadRecentInput).length
    ))
    observer.observe({ type: 'layout-shift', buffered: true })
    requestAnimationFrame(() => requestAnimationFrame(() => resolve(0)))
})"""
CONTRAST = """() => {
    const parse = (colour) => colour.match(/[\\d.]+/g).map(Number)
    const linear = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4
    const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement ?? at.getRootNode().host) {
            const colour = parse(getComputedStyle(at).backgroundColor)
            if (colour.length === 3 || colour[3] === 1) return colour
        }
        return parse(getComputedStyle(document.documentElement).colorScheme.includes('dark') &&
            matchMedia('(prefers-color-scheme: dark)').matches ? 'rgb(18, 18, 18)' : 'rgb(255, 255, 255)')
    }
    const root = document.querySelector('tidings-bell').shadowRoot
    const written = [...root.querySelectorAll('*')].filter((element) =>
        element.checkVisibility() && !element.matches('.unseen') &&
        [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    return written.map((element) => {
        const [a, b] = [parse(getComputedStyle(element).color), behind(element)].map(luminance)
        return [element.className || element.localName, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]
    })
}"""


@pytest.mark.parametrize(("scheme", "still"), [("light", True), ("dark", False)])
async def test_all_that_is_written_can_be_read(
    server: Server, scene: Scene, scheme: str, *, still: bool
) -> None:
    await server.publish("user:alice", data=SHIPPED)
    page = await scene(
        color_scheme=scheme,
        reduced_motion="reduce" if still else None,
        viewport={"width": 360, "height": 640},
    )
    await bell(page).click()
    await expect(page.get_by_role("listitem")).to_have_count(1)
    await page.get_by_role("listitem").hover()
    measured = await page.evaluate(CONTRAST)
    assert {"badge", "title", "text", "time", "quiet all", "h2"} <= {name for name, _ in measured}
    assert [(name, ratio) for name, ratio in measured if ratio < 4.5] == []
    surface = await page.locator("tidings-bell .panel").evaluate(
        "(at) => getComputedStyle(at).backgroundColor"
    )
    assert surface == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(27, 30, 37)")
    assert (
        await page.evaluate("document.querySelector('tidings-bell').shadowRoot.getAnimations().length") == 0
    )
    box = await page.get_by_role("dialog").bounding_box()
    assert box is not None
    assert box["x"] >= 8
    assert box["x"] + box["width"] <= 352
    assert box["y"] + box["height"] <= 640
    for button in [bell(page), page.get_by_role("button", name="Mark all as read")]:
        size = await button.bounding_box()
        assert size is not None
        assert min(size["width"], size["height"]) >= 24  # WCAG 2.2, 2.5.8


async def test_forced_colours_hide_nothing(server: Server, scene: Scene) -> None:
    await server.publish("user:alice", data=SHIPPED)
    page = await scene(forced_colors="active")
    await bell(page).click()
    await expect(page.get_by_role("listitem")).to_have_count(1)
    dot, canvas, border = await page.evaluate("""() => {
        const root = document.querySelector('tidings-bell').shadowRoot
        const [item, panel] = [root.querySelector('.item'), root.querySelector('.panel')].map((at) => at)
        const dot = getComputedStyle(item, '::before').backgroundColor
        const { backgroundColor, borderTopColor } = getComputedStyle(panel)
        return [dot, backgroundColor, borderTopColor]
    }""")
    assert dot != canvas
    assert border != canvas
