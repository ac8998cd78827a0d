"""The JavaScript client against a real server, over links that break."""

from tests.clients.conftest import Run
from tests.harness import Server, token


async def test_it_hears_what_was_missed_and_what_comes(server: Server, run: Run) -> None:
    await server.publish("user:alice", "order.shipped", {"order": 1}, id="first")
    script = await run(options={"url": server.url, "token": token("alice")})
    await script.until("state", state="live")
    position = await server.publish("user:alice", data="now")
    event = await script.until("event", position=position)
    assert [line["data"] for line in script.said("event")] == [{"order": 1}, "now"]
    assert (event["to"], event["type"], event["id"]) == ("user:alice", "test", str(position))
    assert [line["state"] for line in script.said("state")][-2:] == ["catching-up", "live"]
