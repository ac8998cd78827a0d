"""The page for admins, as an admin uses it: in a real browser, against a real server."""

import re
from collections.abc import Awaitable, Callable

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import Visit
from tests.harness import ADMIN_KEY, Server, eventually, token

Start = Callable[..., Awaitable[Server]]


async def opened(server: Server, visit: Visit, section: str = "overview", **options: object) -> Page:
    """Open a section with the right key."""
    page = await visit(f"{server.url}/admin#/{section}", **options)
    await page.get_by_label("Admin key").fill(ADMIN_KEY)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("navigation", name="Sections")).to_be_visible()
    return page


async def confirm(page: Page, verb: str) -> None:
    await page.get_by_role("dialog").get_by_role("button", name=verb, exact=True).click()


async def test_the_key_is_asked_for_and_kept_nowhere(
    server: Server, visit: Visit, complaints: list[str]
) -> None:
    page = await visit(f"{server.url}/admin")
    key = page.get_by_label("Admin key")
    await expect(key).to_be_focused()
    for wrong in ("tk_wrong_key", "schlüssel", ""):
        await key.fill(wrong)
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_contain_text("not accepted")
    assert complaints
    assert all("401" in complaint for complaint in complaints)
    complaints.clear()  # the browser's own word about the answer

    await key.fill(f" {ADMIN_KEY} ")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    await expect(page.get_by_text("Up to date at")).to_be_visible()
    kept = await page.evaluate("""async () => [
        JSON.stringify(localStorage), JSON.stringify(sessionStorage), document.cookie, location.href,
        JSON.stringify(history.state), document.documentElement.outerHTML, window.name,
        ...[...document.querySelectorAll('input')].map((input) => input.value),
        JSON.stringify(await indexedDB.databases()), JSON.stringify(await caches.keys()),
        ...performance.getEntriesByType('resource').map((entry) => entry.name),
    ].join('\\n')""")
    assert ADMIN_KEY not in kept

    await page.get_by_role("button", name="Forget the key").click()
    await expect(page.get_by_label("Admin key")).to_have_value("")


async def test_a_key_without_the_scope_and_one_that_is_deleted_meanwhile(
    server: Server, visit: Visit, complaints: list[str]
) -> None:
    async def made(scope: str) -> dict[str, str]:
        answer = await server.http.post("/v1/keys", json={"name": scope, "scopes": [scope]})
        return dict(answer.json())

    page = await visit(f"{server.url}/admin")
    await page.get_by_label("Admin key").fill((await made("read"))["key"])
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_contain_text("does not have the scope admin")

    short = await made("admin")
    await page.get_by_label("Admin key").fill(short["key"])
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    await server.http.delete(f"/v1/keys/{short['id']}")
    await expect(page.get_by_role("alert")).to_contain_text("not accepted any more")
    assert all("401" in complaint or "403" in complaint for complaint in complaints)
    complaints.clear()


async def test_charts_move_and_nothing_else_does(server: Server, visit: Visit) -> None:
    page = await visit("about:blank")
    await page.add_init_script("""
        window.shifts = []
        new PerformanceObserver((list) => {
            for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts.push(entry.value)
        }).observe({ type: 'layout-shift', buffered: true })
    """)
    await page.goto(f"{server.url}/admin")
    await page.get_by_label("Admin key").fill(ADMIN_KEY)
    await page.keyboard.press("Enter")
    delivered = page.get_by_role("img", name=re.compile("^Delivered: [1-9]"))
    accepted = page.get_by_role("img", name=re.compile("^Accepted: [1-9]"))
    connections = page.get_by_role("img", name="Connections: 1", exact=True)
    line = page.locator(".chart .line-0").first
    drawn = await line.get_attribute("d")
    async with await server.live("alice"):

        async def seen() -> bool:
            for _ in range(20):
                await server.publish("user:alice")
            return all([await each.count() for each in (delivered, accepted, connections)])

        await eventually(seen)
        await expect(page.get_by_role("img", name=re.compile("^Time of a commit: .*ms"))).to_be_visible()
    assert await line.get_attribute("d") != drawn
    await expect(page.get_by_role("table", name="Instances").locator("tbody tr")).to_have_count(1)
    await page.get_by_role("link", name="Events").click()
    await expect(page.get_by_role("table", name="Events").locator("tbody tr").first).to_be_visible()
    assert sum(await page.evaluate("window.shifts")) < 0.01


