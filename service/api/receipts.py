"""One event: what it is, and who has it."""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response

from service.api.access import KeyFirst, Reader
from service.api.lists import After, Limit, Listed, listed
from service.api.service import InService, Service
from service.auth.keys import ApiKey
from service.domain.errors import NotFound
from service.domain.events import Entry
from service.domain.frames import event_detail
from service.domain.recent import FOREVER
from service.store import log, receipts

router = APIRouter(tags=["events"], route_class=KeyFirst)

Position = Annotated[int, Path(ge=1, lt=FOREVER)]


class Deliveries(Listed):
    """A page of devices; the first one says how many there are in each state."""

    counts: dict[str, int] | None = None


@router.get("/v1/events/{position}", operation_id="getEvent")
async def event(position: Position, key: Reader, service: InService) -> Response:
    """Read one event."""
    entry, recalled = await _found(position, key, service)
    expires_at = None
    if entry.expires_at is not None:
        expires_at = log.timestamp(datetime.fromtimestamp(entry.expires_at, UTC))
    return Response(event_detail(entry, recalled, expires_at), media_type="application/json")


@router.get("/v1/events/{position}/deliveries", operation_id="listDeliveries")
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
    return Deliveries(**page.model_dump(), counts=counts)


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
