"""One WebSocket: what comes over it is passed on as it comes, and its end is told once."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from tidings_client.course import Ending
from tidings_client.progress import Frame, Stream

OPENING: Final = 20.0
"""Seconds for the handshake."""
SILENT: Final = 30.0
"""Seconds without a frame before ``welcome``, which tells how often there has to be one."""
CLOSING: Final = 2.0
"""Seconds for the other end to close too."""

Taken = Callable[[Stream | None, Frame], Awaitable[None] | None]
"""Takes a frame, and with it whose events these are."""


class NoConnection(Exception):
    """None came about; the message says why."""


class Link:
    """A connection that is open.

    ``taken`` is called with one frame after the other, and may return what to wait for before the next.
    It reads whatever the application does, because the service takes who answers no pings for dead.
    """

    def __init__(self, socket: ClientConnection, taken: Taken) -> None:
        loop = asyncio.get_running_loop()
        self.welcome: asyncio.Future[Frame] = loop.create_future()
        self.told: asyncio.Future[float] = loop.create_future()
        """After how many seconds the client is asked to have another connection."""
        self.ended: asyncio.Future[Ending] = loop.create_future()
        self.stream: Stream | None = None
        self._loop = loop
        self._socket = socket
        self._taken = taken
        self._silence = SILENT
        self._heard = loop.time()
        self._waits = self._doubted = False
        self._watch = loop.call_later(SILENT, self._look)
        self._reader = loop.create_task(self._read())

    async def until(self, *futures: "asyncio.Future[Any]", seconds: float | None = None) -> None:
        """Wait until the link has ended or one of these is done, or the time is over."""
        await asyncio.wait({self.ended, *futures}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)

    async def send(self, frame: Frame) -> None:
        """Send a frame. What cannot be sent any more is passed over: its end is told."""
        with suppress(ConnectionClosed):
            await self._socket.send(json.dumps(frame))

    async def close(self) -> None:
        """Close, as one who leaves; at once where this is cancelled. What is not read yet is left."""
        try:
            await self._socket.close()
        finally:
            await self.gone()

    def drop(self) -> None:
        """End it without a word."""
        self._watch.cancel()
        self._socket.transport.abort()

    async def gone(self) -> None:
        """Drop it, and wait until nothing of it is left."""
        self.drop()
        self._reader.cancel()
        await asyncio.wait({self._reader})

    async def _read(self) -> None:
        reason = ""
        try:
            async for message in self._socket:
                self._heard = self._loop.time()
                await self._take(json.loads(message))
        except ConnectionClosed:
            pass
        except TimeoutError:
            reason = "the application is behind"
        except Exception as error:  # noqa: BLE001 - whatever makes no sense here, the next connection may
            reason = f"not understood: {error!r}"
        finally:
            self.drop()
            code = self._socket.close_code
            self.ended.set_result(Ending(code, self._socket.close_reason or reason))

    async def _take(self, frame: Frame) -> None:
        kind = frame["type"]
        if kind == "welcome":
            self._silence = 2 * frame["heartbeat"]
            self._watch.cancel()
            self._look()
            self.stream = Stream.of(frame)
        pause = self._taken(self.stream, frame)
        if pause is not None:
            await self._wait(pause)
        if kind == "welcome":
            self.welcome.set_result(frame)
        elif kind == "disconnect" and frame.get("reconnect") and "retry_after_ms" in frame:
            self._tell(frame["retry_after_ms"] / 1000)

    async def _wait(self, pause: Awaitable[None]) -> None:
        """Let the other end wait, but not so long that it takes us for dead."""
        self._waits = True
        try:
            async with asyncio.timeout(self._silence / 2):
                await pause
        finally:
            self._waits, self._heard = False, self._loop.time()

    def _tell(self, seconds: float) -> None:
        if not self.told.done():
            self.told.set_result(seconds)

    def _look(self) -> None:
        """Drop a link over which nothing has come for too long."""
        now = self._loop.time()
        left = self._silence - (0 if self._waits else now - self._heard)
        if left <= 0 and self._doubted:
            self.drop()
            return
        # If this process did not run, something may have come that it has not read yet.
        self._doubted = left <= 0
        self._watch = self._loop.call_later(left if left > 0 else self._silence / 10, self._look)


async def open_link(url: str, token: str | None, taken: Taken) -> Link:
    """Open one. Raises NoConnection.

    With the subprotocol ``tidings.v1`` a refusal comes as a close code, which says whether to come back; and
    with the token as the other one, it is in no URL that somebody may log.
    """
    protocols = ["tidings.v1", *([f"bearer.{token}"] if token else [])]
    try:
        socket = await connect(
            url,
            subprotocols=protocols,  # type: ignore[arg-type] # a NewType of str
            compression=None,
            max_size=None,  # the service has bounds of its own, which nobody here knows
            ping_interval=None,  # it asks us
            open_timeout=OPENING,
            close_timeout=CLOSING,
        )
    except (OSError, TimeoutError, WebSocketException) as error:
        raise NoConnection(str(error) or type(error).__name__) from error
    return Link(socket, taken)