async def test_a_test_event_is_sent_and_seen_and_its_receipt_and_recall(server: Server, visit: Visit) -> None:
    async with await server.live("alice", device="phone") as alice:
        page = await opened(server, visit, "events")
        await page.get_by_text("Send a test event").click()
        send = page.locator("details")
        await send.get_by_label("To").fill("user:alice")
        await send.get_by_label("Type").fill("greeting")
        await send.get_by_label("Data").fill("{")
        await send.get_by_role("button", name="Send").click()
        await expect(page.locator(".note")).to_contain_text("not JSON")
        await send.get_by_label("Data").fill('{"n": 12345678901234567890}')
        await send.get_by_role("button", name="Send").click()
        await expect(page.locator(".note")).to_contain_text("Sent to user:alice at position")
        frame = await alice.until("event", event="greeting")
        assert frame["data"] == {"n": 12345678901234567890}
        row = page.get_by_role("table", name="Events").locator("tbody tr").first
        await expect(row).to_contain_text("greeting")
        await expect(row).to_contain_text("12345678901234567890")

        later = await server.publish("room:orders", "order.paid")
        await expect(row).to_contain_text("order.paid")
        await page.get_by_role("search", name="Filter events").get_by_label("Type").fill("greet*")
        await expect(row).to_contain_text("greeting")
        await expect(page.get_by_text(str(later), exact=True)).to_have_count(0)

        await row.get_by_role("link").first.click()
        deliveries = page.get_by_role("table", name="Deliveries").locator("tbody tr")
        await expect(deliveries).to_contain_text(re.compile("alice.*phone.*received"))
        await page.get_by_role("button", name="Take it back").click()
        await confirm(page, "Take it back")
        await alice.until("recalled", recalled=frame["position"])
        await expect(page.get_by_role("button", name="Taken back")).to_be_disabled()


async def test_a_revoked_users_page_is_closed_and_the_admin_is_told_how_many(
    server: Server, visit: Visit
) -> None:
    page = await opened(server, visit, "access")
    user = await visit(f"{server.url}/healthz")
    await user.evaluate(
        """(urls) => {
            window.codes = []
            window.open_ = 0
            for (const url of urls) {
                const socket = new WebSocket(url)
                socket.onopen = () => (window.open_ += 1)
                socket.onclose = ({ code }) => window.codes.push(code)
            }
        }""",
        [server.ws_url(token=token("mallory"), device=name) for name in ("laptop", "phone")],
    )
    await user.wait_for_function("window.open_ === 2")

    await page.get_by_label("User", exact=True).fill("mallory")
    await page.get_by_role("button", name="Revoke all tokens").click()
    await confirm(page, "Cancel")
    assert (await server.http.get("/v1/revocations")).json()["data"] == []
    assert await user.evaluate("window.codes") == []

    await page.get_by_role("button", name="Revoke all tokens").click()
    await confirm(page, "Revoke")
    await expect(page.locator(".note")).to_contain_text(
        "2 connections were closed; every instance has answered."
    )
    await user.wait_for_function("window.codes.length === 2")
    assert await user.evaluate("window.codes") == [4001, 4001]

    in_force = page.get_by_role("table", name="Revocations in force")
    await expect(in_force).to_contain_text("mallory")
    await in_force.get_by_role("button", name="Lift mallory").click()
    await confirm(page, "Lift")
    await expect(page.get_by_text("No revocation is in force.")).to_be_visible()
    assert (await server.http.get("/v1/revocations")).json()["data"] == []


