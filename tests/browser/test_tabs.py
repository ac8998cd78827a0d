"""One connection for all tabs of a browser."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Page

from tests.browser.conftest import PATIENCE, Visit, freeze, thaw
from tests.browser.pages import Pages, page, site
from tests.harness import Server, eventually, token

TAKE_OVER = 20_000
"""Milliseconds that it may take to notice that the tab that serves is frozen, however slow the machine."""

Tabs = Any


@asynccontextmanager
async def opening(server: Server, visit: Callable[[str], Awaitable[Page]]) -> AsyncIterator[Tabs]:
    pages: Pages = {"/page.css": "", "/favicon.ico": ""}

    async def open_tab(user: str = "alice", *, maker: str = "shared", options: str = "") -> Page:
        path = f"/{user}.{maker}"
        pages[path] = page("a tab", script=f"{path}.js")
        pages[f"{path}.js"] = CLIENT.format(
            maker=maker, module="tabs" if maker == "shared" else "index",
            token=token(user, rooms=["*"], publish=["*"]), options=options,
        )  # fmt: skip
        tab = await visit(f"{origin}{path}")
        await live(tab)
        return tab

    async with site(pages, server.port) as origin:
        yield open_tab


@pytest.fixture
async def tabs(server: Server, visit: Visit) -> AsyncIterator[Tabs]:
    """Opens tabs of one browser, each with a client by ``shared``."""
    opened: list[Page] = []

    async def beside(url: str) -> Page:
        opened.append(await visit(url, beside=opened[0] if opened else None))
        return opened[-1]

    async with opening(server, beside) as open_tab:
        yield open_tab


@pytest.fixture
async def attended_tabs(server: Server, attended: BrowserContext) -> AsyncIterator[Tabs]:
    """The same, of which the last one is looked at; the others can be frozen."""

    async def new(url: str) -> Page:
        tab = await attended.new_page()
        await tab.goto(url)
        return tab

    async with opening(server, new) as open_tab:
        yield open_tab


CLIENT = """
    import {{ {maker} as make }} from '/client/{module}.js'
    window.seen = []
    window.states = []
    const tidings = window.tidings = make({{ url: location.origin, token: '{token}', {options} }})
    tidings.watch('state', ({{ state }}) => window.states.push(state))
    tidings.on('*', async (event) => {{
        await window.hold
        window.seen.push(event.data)
    }})
