"""What has been sent, to whomever, newest first."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Response

from service.api import fields
from service.api.access import KeyFirst, Reader
from service.api.lists import Edge, Limit, Page
from service.api.rooms import Event
from service.api.service import InService
from service.domain.addresses import check_pattern
from service.domain.frames import event_details
from service.domain.recent import FOREVER
from service.store import log

router = APIRouter(tags=["events"], route_class=KeyFirst)

Matching = Annotated[fields.Pattern, Query()]


class EventDetail(Event):
    """An event with what pages need not say; `recalled` is the position at which it was taken back."""

    recalled: fields.Position | None = None
    expires_at: datetime | None = None
    collapse_key: str | None = None


@router.get("/v1/events", operation_id="listEvents", response_model=Page[EventDetail])
async def sent(
    key: Reader, service: InService, to: Matching = "*", type: Matching = "*", before: Edge = None,  # noqa: A002
    limit: Limit = 100,
) -> Response:  # fmt: skip
    """List events, newest first, whose address and type match; also those that are not replayed any more.

    Of the log 1,000 entries are looked at, so a page may end early, even empty, and still have more.
    """
    wanted = check_pattern(to, "#/to"), check_pattern(type, "#/type")
    async with service.database.connection() as connection:
        page = await log.newest(connection, FOREVER if before is None else before, *wanted, limit)
    allowed = [found for found in page.found if key.reaches(found[0].address)]
    next_cursor = None if page.rest is None else str(page.rest)
    return Response(event_details(allowed, next_cursor), media_type="application/json")
