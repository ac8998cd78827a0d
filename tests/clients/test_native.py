"""The JavaScript client with what React Native has: `docs/how-to/react-native.md`."""

import json
from pathlib import Path

from tests.clients.conftest import Run
from tests.harness import Server, eventually, token


async def test_an_app_goes_on_where_it_was_after_the_background_and_after_a_restart(
    server: Server, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "store"
    # The name has a character that takes more than one byte, and a token says it as bytes.
    options = {"url": server.url, "token": token("björn")}
    app = await run("native", options=options, file=str(file))
    await server.publish("user:björn", data=1)
    await app.until("event", data=1)
    await app.tell(call="close")
    await app.until("state", state="closed")
    await server.publish("user:björn", data=2)
    await app.tell(call="connect")
    await app.until("event", data=2)
    last = await server.publish("user:björn", data=3)
    await app.until("event", data=3)
    await eventually(lambda: f'\\"position\\":{last}' in file.read_text())
    assert [line["data"] for line in app.said("event")] == [1, 2, 3]
    assert app.said("error") == []
    await app.kill()

    device = json.loads(file.read_text())["tidings:device"]
    again = await run("native", options=options, file=str(file))
    await server.publish("user:björn", data=4)
    await again.until("event", data=4)
    assert [line["data"] for line in again.said("event")] == [4]
    devices = (await server.http.get("/v1/users/björn/devices")).json()["data"]
    assert [each["device"] for each in devices] == [device]
