"""Pages of other origins than the service's, which go away, come back, and get new tokens."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.browser.conftest import PATIENCE, freeze, thaw
from tests.browser.pages import Pages, page, site
from tests.harness import Server, token

Start = Callable[..., Awaitable[Server]]


@pytest.fixture
async def origin() -> AsyncIterator[Callable[[], Awaitable[tuple[str, Pages]]]]:
    """Makes origins; what is at them may be filled in later."""
    async with AsyncExitStack() as stack:

        async def make() -> tuple[str, Pages]:
            pages: Pages = {}
            return await stack.enter_async_context(site(pages)), pages

        yield make


@pytest.fixture
async def look(chromium: Browser) -> Callable[..., Awaitable[Page]]:
    """Opens a page as it is: where Playwright routes requests it also answers preflights."""

    async def open_page(url: str, *, cookies: list[Any] | None = None) -> Page:
        context = await chromium.new_context()
        context.set_default_timeout(PATIENCE)
        await context.add_cookies(cookies or [])
        opened = await context.new_page()
        await opened.goto(url)
        return opened

    return open_page


def with_bell(server: Server) -> Pages:
    return {
        "/": page(
            f'<tidings-bell url="{server.url}" token="{token("alice")}"></tidings-bell>',
            script=f"{server.url}/client/bell.js",
        ),
    }


CLIENT = """
    import {{ connect }} from '/client/index.js'
    window.seen = []
    window.states = []
    window.asked = 0
    const getToken = async () => (await fetch('/token')).text()
    const tidings = window.tidings = connect({{
        url: '{url}', getToken: () => (window.asked += 1, getToken()), {options}
    }})
    tidings.watch('state', ({{ state }}) => window.states.push(state))
    tidings.on('*', ({{ data }}) => window.seen.push(data))
