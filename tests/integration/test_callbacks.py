"""A producer is called back for what nobody has received, from a real service to a real HTTP server."""

import asyncio
import base64
import json
import logging
import re
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from standardwebhooks import Webhook as Verifier

from service.domain import webhooks
from service.domain.events import Draft, Unit
from service.stream import callbacks, webhook
from service.stream.webhook import Webhook
from tests.harness import Server, eventually, token

Start = Callable[..., Awaitable[Server]]

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


FAR = 3600.0
"""Not due before the test says so."""


class Receiver:
    """Takes every POST, believes its signature or fails, and answers with what it is told to."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.calls: list[dict[str, Any]] = []
        self.heads: list[dict[str, str]] = []
        self.answers: list[str] = []
        """Status lines and headers, one for each call; then 204."""
        self.gate = asyncio.Event()
        self.gate.set()
        self.at_once = self.most_at_once = 0
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.gate.set()
        self._server.close()
        await self._server.wait_closed()

    @property
    def settings(self) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.port}/hook?for=us"
        return {"callback_url": url, "callback_secret": SECRET, "callback_allow_private": True}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
            head = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await reader.readexactly(int(head["content-length"]))
            Verifier(SECRET).verify(body, head)
            self.heads.append(head | {"": first})
            self.calls.append(json.loads(body))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            await self.gate.wait()
            answer = self.answers.pop(0) if self.answers else "204 No Content"
            writer.write(f"HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the caller has given up
        finally:
            self.at_once -= 1
            writer.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, and wait for no other instance."""
    monkeypatch.setattr(callbacks, "EVERY", 0.02)
    monkeypatch.setattr(callbacks, "GRACE", 0.0)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


async def watched(server: Server, user: str = "alice", after: float = 0.01, **more: Any) -> int:
    draft = Draft(f"user:{user}", "order.shipped", '{"order": 17}', undelivered_after=after, **more)
    return (await server.service.appender.append(Unit([draft]))).first


async def rows(db: asyncpg.Connection) -> list[tuple[int, str | None]]:
    return [tuple(row) for row in await db.fetch("select attempts, failed from tidings.callbacks")]


async def make_due(db: asyncpg.Connection) -> None:
    await db.execute("update tidings.callbacks set due_at = now()")


async def settled(db: asyncpg.Connection) -> bool:
    return await rows(db) == []


async def test_its_producer_is_told_of_an_event_that_no_device_can_get(
    start: Start, receiver: Receiver, db: asyncpg.Connection
) -> None:
    server = await start(**receiver.settings)
    position = await watched(server, id="order-17")
    await eventually(lambda: settled(db))
    event = (await server.http.get(f"/v1/events/{position}")).json()
    assert receiver.calls == [{
        "type": "undelivered", "id": "order-17", "position": position, "to": "user:alice", "user": "alice",
        "event": "order.shipped", "data": {"order": 17}, "time": event["time"], "reason": "no_device",
    }]  # fmt: skip
    head = receiver.heads[0]
    assert head[""] == "POST /hook?for=us HTTP/1.1"
    assert head["host"] == f"127.0.0.1:{receiver.port}"
    assert head["content-type"] == "application/json"
    assert head["webhook-id"] == f"{server.gateway.identity}_{position}"
    assert "." not in head["webhook-id"]
    counted = server.service.metrics.callbacks.labels("called")._value.get()
    assert counted == 1


async def test_only_what_no_device_has_received_is_told(
    start: Start, receiver: Receiver, db: asyncpg.Connection
) -> None:
    server = await start(**receiver.settings)
    await (await server.live("alice", device="tablet", ack="client")).close()
    async with await server.live("alice", device="phone", ack="client") as phone:
        received = await watched(server, after=FAR)
        await phone.until("event", position=received)
        await phone.ask("ack", position=received)
        await server.service.cursors.flush()
        not_received = await watched(server, after=FAR)
        await make_due(db)
        await eventually(lambda: settled(db))
    assert [(call["position"], call["reason"]) for call in receiver.calls] == [(not_received, "not_received")]