async def test_a_connection_is_cut_and_a_device_that_lags_is_seen_and_forgotten(
    server: Server, visit: Visit
) -> None:
    async with await server.live("alice", device="laptop", ack="client") as laptop:
        for n in range(3):
            await server.publish("user:alice", data=n)
        page = await opened(server, visit, "connections")
        row = page.get_by_role("table", name="Connections").locator("tbody tr")
        await expect(row).to_contain_text(re.compile("alice.*laptop.*live.*3 pos."))
        await row.get_by_role("link", name="alice").click()
        device = page.get_by_role("table", name="Devices").locator("tbody tr")
        await expect(device).to_contain_text(re.compile("laptop.*connected.*3 events"))
        await page.get_by_role("button", name="Disconnect alice on laptop").click()
        await confirm(page, "Disconnect")
        await expect(page.locator(".note")).to_contain_text("1 connection was closed")
        assert await laptop.closed() == 4010
    await expect(page.get_by_text("Nobody is connected.")).to_be_visible()
    await page.get_by_role("button", name="Forget laptop").click()
    await confirm(page, "Forget")
    await expect(page.get_by_text("This user has no devices.")).to_be_visible()


async def test_a_room_gets_a_member_who_is_connected(server: Server, visit: Visit) -> None:
    async with await server.live("bob", claims={"name": "Bob B."}):
        page = await opened(server, visit, "rooms")
        await page.get_by_label("Room", exact=True).fill("orders")
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("Nobody is a member of this room.")).to_be_visible()
        await page.get_by_label("Add a user").fill("bob")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("table", name="Members")).to_contain_text("bob")
        await expect(page.get_by_role("table", name="Connected")).to_contain_text("Bob B.")
        await page.get_by_role("button", name="Remove bob").click()
        await confirm(page, "Remove")
        await expect(page.get_by_text("Nobody in this room is connected.")).to_be_visible()


async def test_a_key_is_shown_once_and_works_until_it_is_deleted(server: Server, visit: Visit) -> None:
    page = await opened(server, visit, "keys", permissions=["clipboard-read", "clipboard-write"])
    await page.get_by_text("Create a key").click()
    await page.get_by_label("Name").fill("shop")
    await page.get_by_label("Reaches").fill("user:*, room:orders.*")
    await page.get_by_role("button", name="Create").click()
    dialog = page.get_by_role("dialog")
    key = await dialog.get_by_label("The key").input_value()
    await dialog.get_by_role("button", name="Copy").click()
    await expect(dialog.get_by_text("Copied")).to_be_visible()
    assert await page.evaluate("navigator.clipboard.readText()") == key
    bearer = {"Authorization": f"Bearer {key}"}
    event = {"to": "user:alice", "type": "hello"}
    assert (await server.http.post("/v1/events", json=event, headers=bearer)).status_code == 202
    await dialog.get_by_role("button", name="I have stored it").click()
    shown = "document.documentElement.outerHTML + [...document.querySelectorAll('input')].map((i) => i.value)"
    await page.wait_for_function(f"(key) => !({shown}).includes(key)", arg=key)
    row = page.get_by_role("table", name="API keys").locator("tbody tr")
    await expect(row).to_contain_text(re.compile(r"shop.*publish.*room:orders\.\*"))

    await page.get_by_role("button", name="Rotate shop").click()
    await confirm(page, "Rotate")
    other = await dialog.get_by_label("The key").input_value()
    await dialog.get_by_role("button", name="I have stored it").click()
    assert other != key
    await page.get_by_role("button", name="Delete shop").click()
    await confirm(page, "Delete")
    await expect(page.get_by_text("There is no API key yet.")).to_be_visible()
    for dead in (key, other):
        bearer = {"Authorization": f"Bearer {dead}"}
        assert (await server.http.post("/v1/events", json=event, headers=bearer)).status_code == 401

    await page.get_by_role("link", name="Audit").click()
    records = page.get_by_role("table", name="What admins did").locator("tbody tr")
    await expect(records).to_have_count(3)
    await page.get_by_label("What", exact=True).select_option("key.rotate")
    await expect(records).to_have_count(1)