"""


def with_client(server: Server, *, options: str = "", **claims: Any) -> Pages:
    return {
        "/": page("a page"),
        "/page.js": CLIENT.format(url=server.url, options=options),
        "/token": token("alice", **claims),
    }


async def live(opened: Page) -> None:
    await opened.wait_for_function("window.tidings?.state === 'live'")


async def has(opened: Page, data: list[Any]) -> None:
    """Wait until a page has all of these; then it has them once each, in their order."""
    await opened.wait_for_function("(last) => window.seen.includes(last)", arg=data[-1])
    assert await opened.evaluate("window.seen") == data


async def test_a_page_of_an_allowed_origin_has_bell_and_inbox(start: Start, origin: Any, look: Any) -> None:
    shop, pages = await origin()
    server = await start(origins=[shop])
    pages |= with_bell(server)
    await server.publish("user:alice", data={"title": "Order 17"})
    opened = await look(f"{shop}/")
    await opened.get_by_role("button", name="Notifications, 1 unread").click()
    await server.publish("user:alice", data={"title": "Order 18"})
    await expect(opened.get_by_role("listitem")).to_have_count(2)
    await opened.get_by_role("button", name="Mark all as read").click()
    await expect(opened.get_by_role("button", name="Notifications", exact=True)).to_be_visible()


TRY = """async (url) => {
    const socket = new WebSocket(url.replace('http', 'ws') + '/v1/ws?device=socket', ['tidings.v1'])
    const first = await new Promise((resolve) => {
        socket.onmessage = ({ data }) => resolve(JSON.parse(data).type)
        socket.onclose = () => resolve('closed')
    })
    const read = (path) => fetch(url + path, { credentials: 'include' }).then(
        async (answer) => answer.ok ? (await answer.body.getReader().read()).value.length > 0 : answer.status,
        () => 'blocked',
    )
    const inbox = [await read('/v1/inbox'), await read('/v1/inbox/unread')]
    return [first, await read('/v1/stream?device=stream'), ...inbox]
}"""


async def test_a_page_of_another_origin_gets_nowhere_with_the_cookie(
    start: Start, origin: Any, look: Any
) -> None:
    """Both are on the same site, so that the browser does send it; the inbox believes no cookie at all."""
    (shop, pages), (evil, more) = await origin(), await origin()
    for each in (pages, more):
        each["/"] = page("a page")
    server = await start(origins=[shop], cookie="session")
    host = {"url": shop, "name": "session", "value": token("alice")}
    url = server.url.replace("127.0.0.1", "localhost")
    opened = await look(f"{shop}/", cookies=[host])
    assert await opened.evaluate(TRY, url) == ["welcome", True, "blocked", "blocked"]
    opened = await look(f"{evil}/", cookies=[host])
    assert await opened.evaluate(TRY, url) == ["disconnect", "blocked", "blocked", "blocked"]
    connected = (await server.http.get("/v1/connections", params={"user": "alice"})).json()["data"]
    assert [connection["device"] for connection in connected if connection["device"] != "stream"] in (
        [],
        ["socket"],
    )


async def test_a_page_of_another_origin_gets_nowhere_with_a_token_either(
    start: Start, origin: Any, look: Any
) -> None:
    (shop, _), (evil, pages) = await origin(), await origin()
    server = await start(origins=[shop])
    pages |= with_client(server)
    opened = await look(f"{evil}/")
    await opened.wait_for_function("window.tidings?.state === 'unauthorized'")
    assert (await opened.evaluate("window.tidings.reason"))["code"] == 4003


async def test_a_page_stays_connected_beyond_the_life_of_its_token(
    start: Start, origin: Any, look: Any
) -> None:
    shop, pages = await origin()
    server = await start(origins=[shop])
    now = int(time.time())
    # Its age counts from when it was got: issued in the future it lives for longer than it seems.
    pages |= with_client(server, iat=now + 8, exp=now + 12)
    opened = await look(f"{shop}/")
    await live(opened)
    pages["/token"] = token("alice")
    await opened.wait_for_function("window.asked >= 2")
    await opened.wait_for_function("(until) => Date.now() > until", arg=(now + 13) * 1000)
    await server.publish("user:alice", data="still here")
    await has(opened, ["still here"])
    assert (await opened.evaluate("window.states")).count("catching-up") == 1


async def test_a_page_comes_back_with_a_new_token_where_the_old_one_is_dead(
    start: Start, origin: Any, look: Any
) -> None:
    shop, pages = await origin()
    server = await start(origins=[shop])
    pages |= with_client(server, jti="stolen")
    opened = await look(f"{shop}/")
    await live(opened)
    pages["/token"] = token("alice", jti="new")
    await server.http.post("/v1/revocations", json={"jti": "stolen"})
    await server.publish("user:alice", data="after it")
    await has(opened, ["after it"])
    assert await opened.evaluate("window.asked") == 2
    await server.http.post("/v1/revocations", json={"jti": "new"})
    await opened.wait_for_function("window.tidings?.state === 'unauthorized'")


async def test_a_bell_reads_the_inbox_with_a_new_token_too(start: Start, origin: Any, look: Any) -> None:
    """Here the page has a client already, so that it is the inbox that finds the token dead."""
    shop, pages = await origin()
    server = await start(origins=[shop])
    pages |= {
        "/": page("<tidings-bell></tidings-bell>"),
        "/page.js": f"""
            import '/client/bell.js'
            import {{ connect }} from '/client/index.js'
            const bell = document.querySelector('tidings-bell')
            bell.url = '{server.url}'
            bell.client = connect({{ url: bell.url, token: '{token("alice")}' }})
            bell.getToken = async () => (await fetch('/token')).text()""",
        "/token": token("alice", jti="stolen"),
    }
    await server.publish("user:alice", data={"title": "Order 17"})
    opened = await look(f"{shop}/")
    button = opened.get_by_role("button", name="Notifications, 1 unread")
    await button.wait_for()
    pages["/token"] = token("alice")
    await server.http.post("/v1/revocations", json={"jti": "stolen"})
    await button.click()
    await opened.get_by_role("button", name="Order 17").click()
    await expect(opened.get_by_role("button", name="Notifications", exact=True)).to_be_visible()
    assert len((await server.http.get("/v1/connections")).json()["data"]) == 1


async def test_a_page_that_was_offline_is_back_at_once_and_has_missed_nothing(
    start: Start, origin: Any, look: Any
) -> None:
    """However long it would have waited."""
    shop, pages = await origin()
    server = await start(origins=[shop])
    pages |= with_client(server, options="backoff: { min: 3_600_000, max: 3_600_000 }")
    opened = await look(f"{shop}/")
    await live(opened)
    await opened.context.set_offline(True)
    for connection in list(server.gateway.hub):
        connection.transport.abort()
    await opened.wait_for_function("window.tidings.state === 'offline'")
    await server.publish("user:alice", data=1)
    await opened.context.set_offline(False)
    await server.publish("user:alice", data=2)
    await has(opened, [1, 2])


async def test_a_page_that_was_hidden_and_frozen_has_missed_nothing(
    start: Start, origin: Any, attended: BrowserContext
) -> None:
    """Its connection, which it cannot know to be lost, is asked when it is shown again."""
    shop, pages = await origin()
    server = await start(origins=[shop])
    pages |= with_client(server, options="backoff: { min: 3_600_000, max: 3_600_000 }")
    opened = await attended.new_page()
    await opened.goto(f"{shop}/")
    await live(opened)
    await attended.new_page()
    frozen = await freeze(opened)
    await server.publish("user:alice", data=1)
    for connection in list(server.gateway.hub):
        connection.transport.abort()
    await server.publish("user:alice", data=2)
    await thaw(frozen)
    await opened.bring_to_front()
    await has(opened, [1, 2])
