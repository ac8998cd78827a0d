"""For whoever runs it: is it alive, is it able to serve, what does it do."""

from collections import Counter
from typing import Any, Literal

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import AwareDatetime, BaseModel, Field

from service.api.access import ReaderUnlessPublic
from service.api.fields import Position
from service.api.problems import refused_with
from service.api.service import InService, Service
from service.domain.errors import Unavailable
from service.store import presence

router = APIRouter(tags=["operations"])


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"]


class Ready(BaseModel):
    """It can serve; `position` is how far it has followed the log."""

    status: Literal["ready"]
    position: Position


class Counts(BaseModel):
    """What one instance holds, and what it has done since it started."""

    position: Position
    head_confirmed_age: float
    users: int
    connections: dict[str, int]
    delivered: int
    recent_bytes: int
    revocations: int


class Instance(BaseModel):
    """An instance that is alive, and its counts as of `seen_at`."""

    instance: str
    version: str | None
    started_at: AwareDatetime
    seen_at: AwareDatetime
    stats: Counts | None = Field(description="`null`: it is of a version that does not tell")


class Total(BaseModel):
    """All instances together; a user with connections to two of them is one."""

    instances: int
    users: int
    connections: dict[str, int]
    delivered: int


class Stats(BaseModel):
    """What there is in all; `instance` is the one that answers."""

    instance: str
    total: Total
    instances: list[Instance]


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


@router.get("/stats", operation_id="stats", responses=refused_with(Unavailable))
async def stats(_: ReaderUnlessPublic, service: InService) -> Stats:
    """Return what the instances hold and have done: this one now, the others some seconds ago."""
    await service.presence.flush()
    async with service.database.connection() as connection:
        rows = await presence.instances(connection, service.settings.lease)
        users = await presence.users(connection)
    instances = [_instance(service, row) for row in rows]
    counts = [each.stats for each in instances if each.stats is not None]
    connections: Counter[str] = Counter()
    for each in counts:
        connections.update(each.connections)
    delivered = sum(each.delivered for each in counts)
    total = Total(instances=len(rows), users=users, connections=connections, delivered=delivered)
    return Stats(instance=service.instance, total=total, instances=instances)


def _instance(service: Service, row: Any) -> Instance:
    if row["id"] == service.instance:
        told = msgspec.to_builtins(service.presence.measure())
    else:
        told = msgspec.json.decode(row["stats"] or "null")
    return Instance(
        instance=row["id"],
        version=row["version"],
        started_at=row["started_at"],
        seen_at=row["seen_at"],
        stats=told and Counts(**told),
    )


@router.get(
    "/metrics", operation_id="metrics", response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)  # fmt: skip
async def metrics(_: ReaderUnlessPublic, service: InService) -> Response:
    """Return Prometheus metrics."""
    body, content_type = service.metrics.render()
    return Response(body, media_type=content_type)
