"""A page without any library."""

from tests.browser.conftest import Visit
from tests.harness import Server, eventually, token


async def test_a_bare_websocket_that_never_sends_a_byte_gets_exactly_what_it_missed(
    server: Server, visit: Visit
) -> None:
    """Its pongs, which the browser sends by itself, have moved the cursor."""
    page = await visit(f"{server.url}/healthz")
    listen = """(url) => {
        window.live = false
        window.socket = new WebSocket(url)
        window.seen = []
        window.socket.onmessage = ({ data }) => {
            const frame = JSON.parse(data)
            if (frame.type === 'event') window.seen.push(frame.data)
            if (frame.type === 'live') window.live = true
        }
    }"""
    url = server.ws_url(token=token("alice"), device="page")
    await page.evaluate(listen, url)
    await page.wait_for_function("window.live")
    sent = [await server.publish("user:alice", data=n) for n in range(20)]
    await page.wait_for_function("window.seen.length === 20")

    async def acknowledged() -> bool:
        devices = (await server.http.get("/v1/users/alice/devices")).json()["data"]
        return bool(devices[0]["cursor"] >= sent[-1])

    await eventually(acknowledged)
    await page.evaluate("window.socket.close()")
    for n in range(20, 30):
        await server.publish("user:alice", data=n)
    await page.evaluate(listen, url)
    await page.wait_for_function("window.seen.length >= 10 && window.live")
    await server.publish("user:alice", data="the last")
    await page.wait_for_function("window.seen.at(-1) === 'the last'")
    assert await page.evaluate("window.seen") == [*range(20, 30), "the last"]
