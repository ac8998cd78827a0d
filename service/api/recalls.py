"""Taking an event back."""

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel

from service.api.access import Publisher
from service.api.fields import Position
from service.api.receipts import OfEvents
from service.api.service import InService
from service.domain.errors import NotFound, OutcomeUnknown
from service.domain.recent import FOREVER
from service.store import log

router = APIRouter(tags=["events"], route_class=OfEvents)

APPLIED_WITHIN = 2.0
"""Seconds that a recall waits for this instance to have applied it."""


class Recalled(BaseModel):
    """An event that was taken back; `position` is that of the entry that says so."""

    position: Position
    recalled: Position


@router.delete("/v1/events/{position}", operation_id="recallEvent")
async def recall(
    position: Annotated[int, Path(ge=0, le=FOREVER, examples=[7])], key: Publisher, service: InService
) -> Recalled:
    """Take an event back: it is not replayed any more, and who is connected is told. Again is the same."""
    async with service.database.connection() as connection:
        found = await log.event(connection, position)
        if found.entry is None:
            raise NotFound("there is no event at this position")
        key.may_publish(found.entry.address)
        own = await log.recall(connection, service.follower.seen, position)
    if own is None:
        raise NotFound("there is no event at this position")
    if not await service.courier.applied(own, APPLIED_WITHIN):
        raise OutcomeUnknown("it is taken back, but this instance has yet to learn so: try again")
    return Recalled(position=own, recalled=position)
