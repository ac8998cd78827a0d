"""Erasing a user."""

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.routing import Match
from starlette.types import Scope

from service.api.access import Acting, Admin, KeyFirst
from service.api.admin import Closed, carried_out, until_now
from service.api.fields import UserId
from service.api.lists import After, Limit, Page, listed
from service.api.service import InService
from service.domain.addresses import check_user
from service.store import erasure


class OfUsers(KeyFirst):
    """Takes a name with slashes only if they are escaped: else ``alice/devices`` would be a user to erase."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match by the address as it was sent."""
        below = scope["raw_path"].partition(b"/users/")[2]
        return (Match.NONE, {}) if b"/" in below else super().matches(scope)


router = APIRouter(tags=["admin"], route_class=OfUsers)


@router.delete("/v1/users/{user:path}", operation_id="eraseUser", status_code=202)
async def erase(user: UserId, by: Acting, service: InService) -> Closed:
    """Erase a user: their tokens and sockets are dead at once, the rest is gone soon (`listErasures`)."""
    check_user(user, "#/user")
    async with service.database.connection() as connection:
        revoked = await erasure.erase(
            connection, service.follower.seen, by, user, issued_before=until_now(service, user)
        )
    return await carried_out(service, revoked.id, revoked.position)


class Erasure(BaseModel):
    """A user whose erasure is not done yet."""

    user: UserId
    requested_at: datetime


@router.get("/v1/erasures", operation_id="listErasures")
async def erasures(_: Admin, service: InService, after: After = "", limit: Limit = 100) -> Page[Erasure]:
    """List the users whose erasure is not done yet."""
    rows = await erasure.list_erasures(service.database, after, limit + 1)
    return listed(rows, limit, dict, lambda row: str(row["user"]))
