"""What the descriptions promise, of HTTP and of the socket, and whether an answer keeps to it.

``python -m tests.contract`` writes docs/openapi.json.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import yaml
from jsonschema import Draft202012Validator

from service.app import create_app
from service.settings import Settings

DOCS = Path(__file__).parent.parent / "docs"
DOCUMENT, PUSHES = DOCS / "openapi.json", DOCS / "asyncapi.yaml"


@cache
def description() -> dict[str, Any]:
    """Return the document as the application makes it."""
    return create_app(Settings(_env_file=None)).openapi()


def operations() -> dict[str, dict[str, Any]]:
    """Return the operations by their ids."""
    paths = description()["paths"].values()
    return {operation["operationId"]: operation for path in paths for operation in path.values()}


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference into the components, if it is one."""
    if "$ref" not in node:
        return node
    _, _, kind, name = node["$ref"].split("/")
    found: dict[str, Any] = description()["components"][kind][name]
    return found


def fits(schema: dict[str, Any], value: Any, document: dict[str, Any] | None = None) -> list[str]:
    """Return what is wrong with a value, by a schema of a document (OpenAPI's)."""
    whole = {**schema, "components": (document or description())["components"]}
    checker = Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER)
    return [f"{error.json_path}: {error.message}" for error in checker.iter_errors(value)]


@cache
def templates() -> list[tuple[re.Pattern[str], dict[str, Any]]]:
    """Return the operations of each path, by what matches it as it stands in a request."""
    paths = description()["paths"].items()
    return [(re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), methods) for path, methods in paths]


def operation_of(request: httpx.Request) -> dict[str, Any] | None:
    """Return the operation that a request is for, or None if it is for nothing that is described."""
    path = request.url.raw_path.decode().partition("?")[0]
    methods = next((methods for pattern, methods in templates() if pattern.fullmatch(path)), {})
    found: dict[str, Any] | None = methods.get(request.method.lower())
    return found


async def check(response: httpx.Response) -> None:
    """Fail where an answer is not what the document says; every test's requests are asked this.

    A 500 is in no document: the test that provokes one says so itself.
    """
    operation = operation_of(response.request)
    if operation is None or response.status_code == 500:
        return
    told, name = f"{response.status_code}", operation["operationId"]
    assert told in operation["responses"], (
        f"{name} answers {told}: add `responses=refused_with(…)` to its route"
    )
    described = resolved(operation["responses"][told])
    required = {header for header, of in described["headers"].items() if resolved(of).get("required")}
    assert not [header for header in required if header not in response.headers], f"{name} {told}"
    if response.is_success:
        ours = {header for header in description()["components"]["headers"] if header in response.headers}
        for header in ours:
            assert header in described["headers"], f"{name} {told}: {header}"
            schema = resolved(described["headers"][header])["schema"]
            assert fits(schema, response.headers[header]) == [], f"{name} {told}: {header}"
    if "content" not in described:
        return
    kind = response.headers["content-type"].partition(";")[0]
    assert kind in described["content"], f"{name} {told}"
    if kind.endswith("json"):
        await response.aread()
        assert fits(described["content"][kind]["schema"], response.json()) == [], f"{name} {told}"


@cache
def pushes() -> dict[str, Any]:
    """Return the AsyncAPI document."""
    document: dict[str, Any] = yaml.safe_load(PUSHES.read_text())
    return document


def messages(operation: str) -> dict[str, dict[str, Any]]:
    """Return the messages of one of its operations, by their type."""
    names = [each["$ref"].rpartition("/")[2] for each in pushes()["operations"][operation]["messages"]]
    found = [pushes()["components"]["messages"][name] for name in names]
    return {message["name"]: message for message in found}


def payload(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message's schema, which refuses fields that it does not describe."""
    schema = message["payload"]
    if "$ref" in schema:
        schema = pushes()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return {**schema, "additionalProperties": False}


def text() -> str:
    """Return the document as it is kept in docs."""
    return json.dumps(description(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(text())
