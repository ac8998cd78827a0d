"""How far a client has got, by its own word over HTTP: for streams, which cannot carry it."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from service.api.access import Listener, TokenFirst
from service.api.fields import WHOLE, DeviceName
from service.api.problems import refused_with
from service.api.service import InService
from service.domain.addresses import check_text
from service.domain.errors import NotFound
from service.domain.recent import FOREVER
from service.store import sessions

router = APIRouter(tags=["clients"], route_class=TokenFirst)


class Ack(BaseModel):
    """Everything up to `position` has been processed by this device."""

    model_config = ConfigDict(extra="forbid")

    device: DeviceName = "default"
    position: Annotated[int, Field(ge=0, lt=FOREVER), WHOLE]


@router.post("/v1/ack", operation_id="acknowledge", status_code=204, responses=refused_with(NotFound))
async def acknowledge(ack: Ack, client: Listener, service: InService) -> None:
    """Move a device's cursor forward.

    At most to what has been sent to its connections here, or else to the head.
    """
    device = check_text(ack.device, 128, "#/device")
    users = service.follower.hub.users
    here = [c for c in users.get(client.user, ()) if c.device == device and c.begun]
    for connection in here:
        connection.acknowledge(ack.position)
    if not here:
        async with service.database.connection() as link:
            if await sessions.acknowledge(link, client.user, device, ack.position) is None:
                raise NotFound("this user has no such device")
