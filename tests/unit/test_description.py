"""The OpenAPI document: valid, complete, with examples that are true, and the same as in docs."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import validate

from service.api import ingest, publishing
from service.api.description import kinds
from service.domain import publication
from tests import contract

OPERATIONS = contract.operations()


def bodies(operation: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what an operation takes and gives, with what it is called."""
    places = {"body": operation.get("requestBody", {}), **operation["responses"]}
    for name, place in places.items():
        for media in contract.resolved(place).get("content", {}).values():
            yield name, media


def test_the_document_is_valid_openapi() -> None:
    validate(contract.description())


def test_the_document_in_docs_is_what_the_application_says() -> None:
    assert contract.DOCUMENT.read_text() == contract.text(), "write it anew: python -m tests.contract"


def test_operations_have_names_of_their_own() -> None:
    count = sum(len(methods) for methods in contract.description()["paths"].values())
    assert len(OPERATIONS) == count


def test_every_tag_is_described() -> None:
    used = {tag for operation in OPERATIONS.values() for tag in operation["tags"]}
    assert used == {tag["name"] for tag in contract.description()["tags"]}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_described_in_full(name: str) -> None:
    operation = OPERATIONS[name]
    assert operation["summary"]
    assert len(operation["summary"]) <= 80
    assert not [status for status in operation["responses"] if not status.isdigit()]
    for status, response in operation["responses"].items():
        headers = contract.resolved(response)["headers"]
        assert contract.resolved(headers["X-Request-Id"])["required"], status
        if int(status) >= 400:
            assert [*contract.resolved(response)["content"]] == ["application/problem+json"]
        elif int(status) != 204:
            assert response["content"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_body_has_examples_that_fit_it(name: str) -> None:
    for place, media in bodies(OPERATIONS[name]):
        assert media["examples"], f"{place}: add one to service/api/examples.py"
        for example in media["examples"].values():
            assert contract.fits(media["schema"], example["value"]) == [], place


def test_every_problem_has_its_code_and_an_example() -> None:
    codes = contract.description()["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]
    assert set(codes) == {kind.code for kind in kinds()}
    shown = {
        code
        for response in contract.description()["components"]["responses"].values()
        for media in response["content"].values()
        for code in media["examples"]
    }
    assert shown == set(codes) - {"internal"}


@pytest.mark.parametrize(("schema", "shape"), [
    ("NewEvent", publication.EventIn), ("NewEventBatch", publication.BatchIn), ("Placed", ingest.Placed),
    ("PutOff", ingest.PutOff), ("PassedOn", ingest.PassedOn),
])  # fmt: skip
def test_events_are_described_as_they_are_read(schema: str, shape: type[msgspec.Struct]) -> None:
    fields = msgspec.structs.fields(shape)
    described = publishing.SCHEMAS[schema]
    assert [*described["properties"]] == [field.name for field in fields]
    assert described["required"] == [field.name for field in fields if field.required]
