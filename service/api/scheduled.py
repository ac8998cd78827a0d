"""What is still to come: look at it, take it back."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, Field

from service.api.access import KeyFirst, Publisher
from service.api.fields import Address
from service.api.lists import Limit, Page
from service.api.service import InService
from service.auth.keys import ApiKey
from service.domain.errors import NotFound
from service.domain.frames import timestamp
from service.store import pending

router = APIRouter(tags=["events"], route_class=KeyFirst)

MAX_ID = 2**63 - 1
After = Annotated[str, Query(pattern="^[0-9]{0,18}$", description="`next_cursor` of the page before")]
_encode = msgspec.json.Encoder().encode


class Scheduled(BaseModel):
    """An event that is put off."""

    id: str
    event_id: str
    to: list[Address]
    type: str
    data: Any
    deliver_at: datetime
    created_at: datetime
    failed: str | None = Field(default=None, description="Why it will not be delivered, if it cannot be")


@router.get("/v1/scheduled", operation_id="listScheduled", response_model=Page[Scheduled])
async def scheduled(key: Publisher, service: InService, after: After = "", limit: Limit = 100) -> Response:
    """List what this key has put off, by id; with the scope `admin`, what anyone has."""
    async with service.database.connection() as connection:
        rows = await pending.scheduled(connection, *_scope(key), int(after or 0), limit + 1)
    shown = [_scheduled(row) for row in rows[:limit]]
    more = len(rows) > limit
    page = {"data": shown, "next_cursor": shown[-1]["id"] if more else None, "has_more": more}
    return Response(_encode(page), media_type="application/json")


@router.delete("/v1/scheduled/{id}", operation_id="cancelScheduled", status_code=204)
async def cancel(
    id: Annotated[int, Path(ge=1, le=MAX_ID, examples=[12])],  # noqa: A002 - the field's name
    key: Publisher,
    service: InService,
) -> None:
    """Take an event back before it is due. Once this has answered 204, nobody gets it."""
    async with service.database.connection() as connection:
        cancelled = await pending.cancel(connection, *_scope(key), id)
    if not cancelled:
        raise NotFound("nothing is scheduled under this id: it was cancelled or delivered, or never was")


def _scope(key: ApiKey) -> tuple[str | None, list[str] | None]:
    """Return whose events the key may see, and to which addresses; None is any."""
    producer = None if "admin" in key.scopes else f"key:{key.id}"
    return producer, None if key.addresses is None else list(key.addresses)


def _scheduled(row: Any) -> dict[str, Any]:
    shown = {
        "id": str(row["id"]), "event_id": row["event_id"], "to": row["addresses"], "type": row["type"],
        "data": msgspec.Raw(row["data"].encode()), "deliver_at": timestamp(row["due_at"]),
        "created_at": timestamp(row["created_at"]),
    }  # fmt: skip
    return shown if row["failed"] is None else {**shown, "failed": row["failed"]}
