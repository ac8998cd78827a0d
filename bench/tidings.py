"""Tidings as a target: the service, and the PostgreSQL that it brings along."""

import base64
import hashlib
import hmac
import http.client
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from bench import measure
from bench.generator import Dialect
from bench.targets import Cost, Target, request
from bench.tools import Tools
from service.store import embedded

DIALECT: Final = Dialect(ready='"type":"live"', beat='{"type":"ping"')
MAX_MEMBERS: Final = 1000
_SECRET: Final = "only-for-benchmarks-only-for-benchmarks"  # noqa: S105 - signs nothing else
_ADMIN: Final = "admin-key-of-the-benchmark"
_FRAME: Final = (
    '{"type":"event","position":1234567,"id":"1234567","to":"room:bench-10","event":"bench","data":'
    ',"time":"2026-11-24T03:09:43.150Z"}'
)


class Tidings(Target):
    """The service with its database in ``data_dir``; ``settings`` are variables without their prefix."""

    def __init__(self, data_dir: Path, name: str = "tidings", **settings: str) -> None:
        super().__init__(name, overhead=len(_FRAME), dialect=DIALECT)
        self.data_dir = data_dir
        self._settings = settings
        self._audiences = 0
        self._label = ""

    def command(self, tools: Tools, directory: Path) -> list[str]:
        """Serve, as in production."""
        return [tools.tidings, "serve", "--port", str(self.port)]

    def environment(self, directory: Path) -> dict[str, str]:
        """Return defaults but for what a benchmark needs."""
        settings = {
            "DATA_DIR": str(self.data_dir),
            "JWT_SECRET": _SECRET,
            "ADMIN_KEY": _ADMIN,
            "LOG_LEVEL": "WARNING",
            "DRAIN_TIMEOUT": "1",
        } | self._settings
        ours = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
        return ours | {f"TIDINGS_{name}": value for name, value in settings.items()}

    def is_ready(self) -> bool:
        """Tell whether it says so."""
        try:
            return self._call("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def has_batches(self) -> bool:
        """Tell whether it takes many events in one POST."""
        return self._call("POST", "/v1/events/batch", {"events": []})[0] != 404

    def room(self, count: int) -> list[str]:
        """Make ``count`` new users, all members of a new room."""
        self._relabel()
        names = self._names(count)
        for first in range(0, count, MAX_MEMBERS):
            change = {"add": names[first : first + MAX_MEMBERS]}
            status, answer = self._call("POST", f"/v1/rooms/bench-{self._label}/members", change)
            if status != 200:
                raise RuntimeError(f"no members were made: {status} {answer!r}")
        return self.again(count)

    def users(self, count: int) -> list[str]:
        """Make ``count`` new users, to be addressed one by one."""
        self._relabel()
        return self.again(count)

    def again(self, count: int) -> list[str]:
        """Return where the users made last connect, with tokens that have not been seen yet."""
        return [self.path(name) for name in self._names(count)]

    def path(self, user: str, device: str = "bench", after: int | None = None) -> str:
        """Return where a user's device connects, with a new token."""
        start = "" if after is None else f"&after={after}"
        return f"/v1/ws?token={_token(user)}&device={device}{start}"

    def wait_for(self, position: int) -> None:
        """Wait until the service has followed the log to this position."""
        while self.position() < position:
            time.sleep(0.05)

    def position(self) -> int:
        """Return how far the service has followed the log."""
        position: int = json.loads(self._call("GET", "/readyz")[1])["position"]
        return position

    def to_room(self) -> str:
        """Publish to the room made last."""
        return self._post("/v1/events", self._event(f"room:bench-{self._label}"))

    def to_user(self) -> str:
        """Publish to one of the users made last."""
        return self._post("/v1/events", self._event(f"user:{self._label}-@U@"))

    def to_many(self, first: int, count: int) -> str:
        """Publish to ``count`` of the users made last at once."""
        addresses = json.dumps([f"user:{name}" for name in self._names(first + count)[first:]])
        return self._post("/v1/events", f'{{"to":{addresses},"type":"bench","data":{self.data()}}}')

    def batch_to_room(self, events: int) -> str:
        """Publish many events to the room made last, in one POST."""
        return self.batch([f"room:bench-{self._label}"] * events)

    def batch(self, addresses: Iterable[str]) -> str:
        """Publish an event to each of these, in one POST."""
        events = ",".join(map(self._event, addresses))
        return self._post("/v1/events/batch", f'{{"events":[{events}]}}')

    def to_nobody(self, events: int = 0) -> str:
        """Publish to a user who never comes: one event, or a batch of them."""
        if events:
            return self.batch(["user:nobody"] * events)
        return self._post("/v1/events", self._event("user:nobody"))

    def cost(self) -> Cost:
        """Return what the service has spent, and apart from it the database."""
        postmaster = self._postmaster
        database = measure.cpu(postmaster) + measure.cpu_of_reaped(postmaster)
        return Cost(measure.cpu(self.pid), database)

    def place(self, cores: set[int]) -> None:
        """Pin the service; the database shares the other core with the load generator."""
        measure.pin([self.pid], cores)
        measure.pin([self._postmaster], measure.ANY_CORE if cores == measure.ANY_CORE else measure.OTHER_CORE)

    @property
    def database_url(self) -> str:
        """Return the URL of the database, which runs while the service does."""
        url = embedded.running(self.data_dir)
        if url is None:
            raise RuntimeError("the database does not run")
        return url

    @property
    def _postmaster(self) -> int:
        return int((self.data_dir / "postgres" / "postmaster.pid").read_text().split()[0])

    def _relabel(self) -> None:
        self._audiences += 1
        # Two processes on one database must not mean the same users.
        self._label = f"{self.port}{self._audiences}"

    def _names(self, count: int) -> list[str]:
        return [f"{self._label}-{n}" for n in range(count)]

    def _event(self, address: str) -> str:
        return f'{{"to":"{address}","type":"bench","data":{self.data()}}}'

    def _post(self, path: str, body: str) -> str:
        return request(path, body, [f"Authorization: Bearer {_ADMIN}"])

    def _call(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Authorization": f"Bearer {_ADMIN}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def _token(user: str) -> str:
    """Sign a token by hand: ten thousand are needed in a moment."""
    now = time.time_ns()
    claims = {"sub": user, "iat": now // 10**9, "exp": now // 10**9 + 3600, "rooms": "*", "jti": str(now)}
    text = f"{_HEADER}.{_base64(json.dumps(claims).encode())}"
    return f"{text}.{_base64(hmac.digest(_SECRET.encode(), text.encode(), hashlib.sha256))}"


def _base64(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


_HEADER: Final = _base64(b'{"alg":"HS256","typ":"JWT"}')
