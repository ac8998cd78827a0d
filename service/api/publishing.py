"""How the publishing of events is described: its routes are plain ones, of which FastAPI knows nothing."""

from typing import Any, Final

from service.api.fields import ADDRESS, POSITION, USER, text
from service.api.ingest import MAX_ADDRESSES, MAX_EVENTS, MAX_EXCLUDED

_EVENT: Final = {
    "type": "object",
    "description": "An event as a producer sends it",
    "required": ["to", "type"],
    "additionalProperties": False,
    "properties": {
        "to": {
            "description": f"An address, or up to {MAX_ADDRESSES:,} of them, all or none",
            "anyOf": [ADDRESS, {
                "type": "array", "items": ADDRESS, "minItems": 1, "maxItems": MAX_ADDRESSES,
            }],
        },
        "type": text(128, examples=["order.shipped"]),
        "data": {"description": "Any JSON; by default `null`, and at most 32 KiB"},
        "id": {"description": "Accepted once for each producer; a repetition gets the original's answer",
               **text(255, type=["string", "null"])},
        "exclude": {"description": "Users who do not get it", "type": "array", "items": USER,
                    "maxItems": MAX_EXCLUDED},
    },
}  # fmt: skip

_BATCH: Final = {
    "type": "object",
    "description": "Events that are accepted together or not at all",
    "required": ["events"],
    "additionalProperties": False,
    "properties": {"events": {
        "type": "array", "items": {"$ref": "#/components/schemas/NewEvent"}, "minItems": 1,
        "maxItems": MAX_EVENTS,
    }},
}  # fmt: skip

_PLACED: Final = {
    "type": "object",
    "description": "Where an event stands in the log",
    "required": ["position", "to", "id"],
    "properties": {"position": POSITION, "to": ADDRESS, "id": {"type": "string"}},
}

_ACCEPTED: Final = {
    "type": "object",
    "description": "Where everything stands, one entry for each address of each event",
    "required": ["events"],
    "properties": {"events": {"type": "array", "items": {"$ref": "#/components/schemas/Placed"}}},
}

SCHEMAS: Final = {"NewEvent": _EVENT, "NewEventBatch": _BATCH, "Placed": _PLACED, "Accepted": _ACCEPTED}


def paths() -> dict[str, Any]:
    """Return the operations by path and method."""
    event = _operation("publishEvent", "NewEvent", "Publish an event, to one address or to many.")
    batch = _operation("publishEvents", "NewEventBatch", "Publish events in one commit, all of them or none.")
    return {"/v1/events": {"post": event}, "/v1/events/batch": {"post": batch}}


def _operation(name: str, body: str, description: str) -> dict[str, Any]:
    def json_of(schema: str) -> dict[str, Any]:
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}

    return {
        "operationId": name,
        "tags": ["events"],
        "description": description,
        "security": [{"apiKey": ["publish"]}],
        "requestBody": {"required": True, "content": json_of(body)},
        "responses": {"202": {
            "description": "Committed: everything stands in the log at these positions",
            "headers": {"Idempotent-Replayed": {"$ref": "#/components/headers/Idempotent-Replayed"}},
            "content": json_of("Accepted"),
        }},
    }  # fmt: skip
