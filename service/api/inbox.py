"""A client's inbox: what was addressed to its user and to everyone, read or not."""

from typing import Annotated, Any, Final, Literal, Self

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.api.access import Client, TokenFirst
from service.api.fields import Bound, Pattern, Position
from service.api.lists import Edge, Limit, Page
from service.api.problems import refused_with
from service.api.rooms import Event
from service.api.service import InService
from service.domain.addresses import check_pattern
from service.domain.errors import RateLimited
from service.domain.frames import inbox_list
from service.domain.recent import FOREVER
from service.store import inbox

router = APIRouter(
    prefix="/v1/inbox", tags=["inbox"], route_class=TokenFirst, responses=refused_with(RateLimited)
)


class ReadIn(BaseModel):
    """What has been read: everything up to a position, or single events."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={
        "if": {"required": ["up_to"], "properties": {"up_to": {"type": "integer"}}},
        "then": {"properties": {"positions": {"type": "null"}}},
        "else": {"required": ["positions"], "properties": {"positions": {"type": "array"}}},
    })  # fmt: skip

    up_to: Bound | None = Field(default=None, description="Beyond the end of the log: all there is")
    positions: list[Bound] | None = Field(default=None, min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.up_to is None) == (self.positions is None):
            raise ValueError("give either up_to or positions")
        return self


class Badge(BaseModel):
    """How many events are unread. `more` is there, and true, where counting ended before the inbox did."""

    unread: int
    more: bool = False
    position: Position | None


class InboxEvent(Event):
    """An event, and whether the user has read it."""

    read: bool


LIMITED: Final = refused_with(RateLimited)
NEXT: Final[dict[int | str, dict[str, Any]]] = {
    200: {"headers": {"Link": {"$ref": "#/components/headers/Link"}}}
}


@router.get("", operation_id="listInbox", response_model=Page[InboxEvent], responses=NEXT | LIMITED)
async def page(
    request: Request,
    client: Client,
    service: InService,
    after: Edge = None,
    before: Edge = None,
    limit: Limit = 100,
    pattern: Annotated[Pattern, Query(alias="type", description="A type, or its beginning and a `*`")] = "*",
    order: Annotated[
        Literal["newest", "oldest"] | None,
        Query(description="Default: `newest`, or `oldest` where only `after` is given"),
    ] = None,
) -> Response:
    """Read the inbox: events strictly between two positions; the header `Link` leads to the next page."""
    check_pattern(pattern, "#/type")
    newest = after is None or before is not None if order is None else order == "newest"
    async with service.database.connection() as connection:
        found = await inbox.page(
            connection, client.user, after or 0, FOREVER if before is None else before, limit, pattern,
            newest=newest,
        )  # fmt: skip
    cursor = None if found.cursor is None else str(found.cursor)
    headers = {}
    if cursor is not None:
        following = request.url.include_query_params(**{"before" if newest else "after": cursor})
        headers["Link"] = f'<{following.path}?{following.query}>; rel="next"'
    return Response(inbox_list(found.items, cursor), headers=headers, media_type="application/json")


@router.post("/read", operation_id="markRead", response_model_exclude_defaults=True, responses=LIMITED)
async def mark_read(order: ReadIn, client: Client, service: InService) -> Badge:
    """Mark events as read; the user's devices are told. Doing so again changes nothing.

    `position` is that of the newest `inbox_read`, or null where there has been none.
    """
    async with service.database.connection() as connection:
        count = await inbox.mark_read(
            connection, service.follower.seen, client.user, upto=order.up_to, positions=order.positions
        )
    if count.position is not None:
        service.courier.wrote(count.position)
    return Badge(**count._asdict())


@router.get("/unread", operation_id="countUnread", response_model_exclude_defaults=True, responses=LIMITED)
async def unread(client: Client, service: InService) -> Badge:
    """Count the unread events up to `position`, where the log ends just now."""
    async with service.database.connection() as connection:
        count = await inbox.unread(connection, client.user)
    return Badge(**count._asdict())
