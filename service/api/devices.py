"""A user's devices: how far each has got, and to forget one."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from service.api.access import Acting, KeyFirst, Reader
from service.api.admin import CLOSED_WITHIN
from service.api.fields import DeviceName, Position, UserId
from service.api.lists import After, Limit, Page, listed
from service.api.service import InService
from service.domain.addresses import check_text, check_user
from service.domain.errors import NotFound
from service.store import receipts

router = APIRouter(tags=["devices"], route_class=KeyFirst)


class Device(BaseModel):
    """A device: since when it is there, and how far it has got."""

    device: DeviceName
    start: Position = Field(description="It is owed what comes after this")
    cursor: Position = Field(description="It has received everything up to this")
    lag: int = Field(description="Positions between its cursor and the end of the log")
    behind: int = Field(
        description=f"Events that it has yet to receive, counted up to {receipts.MOST_BEHIND:,}"
    )
    seen_at: datetime = Field(description="When it was last connected, to the minute")
    connected: bool = Field(description="Whether it is so to this process")


@router.get("/v1/users/{user:path}/devices", operation_id="listDevices")
async def devices(
    user: UserId, key: Reader, service: InService, after: After = "", limit: Limit = 100
) -> Page[Device]:
    """List a user's devices by name, with what each has yet to receive."""
    key.reach(f"user:{check_user(user, '#/user')}")
    await service.cursors.flush()  # so that what was acknowledged here just now counts
    async with service.database.connection() as connection:
        rows = await receipts.devices(connection, user, after, limit + 1)
    connected = {connection.device for connection in service.follower.hub.users.get(user, ())}

    def shown(device: receipts.Device) -> dict[str, Any]:
        return {**device._asdict(), "connected": device.device in connected}

    return listed(rows, limit, shown, lambda device: device.device)


@router.delete("/v1/users/{user:path}/devices/{device:path}", operation_id="forgetDevice", status_code=204)
async def forget(user: UserId, device: DeviceName, by: Acting, service: InService) -> None:
    """Forget a device: its sockets are closed, and the next time it is a new one."""
    check_user(user, "#/user")
    check_text(device, 128, "#/device")
    async with service.database.connection() as connection:
        position = await receipts.forget(connection, service.follower.seen, by, user, device)
    if position is None:
        raise NotFound("this user has no device of this name")
    await service.courier.applied(position, CLOSED_WITHIN)
