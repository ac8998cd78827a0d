"""The JavaScript client on a page: the browser's own WebSocket, fetch and localStorage."""

from pathlib import Path

import pytest
from playwright.async_api import Page, Route

from tests.browser.conftest import Visit
from tests.harness import Server, eventually, token

BUILT = Path(__file__).parents[2] / "service" / "web" / "static" / "client"

LISTEN = """async ([url, token, stream]) => {
    const { connect } = await import('/client/index.js')
    const { sse } = await import('/client/sse.js')
    window.seen = []
    window.tidings = connect({ url, token, transport: stream ? sse() : undefined })
    window.tidings.on('*', ({ data }) => { window.seen.push(data) })
}"""


async def hand_out(route: Route) -> None:
    path = BUILT / route.request.url.rpartition("/")[2]
    await route.fulfill(body=path.read_text(), content_type="text/javascript")


async def listen(page: Page, server: Server, *, stream: bool) -> None:
    await page.evaluate(LISTEN, [server.url, token("alice"), stream])
    await page.wait_for_function("window.tidings.state === 'live'")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_page_that_is_loaded_anew_goes_on_where_it_was(
    server: Server, visit: Visit, *, stream: bool
) -> None:
    page = await visit(f"{server.url}/healthz")
    await page.route("**/client/*.js", hand_out)
    await listen(page, server, stream=stream)
    device = await page.evaluate("window.tidings.device")
    for n in range(20):
        await server.publish("user:alice", data=n)
    await page.wait_for_function("window.seen.length === 20")
    await page.reload()
    for n in range(20, 30):
        await server.publish("user:alice", data=n)
    await listen(page, server, stream=stream)
    last = await server.publish("user:alice", data="the last")
    await page.wait_for_function("window.seen.at(-1) === 'the last'")
    assert await page.evaluate("window.seen") == [*range(20, 30), "the last"]
    assert await page.evaluate("window.tidings.device") == device

    async def acknowledged() -> bool:
        devices = (await server.http.get("/v1/users/alice/devices")).json()["data"]
        return [each["device"] for each in devices if each["cursor"] >= last] == [device]

    await eventually(acknowledged)
