"""What the description of the HTTP API promises, and whether an answer keeps to it.

``python -m tests.contract`` writes docs/openapi.json.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from service.app import create_app
from service.settings import Settings

DOCUMENT = Path(__file__).parent.parent / "docs/openapi.json"


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


def fits(schema: dict[str, Any], value: Any) -> list[str]:
    """Return what is wrong with a value, by a schema of the document."""
    whole = {**schema, "components": description()["components"]}
    checker = Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER)
    return [f"{error.json_path}: {error.message}" for error in checker.iter_errors(value)]


def text() -> str:
    """Return the document as it is kept in docs."""
    return json.dumps(description(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(text())