"""


async def live(tab: Page) -> None:
    await tab.wait_for_function("window.tidings?.state === 'live'")


async def crash(tab: Page) -> None:
    session = await tab.context.new_cdp_session(tab)
    async with tab.expect_event("crash"):
        crashing = asyncio.ensure_future(session.send("Page.crash"))
    crashing.cancel()  # nobody is left to answer
    await asyncio.gather(crashing, return_exceptions=True)


async def connections(server: Server, user: str = "alice") -> list[Any]:
    data: list[Any] = (await server.http.get("/v1/connections", params={"user": user})).json()["data"]
    return data


async def one_connection(server: Server) -> None:
    async def just_one() -> bool:
        return len(await connections(server)) == 1

    await eventually(just_one)


async def cursor(server: Server) -> int:
    devices = (await server.http.get("/v1/users/alice/devices")).json()["data"]
    return max(int(device["cursor"]) for device in devices)


async def has(tab: Page, data: list[Any], patience: float = PATIENCE) -> None:
    """Wait until a tab has all of these; then it has them once each, in their order."""
    await tab.wait_for_function("(last) => window.seen.includes(last)", arg=data[-1], timeout=patience)
    assert await tab.evaluate("window.seen") == data


async def test_two_tabs_have_one_connection_and_everything(server: Server, tabs: Tabs) -> None:
    one, two = await tabs(), await tabs()
    assert len(await connections(server)) == 1
    for n in range(5):
        await server.publish("user:alice", data=n)
    for tab in (one, two):
        await has(tab, [0, 1, 2, 3, 4])
    sent = await two.evaluate("window.tidings.publish('user:alice', 'mine', 'from a tab')")
    assert sent["position"] > 0
    await two.evaluate("window.tidings.join('lobby')")
    assert [r["room"] for r in await one.evaluate("window.tidings.rooms()")] == ["lobby"]
    refused = "window.tidings.publish('nowhere', 'mine').catch((error) => error.code)"
    assert await two.evaluate(refused) == "invalid"
    await server.publish("room:lobby", data="to the room")
    for tab in (one, two):
        await has(tab, [0, 1, 2, 3, 4, "from a tab", "to the room"])
    assert len(await connections(server)) == 1


async def test_another_user_in_the_same_browser_has_a_connection_of_their_own(
    server: Server, tabs: Tabs
) -> None:
    alice, bob = await tabs(), await tabs("bob")
    await server.publish("user:alice", data="for alice")
    await server.publish("user:bob", data="for bob")
    await has(alice, ["for alice"])
    await has(bob, ["for bob"])
    assert [len(await connections(server, user)) for user in ("alice", "bob")] == [1, 1]


@pytest.mark.parametrize("how", ["closed", "crashed"])
async def test_where_the_tab_that_serves_is_gone_another_one_does(
    server: Server, tabs: Tabs, how: str
) -> None:
    """Nothing is lost, and nothing comes twice."""
    one, two, three = await tabs(), await tabs(), await tabs()
    for n in range(5):
        await server.publish("user:alice", data=n)
    await has(two, [*range(5)])
    if how == "closed":
        await one.close()
    else:
        await crash(one)
    for n in range(5, 10):
        await server.publish("user:alice", data=n)
    for tab in (two, three):
        await has(tab, [*range(10)])
    await one_connection(server)
    await server.publish("user:alice", data="after")
    for tab in (two, three):
        await has(tab, [*range(10), "after"])


async def test_where_the_tab_that_serves_is_frozen_another_one_does(
    server: Server, attended_tabs: Tabs
) -> None:
    """And it has missed nothing once it is thawed."""
    one, two = await attended_tabs(), await attended_tabs()
    await server.publish("user:alice", data=0)
    await has(two, [0])
    frozen = await freeze(one)
    for n in range(1, 5):
        await server.publish("user:alice", data=n)
    await has(two, [*range(5)], TAKE_OVER)
    await thaw(frozen)
    await server.publish("user:alice", data=5)
    for tab in (one, two):
        await has(tab, [*range(6)])
    await one_connection(server)
    await live(one)


async def test_a_tab_that_is_looked_at_does_not_wait_for_one_that_is_not(
    server: Server, attended_tabs: Tabs
) -> None:
    """Which a browser gives little time: here it is as if its next attempt were an hour away."""
    slow = "backoff: { min: 3_600_000, max: 3_600_000 }"
    one, two = await attended_tabs(options=slow), await attended_tabs()
    for connection in list(server.gateway.hub):
        connection.transport.abort()
    await server.publish("user:alice", data=1)
    await has(two, [1], TAKE_OVER)
    assert await one.evaluate("window.seen") == []
    await one.bring_to_front()
    await has(one, [1])
    await one_connection(server)


async def test_it_is_acknowledged_when_all_tabs_have_handled_it(server: Server, tabs: Tabs) -> None:
    one, two = await tabs(), await tabs()
    await two.evaluate("void (window.hold = new Promise((release) => (window.release = release)))")
    position = await server.publish("user:alice", data="slow")
    later = await server.publish("user:alice", data="quick")
    await has(one, ["slow", "quick"])
    asked = "window.tidings.rooms()"
    await one.evaluate(asked)  # an acknowledgement would have come before this answer
    assert await cursor(server) < position
    await two.evaluate("window.release()")
    await has(two, ["slow", "quick"])

    async def acknowledged() -> bool:
        return await cursor(server) >= later

    await eventually(acknowledged)


async def test_a_tab_that_says_nothing_is_not_waited_for(server: Server, attended_tabs: Tabs) -> None:
    one, two = await attended_tabs(), await attended_tabs()
    await one.bring_to_front()
    frozen = await freeze(two)
    position = await server.publish("user:alice", data="news")
    await has(one, ["news"])

    async def acknowledged() -> bool:
        return await cursor(server) >= position

    await eventually(acknowledged, TAKE_OVER / 1000)
    await thaw(frozen)
    await has(two, ["news"])


async def test_a_tab_that_was_away_gets_what_the_others_have_long_had(server: Server, tabs: Tabs) -> None:
    """By a connection of its own, until it has caught up."""
    one, two = await tabs(), await tabs()
    await server.publish("user:alice", data=0)
    for tab in (one, two):
        await has(tab, [0])
    await two.evaluate("window.tidings.close()")
    for n in range(1, 8):
        last = await server.publish("user:alice", data=n)
    await has(one, [*range(8)])

    async def acknowledged() -> bool:
        return await cursor(server) >= last

    await eventually(acknowledged)
    await two.evaluate("window.tidings.connect()")
    await has(two, [*range(8)])
    await one_connection(server)
    await server.publish("user:alice", data=8)
    for tab in (one, two):
        await has(tab, [*range(9)])


async def test_a_tab_that_closes_its_client_leaves_the_others_theirs(server: Server, tabs: Tabs) -> None:
    one, two = await tabs(), await tabs()
    await one.evaluate("window.tidings.close()")
    await server.publish("user:alice", data=1)
    await has(two, [1])
    await one_connection(server)
    assert await one.evaluate("window.seen") == []


async def test_an_evicted_device_is_evicted_in_all_tabs(server: Server, tabs: Tabs) -> None:
    one, two = await tabs(), await tabs()
    [connection] = await connections(server)
    await server.http.delete(f"/v1/connections/{connection['id']}")
    for tab in (one, two):
        await tab.wait_for_function("window.tidings.state === 'closed'")
        assert (await tab.evaluate("window.tidings.reason"))["code"] == 4010
    await server.publish("user:alice", data=1)
    await two.evaluate("window.tidings.connect()")
    await has(two, [1])
    await one.evaluate("window.tidings.connect()")
    await live(one)
    await one_connection(server)


async def test_where_the_browser_has_no_locks_each_tab_is_by_itself(
    server: Server, tabs: Tabs, visit: Visit
) -> None:
    one = await tabs()
    await one.context.add_init_script("delete Navigator.prototype.locks")
    two = await tabs()
    await one.reload()
    await live(one)
    await server.publish("user:alice", data=1)
    for tab in (one, two):
        await has(tab, [1])
    assert len(await connections(server)) == 2


@pytest.mark.parametrize("maker", ["connect", "shared"])
async def test_what_a_frozen_and_killed_tab_was_fed_comes_to_the_next(
    server: Server, attended_tabs: Tabs, maker: str
) -> None:
    """A bare WebSocket's stack would have acknowledged it."""
    one = await attended_tabs(maker=maker)
    await server.publish("user:alice", data=0)
    await has(one, [0])
    await freeze(one)
    for n in range(1, 4):
        await server.publish("user:alice", data=n)
    two = await one.context.new_page()
    await one.close()
    await two.goto(one.url)
    await has(two, [1, 2, 3])
