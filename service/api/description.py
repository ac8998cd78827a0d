"""The OpenAPI document, good enough to make clients of.

FastAPI reads off the routes what they take and give. What is the same for all of them is added here by
rules, so that a new route is described in full by being there: its refusals follow from whether it has
a body, parameters, a place in its path, or a caller who must be known. A route that refuses for a
reason of its own says so with ``responses=refused_with(…)``; its examples are in ``service.api.examples``.
"""

import json
import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.api import publishing
from service.api.examples import ANSWERED, ASKED, REFUSED, Examples
from service.domain.errors import Invalid, TidingsError, UnknownCommand
from service.domain.problems import CONTENT_TYPE, problem_body, status_of

Schema = dict[str, Any]

ABOUT: Final = """\
Events come in over HTTP, are committed to PostgreSQL, pushed over a WebSocket or a stream, and replayed until
they are received.

Errors are problems (RFC 9457): go by their `code`. Every response has an `X-Request-Id`. What the WebSocket
(`/v1/ws`) and the stream of Server-Sent Events (`/v1/stream`) say is described by the AsyncAPI document
beside this one."""

TAGS: Final = {
    "events": "Sending events, looking at them, taking them back",
    "tokens": "Tokens for clients",
    "rooms": "Who is in a room, and what was said there",
    "inbox": "What was sent to a user, read or not",
    "clients": "What a client says besides its stream",
    "devices": "How far a user's devices have got",
    "admin": "Revocations, connections, API keys, erasures and the audit log",
    "operations": "For whoever runs it",
}

SERVERS: Final = (
    {"url": "/", "description": "Where this document came from"},
    {"url": "http://127.0.0.1:8000", "description": "`tidings serve --dev`"},
)

SECURITY: Final = {
    "apiKey": {
        "type": "http", "scheme": "bearer", "bearerFormat": "tk_<id>_<secret>",
        "description": "An API key. What an operation lists with it are the scopes that the key needs.",
    },
    "clientToken": {
        "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
        "description": "A client's JSON Web Token, of at most 8 KiB.",
    },
    "clientTokenInQuery": {
        "type": "apiKey", "in": "query", "name": "token",
        "description": "The same where a browser can set no header: for `/v1/ws`, and for streams.",
    },
}  # fmt: skip

HEADERS: Final = {
    "X-Request-Id": {
        "description": "The request's id: the caller's, if it sent a sound one, else a new one",
        "required": True, "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
    },
    "Retry-After": {
        "description": "Seconds to wait before the next try", "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {
        "description": "How to say who calls", "required": True, "schema": {"const": "Bearer"},
    },
    "Idempotent-Replayed": {
        "description": "`true` where an `id` had been accepted before: these are the original's positions",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "Link": {
        "description": "Where the next page is, if there is one (RFC 8288)",
        "schema": {"type": "string", "pattern": '^<[^>]+>; rel="next"$'},
    },
    "RateLimit-Policy": {
        "description": "What limits the caller, if anything does: `q` events in `w` seconds",
        "schema": {"type": "string", "examples": ['"events";q=1000;w=20']},
    },
    "RateLimit": {
        "description": "Where the caller stands: `r` events at once, and in `t` seconds all of them again",
        "schema": {"type": "string", "examples": ['"events";r=999;t=1']},
    },
}  # fmt: skip


def kinds(root: type[TidingsError] = TidingsError) -> Iterator[type[TidingsError]]:
    """Yield the errors that HTTP can tell, each after its own kinds."""
    for kind in root.__subclasses__():
        if kind.__module__ == TidingsError.__module__ and kind is not UnknownCommand:  # that one is a frame's
            yield from kinds(kind)
    yield root


PROBLEM: Final = {
    "type": "object",
    "description": "What was wrong (RFC 9457). Go by `code`: `detail` is for people",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string", "pattern": "^urn:tidings:problem:"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "enum": sorted({kind.code for kind in kinds()})},
        "detail": {"type": "string"},
        "errors": {
            "type": "array", "description": "The fields that are to blame, where one is",
            "items": {
                "type": "object", "required": ["pointer", "detail"],
                "properties": {
                    "pointer": {"type": "string", "description": "A JSON pointer (RFC 6901)"},
                    "detail": {"type": "string"},
                },
            },
        },
        "instance": {
            "type": "string", "pattern": "^urn:tidings:request:",
            "description": "It ends with the request's id",
        },
    },
}  # fmt: skip

_STANDING: Final = ("RateLimit-Policy", "RateLimit")
_RETRIED: Final = {
    401: ("WWW-Authenticate",), 409: ("Retry-After",), 503: ("Retry-After",),
    429: ("Retry-After", *_STANDING),
}  # fmt: skip
"""What a refusal's headers tell of the next try, by status."""
_NAMES: Final = {status_of(kind("")): kind.__name__ for kind in kinds()}
"""How the refusals of a status are called: as the most general one, which stands last."""


