"""How the publishing of events is described: its routes are plain ones, of which FastAPI knows nothing."""

from typing import Any, Final

from service.api.fields import ADDRESS, DEVICE, POSITION, USER, text
from service.api.ingest import MAX_KEY
from service.domain.cloudevents import BATCHED, MAX_SOURCE, STRUCTURED
from service.domain.publication import (
    MAX_ADDRESSES,
    MAX_EVENTS,
    MAX_EXCLUDED,
    MAX_ID,
    MAX_TTL,
    MAX_TYPE,
    MAX_UNDELIVERED_AFTER,
)  # fmt: skip
from service.stream.receipts import MAX_SECONDS

_OPTIONAL: Final = ["string", "null"]
_INSTANT: Final = {"type": "string", "format": "date-time"}


def _seconds(limit: int, description: str) -> dict[str, Any]:
    return {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": limit, "description": description}


# No `default`: generated clients would send it, also to a service that does not know the field yet.
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
        "type": text(MAX_TYPE, examples=["order.shipped"]),
        "data": {"description": "Any JSON; by default `null`, and at most 32 KiB"},
        "id": text(MAX_ID, type=_OPTIONAL, description=(
            "Accepted once for each producer; a repetition gets the original's answer"
        )),
        "exclude": {"type": "array", "items": USER, "maxItems": MAX_EXCLUDED,
                    "description": "Users who do not get it"},
        "ttl": _seconds(MAX_TTL, "Seconds from the commit, after which it is not replayed any more"),
        "collapse_key": text(MAX_ID, type=_OPTIONAL, description=(
            "Of one address's events with the same key only the newest is replayed"
        )),
        "deliver_at": {**_INSTANT, "type": _OPTIONAL,
                       "description": "It comes into the log then, at most 90 days from now"},
        "ephemeral": {"type": "boolean", "description": (
            "Passed on to who is connected just now, and not stored. It excludes `ttl`, `collapse_key`, "
            "`deliver_at`, `undelivered_after` and `undelivered_unless`"
        )},
        "undelivered_after": _seconds(MAX_UNDELIVERED_AFTER, (
            "Seconds after which a callback is made unless it was delivered; only to users, and where a "
            "callback is configured"
        )),
        "undelivered_unless": {"enum": ["received", "read", None], "description": (
            "What keeps the callback from being made; by default `received`"
        )},
    },
}  # fmt: skip

_BATCH: Final = {
    "type": "object",
    "description": "Events that are accepted together or not at all, or with `partial` each by itself",
    "required": ["events"],
    "additionalProperties": False,
    "properties": {
        "events": {
            "type": "array", "items": {"$ref": "#/components/schemas/NewEvent"}, "minItems": 1,
            "maxItems": MAX_EVENTS,
        },
        "mode": {"type": "string", "enum": ["atomic", "partial"], "description": "By default `atomic`"},
        "validate_only": {"type": "boolean", "description": "Send nothing"},
    },
}  # fmt: skip

_CLOUD_EVENT: Final = {
    "type": "object",
    "description": (
        "An event in the JSON format of CloudEvents 1.0. `subject` is its address; `source` and `id` "
        "together are accepted once for each key. Of other attributes these mean what the fields of an event "
        "do: `ttl`, `collapsekey`, `deliverat`, `ephemeral`, `undeliveredafter`, `undeliveredunless`"
    ),
    "required": ["specversion", "source", "subject", "type", "id"],
    "properties": {
        "specversion": {"type": "string", "enum": ["1.0"]},
        "source": text(MAX_SOURCE),
        "subject": ADDRESS,
        "type": text(MAX_TYPE),
        "id": text(MAX_ID),
        "data": {"description": "Any JSON"},
        "data_base64": {"type": "string", "contentEncoding": "base64"},
    },
    "not": {"required": ["data", "data_base64"]},
    "additionalProperties": {"type": ["string", "boolean", "integer"]},
}

_PLACED: Final = {
    "type": "object",
    "description": "Where an event stands in the log",
    "required": ["position", "to", "id"],
    "properties": {"position": POSITION, "to": ADDRESS, "id": {"type": "string"}},
}

_PUT_OFF: Final = {
    "type": "object",
    "description": "An event that comes into the log when it is due; `scheduled` names it until then",
    "required": ["scheduled", "to", "id", "deliver_at"],
    "properties": {
        "scheduled": {"type": "string"}, "to": ADDRESS, "id": {"type": "string"}, "deliver_at": _INSTANT,
    },
}  # fmt: skip

