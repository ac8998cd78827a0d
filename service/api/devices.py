"""A user's devices: how far each has got, and to forget one."""

from typing import Annotated, Any

from fastapi import APIRouter, Path

from service.api.access import Acting, KeyFirst, Reader
from service.api.admin import CLOSED_WITHIN
from service.api.fields import UserId
from service.api.lists import After, Limit, Listed, listed
from service.api.service import InService
from service.domain.addresses import check_user
from service.domain.errors import NotFound
from service.store import receipts

router = APIRouter(tags=["devices"], route_class=KeyFirst)

Device = Annotated[str, Path(min_length=1, max_length=128)]


@router.get("/v1/users/{user:path}/devices", operation_id="listDevices")
async def devices(
    user: UserId, key: Reader, service: InService, after: After = "", limit: Limit = 100
) -> Listed:
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
async def forget(user: UserId, device: Device, by: Acting, service: InService) -> None:
    """Forget a device: its sockets are closed, and the next time it is a new one."""
    check_user(user, "#/user")
    async with service.database.connection() as connection:
        position = await receipts.forget(connection, service.follower.seen, by, user, device)
    if position is None:
        raise NotFound("this user has no device of this name")
    await service.follower.reached_within(position, CLOSED_WITHIN)
