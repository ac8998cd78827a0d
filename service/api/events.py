"""``POST /v1/events`` and ``/v1/events/batch`` as routes; most go by ``service.api.intake``."""

from time import time
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from service.api.access import key_with, read_body
from service.api.ingest import PATHS, answer, has_original, originals_of, pass_on, read_post, submit
from service.api.service import service_of
from service.domain.publication import MAX_ADDRESSES, MAX_EVENTS, MAX_EXCLUDED


async def publish(request: Request) -> Response:
    """Append what the body says, and tell where it stands."""
    service = service_of(request)
    key = key_with(request, service, "publish")
    body = await read_body(request, service.settings.max_body)
    post = read_post(request.scope["path"], body, key, service.rules, time(), request.headers)
    request.state.standings = service.limits.charge_key(key, post.units, len(post.ephemeral))
    submitted = submit(service, post)
    outcomes = [] if submitted is None else await submitted
    pass_on(service.follower.hub, post, outcomes)
    again = any(map(has_original, outcomes))
    told = answer(post, outcomes, await originals_of(service.database, outcomes) if again else ())
    return Response(told.body, told.status, REPLAYED if told.replayed else None, "application/json")


class PlainRoute(Route):
    """A route without FastAPI's machinery, which would cost more than everything else on the way."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match, and leave the route in the scope, as FastAPI's own do."""
        match, child = super().matches(scope)
        child["route"] = self
        return match, child


REPLAYED: Final = {"Idempotent-Replayed": "true"}
ROUTES: Final = tuple(PlainRoute(path, publish, methods=["POST"]) for path in PATHS)


def describe(schema: dict[str, Any]) -> None:
    """Add the plain routes to the OpenAPI description."""
    address = {"type": "string", "examples": ["user:alice", "room:orders", "everyone"]}
    event = {
        "type": "object",
        "required": ["to", "type"],
        "additionalProperties": False,
        "properties": {
            "to": {"oneOf": [
                address,
                {"type": "array", "items": address, "minItems": 1, "maxItems": MAX_ADDRESSES},
            ]},
            "type": {"type": "string", "minLength": 1, "maxLength": 128},
            "data": {"description": "Any JSON, at most 32 KiB"},
            "id": {"type": "string", "minLength": 1, "maxLength": 255,
                   "description": "Accepted once for each producer; a repeat gets the original's answer"},
            "exclude": {"type": "array", "items": {"type": "string"}, "maxItems": MAX_EXCLUDED},
        },
    }  # fmt: skip
    batch = {
        "type": "object",
        "required": ["events"],
        "additionalProperties": False,
        "properties": {"events": {
            "type": "array", "items": {"$ref": "#/components/schemas/Event"},
            "minItems": 1, "maxItems": MAX_EVENTS,
        }},
    }  # fmt: skip
    placed = {
        "type": "object",
        "required": ["position", "to", "id"],
        "properties": {"position": {"type": "integer"}, "to": address, "id": {"type": "string"}},
    }
    accepted = {
        "type": "object",
        "required": ["events"],
        "properties": {"events": {"type": "array", "items": placed}},
    }
    schemas = schema["components"].setdefault("schemas", {})
    schemas |= {"Event": event, "EventBatch": batch, "Accepted": accepted}
    schema["paths"]["/v1/events"] = _described("publishEvent", "Publish an event", "Event")
    schema["paths"]["/v1/events/batch"] = _described(
        "publishEvents", "Publish events, all of them or none", "EventBatch"
    )


def _described(operation: str, summary: str, body: str) -> dict[str, Any]:
    def json_of(name: str) -> dict[str, Any]:
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}

    problem = {"$ref": "#/components/responses/Problem"}
    return {"post": {
        "operationId": operation,
        "tags": ["events"],
        "summary": summary,
        "security": [{"HTTPBearer": []}],
        "requestBody": {"required": True, "content": json_of(body)},
        "responses": {
            "202": {
                "description": "Committed: everything stands in the log at these positions",
                "content": json_of("Accepted"),
            },
            "4XX": problem,
            "503": problem,
        },
    }}  # fmt: skip
