"""The processes that the benchmark starts: each has a free port, is waited for, and is ended."""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_PATIENCE = 120.0
_PAUSE = 0.02

_Process = subprocess.Popen[bytes]


class NotStarted(Exception):
    """A server did not come up; the message has its last words."""


@contextmanager
def running(
    command: Sequence[str],
    directory: Path,
    is_ready: Callable[[], bool],
    environment: dict[str, str] | None = None,
) -> Iterator[int]:
    """Run a server in ``directory`` until the context ends; yield its process id once it serves.

    Raises NotStarted.
    """
    log = directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=directory)
    try:
        _await(process, is_ready, log)
        yield process.pid
    finally:
        _end(process)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Tell whether somebody does."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _await(process: _Process, is_ready: Callable[[], bool], log: Path) -> None:
    patience = time.monotonic() + _PATIENCE
    while not is_ready():
        if process.poll() is not None or time.monotonic() > patience:
            raise NotStarted(f"{log.parent.name} did not start: {log.read_text()[-500:]}")
        time.sleep(_PAUSE)


def _end(process: _Process) -> None:
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
