"""What a client's commands do."""

from collections.abc import Callable
from datetime import UTC, datetime
from time import time

import msgspec

from service.auth.tokens import TokenVerifier
from service.domain.addresses import check_room
from service.domain.claims import Claims
from service.domain.commands import (
    AnyCommand,
    Broadcast,
    DirectMessage,
    JoinRoom,
    LeaveRoom,
    Publish,
    RefreshToken,
    RoomMembers,
    RoomMessage,
    Rooms,
    as_publish,
    check_publish,
)  # fmt: skip
from service.domain.errors import Forbidden, RateLimited, TidingsError, Unavailable
from service.domain.events import Draft, Unit
from service.domain.frames import frame, timestamp
from service.domain.messages import Ephemeral
from service.domain.websocket import text_frame
from service.gateway.connection import Connection
from service.store import sessions
from service.store.database import Database
from service.stream.appender import Appender
from service.stream.courier import Courier
from service.stream.ephemerals import Ephemerals
from service.stream.follower import Follower
from service.stream.limits import Limits

MEMBERS_SHOWN = 1000


class Commands:
    """Performs commands, each on behalf of one connection; raises what it refuses."""

    def __init__(
        self, database: Database, follower: Follower, courier: Courier, ephemerals: Ephemerals,
        appender: Appender, verifier: TokenVerifier, limits: Limits,
        refresh: Callable[[Connection, Claims], None], *, max_rooms: int, max_data: int,
    ) -> None:  # fmt: skip
        self._database = database
        self._follower = follower
        self._courier = courier
        self._ephemerals = ephemerals
        self._appender = appender
        self._verifier = verifier
        self._limits = limits
        self._refresh_with = refresh
        self._max_rooms = max_rooms
        self._max_data = max_data

    async def perform(self, connection: Connection, command: AnyCommand) -> bytes | None:
        """Perform one command; return the frame that answers it, if it asked for an answer."""
        match command:
            case JoinRoom():
                answer = await self._join(connection, command)
            case LeaveRoom():
                answer = await self._leave(connection, command)
            case Publish() | RoomMessage() | DirectMessage() | Broadcast():
                answer = await self._publish(connection, as_publish(command))
            case Rooms():
                answer = {"rooms": [{"room": r, "source": m.source} for r, m in connection.rooms.items()]}
            case RoomMembers():
                answer = await self._members(connection, command)
            case RefreshToken():
                answer = await self._refresh(connection, command)
            case _:
                return None
        return None if command.ref is None else frame("ok", ref=command.ref, **answer)

    async def _join(self, connection: Connection, command: JoinRoom) -> dict[str, object]:
        room = check_room(command.room, "#/room")
        self._check_granted(connection, room)
        if command.presence and not connection.claims.presence:
            raise Forbidden("the token does not grant presence")
        if room not in connection.rooms and len(connection.rooms) >= self._max_rooms:
            raise RateLimited(f"at most {self._max_rooms} rooms")
        if command.durable:
            await self._change(connection, room, joins=True)
        elif room not in connection.rooms:
            hub = self._follower.hub
            since = max(hub.position, connection.snapshot)
            hub.reroute(connection, room, lambda: connection.join_alone(room, since))
        if command.presence:
            self._follower.hub.watch(connection, room)
        return {"room": room}

    async def _leave(self, connection: Connection, command: LeaveRoom) -> dict[str, object]:
        room = check_room(command.room, "#/room")
        membership = connection.rooms.get(room)
        if membership is not None and membership.source == "connection":
            self._follower.hub.reroute(connection, room, lambda: connection.leave_alone(room))
        else:
            await self._change(connection, room, joins=False)
        self._follower.hub.unwatch(connection, room)
        return {"room": room}

    async def _change(self, connection: Connection, *rooms: str, joins: bool) -> None:
        """Write the changes, and wait until they have come through the log to here."""
        wanted = [(room, connection.user, joins) for room in rooms]
        async with self._database.connection() as link:
            changes = await sessions.change_members(
                link, self._follower.seen, wanted, source="client", max_rooms=self._max_rooms
            )
        if changes:
            self._courier.wrote(changes[-1].position)
            await self._follower.reached(changes[-1].position)

    async def join_claimed(self, connection: Connection, rooms: list[str]) -> None:
        """Join the rooms that the token names, as far as it also grants them; all in one change."""
        granted = [room for room in rooms if connection.claims.rooms.match(room)]
        try:
            if granted:
                await self._change(connection, *granted, joins=True)
            if refused := [room for room in rooms if room not in granted]:
                raise Forbidden(f"the token does not grant {', '.join(refused[:10])}")
        except TidingsError as error:
            connection.notify(text_frame(frame("error", code=error.code, message=f"cannot join: {error}")))

    async def _publish(self, connection: Connection, command: Publish) -> dict[str, object]:
        data = check_publish(command, self._max_data)
        if not connection.claims.publish.match(command.to):
            raise Forbidden(f"the token does not grant publishing to {command.to}")
        self._limits.charge_user(connection.user)
        exclude = () if command.echo else (f"{connection.user}\n{connection.device}",)
        if command.ephemeral:
            self._pass_on(Ephemeral(
                [command.to], command.event, msgspec.Raw(data.encode()), timestamp(datetime.now(UTC)),
                command.id, connection.user, exclude,
            ))  # fmt: skip
            return {}
        draft = Draft(command.to, command.event, data, id=command.id, sender=connection.user, exclude=exclude)
        key = None if command.id is None else f"id:{command.id}"
        outcome = await self._appender.append(Unit([draft], producer=f"user:{connection.user}", key=key))
        return {"position": outcome.first, "id": command.id or str(outcome.first)}

    def _pass_on(self, event: Ephemeral) -> None:
        event.check_size()
        if not self._follower.trusted:
            raise Unavailable("the log cannot be read just now, nor what it revokes")
        self._ephemerals.pass_on(event)

    async def _members(self, connection: Connection, command: RoomMembers) -> dict[str, object]:
        room = check_room(command.room, "#/room")
        membership = connection.rooms.get(room)
        if membership is None or not connection.receives(room, membership.source):
            self._check_granted(connection, room)
        async with self._database.connection() as link:
            rows = await sessions.members(link, room, "", MEMBERS_SHOWN + 1)
        members = [{"user": row["user_id"]} for row in rows[:MEMBERS_SHOWN]]
        return {"room": room, "members": members, "has_more": len(rows) > MEMBERS_SHOWN}

    async def _refresh(self, connection: Connection, command: RefreshToken) -> dict[str, object]:
        claims = await self._verifier.verify(command.token, now=time())
        self._refresh_with(connection, claims)
        return {"expires_at": claims.expires_at}

    def _check_granted(self, connection: Connection, room: str) -> None:
        if not connection.claims.rooms.match(room):
            raise Forbidden(f"the token does not grant the room {room}")
