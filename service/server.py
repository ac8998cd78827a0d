"""Runs the application under uvicorn: in this process, or in several that share the port."""

import asyncio
import errno
import gc
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from prometheus_client.multiprocess import mark_process_dead
from uvicorn.config import STARTUP_FAILURE

from service.domain.errors import TidingsError
from service.observe import logs
from service.observe.metrics import MULTIPROCESS
from service.settings import Settings

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

log = logging.getLogger("tidings.server")

_PAUSE: Final = 1.0
"""Seconds before a worker that died is replaced, so that one that cannot start does not spin."""
_SPAWN: Final = multiprocessing.get_context("spawn")


class CannotListen(TidingsError):
    """The address cannot be had: the port is taken, or the host is not ours."""

    code = "cannot_listen"


class StartFailed(TidingsError):
    """The application did not start; the log says why."""

    code = "start_failed"


class Server(uvicorn.Server):
    """A uvicorn server that says when it serves, and drains before it closes connections.

    uvicorn closes connections first and ends the application's lifespan last. So the lifespan puts an
    async function ``drain`` into its state, which is awaited before; it bounds its own time.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell so; a worker also begins to watch whether its parent lives."""
        await super().startup(sockets)
        _settle_memory()
        if parent := multiprocessing.parent_process():
            loop = asyncio.get_running_loop()
            loop.add_reader(parent.sentinel, self._orphaned, parent.sentinel)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then stop as uvicorn does."""
        if drain := self.lifespan.state.get("drain"):
            try:
                await drain()
            except Exception:
                log.exception("the drain was cut short")
        await super().shutdown(sockets)

    def _orphaned(self, sentinel: int) -> None:
        # It would go on to hold the port, unseen.
        asyncio.get_running_loop().remove_reader(sentinel)
        self.should_exit = True


def _settle_memory() -> None:
    """Let the garbage collector leave alone what was built at the start, and come less often.

    Connections come in thousands and stay, so that looking at all of them anew after every 700
    objects takes a tenth of a storm's time; and nothing here depends on cycles being found soon.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def serve(host: str, port: int, workers: int, settings: Settings, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, which end it after a drain; then return.

    ``ready`` is called with the URL once every worker serves. The workers read their settings from
    the environment. Raises CannotListen and StartFailed.
    """
    listener = _listen(host, port)
    url = _url(listener)

    def announce() -> None:
        log.info("serving", extra={"url": url, "workers": workers})
        ready(url)

    with listener:
        if workers == 1:
            _serve_here(listener, settings, announce)
        else:
            with _shared_metrics():
                _Workers(listener, workers, settings).run(announce)


def _listen(host: str, port: int) -> socket.socket:
    """Return a bound socket that does not listen yet: nobody shall connect before we serve."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise CannotListen(f"cannot listen on {host}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        taken = "the port is taken" if error.errno == errno.EADDRINUSE else error.strerror
        raise CannotListen(f"cannot listen on {host}:{port}: {taken}") from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _config(settings: Settings, workers: int = 1) -> uvicorn.Config:
    return uvicorn.Config(
        "service.app:from_environment",
        factory=True,
        workers=workers,
        loop="uvloop",
        http="service.door:Door",
        ws="service.gateway.handshake:Handshake",
        ws_max_size=settings.max_message,
        ws_ping_interval=None,  # the service's own pings carry positions
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.drain_timeout)),
    )


def _serve_here(
    listener: socket.socket, settings: Settings, ready: Callable[[], None], workers: int = 1
) -> None:
    # uvicorn raises the signal again that it ended for; it must end nothing but the call.
    before = {s: signal.signal(s, _leave) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        Server(_config(settings, workers), ready).run([listener])
    except _Left:
        return
    except SystemExit as left:
        if left.code:
            raise StartFailed("the application did not start") from None
    except OSError as error:
        raise CannotListen(f"cannot listen on {_url(listener)}: {error.strerror}") from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Left(BaseException):
    """Left by a signal."""


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise _Left


@contextmanager
def _shared_metrics() -> Iterator[None]:
    """Give the workers a directory to add their numbers up in, unless one is named already."""
    if MULTIPROCESS in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="tidings-metrics-") as directory:
        os.environ[MULTIPROCESS] = directory
        try:
            yield
        finally:
            del os.environ[MULTIPROCESS]


