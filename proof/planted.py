"""Instances of the service in processes of their own, with a bug planted in them or none.

They are forked from a server that has imported everything once, so that one is there in half a second.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from proof.processes import free_port
from service import server
from service.observe import logs
from service.settings import load

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess

PATIENCE: Final = 90.0
"""Seconds for a start, and for an end."""

_CONTEXT = multiprocessing.get_context("forkserver")

Patch = Callable[[], None] | None


class NotStarted(Exception):
    """An instance did not come up."""


class Instances:
    """Instances on one database, each at a port that it keeps: a context."""

    def __init__(self, number: int, environment: Mapping[str, str], patch: Patch = None) -> None:
        """``environment`` has their settings, ``patch`` is run in each before it starts."""
        self._environment = dict(environment)
        self._patch = patch
        self._ports = [free_port() for _ in range(number)]
        self._processes: dict[int, ForkServerProcess] = {}

    @property
    def urls(self) -> Sequence[str]:
        """Return where they are, running or not."""
        return [f"http://127.0.0.1:{port}" for port in self._ports]

    def __enter__(self) -> Self:
        _CONTEXT.set_forkserver_preload(["proof.plants", "proof.planted", "service.app", "service.door"])
        waiting = [self._begin(number) for number in range(len(self._ports))]
        for ready in waiting:
            _await(ready)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.join(PATIENCE)
            process.kill()
            process.join()

    def kill(self, number: int) -> None:
        """End one with SIGKILL."""
        self._processes[number].kill()
        self._processes[number].join()

    def start(self, number: int) -> None:
        """Start one that was killed."""
        _await(self._begin(number))

    def _begin(self, number: int) -> Connection:
        here, there = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(
            target=_serve, args=(self._ports[number], self._environment, self._patch, there), daemon=True
        )
        process.start()
        there.close()
        self._processes[number] = process
        return here


def _await(ready: Connection) -> None:
    try:
        if not ready.poll(PATIENCE):
            raise NotStarted("it took too long")
        ready.recv()
    except EOFError:
        raise NotStarted("it ended") from None
    finally:
        ready.close()


def _serve(port: int, environment: Mapping[str, str], patch: Patch, ready: Connection) -> None:
    """Run an instance in this process."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # until the server takes over
    os.environ |= environment
    settings = load()
    logs.configure("ERROR", "human", secrets=settings.secrets())
    if patch is not None:
        patch()
    server.serve("127.0.0.1", port, 1, settings, partial(_say, ready))


def _say(ready: Connection, url: str) -> None:
    ready.send(url)
    ready.close()