async def test_production_looks_different_and_wants_the_name_typed(start: Start, visit: Visit) -> None:
    server = await start(dev=False)
    page = await opened(server, visit, "users/alice")
    await expect(page.get_by_role("banner")).to_contain_text(re.compile("production", re.IGNORECASE))
    await expect(page.get_by_role("banner")).to_contain_text(f"127.0.0.1:{server.port}")
    await page.get_by_role("button", name="Erase").click()
    dialog = page.get_by_role("dialog")
    erase = dialog.get_by_role("button", name="Erase for good")
    for typed in ("", "alic", "Alice"):
        await dialog.get_by_label("Type it here").fill(typed)
        await expect(erase).to_be_disabled()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)
    assert (await server.http.get("/v1/erasures")).json()["data"] == []

    await page.get_by_role("button", name="Erase").click()
    await dialog.get_by_label("Type it here").fill("alice")
    await erase.click()
    await expect(page.locator(".note")).to_contain_text("alice is being erased.")
    assert (await server.http.get("/v1/audit?action=user.erase")).json()["data"][0]["subject"] == "alice"


async def test_a_phone_has_no_need_to_scroll_sideways(server: Server, visit: Visit) -> None:
    await server.publish("user:alice", "a.type.with.a.long.name" * 5, {"long": "x" * 500})
    await server.join("a-room-with-a-name-of-some-length", "alice")
    async with await server.live("alice", device="a-device-with-a-name-of-some-length" * 3):
        page = await opened(server, visit, viewport={"width": 390, "height": 844}, is_mobile=True)
        for section in (
            "overview", "events", "events/1", "connections", "users", "users/alice", "rooms",
            "rooms/a-room-with-a-name-of-some-length", "access", "keys", "audit",
        ):  # fmt: skip
            await page.evaluate("(section) => { location.hash = `#/${section}` }", section)
            await expect(page.get_by_text("Loading…")).to_have_count(0)
            await page.evaluate(
                "document.querySelectorAll('details').forEach((each) => { each.open = true })"
            )
            width = await page.evaluate("document.documentElement.scrollWidth")
            assert width <= 390, section


