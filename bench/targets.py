"""The servers that are measured: how each is started, subscribed to and published to."""

import http.client
import string
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from bench import measure
from bench.generator import Dialect
from bench.processes import free_port, listens, running
from bench.stores import Postgres, Redis, Store
from bench.tools import PEERS, Tools

FRAME: Final = 170
"""Bytes of a message as a subscriber gets it: each server's data are as much shorter as it adds."""
_NCHAN_REDIS: Final = "nchan_use_redis on; nchan_redis_url {}; nchan_message_buffer_length 1000;"


class Cost(NamedTuple):
    """CPU seconds, of the server and of the database that belongs to it."""

    service: float
    database: float = 0.0

    @property
    def total(self) -> float:
        """Return both together."""
        return self.service + self.database

    def since(self, earlier: "Cost") -> "Cost":
        """Return what was spent in between."""
        return Cost(self.service - earlier.service, self.database - earlier.database)


class Target:
    """A server under measurement. While it runs, ``port`` and ``pid`` are set, and its ``store`` runs too."""

    def __init__(
        self,
        name: str,
        *,
        overhead: int = 0,
        dialect: Dialect = Dialect(),  # noqa: B008
        store: Store | None = None,
    ) -> None:
        self.name = name
        self.dialect = dialect
        self.store = store
        self.port = 0
        self.pid = 0
        self._overhead = overhead

    def command(self, tools: Tools, directory: Path) -> list[str]:
        """Return what starts it on ``port``; it may write to ``directory``."""
        raise NotImplementedError

    def environment(self, directory: Path) -> dict[str, str] | None:
        """Return the variables it is started with; None for our own."""
        return None

    def is_ready(self) -> bool:
        """Tell whether it serves."""
        return listens(self.port)

    def room(self, count: int) -> list[str]:
        """Return where ``count`` subscribers of everything connect."""
        return [self._subscribe(user) for user in range(count)]

    def users(self, count: int) -> list[str]:
        """Return where ``count`` users connect, who are addressed one by one."""
        return self.room(count)

    def _subscribe(self, user: int) -> str:
        return f"/ws?user={user}"

    def to_room(self) -> str:
        """Return a request that goes to the whole room."""
        return request("/publish", self.data())

    def to_user(self) -> str:
        """Return a request that goes to a random user."""
        return request("/publish?user=@U@", self.data())

    def data(self) -> str:
        """Return the JSON that carries the time and fills the message up."""
        bare = len('{"t":,"pad":""}') + 19
        return '{"t":@T@,"pad":"' + "x" * max(0, FRAME - self._overhead - bare) + '"}'

    def cost(self) -> Cost:
        """Return what it has spent so far."""
        return Cost(measure.cpu(self.pid), self.store.cpu() if self.store else 0.0)

    def memory(self) -> int:
        """Return the bytes it holds."""
        return measure.memory(self.pid)

    def place(self, cores: set[int]) -> None:
        """Let it run on these cores only."""
        measure.pin([self.pid], cores)
        if self.store:
            self.store.place(cores)


class Floor(Target):
    """The least that a fan-out can cost: ``floor.c``."""

    def command(self, tools: Tools, directory: Path) -> list[str]:
        """Start the program."""
        return [str(tools.floor), str(self.port)]


class Script(Target):
    """A peer in Python."""

    def command(self, tools: Tools, directory: Path) -> list[str]:
        """Run the file."""
        return [sys.executable, str(PEERS / f"{self.name}.py"), str(self.port)]


class Node(Target):
    """A peer in JavaScript."""

    def command(self, tools: Tools, directory: Path) -> list[str]:
        """Run the file with node."""
        return [tools.node, str(PEERS / f"{self.name}.mjs"), str(self.port)]


class SocketIo(Node):
    """Socket.IO, whose clients connect through a path and a protocol of its own."""

    def command(self, tools: Tools, directory: Path) -> list[str]:
        """Run the one file with the URL of the store, by which it chooses the adapter."""
        store = [self.store.url] if self.store else []
        return [tools.node, str(PEERS / "socketio.mjs"), str(self.port), *store]

    def _subscribe(self, user: int) -> str:
        return f"/socket.io/?EIO=4&transport=websocket&user={user}"


class Nchan(Target):
    """nginx with Nchan: a channel for everybody, or one for each user."""

    def command(self, tools: Tools, directory: Path) -> list[str]:
        """Fill in the configuration and run nginx on it."""
        config = directory / "nchan.conf"
        template = string.Template((PEERS / "nchan.conf").read_text())
        config.write_text(
            template.substitute(
                modules=tools.nginx_modules,
                directory=directory,
                port=self.port,
                descriptors=19000,
                store=_NCHAN_REDIS.format(self.store.url) if self.store else "",
            )
        )
        return [tools.nginx, "-c", str(config), "-p", str(directory), "-e", "stderr"]

    def is_ready(self) -> bool:
        """Tell whether it serves, and has found its store: without, it answers 503."""
        return super().is_ready() and (self.store is None or self._takes())

    def room(self, count: int) -> list[str]:
        """Subscribe all to one channel."""
        return ["/sub?id=all"] * count

    def users(self, count: int) -> list[str]:
        """Subscribe each to their own channel."""
        return [f"/sub?id=user-{user}" for user in range(count)]

    def to_room(self) -> str:
        """Publish to the one channel."""
        return request("/pub?id=all", self.data())

    def to_user(self) -> str:
        """Publish to one user's channel."""
        return request("/pub?id=user-@U@", self.data())

    def _takes(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("POST", "/pub?id=nobody", "{}")
            return connection.getresponse().status in (201, 202)
        finally:
            connection.close()


def floor() -> Target:
    """Return what the kernel alone costs."""
    return Floor("floor")


def nchan() -> Target:
    """Return nginx with Nchan."""
    return Nchan("nchan")


def socketio() -> Target:
    """Return Socket.IO."""
    return _socketio("socketio", '42["m",,"0123456789abcdefghij"]')


def ws() -> Target:
    """Return the JavaScript library ws."""
    return Node("ws")


def naive() -> Target:
    """Return what FastAPI's tutorial shows."""
    return Script("naive")


def plain() -> Target:
    """Return uvicorn that does nothing."""
    return Script("plain")


def backed() -> list[Target]:
    """Return the peers that hand their messages to a store."""
    return [
        Nchan("nchan+redis", store=Redis()),
        _socketio("socketio+redis", '42["m",,"1234567890123-0"]', Redis()),
        _socketio("socketio+postgres", '42["m",]', Postgres()),
    ]


def _socketio(name: str, frame: str, store: Store | None = None) -> Target:
    dialect = Dialect(ready='40{"sid"', hello="40", ping=("2", "3"))
    return SocketIo(name, overhead=len(frame), dialect=dialect, store=store)


def request(path: str, body: str, headers: Sequence[str] = ()) -> str:
    """Return a request as the load generator reads it."""
    lines = [path, "Content-Type: application/json", *headers]
    return "\n".join(lines) + f"\n\n{body}"


@contextmanager
def started(target: Target, tools: Tools, directory: Path) -> Iterator[Target]:
    """Run a server on a free port, on the servers' core, until the context ends. Raises NotStarted."""
    directory = directory / target.name
    directory.mkdir(exist_ok=True)
    with ExitStack() as stack:
        if target.store:
            stack.enter_context(target.store.running(tools, directory))
        target.port = free_port()
        command, environment = target.command(tools, directory), target.environment(directory)
        target.pid = stack.enter_context(running(command, directory, target.is_ready, environment))
        target.place(measure.SERVER_CORE)
        yield target
