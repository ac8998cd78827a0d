"""One event: what it is, who has it, and for who published it, who had it first."""

import math
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field
from starlette.routing import Match
from starlette.types import Scope

from service.api import fields
from service.api.access import KeyFirst, Reader
from service.api.history import EventDetail
from service.api.ingest import BATCH
from service.api.lists import After, Limit, Page, listed
from service.api.service import InService, Service
from service.auth.keys import ApiKey
from service.domain.errors import Invalid, NotFound
from service.domain.events import Entry
from service.domain.frames import event_detail
from service.domain.recent import FOREVER
from service.store import log, receipts
from service.stream.receipts import MAX_SECONDS


class OfEvents(KeyFirst):
    """Leaves the address of batches to those: ``batch`` is no position."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match what stands below ``/v1/events``."""
        return (Match.NONE, {}) if scope["path"] == BATCH else super().matches(scope)


router = APIRouter(tags=["events"], route_class=OfEvents)

Position = Annotated[int, Path(ge=1, lt=FOREVER, examples=[7])]


class Delivery(BaseModel):
    """How an event stands with a device, and why, unless it was received or is to come."""

    user: fields.UserId
    device: fields.DeviceName
    state: Literal["received", "pending", "skipped", "unknown"]
    reason: (
        Literal[
            "excluded", "started_later", "after", "expired", "recalled", "collapsed", "grant", "forgotten"
        ]
        | None
    ) = None
    read: bool | None = Field(default=None, description="Not there for an event to a room")


class Counts(BaseModel):
    """How many devices there are in each state."""

    received: int
    pending: int
    skipped: int
    unknown: int


class Deliveries(Page[Delivery]):
    """A page of devices; the first one says how many there are in each state."""

    counts: Counts | None = Field(description="Of all devices; null on later pages")


class _Placed(msgspec.Struct):
    """An event in the answer to its POST; one that was put off has no position yet."""

    to: str
    position: int | None = None


class _Answer(msgspec.Struct):
    events: list[_Placed]


_decode = msgspec.json.Decoder(_Answer).decode


def seconds_to_wait(request: Request) -> float | None:
    """Return for how long a POST wants to wait for the first receipt, or None; raises Invalid."""
    asked = request.query_params.get("wait")
    if asked is None:
        return None
    try:
        seconds = float(asked)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_SECONDS or not request.scope["path"].endswith("/events"):
        raise Invalid(f"up to {MAX_SECONDS:.0f} seconds, for one event", "#/wait")
    return seconds


async def with_first_receipt(service: Service, answer: bytes, seconds: float) -> bytes:
    """Return the answer to a POST with the first receipt of what it has published, once there is one."""
    positions = {event.to: event.position for event in _decode(answer).events if event.position is not None}
    first = await service.receipts.first(positions, seconds)
    told: dict[str, object] = {"received": None}
    if first.receipt is not None:
        told["received"] = {**first.receipt._asdict(), "after_ms": round(first.after * 1000)}
    if not first.waited:
        told["waited"] = False
    return answer[:-1] + b"," + msgspec.json.encode(told)[1:]


@router.get("/v1/events/{position}", operation_id="getEvent", response_model=EventDetail)
async def event(position: Position, key: Reader, service: InService) -> Response:
    """Read one event."""
    entry, recalled = await _found(position, key, service)
    return Response(event_detail(entry, recalled), media_type="application/json")


@router.get(
    "/v1/events/{position}/deliveries", operation_id="listDeliveries", response_model_exclude_unset=True
)
async def deliveries(
    position: Position, key: Reader, service: InService, after: After = "", limit: Limit = 100
) -> Deliveries:
    """List the devices that an event is for, and whether they have received it."""
    await _found(position, key, service)
    await service.cursors.flush()  # so that what was acknowledged here just now counts
    user, _, device = after.partition("\n")
    async with service.database.connection() as connection:
        rows = await receipts.page(connection, position, (user, device), limit + 1)
        counts = None if after else await receipts.counts(connection, position)
    page = listed(rows, limit, _shown, lambda held: f"{held.user}\n{held.device}")
    return Deliveries.model_validate({**page.model_dump(), "counts": counts})


async def _found(position: int, key: ApiKey, service: Service) -> tuple[Entry, int | None]:
    async with service.database.connection() as connection:
        entry, recalled, floor = await log.event(connection, position)
    if entry is None:
        gone = position <= floor
        raise NotFound("retention has deleted it" if gone else "there is no event at this position")
    key.reach(entry.address)
    return entry, recalled


def _shown(held: receipts.Held) -> dict[str, Any]:
    return {name: value for name, value in held._asdict().items() if value is not None}