_PASSED_ON: Final = {
    "type": "object",
    "description": "An ephemeral event, or one that was only validated",
    "required": ["to"],
    "properties": {"to": ADDRESS},
}

_EVENTS: Final = {"type": "array", "items": {"anyOf": [
    {"$ref": f"#/components/schemas/{name}"} for name in ("Placed", "PutOff", "PassedOn")
]}}  # fmt: skip

_ACCEPTED: Final = {
    "type": "object",
    "description": "What became of everything, one entry for each address of each event",
    "required": ["events"],
    "properties": {"events": _EVENTS},
}

_RECEIPT: Final = {
    "type": ["object", "null"],
    "description": "With `wait`: the first device that has received it, and after how many milliseconds",
    "required": ["user", "device", "position", "after_ms"],
    "properties": {
        "user": USER, "device": DEVICE, "position": POSITION, "after_ms": {"type": "integer", "minimum": 0},
    },
}  # fmt: skip

_AWAITED: Final = {
    **_ACCEPTED,
    "properties": {
        "events": _EVENTS,
        "received": _RECEIPT,
        "waited": {"type": "boolean", "description": "`false` if nobody could wait: nothing is known"},
    },
}

_JUDGED: Final = {
    "type": "object",
    "description": "What became of each event, in their order",
    "required": ["results"],
    "properties": {"results": {"type": "array", "items": {
        "type": "object",
        "required": ["status"],
        "properties": {
            "status": {"type": "integer"},
            "events": _EVENTS,
            "problem": {"$ref": "#/components/schemas/Problem"},
        },
    }}},
}  # fmt: skip

SCHEMAS: Final = {
    "NewEvent": _EVENT, "NewEventBatch": _BATCH, "CloudEvent": _CLOUD_EVENT, "Placed": _PLACED,
    "PutOff": _PUT_OFF, "PassedOn": _PASSED_ON, "Accepted": _ACCEPTED, "AcceptedEvent": _AWAITED,
    "Judged": _JUDGED,
}  # fmt: skip

_ONCE: Final = {
    "name": "Idempotency-Key", "in": "header", "required": False,
    "description": "Makes the request safe to repeat: a repeat gets the original's answer",
    "schema": {"type": "string", "pattern": f"^[!-~]([ -~]{{0,{MAX_KEY - 2}}}[!-~])?$"},
}  # fmt: skip
_WAIT: Final = {
    "name": "wait", "in": "query", "required": False,
    "description": "Seconds to wait for the first device that has received it",
    "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": int(MAX_SECONDS)},
}  # fmt: skip
_REPLAYED: Final = {"Idempotent-Replayed": {"$ref": "#/components/headers/Idempotent-Replayed"}}


def paths() -> dict[str, Any]:
    """Return the operations by path and method."""
    # The batched mode is in words only: of a call that may take an array too, openapi-python-client makes one
    # that fails.
    told = (
        "Publish an event, to one address or to many.\n\n"
        f"CloudEvents may also come as `{BATCHED}`, or with their attributes in headers (`ce-…`)."
    )
    event = _operation("publishEvent", told, "AcceptedEvent", {
        "application/json": _named("NewEvent"),
        STRUCTURED: _named("CloudEvent"),
    })  # fmt: skip
    event["parameters"].append(_WAIT)
    batch = _operation("publishEvents", "Publish events in one commit, all of them or none.", "Accepted", {
        "application/json": _named("NewEventBatch"),
    })  # fmt: skip
    batch["responses"]["200"] = _answer("With `validate_only`: nothing was sent", "Accepted")
    batch["responses"]["207"] = _answer("With `partial`: each event was judged by itself", "Judged")
    return {"/v1/events": {"post": event}, "/v1/events/batch": {"post": batch}}


def _named(schema: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{schema}"}


def _answer(description: str, schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": _named(schema)}}
    return {"description": description, "headers": _REPLAYED, "content": content}


def _operation(name: str, description: str, answer: str, bodies: dict[str, Any]) -> dict[str, Any]:
    return {
        "operationId": name,
        "tags": ["events"],
        "description": description,
        "security": [{"apiKey": ["publish"]}],
        "parameters": [_ONCE],
        "requestBody": {"required": True, "content": {kind: {"schema": of} for kind, of in bodies.items()}},
        "responses": {
            "202": _answer("Committed: everything stands in the log at these positions", answer),
            "409": {"description": "InFlight"},
            "429": {"description": "RateLimited"},
        },
    }