class _Workers:
    """Processes that serve on one socket; one that dies is replaced."""

    def __init__(self, listener: socket.socket, count: int, settings: Settings) -> None:
        self._listener = listener
        self._count = count
        self._settings = settings
        self._running: dict[int, SpawnProcess] = {}  # by sentinel
        self._ready_here, self._ready_there = _SPAWN.Pipe(duplex=False)

    def run(self, ready: Callable[[], None]) -> None:
        """Keep the workers running until this process is told to stop; then stop them all.

        Raises StartFailed if one of the first cannot start: so would the next one.
        """
        with _told_to_stop() as stop:
            try:
                self._keep_running(stop, ready)
            finally:
                self._stop_all()

    def _keep_running(self, stop: socket.socket, ready: Callable[[], None]) -> None:
        waiting_for = self._count
        for _ in range(self._count):
            self._start_one()
        while True:
            missing = self._count - len(self._running)
            sources: list[Any] = [stop, self._ready_here, *self._running]
            woken = wait(sources, timeout=_PAUSE if missing else None)
            if stop in woken:
                return
            if self._ready_here in woken:
                self._ready_here.recv()
                waiting_for -= 1
                if waiting_for == 0:
                    ready()
            for sentinel in self._running.keys() & set(woken):
                self._bury(sentinel, started=waiting_for <= 0)
            if not woken:
                self._start_one()

    def _start_one(self) -> None:
        arguments = (self._listener, self._settings, self._ready_there, self._count)
        process = _SPAWN.Process(target=_work, args=arguments, daemon=True)
        process.start()
        self._running[process.sentinel] = process

    def _bury(self, sentinel: int, *, started: bool) -> None:
        process = self._running.pop(sentinel)
        process.join()
        if process.pid is not None:
            mark_process_dead(process.pid)  # type: ignore[no-untyped-call]
        log.error("a worker died", extra={"pid": process.pid, "exit_code": process.exitcode})
        if process.exitcode == STARTUP_FAILURE and not started:
            raise StartFailed("the application did not start")

    def _stop_all(self) -> None:
        for process in self._running.values():
            process.terminate()
        # The drain, what uvicorn then waits for requests, and the lifespan's end.
        patience = self._settings.drain_grace + 2 * self._settings.drain_timeout + 10
        for process in self._running.values():
            process.join(patience)
            if process.is_alive():
                log.error("a worker did not stop", extra={"pid": process.pid})
                process.kill()
                process.join()


@contextmanager
def _told_to_stop() -> Iterator[socket.socket]:
    """Give a socket that can be read from once SIGTERM or SIGINT has come."""
    reader, writer = socket.socketpair()
    writer.settimeout(0)  # as set_wakeup_fd wants it
    numbers = (signal.SIGTERM, signal.SIGINT)
    with reader, writer:
        before = {number: signal.signal(number, lambda *_: None) for number in numbers}
        descriptor = signal.set_wakeup_fd(writer.fileno())
        try:
            yield reader
        finally:
            signal.set_wakeup_fd(descriptor)
            for number, handler in before.items():
                signal.signal(number, handler)


def _work(listener: socket.socket, settings: Settings, ready: Connection, workers: int) -> None:
    """Run one worker: a spawned process's main function."""
    logs.configure(settings.log_level, settings.log_format, secrets=settings.secrets())
    with suppress(_Left):
        try:
            _serve_here(listener, settings, lambda: ready.send(None), workers)
        except TidingsError:
            sys.exit(STARTUP_FAILURE)
