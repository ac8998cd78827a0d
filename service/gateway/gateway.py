"""The edge for clients as a whole, WebSockets and streams: admits connections, keeps them alive, drains."""

import asyncio
import logging
import random
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeVar

from service.auth.tokens import TokenVerifier
from service.domain.addresses import EVERYONE
from service.domain.claims import Claims
from service.domain.commands import AnyCommand
from service.domain.delivery import Session, State
from service.domain.errors import Forbidden, Revoked, Unavailable
from service.domain.frames import Farewell, frame, gap_frame
from service.domain.recent import Gap
from service.domain.revocations import Revocations
from service.domain.sse import Messages
from service.domain.websocket import text_frame
from service.gateway.commands import Commands
from service.gateway.connection import Connection
from service.gateway.pulse import Pulse
from service.gateway.replay import Replay
from service.observe.metrics import Metrics
from service.settings import Settings
from service.store.database import Database
from service.stream.appender import Appender
from service.stream.courier import Courier
from service.stream.cursors import Cursors
from service.stream.ephemerals import Ephemerals
from service.stream.follower import Follower
from service.stream.limits import Limits
from service.stream.sessions import Sessions

log = logging.getLogger("tidings.gateway")

T = TypeVar("T")

PATIENCE: Final = 1.0
"""Seconds that a handshake waits for the head to be confirmed."""
CLOSE_CODES: Final = frozenset(
    {1000, 1001, 1002, 1005, 1006, 1007, 1008, 1009, 1011, 1012, 4001, 4003, 4009, 4010, 4029}
)
"""Counted by code; a client may send any other."""
ORDINARY: Final = frozenset({1000, 1001, 1005, 1006, 1012})
"""Ends that are nobody's doing, or everybody's at once: 40 µs for a line of log each would be felt."""


class Asked(NamedTuple):
    """What a client asks for at connect, beside its token. It says that it has all up to ``has``."""

    device: str = "default"
    after: int | None = None
    has: int = 0
    manual: bool = False
    presence: bool = False