async def test_what_was_received_and_not_read_is_told_where_that_was_asked(
    start: Start, receiver: Receiver, db: asyncpg.Connection
) -> None:
    server = await start(**receiver.settings)
    async with await server.live("alice", ack="client") as phone:
        position = await watched(server, after=FAR, unless_read=True)
        await phone.until("event", position=position)
        await phone.ask("ack", position=position)
        await server.service.cursors.flush()
        await make_due(db)
        await eventually(lambda: settled(db))
    assert [call["reason"] for call in receiver.calls] == ["not_read"]


async def test_what_was_read_is_not_told_and_its_receipt_says_so(
    start: Start, receiver: Receiver, db: asyncpg.Connection
) -> None:
    server = await start(**receiver.settings)
    await (await server.live("alice", ack="client")).close()
    read, unread = [await watched(server, after=FAR, unless_read=True) for _ in range(2)]
    client = {"Authorization": f"Bearer {token('alice')}"}
    mark = await server.http.post("/v1/inbox/read", json={"positions": [read]}, headers=client)
    assert mark.status_code == 200, mark.text
    for position, told in ((read, True), (unread, False)):
        receipts = (await server.http.get(f"/v1/events/{position}/deliveries")).json()["data"]
        assert [receipt["read"] for receipt in receipts] == [told]
    await make_due(db)
    await eventually(lambda: settled(db))
    assert [(call["position"], call["reason"]) for call in receiver.calls] == [(unread, "not_received")]


async def test_what_is_gone_is_not_told(start: Start, receiver: Receiver, db: asyncpg.Connection) -> None:
    server = await start(**receiver.settings)
    expired = await watched(server, after=FAR, lifetime=0.1)
    recalled = await watched(server, after=FAR)
    await db.fetchval("select tidings.recall(0, $1)", recalled)
    assert len(await rows(db)) == 1
    over = "select expires_at < now() from tidings.events where position = $1"
    await eventually(lambda: db.fetchval(over, expired))
    await make_due(db)
    await eventually(lambda: settled(db))
    deleted = await watched(server, after=FAR)
    await server.reached(deleted)  # an instance that the floor passes ends
    await db.execute("update tidings.log set floor = $1", deleted)
    await make_due(db)
    await eventually(lambda: settled(db))
    assert receiver.calls == []


