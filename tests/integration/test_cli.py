"""The commands as their users call them: in a process of their own, in an empty directory."""

import asyncio
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import asyncpg
import httpx
import pytest
from jose import jwt

from tests.harness import ADMIN_KEY, PATIENCE, SECRET, Server

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "service")


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Awaitable[Done]]


def environment(**settings: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
    given = {f"TIDINGS_{name.upper()}": value for name, value in settings.items()}
    return {**own, **given, "PYTHONPATH": f"{ROOT}:{ROOT}/clients/python", "COLUMNS": "200"}


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty directory; not one of pytest's own, which other runs close to other users."""
    with TemporaryDirectory(prefix="tidings-test-") as path:
        yield Path(path)


@pytest.fixture
def run(folder: Path) -> Run:
    async def run_it(*arguments: str, stdin: bytes = b"", **settings: str) -> Done:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, *arguments, cwd=folder, env=environment(**settings),
            stdin=PIPE, stdout=PIPE, stderr=PIPE,
        )  # fmt: skip
        async with asyncio.timeout(3 * PATIENCE):
            out, err = await process.communicate(stdin)
        assert process.returncode is not None
        assert b"Traceback" not in out + err
        return Done(process.returncode, out.decode(), err.decode())

    return run_it


@asynccontextmanager
async def started(
    folder: Path, *arguments: str, until: str, **settings: str
) -> AsyncIterator[tuple[Process, "re.Match[str]"]]:
    """Run a command until the block ends; enter it once its stdout has said ``until``."""
    with (folder / "stderr").open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, *arguments, cwd=folder, env=environment(**settings), stdout=PIPE, stderr=errors
        )
    try:
        async with asyncio.timeout(3 * PATIENCE):
            yield process, await said(process, until)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def said(process: Process, pattern: str) -> "re.Match[str]":
    """Read lines until one matches."""
    assert process.stdout
    while line := (await process.stdout.readline()).decode():
        if match := re.search(pattern, line):
            return match
    raise AssertionError("it ended without saying so")


async def ended(process: Process, number: signal.Signals) -> int:
    process.send_signal(number)
    await process.communicate()
    assert process.returncode is not None
    return process.returncode


async def alive(url: str) -> bool:
    async with httpx.AsyncClient() as client:
        return (await client.get(f"{url}/healthz")).is_success


READY = r"Tidings is ready: (http://\S+:(\d+))"


# --- What can be wrong


async def test_serve_refuses_what_only_development_may_lack(run: Run, folder: Path) -> None:
    done = await run("serve")
    assert done.code == 1
    assert [line.split(":")[:2] for line in done.err.splitlines()] == [
        ["tidings", " TIDINGS_JWT_SECRET"],
        ["tidings", " TIDINGS_DATABASE_URL"],
    ]
    assert os.listdir(folder) == []  # noqa: PTH208 - iterdir counts as blocking


async def test_a_wrong_setting_is_one_line_without_its_value(run: Run) -> None:
    done = await run("serve", "--dev", jwt_secret="hunter22")
    assert done.code == 1
    assert done.err == "tidings: TIDINGS_JWT_SECRET: must have at least 32 bytes\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--port", "many"],
        ["send", "user:alice", "x", "{"],
        ["token", "alice", "--ttl", "soon"],
        ["revoke"],
        ["revoke", "--jti", "x", "--ban"],
        ["listen"],
        ["listen", "--user", "a", "--token", "b"],
        ["unknown"],
    ],
)
async def test_wrong_usage_is_told(run: Run, arguments: list[str]) -> None:
    assert (await run(*arguments)).code == 2


async def test_a_database_that_is_not_there_is_one_line(run: Run) -> None:
    url = "postgresql://u:hunter22@127.0.0.1:1/d"
    for command in ("migrate", "serve"):
        done = await run(command, database_url=url, jwt_secret=SECRET, log_level="ERROR")
        assert done.code == 1
        assert len(done.err.splitlines()) == 1
        assert "hunter22" not in done.err


