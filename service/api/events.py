"""``POST /v1/events`` and ``/v1/events/batch`` as routes; most go by ``service.api.intake``."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from service.api.access import key_with, read_body
from service.api.ingest import READERS, answer, answer_with_originals
from service.api.service import service_of


async def publish(request: Request) -> Response:
    """Append what the body says, and tell where it stands."""
    service = service_of(request)
    key = key_with(request, service, "publish")
    body = await read_body(request, service.settings.max_body)
    units = READERS[request.scope["path"]](body, key, service.settings.max_data)
    outcomes = await service.appender.submit(units)
    if any(outcome.replayed for outcome in outcomes):
        told = await answer_with_originals(service.database, units, outcomes)
        return Response(told, 202, {"Idempotent-Replayed": "true"}, "application/json")
    return Response(answer(units, outcomes), 202, media_type="application/json")


class PlainRoute(Route):
    """A route without FastAPI's machinery, which would cost more than everything else on the way."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match, and leave the route in the scope, as FastAPI's own do."""
        match, child = super().matches(scope)
        child["route"] = self
        return match, child


ROUTES: Final = tuple(PlainRoute(path, publish, methods=["POST"]) for path in READERS)
