"""For admins: what admins did."""

from datetime import datetime
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from service.api.access import Admin
from service.api.fields import PLAIN
from service.api.lists import Edge, Limit, Page, listed
from service.api.service import InService
from service.store import audit

router = APIRouter(tags=["admin"])

Equal = Annotated[str | None, Query(max_length=512, pattern=PLAIN)]


class Record(BaseModel):
    """What an admin did: `actor` is the id of a key, and what `subject` is depends on the `action`."""

    id: int
    at: datetime
    actor: str
    action: str = Field(examples=[*get_args(audit.Action)])
    subject: str
    request_id: str
    detail: dict[str, Any]


@router.get("/v1/audit", operation_id="listAudit")
async def acts(
    _: Admin, service: InService, after: Edge = None, before: Edge = None, limit: Limit = 100,
    action: Equal = None, actor: Equal = None, subject: Equal = None,
) -> Page[Record]:  # fmt: skip
    """List what admins did, newest first; `before` leaves out what is not newer than that record."""
    rows = await audit.listed(
        service.database, after=after, before=before, limit=limit + 1,
        action=action, actor=actor, subject=subject,
    )  # fmt: skip
    return listed(rows, limit, dict, lambda row: str(row["id"]))
