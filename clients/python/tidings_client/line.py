"""The line to the service: one connection after the other, and for a moment two."""

import asyncio
from collections.abc import Awaitable, Mapping
from random import Random
from typing import Any, NoReturn, Protocol

from tidings_client.course import DEAD_TOKEN, Course, Ending
from tidings_client.events import State
from tidings_client.link import Link, NoConnection, open_link
from tidings_client.progress import Frame, Stream
from tidings_client.tokens import TokenSource


class Sink(Protocol):
    """Whom the line is for. Nothing here may wait but what is ``async``."""

    def address(self) -> str:
        """Return where to connect, just now."""

    def taken(self, stream: Stream | None, frame: Frame) -> Awaitable[None] | None:
        """Take a frame; return what to wait for where that is enough for now."""

    def overfull(self) -> Awaitable[None] | None:
        """Return what to wait for where nothing more can be taken."""

    def changed(self, state: State, about: Mapping[str, Any]) -> None:
        """Be told how things stand."""

    def lost(self, code: int | None) -> None:
        """Be told that a connection is no more, and by which code."""

    async def welcomed(self) -> None:
        """Be told that a connection can be used: ``link`` is it."""

    async def renew(self, token: str) -> None:
        """Have the service take a newer token. Raises TidingsError."""

    async def farewell(self) -> None:
        """Say what is still to be said over ``link``, which is about to be closed."""


class Line:
    """Keeps somebody connected: opens a connection, stays, and decides by its end how to go on."""

    def __init__(self, sink: Sink, tokens: TokenSource, random: Random) -> None:
        self.link: Link | None = None
        """The one in use: it has been welcomed, and is not known to have ended."""
        self._sink = sink
        self._tokens = tokens
        self._course = Course(random, renewable=tokens.renewable)
        self._opening: Link | None = None
        self._loop = asyncio.get_running_loop()

    async def run(self) -> NoReturn:
        """Be connected until this is cancelled. Raises Ended."""
        try:
            while True:
                pause, ending = await self._visit()
                await self._wait(pause, ending)
        finally:
            await self._leave()

    async def _visit(self) -> tuple[float, Ending]:
        """Have a connection until it has ended, or is asked to end soon.

        Returns after how many seconds to have the next one, and why.
        """
        try:
            self._opening = link = await self._open()
        except NoConnection as error:
            return self._course.failed(), Ending(None, str(error))
        await link.until(link.welcome)
        if link.welcome.done():
            await self._switch(link)
            await self._stay(link)
        if link.told.done():
            return link.told.result(), Ending(None, "asked to connect elsewhere")
        return await self._after(link.ended.result())

    async def _open(self) -> Link:
        if self.link is None:
            self._sink.changed("connecting", {})
        try:
            token = await self._tokens.current(self._loop.time())
        except Exception as error:  # whatever it is: who has no token now may have one later
            raise NoConnection(f"no token: {str(error) or type(error).__name__}") from error
        return await open_link(self._sink.address(), token, self._taken)

    def _taken(self, stream: Stream | None, frame: Frame) -> Awaitable[None] | None:
        if frame["type"] == "live":
            self._course.live()
        return self._sink.taken(stream, frame)

    async def _switch(self, link: Link) -> None:
        """Use this one from now on. The former is closed only now: nothing is missed in between."""
        self._course.welcomed()
        if self.link is not None:
            await self._sink.farewell()
            await self.link.close()
            self._sink.lost(None)
        self.link, self._opening = link, None
        await self._sink.welcomed()

    async def _stay(self, link: Link) -> None:
        """Stay, with ever newer tokens."""
        while not link.ended.done() and not link.told.done():
            due = self._tokens.due_in(self._loop.time())
            if due == 0:
                await self._renew(link)
            else:
                await link.until(link.told, seconds=due)

    async def _renew(self, link: Link) -> None:
        renewing = self._loop.create_task(self._renewed())
        try:
            await link.until(link.told, renewing)
        finally:
            renewing.cancel()
            await asyncio.wait({renewing})

    async def _renewed(self) -> None:
        """Get another token and have it taken. Where that fails, the one in use is good for a while yet."""
        try:
            token = await self._tokens.fetch()
            await self._sink.renew(token)
        except Exception:  # noqa: BLE001 - the token comes from outside
            self._tokens.postpone(self._loop.time())
        else:
            self._tokens.renewed(token, self._loop.time())

    async def _after(self, ending: Ending) -> tuple[float, Ending]:
        """Return when to come back after an end. Raises Ended where that is never."""
        self._let_go()
        room = self._sink.overfull()
        if room is not None:
            self._sink.changed("offline", {"reason": ending.reason})
            await room
            return 0.0, ending
        if ending.code == DEAD_TOKEN:
            self._tokens.clock.forget()
        return self._course.after(ending), ending

    async def _wait(self, seconds: float, ending: Ending) -> None:
        """Let time go by; a connection that is only asked to end is used meanwhile."""
        until = self._loop.time() + seconds
        if self.link is not None:
            await self.link.until(seconds=seconds)
            if self.link.ended.done():
                ending = self.link.ended.result()
                self._let_go()
        if ending.error is not None:
            raise ending.error
        if self.link is None:
            about = {"code": ending.code, "reason": ending.reason, "retry_after": seconds}
            self._sink.changed("offline", about)
        await asyncio.sleep(until - self._loop.time())

    def _let_go(self) -> None:
        """Forget the connection in use, if it has ended."""
        if self.link is not None and self.link.ended.done():
            code, self.link = self.link.ended.result().code, None
            self._sink.lost(code)

    async def _leave(self) -> None:
        links = [link for link in (self.link, self._opening) if link is not None]
        if self._opening is not None and self._opening.welcome.done():
            self.link = self._opening  # what has come over it may be handled already
        try:
            if self.link is not None:
                await self._sink.farewell()
                await self.link.close()
        finally:
            for link in links:
                await link.gone()
