"""``POST /v1/events`` and ``/v1/events/batch`` as routes; most go by ``service.api.intake``."""

from time import time
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from service.api.access import key_with, read_body
from service.api.ingest import PATHS, answer, has_original, originals_of, pass_on, read_post, submit
from service.api.receipts import seconds_to_wait, with_first_receipt
from service.api.service import service_of


async def publish(request: Request) -> Response:
    """Append what the body says, and tell where it stands."""
    service = service_of(request)
    key = key_with(request, service, "publish")
    wait = seconds_to_wait(request)
    body = await read_body(request, service.settings.max_body)
    post = read_post(request.scope["path"], body, key, service.rules, time(), request.headers)
    request.state.standings = service.limits.charge_key(key, post.units, len(post.ephemeral))
    submitted = submit(service, post)
    outcomes = [] if submitted is None else await submitted
    pass_on(service, post, outcomes)
    again = any(map(has_original, outcomes))
    told = answer(post, outcomes, await originals_of(service.database, outcomes) if again else ())
    shown = told.body if wait is None else await with_first_receipt(service, told.body, wait)
    return Response(shown, told.status, REPLAYED if told.replayed else None, "application/json")


class PlainRoute(Route):
    """A route without FastAPI's machinery, which would cost more than everything else on the way."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match, and leave the route in the scope, as FastAPI's own do."""
        match, child = super().matches(scope)
        child["route"] = self
        return match, child


REPLAYED: Final = {"Idempotent-Replayed": "true"}
ROUTES: Final = tuple(PlainRoute(path, publish, methods=["POST"]) for path in PATHS)
