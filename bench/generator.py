"""The load generator's process, and what it answers."""

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import msgspec

from bench.measure import OTHER_CORE, pin

TIMEOUT: Final = 30
"""Seconds that any one command may take."""


class Run(msgspec.Struct):
    """What a command did, in counts and seconds; see ``load.c``."""

    seconds: float
    cpu: float
    ready: int
    failed: int
    lost: int
    refusal: str
    posts: int
    answers: int
    errors: int
    expected: int
    deliveries: int
    least: int
    most: int
    stray: int
    other: int
    p50: float
    p90: float
    p99: float
    max: float
    answer_p50: float
    answer_p99: float

    def flaws(self) -> list[str]:
        """Say what went wrong, if anything did."""
        wrong = {
            "deliveries missing": max(0, self.expected - self.deliveries),
            "deliveries too many": max(0, self.deliveries - self.expected),
            "answers missing": self.posts - self.answers,
            "posts refused": self.errors,
            "connections refused": self.failed,
            "connections lost": self.lost,
            "deliveries that belong to no run": self.stray,
            "messages that nobody asked for": self.other,
        }
        return [
            f"{count} {what}" + (f" ({self.refusal})" if "refused" in what else "")
            for what, count in wrong.items()
            if count
        ]


class Dialect(NamedTuple):
    """How a server's subscribers behave: the load generator's options."""

    ready: str = ""
    hello: str = ""
    beat: str = ""
    ping: tuple[str, str] | None = None

    @property
    def options(self) -> list[str]:
        """Return the command line's part."""
        given = {"--ready": self.ready, "--hello": self.hello, "--beat": self.beat}
        options = [part for option, text in given.items() if text for part in (option, text)]
        return [*options, "--pong", *self.ping] if self.ping else options


class Load:
    """Subscribers of one server, and its publishers; a context that ends their process."""

    def __init__(
        self, program: Path, port: int, dialect: Dialect, paths: Sequence[str], *, timeout: int = TIMEOUT
    ) -> None:
        self._directory = tempfile.TemporaryDirectory()
        file = Path(self._directory.name, "paths")
        file.write_text("".join(f"{path}\n" for path in paths))
        self.subscribers = len(paths)
        self._process = subprocess.Popen(
            [program, str(port), file, *dialect.options, "--timeout", str(timeout)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answers = iter(self._process.stdout or ())
        pin([self._process.pid], OTHER_CORE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()  # the end of its input ends it
        self._directory.cleanup()

    def connect(self, concurrency: int = 64, each: int = 0) -> Run:
        """Connect all subscribers; wait until they are ready, and have got ``each`` deliveries each."""
        return self._ask(f"connect {concurrency} {each}")

    def publishers(self, count: int, request: str) -> Run:
        """Open connections that POST ``request`` from now on."""
        file = Path(self._directory.name, "request")
        file.write_text(request)
        return self._ask(f"publishers {count} {file}")

    def one(self, fan: int, count: int) -> Run:
        """POST one at a time, each when the last one has arrived everywhere."""
        return self._ask(f"one {fan} {count}")

    def paced(self, fan: int, count: int, rate: float) -> Run:
        """POST at a fixed rate a second."""
        return self._ask(f"paced {fan} {count} {rate}")

    def saturate(self, fan: int, count: int) -> Run:
        """POST from every publisher as soon as it has its answer."""
        return self._ask(f"saturate {fan} {count}")

    def settle(self) -> Run:
        """Wait until every subscriber was pinged after its last delivery: its cursor has followed."""
        return self._ask("settle")

    def close(self) -> Run:
        """Close the subscribers' connections."""
        return self._ask("close")

    def _ask(self, command: str) -> Run:
        print(command, file=self._process.stdin, flush=True)
        return msgspec.json.decode(next(self._answers), type=Run)
