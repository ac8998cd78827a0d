"""The service keeps to its OpenAPI document, whatever it is asked: what schemathesis makes of the document.

A new route is covered by being there. Here it is only said who calls, and how much is tried. What all other
tests ask is held to the document as well, by ``tests.contract``: they get to answers that chance does not.
"""

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests import contract
from tests.harness import ADMIN_KEY, Server, token

pytestmark = pytest.mark.timeout(300)

PATIENCE = 240.0
"""Seconds on a machine that does much else; by itself it takes a tenth of that."""
CLIENT = "a client that no revocation names by chance"

# A request that fits the document may still be too large, by limits that add up over its fields. What goes
# with what in an event or a key, and how far off it may be, no schema can tell. In a partial batch each
# event is refused by itself.
CONFIG = """
seed = 1
[generation]
deterministic = true
max-examples = 10
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 401, 403, 404, 409, 413, 429]
[[operations]]
include-operation-id = ["publishEvent", "publishEvents"]
checks.positive_data_acceptance.enabled = false
checks.negative_data_rejection.expected-statuses = ["4xx", 207]
[[operations]]
include-operation-id = "createKey"
checks.positive_data_acceptance.enabled = false
[[operations]]
include-operation-id = "publishEvent"
parameters = { "query.wait" = 0.05 }
"""


async def populate(server: Server) -> None:
    """Make what the examples of the document speak of."""
    await server.join("orders", "alice", CLIENT)
    for user, device in (("alice", "laptop"), (CLIENT, "default"), (CLIENT, "tv")):
        await (await server.live(user, device=device)).close()
    due = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    for to in (f"user:{CLIENT}", "user:alice", "room:orders", "everyone"):
        events = [{"to": to, "type": "now"}, {"to": to, "type": "later", "deliver_at": due}] * 3
        assert (await server.http.post("/v1/events/batch", json={"events": events})).status_code == 202


async def schemathesis(server: Server, folder: Path, callers: dict[str, str], *options: str) -> str:
    """Run it in a process of its own, for callers by security scheme; return its report."""
    config = folder / "schemathesis.toml"
    auth = "".join(f'[auth.openapi.{scheme}]\nbearer = "{who}"\n' for scheme, who in callers.items())
    config.write_text(CONFIG + auth)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", "--config-file", config, "run",
        f"{server.url}/openapi.json", "--no-color", "--continue-on-failure",
        "--phases", "examples,coverage,fuzzing", *options, cwd=folder,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE):
            report = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, report
    return report


async def test_whatever_is_asked_the_answer_is_described(server: Server, tmp_path: Path) -> None:
    await populate(server)
    callers = {"apiKey": ADMIN_KEY, "clientToken": token(CLIENT, rooms=["*"])}
    report = await schemathesis(server, tmp_path, callers)
    assert f"Tested: {len(contract.operations())}\n" in report


async def test_a_client_finds_what_is_described_for_clients(server: Server, tmp_path: Path) -> None:
    for_clients = [
        name for name, operation in contract.operations().items()
        if any("clientToken" in way for way in operation.get("security", []))
    ]  # fmt: skip
    await populate(server)
    only = [f"--include-operation-id={name}" for name in for_clients]
    report = await schemathesis(server, tmp_path, {"clientToken": token(CLIENT, rooms=["*"])}, *only)
    assert f"Tested: {len(for_clients)}\n" in report
