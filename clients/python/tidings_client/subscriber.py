"""The subscriber: events as they come, each until it is handled."""

import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from tidings_client.errors import Ended
from tidings_client.events import Event, Kind, Published, State
from tidings_client.handling import Handling
from tidings_client.session import Session
from tidings_client.stores import Store
from tidings_client.tokens import Token
from tidings_client.urls import base_url
from tidings_client.watchers import Watcher, Watchers


class Tidings:
    """Receives what is sent to a user, over any number of connections.

    ::

        async with Tidings("https://push.example.com", token) as tidings:
            async for event in tidings:
                ...

    An event is handled once the loop asks for the next one: then the service is told, and does not send it
    again. Where the loop is left before that, by ``break`` or by an error, the event comes again, to the next
    loop or to the next process, unless ``done`` was called. So every event comes at least once and in
    order; with a ``store``, again only where a process ended in the middle of it.

    Without ``async with`` the loop opens it, and closes it in the end. There can be one loop at a time. While
    it is open there should be one: what has come waits for it.

    A loop raises Unauthorized or Closed where the service lets it not come back, and what the store raises.
    """

    def __init__(
        self, url: str, token: Token, *, device: str | None = None, store: Store | None = None,
        presence: bool = False, after: int | None = None,
    ) -> None:  # fmt: skip
        """Make one that is not connected yet. Raises ValueError where ``url`` is none.

        ``token`` may be a function, also a coroutine function, that returns one. It is called before the
        first connection, and whenever the token is about to expire or is not believed; if it raises, it
        is called again later.

        ``device`` says which receiver of the user this is, by default the one of this machine. Several
        receivers of one user on one machine need a device each.

        ``after`` is a position to start after, where it is not known yet what is handled. With ``presence``
        who connects and disconnects can be watched.
        """
        self.device = device or f"py-{socket.gethostname()}"
        self._url = base_url(url)
        self._token = token
        self._query = {"device": self.device, "ack": "client"} | ({"presence": "1"} if presence else {})
        self._after = after
        self._watchers = Watchers()
        self._handling = Handling(store, f"tidings:{self._url}:{self.device}", self._watchers)
        self._opened: Session | None = None

    # --- Its life

    async def __aenter__(self) -> Self:
        """Begin to connect. It does not wait for that: watch ``state``."""
        if self._opened is not None:
            raise RuntimeError("it was open before: make another one")
        await self._handling.recall()
        self._opened = Session(
            self._url, self._token, self._query, self._after, self._handling, self._watchers
        )  # fmt: skip
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close, and end the loop; at most a few seconds later. Cancelled, it closes at once."""
        if self._opened is not None:
            await self._opened.close()

    @property
    def state(self) -> State:
        """Return how things stand."""
        return self._opened.state if self._opened else "connecting"

    @property
    def reason(self) -> Ended | None:
        """Return why the service has ended it, if it has."""
        return self._opened.reason if self._opened else None

    @property
    def user(self) -> str | None:
        """Return who this is, once the service has said so."""
        return self._opened.user if self._opened else None

    @property
    def position(self) -> int | None:
        """Return the position up to which everything is handled, if anything is."""
        return self._handling.place.position if self._handling.place else None

    # --- What comes

    async def __aiter__(self) -> AsyncGenerator[Event]:
        """Give one event after the other. Raises Unauthorized, Closed."""
        async with AsyncExitStack() as stack:
            if self._opened is None:
                await stack.enter_async_context(self)
            while (event := await self._handling.next()) is not None:
                yield event
                await self._handling.done()

    async def done(self) -> None:
        """Count the last event as handled, without asking for another one: before ``break``."""
        await self._handling.done()

    def watch(self, kind: Kind, watcher: Watcher) -> Callable[[], None]:
        """Have a function called with what is told besides events; return what takes it off.

        ``gap``, ``recalled``, ``read``, ``room`` and ``presence`` come in order with events, while there is a
        loop, as the frames of the protocol, and the function may be a coroutine function. ``state`` and
        ``error`` come at once, to plain functions: ``{"state": …}`` with what is known about it (``code``,
        ``reason``, ``retry_after`` in seconds), and ``{"error": …}``, an exception that nobody else sees.
        """
        return self._watchers.add(kind, watcher)

    # --- What is said
    #
    # A command waits for a connection, and for its answer over the next one where one was lost: all are safe
    # to repeat but ephemeral events. Each raises CommandFailed, TimeoutError after 30 s, and Ended.

    async def join(self, room: str, *, durable: bool = True, presence: bool = False) -> None:
        """Join a room, for good or while this is open; with ``presence`` who comes and goes is told."""
        await self._session.speaking.join(room, durable=durable, presence=presence)

    async def leave(self, room: str) -> None:
        """Leave a room."""
        await self._session.speaking.leave(room)

    async def publish(
        self,
        to: str,
        type: str,  # noqa: A002 - as events have it
        data: Any = None,
        *,
        id: str | None = None,  # noqa: A002 - likewise
        echo: bool = True,
        ephemeral: bool = False,
    ) -> Published:
        """Publish an event as this user: once, however often that takes. The same ``id`` is accepted once."""
        fields: dict[str, Any] = {"to": to, "event": type, "data": data, "echo": echo}
        if ephemeral:
            fields["ephemeral"] = True
        if id is not None or not ephemeral:
            fields["id"] = id or uuid4().hex
        done = await self._session.speaking.ask("publish", repeats=not ephemeral, **fields)
        return Published(done.get("position"), done.get("id"))

    async def presence(self, room: str) -> list[dict[str, Any]]:
        """Return who is connected in a room: ``user``, ``info``, ``devices``, ``since``."""
        return list((await self._session.speaking.ask("presence", room=room))["users"])

    async def rooms(self) -> list[dict[str, Any]]:
        """Return the user's rooms: ``room``, ``source``."""
        return list((await self._session.speaking.ask("rooms"))["rooms"])

    async def members(self, room: str) -> list[str]:
        """Return the users who are members of a room, the first 1,000 by name."""
        return [
            one["user"] for one in (await self._session.speaking.ask("room_members", room=room))["members"]
        ]

    @property
    def _session(self) -> Session:
        if self._opened is None:
            raise RuntimeError("it is not open: use `async with`")
        return self._opened