async def test_a_service_that_is_not_there_is_one_line(run: Run) -> None:
    for command in (["stats"], ["send", "everyone", "x"], ["key", "list"], ["token", "alice"]):
        done = await run(*command, url="http://127.0.0.1:1")
        assert done.code == 1
        assert done.err.startswith("tidings: cannot reach http://127.0.0.1:1")
        assert len(done.err.splitlines()) == 1


# --- The database


async def test_an_old_schema_is_refused_until_it_is_migrated(
    run: Run, folder: Path, empty_database_url: str
) -> None:
    settings = {
        "database_url": empty_database_url.replace("postgresql:", "postgresql+asyncpg:"),
        "jwt_secret": SECRET,
        "log_level": "ERROR",
    }
    refused = await run("serve", **settings)
    assert refused.code == 1
    assert "`tidings migrate`" in refused.err
    assert (await run("migrate", **settings)).code == 0
    assert (await run("db-url", **settings)).out.strip() == empty_database_url
    async with started(folder, "serve", "--dev", "--port", "0", until=READY, **settings) as it:
        assert await alive(it[1][1])


async def test_no_url_where_nothing_runs(run: Run) -> None:
    done = await run("db-url")
    assert done.code == 1
    assert "tidings serve" in done.err


# --- The service, whole


async def test_development_from_an_empty_directory(run: Run, folder: Path) -> None:
    async with started(folder, "serve", "--dev", "--port", "0", until=READY) as (process, ready):
        url = ready[1]
        token = (await said(process, r"^ +(eyJ\S+)"))[1]
        curl = (await said(process, r"^ +curl .*"))[0]
        shell = await asyncio.create_subprocess_shell(curl, stdout=PIPE)
        answer = json.loads((await shell.communicate())[0])
        assert answer["events"][0]["to"] == "user:alice"
        again = await run("send", "user:alice", "again", "[1]", url=url)
        assert again.out.strip() == str(answer["events"][0]["position"] + 1)
        assert (await run("db-url")).out.startswith("postgresql://postgres@/postgres?host=")
        assert (await run("stats", url=url)).code == 0
        heard = started(folder, "listen", until='"again"', url=url, token=token)
        async with heard as (listener, _):
            assert await ended(listener, signal.SIGINT) == 0
        assert await ended(process, signal.SIGTERM) == 0
    assert (await run("db-url")).code == 1
    log = (folder / "stderr").read_text()
    assert "embedded PostgreSQL" in log
    assert token not in log


async def test_what_was_accepted_arrives_after_a_sigkill(run: Run, folder: Path) -> None:
    serve = ("serve", "--dev", "--port")
    async with started(folder, *serve, "0", until=READY) as (process, ready):
        url, port = ready.groups()
        listening = started(folder, "listen", "--user", "alice", "--ack-client", until='"one"', url=url)
        assert (await run("send", "user:alice", "one", url=url)).code == 0
        async with listening as (listener, _):
            await ended(process, signal.SIGKILL)
            async with started(folder, *serve, port, until=READY):
                assert (await run("send", "user:alice", "two", url=url)).code == 0
                assert '"position": 2' in (await said(listener, '"event"')).string
                assert await ended(listener, signal.SIGINT) == 0


async def test_several_workers_serve_one_port(run: Run, folder: Path, database_url: str) -> None:
    settings = {"database_url": database_url, "jwt_secret": SECRET, "admin_key": ADMIN_KEY}
    arguments = ("serve", "--dev", "--workers", "2", "--port", "0")
    async with started(folder, *arguments, until=READY, **settings) as (process, ready):
        url, port = ready.groups()
        taken = await run("serve", "--port", port, **settings, log_level="ERROR")
        assert (taken.code, len(taken.err.splitlines())) == (1, 1)
        assert "the port is taken" in taken.err
        instances = set()
        async with httpx.AsyncClient() as client:
            while len(instances) < 2:
                told = await client.get(f"{url}/stats", headers={"Connection": "close"})
                instances.add(told.json()["instance"])
            # Whichever answers, it speaks for both.
            body = {"to": "user:alice", "type": "x"}
            headers = {"Authorization": f"Bearer {ADMIN_KEY}", "Connection": "close"}
            for _ in range(10):
                await client.post(f"{url}/v1/events", json=body, headers=headers)
            metrics = (await client.get(f"{url}/metrics")).text
        assert 'tidings_append_outcomes_total{outcome="appended"} 10.0' in metrics
        assert await ended(process, signal.SIGTERM) == 0
    with pytest.raises(httpx.ConnectError):
        await alive(url)


