"""The same for programs without asyncio: each call waits until it is done.

::

    with Publisher(url, key) as publisher:
        publisher.send("user:alice", "hello")
    for event in Tidings(url, token):
        ...

Each object has a thread with an event loop, which ends when the object is closed. It may be used from several
threads; there can be one loop over events at a time.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack
from threading import Thread
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from tidings_client import publisher, subscriber
from tidings_client.events import Event, Kind, Published, State
from tidings_client.outgoing import Options, Sent
from tidings_client.stores import Store
from tidings_client.tokens import Token
from tidings_client.watchers import Watcher

T = TypeVar("T")


class _Background:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="tidings-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run this there, and return what it returns. Interrupted, it is cancelled there."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()

    def close(self) -> None:
        """End the thread, and all that still runs in it: where closing was interrupted, or others wait."""
        self.run(_cancel_the_rest())
        self.run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_the_rest() -> None:
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


class Publisher:
    """Sends events with an API key; see :class:`tidings_client.Publisher`."""

    def __init__(self, url: str, key: str, *, retry_for: float = 60.0) -> None:
        self._publisher = publisher.Publisher(url, key, retry_for=retry_for)
        self._background: _Background | None = None

    def __enter__(self) -> Self:
        """Be ready to send."""
        self._background = _Background()
        self._background.run(self._publisher.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def send(
        self,
        to: str | Sequence[str],
        type: str,  # noqa: A002 - as events have it
        data: Any = None,
        **options: Unpack[Options],
    ) -> Sent:
        """Send an event, and return where it stands in the log. Several threads share requests."""
        return _running(self._background).run(self._publisher.send(to, type, data, **options))

    def close(self) -> None:
        """Wait until what was accepted is settled, and close."""
        background, self._background = self._background, None
        if background is not None:
            try:
                background.run(self._publisher.aclose())
            finally:
                background.close()


class Tidings:
    """Receives what is sent to a user; see :class:`tidings_client.Tidings`.

    Functions that watch are called in this object's thread.
    """

    def __init__(
        self, url: str, token: Token, *, device: str | None = None, store: Store | None = None,
        presence: bool = False, after: int | None = None,
    ) -> None:  # fmt: skip
        self._tidings = subscriber.Tidings(
            url, token, device=device, store=store, presence=presence, after=after
        )
        self._background: _Background | None = None

    def __enter__(self) -> Self:
        """Begin to connect."""
        self._background = _Background()
        try:
            self._background.run(self._tidings.__aenter__())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close, and end the loop."""
        background, self._background = self._background, None
        if background is not None:
            try:
                background.run(self._tidings.aclose())
            finally:
                background.close()

    @property
    def state(self) -> State:
        """Return how things stand."""
        return self._tidings.state

    @property
    def position(self) -> int | None:
        """Return the position up to which everything is handled, if anything is."""
        return self._tidings.position

    def __iter__(self) -> Iterator[Event]:
        """Give one event after the other. Raises Unauthorized, Closed."""
        with ExitStack() as stack:
            if self._background is None:
                stack.enter_context(self)
            run = _running(self._background).run
            events = aiter(self._tidings)

            async def following() -> Event | None:
                return await anext(events, None)

            while self._background is not None and (event := run(following())) is not None:
                yield event

    def done(self) -> None:
        """Count the last event as handled, without asking for another one: before ``break``."""
        self._run(self._tidings.done())

    def watch(self, kind: Kind, watcher: Watcher) -> Callable[[], None]:
        """Have a function called with what is told besides events; return what takes it off."""
        return self._tidings.watch(kind, watcher)

    def join(self, room: str, *, durable: bool = True, presence: bool = False) -> None:
        """Join a room, for good or while this is open."""
        self._run(self._tidings.join(room, durable=durable, presence=presence))

    def leave(self, room: str) -> None:
        """Leave a room."""
        self._run(self._tidings.leave(room))

    def publish(
        self,
        to: str,
        type: str,  # noqa: A002 - as events have it
        data: Any = None,
        *,
        id: str | None = None,  # noqa: A002 - likewise
        echo: bool = True,
        ephemeral: bool = False,
    ) -> Published:
        """Publish an event as this user."""
        return self._run(self._tidings.publish(to, type, data, id=id, echo=echo, ephemeral=ephemeral))

    def presence(self, room: str) -> list[dict[str, Any]]:
        """Return who is connected in a room."""
        return self._run(self._tidings.presence(room))

    def rooms(self) -> list[dict[str, Any]]:
        """Return the user's rooms."""
        return self._run(self._tidings.rooms())

    def members(self, room: str) -> list[str]:
        """Return the users who are members of a room."""
        return self._run(self._tidings.members(room))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return _running(self._background, work).run(work)


def _running(background: _Background | None, work: Coroutine[Any, Any, Any] | None = None) -> _Background:
    if background is None:
        if work is not None:
            work.close()
        raise RuntimeError("it is not open: use `with`")
    return background
