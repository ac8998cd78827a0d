"""For whoever runs it: is it alive, is it able to serve, what does it do."""

from typing import Any

from fastapi import APIRouter, Request, Response

from service.api.access import key_with
from service.api.service import InService, Service, service_of
from service.domain.delivery import State
from service.domain.errors import Unavailable

router = APIRouter(tags=["operations"])


@router.get("/healthz", operation_id="alive")
async def alive() -> dict[str, str]:
    """Tell that the process answers."""
    return {"status": "alive"}


@router.get("/readyz", operation_id="ready")
async def ready(request: Request, service: InService) -> dict[str, Any]:
    """Tell whether it can serve: it knows the head of the log, and is not shutting down."""
    if request.state.gateway.leaving:
        raise Unavailable("this instance is shutting down")
    if not service.follower.trusted:
        raise Unavailable("the log cannot be read just now")
    return {"status": "ready", "position": service.follower.hub.position}


@router.get("/stats", operation_id="stats")
async def stats(request: Request, service: InService) -> dict[str, Any]:
    """Return what this instance holds and has done."""
    _may_look(request, service)
    hub = service.follower.hub
    states = [connection.state for connection in hub]
    return {
        "instance": service.instance,
        "position": hub.position,
        "head_confirmed_age": round(service.follower.confirmed_age, 3),
        "users": len(hub.users),
        "connections": {s.value: states.count(s) for s in (State.CATCHING_UP, State.LIVE)},
        "delivered": hub.delivered,
        "recent_bytes": hub.recent.bytes,
        "revocations": len(service.control.revocations),
    }


@router.get("/metrics", operation_id="metrics", response_class=Response)
async def metrics(request: Request, service: InService) -> Response:
    """Return Prometheus metrics."""
    _may_look(request, service)
    body, content_type = service.metrics.render()
    return Response(body, media_type=content_type)


def _may_look(request: Request, service: Service) -> None:
    if not service.settings.metrics_public:
        key_with(request, service_of(request), "read")