async def test_what_is_erased_after_it_was_claimed_is_not_told(
    start: Start, receiver: Receiver, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    standings, erased = callbacks.receipts.standings, asyncio.Event()

    async def late(connection: asyncpg.Connection, positions: list[int]) -> Any:
        if not erased.is_set():
            await db.execute("insert into tidings.erasures (user_id) values ('alice')")
            while await db.fetchval("select tidings.erase_some(0, 'alice', 100)"):
                continue
            erased.set()
        return await standings(connection, positions)

    monkeypatch.setattr(callbacks.receipts, "standings", late)
    server = await start(**receiver.settings)
    await watched(server)
    await erased.wait()
    await watched(server, "bob")
    await eventually(lambda: receiver.calls)
    await eventually(lambda: settled(db))
    assert [call["user"] for call in receiver.calls] == ["bob"]


async def test_a_device_that_has_what_replaced_it_lacks_nothing(
    start: Start, receiver: Receiver, db: asyncpg.Connection
) -> None:
    server = await start(**receiver.settings)
    async with await server.live("alice", ack="client") as phone:
        await watched(server, after=FAR, collapse_key="k")
        newer = await watched(server, after=FAR, collapse_key="k")
        await phone.until("event", position=newer)
        await phone.ask("ack", position=newer)
        await server.service.cursors.flush()
        await make_due(db)
        await eventually(lambda: settled(db))
    assert receiver.calls == []


async def test_a_call_that_is_not_taken_is_made_again_with_the_same_id(
    start: Start, receiver: Receiver, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "DELAYS", (0.05, 0.05, 0.05, 0.05))
    receiver.answers = ["500 Oh", "307 Temporary Redirect\r\nLocation: /elsewhere", "404 Not Found"]
    server = await start(**receiver.settings)
    await watched(server)
    await eventually(lambda: settled(db))
    assert len(receiver.calls) == 4
    assert len({head["webhook-id"] for head in receiver.heads}) == 1
    assert {head[""] for head in receiver.heads} == {"POST /hook?for=us HTTP/1.1"}


async def test_it_is_not_made_again_for_what_was_received_meanwhile(
    start: Start, receiver: Receiver, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "DELAYS", (0.5,))
    receiver.answers = ["500 Oh"]
    server = await start(**receiver.settings)
    position = await watched(server)
    await eventually(lambda: len(receiver.calls) == 1)
    async with await server.live("alice", ack="client") as phone:
        await phone.ask("ack", position=position)
        await eventually(lambda: settled(db))
    assert len(receiver.calls) == 1


@pytest.mark.parametrize(("answer", "attempts"), [("500 Oh", 3), ("410 Gone", 1)])
async def test_it_is_given_up_and_kept_to_be_looked_at(
    start: Start,
    receiver: Receiver,
    db: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    answer: str,
    attempts: int,
) -> None:
    monkeypatch.setattr(webhooks, "DELAYS", (0.02, 0.02))
    receiver.answers = [answer] * 5
    server = await start(**receiver.settings)
    position = await watched(server)

    async def failed() -> bool:
        return await rows(db) == [(attempts, f"status {answer[:3]}")]

    await eventually(failed)
    assert len(receiver.calls) == attempts
    [record] = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert vars(record)["position"] == position
    assert server.service.metrics.callbacks.labels("given_up")._value.get() == 1
    await watched(server, "bob")  # others go on
    await eventually(lambda: receiver.calls[-1]["user"] == "bob")
    await db.execute("update tidings.log set floor = $1", position)
    async with server.service.database.connection() as connection:
        await callbacks.store.prune(connection)
    assert position not in {row[0] for row in await db.fetch("select position from tidings.callbacks")}


async def test_a_receiver_that_is_busy_says_when(
    start: Start, receiver: Receiver, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "DELAYS", (0.02,))
    receiver.answers = ["429 Slow\r\nRetry-After: 3600"]
    server = await start(**receiver.settings)
    await watched(server)

    async def put_off() -> bool:
        query = "select due_at > clock_timestamp() + interval '59 minutes' from tidings.callbacks"
        return await db.fetchval(query) and receiver.at_once == 0

    await eventually(put_off)
    assert len(receiver.calls) == 1


async def test_of_several_instances_one_makes_the_call(
    start: Start, receiver: Receiver, db: asyncpg.Connection
) -> None:
    one, _, _ = [await start(**receiver.settings) for _ in range(3)]
    draft = Draft("user:alice", "t", "1", undelivered_after=0.3)
    await one.service.appender.append(Unit([draft] * 60))
    await eventually(lambda: settled(db))
    assert len(receiver.calls) == 60
    assert len({call["position"] for call in receiver.calls}) == 60


async def test_what_is_overdue_is_worked_off_a_few_at_a_time(
    start: Start, receiver: Receiver, db: asyncpg.Connection
) -> None:
    before = await start()
    draft = Draft("user:alice", "t", "1", undelivered_after=0.01)
    await before.service.appender.append(Unit([draft] * 50))
    receiver.gate.clear()
    server = await start(**receiver.settings)
    await eventually(lambda: receiver.at_once == callbacks.AT_ONCE)
    # A receiver that does not answer holds nobody else up.
    position = await server.publish("user:bob")
    async with await server.live("bob") as bob:
        assert [f["position"] for f in bob.frames if f["type"] == "event"] == [position]
    claimed = await db.fetchval("select count(*) from tidings.callbacks where attempts > 0")
    assert claimed == callbacks.AT_ONCE
    open_ = (
        "select count(*) from pg_stat_activity where datname = current_database() and state like 'idle in%'"
    )
    assert await db.fetchval(open_) == 0
    receiver.gate.set()
    await eventually(lambda: settled(db))
    assert len(receiver.calls) == 50
    assert receiver.most_at_once == callbacks.AT_ONCE


async def test_a_call_whose_instance_died_is_made_again(
    start: Start, receiver: Receiver, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "LEASE", 0.3)
    receiver.gate.clear()  # it dies before it has the answer, as far as the other can tell
    one, _ = await start(**receiver.settings), await start(**receiver.settings)
    await watched(one)
    await eventually(lambda: len(receiver.calls) >= 2)
    assert receiver.heads[0]["webhook-id"] == receiver.heads[1]["webhook-id"]
    receiver.gate.set()
    await eventually(lambda: settled(db))


async def test_a_receiver_that_does_not_answer_is_not_waited_for(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "TIMEOUT", 0.2)
    receiver.gate.clear()
    async with Webhook(receiver.settings["callback_url"], KEY, allow_private=True) as hook:
        answer = await hook.post("id", b"{}")
        assert (answer.ok, answer.status) == (False, None)
        assert "0 s" in answer.told


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]"]
)
async def test_a_private_network_is_not_called(receiver: Receiver, host: str) -> None:
    async with Webhook(f"http://{host}:{receiver.port}/", KEY, allow_private=False) as hook:
        answer = await hook.post("id", b"{}")
    assert answer.status is None
    assert "private" in answer.told
    assert receiver.calls == []


