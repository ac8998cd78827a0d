"""For admins: what admins did."""

from typing import Annotated

from fastapi import APIRouter, Query

from service.api.access import Admin
from service.api.lists import Bound, Limit, Listed, listed
from service.api.service import InService
from service.store import audit

router = APIRouter(tags=["admin"])

Equal = Annotated[str | None, Query(max_length=512)]


@router.get("/v1/audit", operation_id="listAudit")
async def acts(
    _: Admin, service: InService, after: Bound = None, before: Bound = None, limit: Limit = 100,
    action: Equal = None, actor: Equal = None, subject: Equal = None,
) -> Listed:  # fmt: skip
    """List what admins did, newest first; `before` leaves out what is not newer than that record."""
    rows = await audit.listed(
        service.database, after=after, before=before, limit=limit + 1,
        action=action, actor=actor, subject=subject,
    )  # fmt: skip
    return listed(rows, limit, dict, lambda row: str(row["id"]))