class Gateway:
    """Every connection of this instance, and what they share."""

    def __init__(
        self, settings: Settings, database: Database, verifier: TokenVerifier,
        revocations: Revocations, follower: Follower, courier: Courier, ephemerals: Ephemerals,
        appender: Appender, sessions: Sessions, cursors: Cursors, limits: Limits, metrics: Metrics, *,
        identity: str,
    ) -> None:  # fmt: skip
        self.settings = settings
        self.database = database
        self.verifier = verifier
        self.revocations = revocations
        self.follower = follower
        self.hub = follower.hub
        self.sessions = sessions
        self.cursors = cursors
        self.metrics = metrics
        self.identity = identity
        self._commands = Commands(
            database, follower, courier, ephemerals, appender, verifier, limits, self.refresh,
            max_rooms=settings.max_rooms_per_user, max_data=settings.max_data,
        )  # fmt: skip
        self.pulse = Pulse(self.hub, cursors, settings.heartbeat, settings.ack_interval)
        self.replay = Replay(self.hub, follower, database, metrics, self.spawn, settings.pool_size)
        self.messages = Messages()
        self.count = 0
        self.leaving = False
        self.draining = False
        self._emptied = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, connection: Connection, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something for a connection; it is awaited at the end, and its failure ends the connection."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(partial(self._done, connection))
        return task

    async def perform(self, connection: Connection, command: AnyCommand) -> bytes | None:
        """Perform a command; return the frame that answers it, if any."""
        return await self._commands.perform(connection, command)

    def _done(self, connection: Connection, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a connection's task failed", exc_info=error, extra={"connection": connection.id})
            # Left as it is, it would look alive and never get what is due.
            connection.end(1011, "internal error", reconnect=True)

    # Admission

    def check_ready(self) -> None:
        """Raise Unavailable unless this instance may take connections."""
        if self.draining:
            raise Unavailable("this instance is shutting down")
        if not self.follower.trusted:
            raise Unavailable("the log cannot be read just now")
        if self.count >= self.settings.max_connections:
            raise Unavailable("this instance has no room for more connections")

    async def admit(self, kind: type[Connection], claims: Claims, asked: Asked) -> tuple[Connection, Session]:
        """Register a connection of this kind and load what is due to it; raises where it may not come in.

        It is registered before the load, so that no membership or revocation falls between.
        """
        if not self.follower.trusted:
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await self.follower.until_trusted()
        self.check_ready()
        if asked.presence and not claims.presence:
            raise Forbidden("the token does not grant presence")
        connection_id = f"{random.getrandbits(128):032x}"
        connection = kind(self, connection_id, claims, asked.device, manual=asked.manual)
        self.hub.register(connection)
        self.count += 1
        try:
            self._check_still_welcome(connection, claims)
            stood = self.hub.position
            session = await self.sessions.open(claims.user, asked.device, asked.after, asked.has)
            self._check_still_welcome(connection, claims)
            self._check_same_log(stood, session.head)
        except BaseException:
            self.abandon(connection)
            raise
        return connection, session

    def _check_still_welcome(self, connection: Connection, claims: Claims) -> None:
        if self.revocations.refuse(claims):
            raise Revoked("the token has been revoked")
        if connection.state is State.CLOSED:
            raise Unavailable("disconnected meanwhile")

    def _check_same_log(self, stood: int, head: int) -> None:
        if not self.follower.agrees(stood, head):
            # What memory holds is not what the log has, and would be told for it.
            raise Unavailable("the database was restored or failed over, which is looked at first")

    def abandon(self, connection: Connection) -> None:
        """Let go of a connection that was admitted, opened or not."""
        if connection.state is not State.CLOSED:
            self.count -= 1
            if self.draining and not self.count:
                self._emptied.set()
        self.hub.unregister(connection)

    def open(
        self, connection: Connection, transport: asyncio.Transport, asked: Asked, session: Session,
        answer: bytes,
    ) -> None:  # fmt: skip
        """Begin on a socket: ``answer`` its request, welcome it, and catch it up, with one write."""
        connection.attach(transport, answer)
        self._evict_beyond_limit(connection)
        waiting = self.cursors.waiting(connection.user, connection.device)
        position, gap = _place(asked, session, waiting)
        connection.begin(session, position)
        # It has been seen today, and a client that gives a number of its own has got so far.
        self.cursors.mark(connection.user, connection.device, max(session.cursor, position))
        self.pulse.add(connection)
        if asked.presence:
            self.hub.watchers.watch(connection, EVERYONE)
        self._welcome(connection, session, position, gap)
        connection.since = asyncio.get_running_loop().time()
        self.hub.announce(connection)
        self._join_claimed(connection)
        self.replay.catch_up(connection)
        connection.release()
        if log.isEnabledFor(logging.DEBUG):
            log.debug("connection opened", extra={
                "connection": connection.id, "user": connection.user, "device": connection.device,
                "position": position, "peer": _peer(transport),
            })  # fmt: skip

    def _evict_beyond_limit(self, newest: Connection) -> None:
        """Close a user's oldest connections: half-open ones must never keep a phone out."""
        others = [c for c in self.hub.users[newest.user] if c is not newest]
        for oldest in others[: max(0, len(others) + 1 - self.settings.max_connections_per_user)]:
            oldest.end(4010, "too many connections of this user")

    def _welcome(self, connection: Connection, session: Session, position: int, gap: Gap | None) -> None:
        rooms = sorted(room for room, m in connection.rooms.items() if connection.receives(room, m.source))
        connection.write(text_frame(frame(
            "welcome", user=connection.user, device=connection.device, connection=connection.id,
            log=self.identity, position=position, head=session.head,
            heartbeat=self.settings.heartbeat, rooms=rooms,
        )))  # fmt: skip
        if gap is not None:
            connection.write(text_frame(gap_frame(gap)))

    def _join_claimed(self, connection: Connection) -> None:
        missing = [room for room in connection.claims.join if room not in connection.rooms]
        if missing:
            self.spawn(connection, self._commands.join_claimed(connection, missing))

    def refresh(self, connection: Connection, claims: Claims) -> None:
        """Go on with a newer token: its grants and its expiry replace the old ones."""
        if claims.user != connection.user:
            raise Forbidden("the token is another user's")
        self._check_still_welcome(connection, claims)

        def regrant() -> None:
            connection.claims = claims
            for room, membership in list(connection.rooms.items()):
                if membership.source == "connection" and not claims.rooms.match(room):
                    del connection.rooms[room]

        self.hub.regrant(connection, regrant)
        for room in list(connection.watches or ()):
            if not claims.presence or not (room == EVERYONE or claims.rooms.match(room)):
                self.hub.watchers.unwatch(connection, room)
        self.pulse.watch_expiry(connection)

    def fell_behind(self, connection: Connection) -> None:
        """Let a connection catch up whose socket was full."""
        self.metrics.slow_connections.inc()
        self.replay.catch_up(connection)

    # The end

    def closed(self, connection: Connection, code: int, reason: str) -> None:
        """Take a connection out of everything; its socket is the caller's to close."""
        self.abandon(connection)
        self.cursors.hurry()
        self.pulse.remove(connection)
        connection.forget_expiry()
        if connection.catching_up is not None:
            connection.catching_up.cancel()
        if connection.transport is None:
            return
        self.metrics.closes.labels(str(code) if code in CLOSE_CODES else "other").inc()
        log.log(logging.DEBUG if code in ORDINARY else logging.INFO, "connection closed", extra={
            "connection": connection.id, "user": connection.user, "device": connection.device,
            "code": code, "reason": reason, "acked": connection.acked,
        })  # fmt: skip

    async def drain(self, grace: float, window: float) -> None:
        """Be unready for ``grace`` seconds, then send everyone away, to come back within ``window``.

        A socket is left open for a tenth of the window longer than its client is told to wait: so that
        it can be connected elsewhere before it lets go here.
        """
        self.leaving = True
        await asyncio.sleep(grace)
        self.draining = True
        if not self.count:
            self._emptied.set()
        overlap = window / 10
        begun = asyncio.get_running_loop().time()
        told = []
        for connection in list(self.hub):
            if isinstance(connection, Connection):
                pause = random.uniform(0, window - overlap)  # noqa: S311 - spreads load, hides nothing
                connection.send_away(_restarting(pause))
                told.append((begun + pause + overlap, connection))
        for due, connection in sorted(told, key=itemgetter(0)):
            await self._gone_by(due)
            connection.end_with(_restarting(0))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=window)

    async def _gone_by(self, due: float) -> None:
        """Wait until then, or until nobody is left."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(due):
                await self._emptied.wait()

    async def close(self) -> None:
        """End what is still running."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _restarting(pause: float) -> Farewell:
    return Farewell(1012, "the server is restarting", reconnect=True, retry_after_ms=round(pause * 1000))


def _place(asked: Asked, session: Session, waiting: int = 0) -> tuple[int, Gap | None]:
    """Return the position to start after, and what has to be said about it first.

    ``waiting`` is a newer cursor of the device, which the database does not know yet.
    """
    cursor = max(min(session.cursor, session.head), min(waiting, session.head))
    if asked.after is not None:
        if asked.after <= session.head:
            return asked.after, None
        # This log never gave that number out: it was restored to an older state, or it is another.
        return cursor, Gap(asked.after, cursor, "unknown_position")
    if session.cursor > session.head:
        # Stored after a failover lost what it stands for; waiting for the log to get there helps nobody.
        return cursor, Gap(session.cursor, cursor, "failover")
    return cursor, None


def _peer(transport: asyncio.Transport) -> str:
    peer = transport.get_extra_info("peername")
    return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else ""