async def test_workers_do_not_outlive_their_parent(folder: Path, database_url: str) -> None:
    settings = {"database_url": database_url, "jwt_secret": SECRET}
    serve = ("serve", "--dev", "--workers", "2", "--port")
    async with started(folder, *serve, "0", until=READY, **settings) as (process, ready):
        await ended(process, signal.SIGKILL)
        # communicate() has returned: nobody holds the pipes any more, so all of them are gone.
        async with started(folder, *serve, ready[2], until=READY, **settings):
            pass


async def test_a_worker_that_dies_is_replaced(folder: Path, database_url: str) -> None:
    settings = {"database_url": database_url, "jwt_secret": SECRET, "log_format": "json"}
    arguments = ("serve", "--dev", "--workers", "2", "--port", "0")
    async with started(folder, *arguments, until=READY, **settings) as (process, ready):
        log = folder / "stderr"
        workers = re.findall(r"Started server process \[(\d+)\]", log.read_text())
        os.kill(int(workers[0]), signal.SIGKILL)
        async with httpx.AsyncClient() as client:
            instances: set[str] = set()
            while len(instances) < 2 or log.read_text().count("startup complete") < 3:
                told = await client.get(f"{ready[1]}/stats", headers={"Connection": "close"})
                instances.add(told.json()["instance"])
        assert await ended(process, signal.SIGTERM) == 0


# --- What is asked of a running service


@pytest.fixture
async def ask(run: Run, server: Server) -> Run:
    async def ask_it(*arguments: str, **settings: str) -> Done:
        return await run(*arguments, **({"url": server.url, "key": ADMIN_KEY} | settings))

    return ask_it


async def test_keys_are_made_listed_and_revoked(ask: Run) -> None:
    key = (await ask("key", "create", "shop", "--scope", "publish", "--address", "user:*")).out
    key_id = key.split("_")[1]
    assert re.search(rf"{key_id} +shop +publish +user:\*", (await ask("key", "list")).out)
    assert (await ask("send", "user:alice", "x", key=key.strip())).code == 0
    refused = await ask("send", "everyone", "x", key=key.strip())
    assert (refused.code, refused.err.startswith("tidings: forbidden: ")) == (1, True)
    rotated = (await ask("key", "rotate", key_id, "--overlap", "1h")).out.strip()
    assert [(await ask("send", "user:alice", "x", key=k)).code for k in (key.strip(), rotated)] == [0, 0]
    last = (await ask("key", "rotate", key_id, "--overlap", "0")).out.strip()
    assert [(await ask("send", "user:alice", "x", key=k)).code for k in (rotated, last)] == [1, 0]
    assert re.search(rf"admin +key.rotate +{key_id} +{{\"overlap\": 0}}", (await ask("audit")).out)
    assert (await ask("key", "revoke", key_id)).code == 0
    assert (await ask("send", "user:alice", "x", key=key.strip())).code == 1
    assert (await ask("key", "revoke", key_id)).err.startswith("tidings: not_found: ")


async def test_tokens_are_signed_here_or_by_the_service(ask: Run) -> None:
    grants = ("--rooms", "a.*", "--rooms", "b", "--join", "b", "--publish", "room:b", "--presence")
    for settings in ({"jwt_secret": SECRET}, {}):
        done = await ask("token", "alice", *grants, "--ttl", "15m", **settings)
        claims = jwt.decode(done.out.strip(), SECRET, "HS256")
        assert claims["exp"] - claims["iat"] == 900
        assert claims["sub"] == "alice"
        assert claims["rooms"] == ["a.*", "b"]
        assert (claims["join"], claims["publish"]) == (["b"], ["room:b"])
        assert claims["presence"] is True


async def test_tokens_of_the_development_profile_have_the_names_that_are_set(run: Run, folder: Path) -> None:
    (folder / "secrets.env").write_text(f"TIDINGS_JWT_SECRET={SECRET}\n")
    done = await run("token", "alice", data_dir=str(folder), claim_user="uid")
    assert jwt.decode(done.out.strip(), SECRET, "HS256")["uid"] == "alice"


