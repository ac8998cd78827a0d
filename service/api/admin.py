"""For admins: revocations and connections."""

from time import time
from typing import Annotated, Any, Final, Literal, Self

import msgspec
from fastapi import APIRouter, Path, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from service.api.access import Acting, Admin, KeyFirst
from service.api.fields import Bound, Flag, Position, UserId
from service.api.lists import After, Limit, Page, listed
from service.api.service import InService, Service
from service.domain.addresses import check_user
from service.domain.delivery import State
from service.domain.errors import NotFound
from service.store import admin
from service.stream.duties import LEASE
from service.stream.hub import Receiver

router = APIRouter(tags=["admin"], route_class=KeyFirst)

CLOSED_WITHIN: Final = 2.0
"""Seconds that a revocation waits for this instance to have closed the sockets."""
TOLD_WITHIN: Final = 0.25
"""Seconds that it waits for the other instances to tell how many they closed."""

Id = Annotated[str, Path(min_length=1, max_length=256)]


_NULL: Final[dict[str, Any]] = {"type": "null"}


class RevocationIn(BaseModel):
    """Which tokens are dead from now on: one by `jti`, or those of a user."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={
        "if": {"required": ["jti"], "properties": {"jti": {"type": "string"}}},
        "then": {"properties": {"user": _NULL, "issued_before": _NULL, "ban": {"const": False}}},
        "else": {
            "required": ["user"], "properties": {"user": {"type": "string"}},
            "if": {"required": ["ban"], "properties": {"ban": {"const": True}}},
            "then": {"properties": {"issued_before": _NULL}},
        },
    })  # fmt: skip

    jti: str | None = Field(default=None, min_length=1, max_length=256)
    user: UserId | None = None
    issued_before: Bound | None = Field(
        default=None, description="Seconds since the epoch, inclusive; default: now"
    )
    ban: Flag = Field(default=False, description="Every token, also those issued later")

    @model_validator(mode="after")
    def _one_subject(self) -> Self:
        if (self.jti is None) == (self.user is None):
            raise ValueError("give either jti or user")
        if self.jti is not None and (self.ban or self.issued_before is not None):
            raise ValueError("issued_before and ban go with user")
        if self.ban and self.issued_before is not None:
            raise ValueError("a ban has no issued_before")
        return self


class Closed(BaseModel):
    """An order that has been written to the log, and how many connections it has closed so far."""

    id: str
    position: Position
    closed: int
    complete: bool = Field(description="Whether `closed` counts every instance")


@router.post("/v1/revocations", operation_id="revoke", status_code=201)
async def revoke(order: RevocationIn, by: Acting, service: InService) -> Closed:
    """Revoke tokens: matching sockets are closed at once, and no handshake accepts them again."""
    if order.user is not None:
        check_user(order.user, "#/user")
    issued_before = order.issued_before
    if order.user is not None and not order.ban and issued_before is None:
        issued_before = until_now(service, order.user)
    async with service.database.connection() as connection:
        revoked = await admin.revoke(
            connection, service.follower.seen, by,
            jti=order.jti, user=order.user, issued_before=issued_before, ban=order.ban,
        )  # fmt: skip
    return await carried_out(service, revoked.id, revoked.position)


def until_now(service: Service, user: str) -> int:
    """Return the `issued_before` that takes in every token of the user so far, and no later one."""
    # A token that was minted since the last revocation may carry the second after it.
    last = service.control.revocations.issued_before(user)
    return max(int(time()), -1 if last is None else last + 1)


async def carried_out(service: Service, subject: str, position: int) -> Closed:
    """Wait for the instances to have carried an order out, and tell what came of it."""
    complete = await service.courier.applied(position, CLOSED_WITHIN)
    async with service.database.connection() as connection:
        others = await admin.others(connection, service.instance, LEASE)
    told = await service.closings.told_by(subject, others, TOLD_WITHIN)
    return Closed(
        id=subject, position=position, closed=service.closings.closed(subject), complete=complete and told
    )


class Revocation(BaseModel):
    """A revocation in force; `created_by` is the id of a key."""

    id: str
    position: Position
    jti: str | None
    user: UserId | None
    issued_before: int | None
    ban: bool
    created_at: AwareDatetime
    created_by: str


@router.get("/v1/revocations", operation_id="listRevocations")
async def revocations(
    _: Admin, service: InService, after: After = "", limit: Limit = 100
) -> Page[Revocation]:
    """List the revocations in force."""
    rows = await admin.list_revocations(service.database, after, limit + 1)
    return listed(rows, limit, _revocation, lambda row: row["id"])


def _revocation(row: Any) -> dict[str, Any]:
    shown = dict(row)
    shown["user"] = shown.pop("user_id")
    return shown


@router.delete("/v1/revocations/{id}", operation_id="liftRevocation", status_code=204)
async def lift(id: Id, by: Acting, service: InService) -> None:  # noqa: A002 - the field's name
    """Take a revocation back: its tokens are good again, as far as nothing else is against them."""
    async with service.database.connection() as connection:
        position = await admin.lift(connection, service.follower.seen, by, id)
    if position is None:
        raise NotFound("there is no revocation of this id")
    await service.courier.applied(position, CLOSED_WITHIN)


class Connection(BaseModel):
    """A live connection, and how far it has been written to and has acknowledged."""

    id: str
    user: UserId
    device: str
    state: Literal["catching_up", "live"]
    written: Position
    acked: Position
    rooms: int
    info: Any
    instance: str


@router.get("/v1/connections", operation_id="listConnections")
async def connections(
    _: Admin,
    service: InService,
    user: Annotated[UserId | None, Query()] = None,
    after: After = "",
    limit: Limit = 100,
) -> Page[Connection]:
    """List the live connections of this instance."""
    hub = service.follower.hub
    known = hub if user is None else hub.users.get(check_user(user, "#/user"), ())
    rows = sorted((c for c in known if c.id > after), key=lambda c: c.id)[: limit + 1]
    return listed(rows, limit, lambda c: _connection(service, c), lambda c: c.id)


def _connection(service: Service, connection: Receiver) -> dict[str, Any]:
    complete = connection.complete_to(service.follower.hub.position)
    return {
        "id": connection.id,
        "user": connection.user,
        "device": connection.device,
        "state": connection.state.value,
        "written": complete if connection.state is State.LIVE else connection.written,
        "acked": connection.acked,
        "rooms": len(connection.rooms),
        "info": msgspec.json.decode(connection.claims.info or "null"),
        "instance": service.instance,
    }


@router.delete("/v1/connections/{id}", operation_id="disconnect")
async def disconnect(id: Id, by: Acting, service: InService) -> Closed:  # noqa: A002
    """Close one connection (4010), on whichever instance it is. Its token stays good."""
    async with service.database.connection() as connection:
        position = await admin.disconnect(connection, service.follower.seen, by, id)
    return await carried_out(service, id, position)
