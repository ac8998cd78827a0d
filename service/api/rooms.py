"""Who is in a room, by the API's word; and what has been said in it."""

from typing import Any, Literal

from fastapi import APIRouter, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from service.api.access import ClientOrReader, KeyFirst, Publisher, Reader
from service.api.fields import Address, Position, RoomName, UserId
from service.api.lists import After, Edge, Limit, Page, listed
from service.api.problems import refused_with
from service.api.service import InService, Service
from service.domain.addresses import check_room, check_user
from service.domain.claims import Claims
from service.domain.errors import Forbidden, Invalid, RateLimited
from service.domain.frames import event_list
from service.domain.recent import FOREVER
from service.store import log, sessions

router = APIRouter(tags=["rooms"], route_class=KeyFirst)

MAX_CHANGES = 1000


class Changes(BaseModel):
    """Members to add and to remove, at most 1,000 together."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={
        "not": {"properties": {"add": {"maxItems": 0}, "remove": {"maxItems": 0}}},
    })  # fmt: skip

    add: list[UserId] = Field(default=[], max_length=MAX_CHANGES)
    remove: list[UserId] = Field(default=[], max_length=MAX_CHANGES)


class Changed(BaseModel):
    """A membership that was changed; one that was so already is not named."""

    room: RoomName
    user: UserId
    member: bool
    position: Position


class Member(BaseModel):
    """Who is in a room, by whose word, and since which position."""

    user: UserId
    source: Literal["api", "client"]
    since: Position


class Joined(BaseModel):
    """A room that a user is in, by whose word, and since which position."""

    room: RoomName
    source: Literal["api", "client"]
    since: Position


class Event(BaseModel):
    """An event as it stands in the log; `from` is the user, where a client published it."""

    position: Position
    id: str
    to: Address
    event: str
    data: Any
    time: AwareDatetime
    sender: UserId | None = Field(default=None, alias="from")


@router.put("/v1/rooms/{room}/members/{user:path}", operation_id="addMember")
async def add(room: RoomName, user: UserId, key: Publisher, service: InService) -> list[Changed]:
    """Make a user a member, durably; needs no grant in the user's token."""
    key.may_publish(f"room:{check_room(room, '#/room')}")
    return await _change(service, [(room, check_user(user, "#/user"), True)])


@router.delete("/v1/rooms/{room}/members/{user:path}", operation_id="removeMember")
async def remove(room: RoomName, user: UserId, key: Publisher, service: InService) -> list[Changed]:
    """End a membership, whoever made it."""
    key.may_publish(f"room:{check_room(room, '#/room')}")
    return await _change(service, [(room, check_user(user, "#/user"), False)])


@router.post("/v1/rooms/{room}/members", operation_id="changeMembers")
async def change(room: RoomName, changes: Changes, key: Publisher, service: InService) -> list[Changed]:
    """Add and remove many members at once: all of it or nothing."""
    key.may_publish(f"room:{check_room(room, '#/room')}")
    wanted = [(room, check_user(u, f"#/add/{n}"), True) for n, u in enumerate(changes.add)]
    wanted += [(room, check_user(u, f"#/remove/{n}"), False) for n, u in enumerate(changes.remove)]
    if not 1 <= len(wanted) <= MAX_CHANGES:
        raise Invalid(f"1 to {MAX_CHANGES} members", "#/add")
    return await _change(service, wanted)


async def _change(service: Service, wanted: list[tuple[str, str, bool]]) -> list[Changed]:
    async with service.database.connection() as connection:
        changes = await sessions.change_members(connection, service.follower.seen, wanted, source="api")
    if changes:
        service.courier.wrote(max(c.position for c in changes))
    return [Changed(room=c.room, user=c.user, member=c.joins, position=c.position) for c in changes]


@router.get("/v1/rooms/{room}/members", operation_id="listMembers")
async def members(
    room: RoomName, key: Reader, service: InService, after: After = "", limit: Limit = 100
) -> Page[Member]:
    """List a room's members by name."""
    key.reach(f"room:{room}")
    async with service.database.connection() as connection:
        rows = await sessions.members(connection, check_room(room), after, limit + 1)
    return listed(rows, limit, _member, lambda row: row["user_id"])


def _member(row: Any) -> dict[str, Any]:
    return {"user": row["user_id"], "source": row["source"], "since": row["since"]}


@router.get("/v1/users/{user:path}/rooms", operation_id="listRooms")
async def rooms(
    user: UserId, key: Reader, service: InService, after: After = "", limit: Limit = 100
) -> Page[Joined]:
    """List a user's rooms by name."""
    key.reach(f"user:{user}")
    async with service.database.connection() as connection:
        rows = await sessions.rooms(connection, check_user(user), after, limit + 1)
    return listed(rows, limit, _room, lambda row: row["room"])


def _room(row: Any) -> dict[str, Any]:
    return {"room": row["room"], "source": row["source"], "since": row["since"]}


@router.get(
    "/v1/rooms/{room}/events", operation_id="listRoomEvents", response_model=Page[Event],
    responses=refused_with(RateLimited),
)  # fmt: skip
async def history(
    room: RoomName,
    caller: ClientOrReader,
    service: InService,
    before: Edge = None,
    after: Edge = None,
    limit: Limit = 100,
) -> Response:
    """Read a room's events: newest first, or oldest first where only `after` is given."""
    check_room(room)
    if isinstance(caller, Claims) and not caller.rooms.match(room):
        raise Forbidden("the token does not grant this room")
    if not isinstance(caller, Claims):
        caller.reach(f"room:{room}")
    newest = after is None or before is not None
    async with service.database.connection() as connection:
        entries = await log.room_events(
            connection, room, after or 0, FOREVER if before is None else before, limit + 1, newest=newest
        )
    page = entries[:limit]
    next_cursor = str(page[-1].position) if len(entries) > limit else None
    if isinstance(caller, Claims):
        page = [e for e in page if caller.user not in e.exclude]
    return Response(event_list(page, next_cursor), media_type="application/json")