CONTRASTS = """() => {
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true })
    const painted = (colours) => {
        canvas.clearRect(0, 0, 1, 1)
        for (const colour of colours) {
            canvas.fillStyle = colour
            canvas.fillRect(0, 0, 1, 1)
        }
        const light = (part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((part) => light(part / 255))
        return 0.2126 * r + 0.7152 * g + 0.0722 * b
    }
    const poor = []
    for (const each of document.querySelectorAll('body *')) {
        const says = [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim())
        const seen = each.checkVisibility({ visibilityProperty: true }) && !each.closest(':disabled')
        if (!says || !seen) continue
        const grounds = []
        for (let at = each; at; at = at.parentElement) grounds.unshift(getComputedStyle(at).backgroundColor)
        const [ink, ground] = [painted([...grounds, getComputedStyle(each).color]), painted(grounds)]
        const contrast = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05)
        if (contrast < 4.5) poor.push(`${each.textContent.trim()}: ${contrast.toFixed(2)}`)
    }
    return poor
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_text_stands_out(start: Start, visit: Visit, scheme: str) -> None:
    server = await start(dev=scheme == "light")
    await server.http.post("/v1/keys", json={"name": "root", "scopes": ["admin", "read"]})
    await server.http.post("/v1/revocations", json={"user": "mallory", "ban": True})
    position = await server.publish("user:alice")
    await server.http.delete(f"/v1/events/{position}")
    async with await server.live("alice", ack="client"):
        await server.publish("user:alice")
        page = await opened(server, visit, color_scheme=scheme)
        for section in ("overview", "events", f"events/{position}", "users/alice", "access", "keys", "audit"):
            await page.evaluate("(section) => { location.hash = `#/${section}` }", section)
            await expect(page.get_by_text("Loading…")).to_have_count(0)
            assert await page.evaluate(CONTRASTS) == [], section
        await page.evaluate("location.hash = '#/access'")
        await page.get_by_role("button", name="Lift mallory").click()
        assert await page.evaluate(CONTRASTS) == []


async def test_the_keyboard_gets_everywhere_and_everything_has_a_name(server: Server, visit: Visit) -> None:
    page = await visit(f"{server.url}/admin")
    await expect(page.get_by_label("Admin key")).to_be_focused()
    await page.keyboard.type(ADMIN_KEY)
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="Open")).to_be_focused()
    await page.keyboard.press("Space")
    await expect(page.get_by_role("main")).to_be_focused()
    await page.keyboard.press("Shift+Tab")
    await expect(page.get_by_role("button", name="Forget the key")).to_be_focused()
    for name in ("Audit", "API keys", "Access", "Rooms", "Users", "Connections", "Events"):
        await page.keyboard.press("Shift+Tab")
        await expect(page.get_by_role("link", name=name, exact=True)).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Events")).to_be_visible()
    await expect(page.get_by_role("link", name="Events", exact=True)).to_have_attribute(
        "aria-current", "page"
    )
    assert await page.title() == "Events · Tidings admin"
    for reached in (page.get_by_text("Send a test event"), page.get_by_label("To", exact=True).last):
        await page.keyboard.press("Tab")
        await expect(reached).to_be_focused()


async def test_out_of_sight_or_without_its_key_it_asks_nothing(server: Server, visit: Visit) -> None:
    page = await visit("about:blank")
    await page.clock.install()
    await page.goto(f"{server.url}/admin")
    await page.get_by_label("Admin key").fill(ADMIN_KEY)
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("Up to date at")).to_be_visible()
    async with page.expect_request("**/stats"):
        await page.clock.run_for(4000)

    see = """(hidden) => {
        Object.defineProperty(document, 'hidden', { get: () => hidden, configurable: true })
        document.dispatchEvent(new Event('visibilitychange'))
    }"""
    await page.evaluate(see, arg=True)
    await page.wait_for_load_state("networkidle")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.clock.run_for(60_000)
    assert asked == []
    async with page.expect_request("**/stats"):
        await page.evaluate(see, arg=False)

    await page.get_by_role("button", name="Forget the key").click()
    await page.wait_for_load_state("networkidle")
    asked.clear()
    await page.clock.run_for(60_000)
    await page.evaluate("location.hash = '#/keys'")
    await expect(page.get_by_label("Admin key")).to_be_visible()
    assert asked == []


async def test_it_says_when_nobody_answers_and_comes_back(
    server: Server, visit: Visit, complaints: list[str]
) -> None:
    page = await opened(server, visit)
    await expect(page.get_by_text("Up to date at")).to_be_visible()
    await page.route("**/stats", lambda route: route.abort())
    await expect(page.get_by_text("The service does not answer")).to_be_visible()
    await page.unroute("**/stats")
    await expect(page.get_by_text("Up to date at")).to_be_visible()
    await server.publish("user:alice", "hello")
    await page.get_by_role("link", name="Events", exact=True).click()
    await expect(page.get_by_role("table", name="Events")).to_contain_text("hello")
    search = page.get_by_role("search", name="Filter events")
    await search.get_by_label("To").fill("us*er")
    await expect(page.locator(".table")).to_contain_text(re.compile("to: .*pattern"))
    await expect(page.get_by_role("table", name="Events")).to_have_count(0)
    await search.get_by_role("button", name="Clear").click()
    await expect(page.get_by_role("table", name="Events")).to_contain_text("hello")
    assert all("ERR_FAILED" in complaint or "422" in complaint for complaint in complaints)
    complaints.clear()
