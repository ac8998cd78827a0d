"""For whoever runs it: is it alive, is it able to serve, what does it do."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from service.api.access import ReaderUnlessPublic
from service.api.fields import Position
from service.api.problems import refused_with
from service.api.service import InService
from service.domain.delivery import State
from service.domain.errors import Unavailable

router = APIRouter(tags=["operations"])


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"]


class Ready(BaseModel):
    """It can serve; `position` is how far it has followed the log."""

    status: Literal["ready"]
    position: Position


class Stats(BaseModel):
    """What one process holds, and what it has done since it started."""

    instance: str
    position: Position
    head_confirmed_age: float
    users: int
    connections: dict[str, int]
    delivered: int
    recent_bytes: int
    revocations: int


@router.get("/healthz", operation_id="alive")
async def alive() -> Alive:
    """Tell that the process answers."""
    return Alive(status="alive")


@router.get("/readyz", operation_id="ready", responses=refused_with(Unavailable))
async def ready(request: Request, service: InService) -> Ready:
    """Tell whether it can serve: it knows the head of the log, and is not shutting down."""
    if request.state.gateway.leaving:
        raise Unavailable("this instance is shutting down")
    if not service.follower.trusted:
        raise Unavailable("the log cannot be read just now")
    return Ready(status="ready", position=service.follower.hub.position)


@router.get("/stats", operation_id="stats")
async def stats(_: ReaderUnlessPublic, service: InService) -> Stats:
    """Return what this instance holds and has done."""
    hub = service.follower.hub
    states = [connection.state for connection in hub]
    return Stats(
        instance=service.instance,
        position=hub.position,
        head_confirmed_age=round(service.follower.confirmed_age, 3),
        users=len(hub.users),
        connections={s.value: states.count(s) for s in (State.CATCHING_UP, State.LIVE)},
        delivered=hub.delivered,
        recent_bytes=hub.recent.bytes,
        revocations=len(service.control.revocations),
    )


@router.get(
    "/metrics", operation_id="metrics", response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)  # fmt: skip
async def metrics(_: ReaderUnlessPublic, service: InService) -> Response:
    """Return Prometheus metrics."""
    body, content_type = service.metrics.render()
    return Response(body, media_type=content_type)