async def test_the_address_that_was_looked_at_is_the_one_that_is_called(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that leads elsewhere the second time it is asked for leads nowhere."""
    asked = []

    async def rebinding(self: object, host: str, port: int, **_: object) -> list[Any]:
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "127.0.0.99"
        return [(2, 1, 6, "", (address, port))]

    monkeypatch.setattr(type(asyncio.get_running_loop()), "getaddrinfo", rebinding, raising=False)
    async with Webhook(f"http://rebinding.test:{receiver.port}/", KEY, allow_private=True) as hook:
        assert (await hook.post("id", b"{}")).ok
    assert asked == ["rebinding.test"]
    assert receiver.heads[0]["host"] == f"rebinding.test:{receiver.port}"


@pytest.mark.parametrize(("name", "ok"), [("hooks.test", True), ("others.test", False)])
async def test_tls_is_checked_against_the_name_and_not_the_address(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    ok: bool,  # noqa: FBT001 - a row of a table
) -> None:
    certificate = _certificate(tmp_path, "hooks.test")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setattr(type(asyncio.get_running_loop()), "getaddrinfo", _here, raising=False)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    asked = []
    tls.sni_callback = lambda _socket, asked_for, _context: asked.append(asked_for)
    async with (
        Receiver(tls) as receiver,
        Webhook(f"https://{name}:{receiver.port}/", KEY, allow_private=True) as hook,
    ):
        answer = await hook.post("id", b"{}")
        assert answer.ok == ok, answer
        assert ok or "certificate" in answer.told
    assert asked == [name]
    assert len(receiver.calls) == ok


async def _here(self: object, host: str, port: int, **_: object) -> list[Any]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


def _certificate(folder: Path, name: str) -> Path:
    """Return a file with a key and a certificate that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file = folder / "tls.pem"
    file.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    return file


async def test_a_name_that_leads_nowhere_is_an_answer_too() -> None:
    async with Webhook("http://nowhere.invalid/", KEY, allow_private=True) as hook:
        assert (await hook.post("id", b"{}")).status is None


async def test_the_receiver_of_the_how_to_works(
    start: Start, db: asyncpg.Connection, tmp_path: Path, receiver: Receiver
) -> None:
    page = Path(__file__).parents[2] / "docs/how-to/fall-back-to-mail-or-push.md"
    [code] = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "receiver.py").write_text(code)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(tmp_path / "receiver.py"), stdout=asyncio.subprocess.PIPE,
        env={"PORT": str(port), "TIDINGS_CALLBACK_SECRET": SECRET},
    )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}/"
        forged = Webhook(url, bytes(32), allow_private=True)

        async def refused() -> bool:
            return (await forged.post("id", b"{}")).status == 401

        async with forged:
            await eventually(refused)
        server = await start(**receiver.settings | {"callback_url": url})
        await watched(server)
        await eventually(lambda: settled(db))
        assert process.stdout is not None
        line = await process.stdout.readline()
        assert line == b'push to alice: order.shipped {"order": 17}\n'
    finally:
        process.terminate()
        await process.communicate()
