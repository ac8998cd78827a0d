"""What has come and is to be handled, and how far that is."""

import asyncio
from collections.abc import Awaitable
from inspect import isawaitable
from typing import TypeVar

from tidings_client.events import KINDS, Event, event_of
from tidings_client.inflow import Inflow
from tidings_client.progress import Arrivals, Frame, Place, Stream, handled_by
from tidings_client.stores import Store
from tidings_client.watchers import Watchers

T = TypeVar("T")


class Handling:
    """Takes frames as they come, gives out events one by one, and keeps what is done with."""

    def __init__(self, store: Store | None, key: str, watchers: Watchers) -> None:
        self.inflow = Inflow()
        self.place: Place | None = None
        """What is handled."""
        self.moved = asyncio.Event()
        """The service is to be told what is handled."""
        self._store = store
        self._key = key
        self._watchers = watchers
        self._arrivals = Arrivals(None)
        self._stream: Stream | None = None
        """Of the frame that was last taken out of the inflow."""
        self._given: tuple[Frame, Event] | None = None
        """What the loop has been given and is not done with."""

    async def recall(self) -> None:
        """Go on where the store says."""
        if self._store is not None:
            self.place = Place.read(await _result(self._store.get(self._key)))
            self._arrivals = Arrivals(self.place)

    def take(self, stream: Stream | None, frame: Frame) -> Awaitable[None] | None:
        """Let a frame of this stream wait, if it is new; return what to wait for once that is enough."""
        kind = frame["type"]
        if kind == "welcome":
            self._arrivals.turn_to(stream)
        elif kind not in {"event", "live"} and kind not in KINDS:
            return None
        if self._arrivals.is_new(stream, frame):
            self.inflow.put(frame)
        return self.overfull()

    def overfull(self) -> Awaitable[None] | None:
        """Return what to wait for, where too much waits to be handled."""
        return self.inflow.room() if self.inflow.full else None

    async def next(self) -> Event | None:
        """Return the event to handle, when there is one; None after the end. Raises what that has ended with.

        The same event is returned until it is done.
        """
        while self._given is None:
            frame = await self.inflow.get()
            if frame is None:
                return None
            await self._look_at(frame)
        return self._given[1]

    async def done(self) -> None:
        """Count the event that was given last as handled. Raises what the store raises."""
        if self._given is not None:
            await self._count(self._given[0])
            self._given = None

    async def _look_at(self, frame: Frame) -> None:
        kind = frame["type"]
        if kind == "event":
            self._given = frame, event_of(frame)
        elif kind == "welcome":
            self._turn_to(Stream.of(frame))
        elif kind == "live":
            self.moved.set()  # what was handled before this connection had brought it counts only now
        else:
            await self._watchers.tell_in_turn(KINDS[kind], frame)
            await self._count(frame)

    def _turn_to(self, stream: Stream) -> None:
        self._stream = stream
        if self.place is not None and self.place.stream != stream:
            self.place = None

    async def _count(self, frame: Frame) -> None:
        """Keep, and then tell, that everything up to this frame is handled."""
        position = handled_by(frame)
        if position is None or self._stream is None:
            return
        place = Place(self._stream, position)
        if self._store is not None:
            await _result(self._store.set(self._key, place.text()))
        self.place = place
        self.moved.set()


async def _result(value: T | Awaitable[T]) -> T:
    return await value if isawaitable(value) else value