async def test_data_comes_from_stdin_too(ask: Run, server: Server) -> None:
    assert (await ask("send", "user:alice", "x", "-", "--id", "one", stdin=b'{"n": 1}')).code == 0
    assert (await ask("send", "user:alice", "x", "-", "--id", "one", stdin=b'{"n": 1}')).code == 0
    device = await server.live("alice")
    async with device:
        events = [frame["data"] for frame in device.frames if frame["type"] == "event"]
    assert events == [{"n": 1}]


async def test_a_revoked_listener_does_not_come_back(ask: Run, server: Server, folder: Path) -> None:
    heard = started(folder, "listen", "--user", "alice", until='"event"', url=server.url, jwt_secret=SECRET)
    await server.publish("user:alice")
    async with heard as (listener, _):
        assert "1 connections closed" in (await ask("revoke", "--user", "alice", "--ban")).out
        await listener.communicate()
        assert listener.returncode == 1
    assert "tidings: closed: 4001" in (folder / "stderr").read_text()


async def test_listening_starts_after_a_position(server: Server, folder: Path) -> None:
    positions = [await server.publish("user:alice", data=n) for n in range(3)]
    arguments = ("listen", "--user", "alice", "--after", str(positions[1]))
    heard = started(folder, *arguments, until=".", url=server.url, jwt_secret=SECRET)
    async with heard as (listener, first):
        assert json.loads(first.string)["position"] == positions[2]
        assert await ended(listener, signal.SIGINT) == 0


async def test_a_token_that_is_not_believed_ends_it(ask: Run) -> None:
    done = await ask("listen", token="eyJ.eyJ.x")
    assert done.code == 1
    assert "4001" in done.err


# --- Pruning


async def test_prune_says_what_would_go_changes_nothing_and_then_lets_it_go(
    run: Run, database_url: str, db: asyncpg.Connection
) -> None:
    for _ in range(3):
        last = await db.fetchval("select tidings.append_one(0, 'event', 'everyone', 't', '1')")
    await db.execute("update tidings.events set time = time - interval '8 days'")
    everything = "select last_value, l, e from tidings.position, tidings.log l, tidings.events e order by e"
    before = await db.fetch(everything)
    would = await run("prune", "--older-than", "7d", "--dry-run", database_url=database_url)
    assert (would.code, would.out[:31]) == (0, "would delete 1 of 3 partitions,")
    assert await db.fetch(everything) == before
    kept = await run("prune", database_url=database_url)
    assert (kept.code, kept.out[:26]) == (0, "deleted 0 of 3 partitions,")
    done = await run("prune", "--older-than", "7d", database_url=database_url)
    assert done.out.replace("deleted", "would delete") == would.out
    assert done.out.endswith(f", up to position {last}\n")
    assert await db.fetchval("select count(*) from tidings.events") == 0
    assert await db.fetchval("select floor from tidings.log") == last


@pytest.mark.parametrize("age", ["23h", "0d", "-1d", "a week"])
async def test_prune_keeps_what_a_repeated_id_is_answered_with(run: Run, age: str, database_url: str) -> None:
    done = await run("prune", "--older-than", age, database_url=database_url)
    assert done.code != 0
    assert "--older-than" in done.err


async def test_prune_says_what_is_still_being_read(
    run: Run, database_url: str, db: asyncpg.Connection
) -> None:
    acts = "select actor, action, subject from tidings.audit"
    last = await db.fetchval("select tidings.append_one(0, 'event', 'everyone', 't', '1')")
    await db.execute("update tidings.events set time = time - interval '40 days'")
    async with db.transaction():
        await db.fetch("select * from tidings.events")
        assert "1 more are still being read" in (await run("prune", database_url=database_url)).out
    # Nobody gets it any more, so it is on record from then on, and once.
    assert await db.fetch(acts) == [("command line", "log.prune", str(last))]
    assert "deleted 1 of 3" in (await run("prune", database_url=database_url)).out
    assert len(await db.fetch(acts)) == 1