def describe(app: FastAPI) -> Schema:
    """Return the document of the application's routes."""
    made = get_openapi(
        title=app.title, version=app.version, description=ABOUT, routes=app.routes,
        tags=[{"name": name, "description": text} for name, text in TAGS.items()],
        servers=list(SERVERS), license_info={"name": "MIT", "identifier": "MIT"},
    )  # fmt: skip
    known = _well_named({"paths": made["paths"], "schemas": made["components"]["schemas"]})
    paths = publishing.paths()
    for path, operations in known["paths"].items():
        paths[path] = paths.get(path, {}) | operations
    for path, operations in paths.items():
        for operation in operations.values():
            _complete(path, operation)
    return made | {"paths": paths, "components": _components(known["schemas"])}


def _well_named(document: Schema) -> Schema:
    """Call a page of ``Member`` ``MemberPage``; leave out titles that only repeat a name; write 1 for 1.0."""

    def untitled(node: Schema) -> Schema:
        return {k: v for k, v in node.items() if k != "title" or not isinstance(v, str)}

    text = re.sub(r"\bPage_(\w+)_\b", r"\1Page", json.dumps(document))
    named: Schema = json.loads(text, object_hook=untitled, parse_float=_number)
    return named


def _number(text: str) -> float:
    number = float(text)
    return int(number) if number.is_integer() else number


def _complete(path: str, operation: Schema) -> None:
    """Add what follows from rules to one operation."""
    about = operation["description"]
    operation["summary"] = re.split(r"[.:;](?:\s|$)", about, maxsplit=1)[0]
    operation["description"] = about + _scopes(operation)
    answers = {s: r for s, r in operation["responses"].items() if int(s) < 400}
    own = {int(status) for status in operation["responses"].keys() - answers.keys()} - {422}
    operation["responses"] = answers | {
        str(status): {"$ref": f"#/components/responses/{_NAMES[status]}"}
        for status in sorted(own | set(_usual(path, operation)))
    }
    name = operation["operationId"]
    told = ("X-Request-Id", *(_STANDING if 429 in own else ()))
    for status, answer in answers.items():
        if answer["description"] == "Successful Response":  # FastAPI's, where a route says nothing
            answer["description"] = "Done"
        answer["headers"] = answer.get("headers", {}) | _header(*told)
        for media in answer.get("content", {}).values():
            media["examples"] = _shown(ANSWERED, f"{name} {status}", name)
    for kind, media in operation.get("requestBody", {}).get("content", {}).items():
        media["examples"] = _shown(ASKED, f"{name} {kind}", name)


def _scopes(operation: Schema) -> str:
    scopes = [scope for each in operation.get("security", []) for scope in each.get("apiKey", [])]
    return f"\n\nA key needs the scope `{scopes[0]}`." if scopes else ""


def _usual(path: str, operation: Schema) -> Iterator[int]:
    """Yield the refusals that an operation has for what it is."""
    if "requestBody" in operation:
        yield from (400, 413, 422)
    if "parameters" in operation:
        yield 422
    if "security" in operation:
        yield from (401, 403)
    if "{" in path:
        yield 404  # at the least where a slash in a name makes it another path
    if path.startswith("/v1/"):
        yield 503


def _shown(examples: dict[str, Examples], *names: str) -> Schema:
    """Return the first examples that are there under one of these names."""
    found = next((examples[name] for name in names if name in examples), {})
    return {name: {"value": value} for name, value in found.items()}


def _header(*names: str) -> Schema:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _components(schemas: Schema) -> Schema:
    own = {name: schema for name, schema in schemas.items() if "ValidationError" not in name}
    return {
        "schemas": dict(sorted((own | publishing.SCHEMAS | {"Problem": PROBLEM}).items())),
        "responses": dict(_responses()),
        "headers": HEADERS,
        "securitySchemes": SECURITY,
    }


def _responses() -> Iterator[tuple[str, Schema]]:
    """Yield the refusals of each status, by name."""
    told = [kind for kind in kinds() if kind is not TidingsError]
    for status, group in groupby(sorted(told, key=_status), key=_status):
        examples = {kind.code: {"value": _example(kind)} for kind in group}
        media = {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": examples}
        yield (
            _NAMES[status],
            {
                "description": [*examples.values()][-1]["value"]["title"],
                "headers": _header("X-Request-Id", *_RETRIED.get(status, ())),
                "content": {CONTENT_TYPE: media},
            },
        )


def _status(kind: type[TidingsError]) -> int:
    return status_of(kind(""))


def _example(kind: type[TidingsError]) -> Any:
    error = kind(REFUSED.get(kind.code) or (kind.__doc__ or "").partition(".")[0])
    if type(error) is Invalid:
        error.pointer = "#/to/1"
    return json.loads(problem_body(error, "1269c3793e8d4aee95d1444924b280e1"))
