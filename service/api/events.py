"""``POST /v1/events``, the busiest route: read with msgspec, appended, answered after the commit."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from service.api.access import key_with, read_body
from service.api.service import Service, service_of
from service.auth.keys import ApiKey
from service.domain.addresses import check_address, check_text, check_user
from service.domain.errors import Invalid, TooLarge
from service.domain.events import MAX_UNIT_BYTES, Draft, Unit
from service.domain.payload import check_data, decode, utf8
from service.store import log as store

MAX_ADDRESSES: Final = 1_000
MAX_EXCLUDED: Final = 100


class EventIn(msgspec.Struct, forbid_unknown_fields=True):
    """An event as a producer sends it."""

    to: str | list[str]
    type: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    id: str | None = None
    exclude: list[str] = []


_decode = msgspec.json.Decoder(EventIn).decode
_encode = msgspec.json.Encoder().encode


async def publish(request: Request) -> Response:
    """Append one event and say where it stands."""
    service = service_of(request)
    key = key_with(request, service, "publish")
    event = decode(_decode, utf8(await read_body(request, service.settings.max_body)))
    unit = as_unit(event, key, service.settings.max_data)
    outcome = await service.appender.append(unit)
    if outcome.replayed:
        entries = await _originals(service, outcome.first, outcome.entries)
        headers = {"Idempotent-Replayed": "true"}
    else:
        entries = [(outcome.first + n, draft.address) for n, draft in enumerate(unit.drafts)]
        headers = {}
    event_id = event.id if event.id is not None else str(outcome.first)
    body = {"events": [{"position": p, "to": to, "id": event_id} for p, to in entries]}
    return Response(_encode(body), 202, headers, "application/json")


async def _originals(service: Service, first: int, count: int) -> Sequence[tuple[int, str]]:
    async with service.database.connection() as connection:
        return await store.positions(connection, first, count)


def as_unit(event: EventIn, key: ApiKey, max_data: int) -> Unit:
    """Check an event and the key's right to send it; return what is to be appended."""
    addresses = _addresses(event.to)
    for index, address in enumerate(addresses):
        check_address(address, "#/to" if isinstance(event.to, str) else f"#/to/{index}")
        key.may_publish(address)
    check_text(event.type, 128, "#/type")
    if event.id is not None:
        check_text(event.id, 255, "#/id")
    if len(event.exclude) > MAX_EXCLUDED:
        raise Invalid(f"at most {MAX_EXCLUDED} users", "#/exclude")
    exclude = tuple(check_user(u, f"#/exclude/{n}") for n, u in enumerate(event.exclude))
    data = check_data(event.data, max_data, "#/data")
    drafts = [
        Draft(address, event.type, data, lead=lead, id=event.id, exclude=exclude)
        for lead, address in enumerate(addresses)
    ]
    event_key = None if event.id is None else f"id:{event.id}"
    unit = Unit(drafts, producer=f"key:{key.id}", key=event_key)
    if unit.size > MAX_UNIT_BYTES:
        raise TooLarge("data and exclude, once for each address, are more than 8 MiB", "#/to")
    return unit


def _addresses(to: str | list[str]) -> list[str]:
    if isinstance(to, str):
        return [to]
    if not 1 <= len(to) <= MAX_ADDRESSES:
        raise Invalid(f"1 to {MAX_ADDRESSES} addresses", "#/to")
    return list(dict.fromkeys(to))


class PlainRoute(Route):
    """A route without FastAPI's machinery, which would cost more than everything else on the way."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match, and leave the route in the scope, as FastAPI's own do."""
        match, child = super().matches(scope)
        child["route"] = self
        return match, child


ROUTES: Final = (PlainRoute("/v1/events", publish, methods=["POST"]),)


def describe(schema: dict[str, Any]) -> None:
    """Add the plain routes to the OpenAPI description."""
    address = {"type": "string", "examples": ["user:alice", "room:orders", "everyone"]}
    accepted = {
        "description": "Committed: the event stands in the log at these positions",
        "content": {"application/json": {"schema": {
            "type": "object",
            "required": ["events"],
            "properties": {"events": {"type": "array", "items": {
                "type": "object",
                "required": ["position", "to", "id"],
                "properties": {
                    "position": {"type": "integer"}, "to": address, "id": {"type": "string"},
                },
            }}},
        }}},
    }  # fmt: skip
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
    schema["paths"]["/v1/events"] = {"post": {
        "operationId": "publishEvent",
        "tags": ["events"],
        "summary": "Publish an event",
        "security": [{"HTTPBearer": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": event}}},
        "responses": {"202": accepted, "4XX": {"$ref": "#/components/responses/Problem"},
                      "503": {"$ref": "#/components/responses/Problem"}},
    }}  # fmt: skip
