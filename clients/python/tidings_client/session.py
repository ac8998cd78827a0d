"""One client's life from its opening to its end: it puts the line, what comes and what is said together."""

import asyncio
from collections.abc import Awaitable, Mapping
from random import SystemRandom
from typing import Any, Final

from tidings_client.errors import Closed, Ended, Unauthorized
from tidings_client.events import State
from tidings_client.handling import Handling
from tidings_client.line import Line
from tidings_client.progress import Frame, Stream
from tidings_client.speaking import Speaking
from tidings_client.tokens import Token, TokenSource
from tidings_client.urls import socket_url
from tidings_client.watchers import Watchers

BETWEEN_ACKS: Final = 0.1
"""Seconds."""


class Session:
    """Runs in a task of its own, which ``close`` ends; the Sink of its line."""

    def __init__(
        self, base: str, token: Token, query: Mapping[str, str], after: int | None, handling: Handling,
        watchers: Watchers,
    ) -> None:  # fmt: skip
        self.state: State = "connecting"
        self.reason: Ended | None = None
        self.user: str | None = None
        self.speaking = Speaking(watchers)
        self._base = base
        self._query = query
        self._after = after
        self._handling = handling
        self._watchers = watchers
        self._tokens = TokenSource(token)
        self._claimed: str | None = None
        """What the token said of the user when the service said who that is."""
        self._line = Line(self, self._tokens, SystemRandom())
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Tell the service what is handled, and close; what is not handled comes again another time."""
        self._task.cancel()
        try:
            await asyncio.wait({self._task})
        except asyncio.CancelledError:
            self._task.cancel()  # without farewell
            raise
        if self.state not in {"closed", "unauthorized"}:
            self._end(None)  # it had not begun

    async def _run(self) -> None:
        telling = asyncio.get_running_loop().create_task(self._acknowledge())
        error: Exception | None = None
        try:
            await self._line.run()
        except Ended as end:
            self.reason = error = end
        except Exception as mistake:  # noqa: BLE001 - whoever waits for events is told
            error = mistake
        finally:
            telling.cancel()
            self._end(error)  # before anything that a second cancellation could end
            await asyncio.wait({telling})

    def _end(self, error: Exception | None) -> None:
        """Tell everybody that it is over."""
        self._handling.inflow.end(error)
        self.speaking.end(error or Closed(1000, "by this client"))
        self.changed("unauthorized" if isinstance(error, Unauthorized) else "closed", {"reason": error})

    async def _acknowledge(self) -> None:
        """Tell what is handled: at once, but not again and again."""
        moved = self._handling.moved
        while True:
            await moved.wait()
            moved.clear()
            await self.farewell()
            await asyncio.sleep(BETWEEN_ACKS)

    # --- As the line's sink

    def address(self) -> str:
        """Return where to connect, and from which position on."""
        query, place = dict(self._query), self._handling.place
        if place is not None and place.stream.user == self._user():
            query["resume"] = place.resume
        elif place is None and self._after is not None:
            query["after"] = str(self._after)
        return socket_url(self._base, query)

    def taken(self, stream: Stream | None, frame: Frame) -> Awaitable[None] | None:
        """Pass a frame on."""
        match frame["type"]:
            case "event":
                return self._handling.take(stream, frame)
            case "ok" | "error":
                self.speaking.hear(frame)
            case "welcome":
                self.user, self._claimed = frame["user"], self._tokens.clock.user
                self.changed("catching-up", frame)
            case "live":
                self.changed("live", frame)
        return self._handling.take(stream, frame)

    def overfull(self) -> Awaitable[None] | None:
        """Return what to wait for where the application is behind."""
        return self._handling.overfull()

    def changed(self, state: State, about: Mapping[str, Any]) -> None:
        """Tell who watches."""
        self.state = state
        self._watchers.tell("state", {**about, "state": state})

    def lost(self, code: int | None) -> None:
        """Note that what was said and not answered was lost."""
        self.speaking.lost(code)

    async def welcomed(self) -> None:
        """Say what is to be said over a new connection."""
        if self._line.link is not None:
            await self.speaking.over(self._line.link)
            self._handling.moved.set()

    async def renew(self, token: str) -> None:
        """Have the service take a newer token. Raises TidingsError, TimeoutError."""
        await self.speaking.ask("refresh_token", repeats=False, token=token)

    async def farewell(self) -> None:
        """Tell what is handled over a connection that brings the same stream."""
        link, place = self._line.link, self._handling.place
        if link is not None and place is not None and link.stream == place.stream:
            await link.send({"type": "ack", "position": place.position})

    def _user(self) -> str | None:
        """Return whom the token names, or whom the service has made of that."""
        named = self._tokens.clock.user
        return self.user if self.user is not None and named == self._claimed else named
