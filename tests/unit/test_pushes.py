"""The AsyncAPI document: all frames of the code and no others, with examples that are true."""

import re
from typing import Any

import msgspec
import pytest

from service.api import fields
from service.domain import addresses, commands, errors
from service.domain.commands import read_command
from tests import contract
from tests.unit.test_docs import close_codes, refusals, sent_types

SENT, TAKEN = contract.messages("push"), contract.messages("command")
COMMANDS = {kind.__struct_config__.tag: kind for kind in commands.AnyCommand.__args__}
MESSAGES = [*SENT.values(), *TAKEN.values()]


def test_it_has_every_frame_and_every_command() -> None:
    assert SENT.keys() == sent_types()
    assert TAKEN.keys() == COMMANDS.keys()
    assert len(MESSAGES) == len(contract.pushes()["components"]["messages"])
    assert len(MESSAGES) == len(contract.pushes()["channels"]["socket"]["messages"])


def test_a_stream_has_every_frame_that_answers_no_command() -> None:
    asked_for = {"ok", "error", "pong", "user_joined_room", "user_left_room"}
    streamed = contract.messages("stream")
    assert streamed.keys() == SENT.keys() - asked_for - {"ping"}
    assert streamed.keys() == contract.pushes()["channels"]["stream"]["messages"].keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_the_fields_that_are_read(name: str) -> None:
    fields = msgspec.structs.fields(COMMANDS[name])
    schema = TAKEN[name]["payload"]
    assert schema["properties"].keys() == {"type", *(field.name for field in fields)}
    assert set(schema["required"]) == {"type", *(field.name for field in fields if field.required)}


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message["name"])
def test_examples_fit(message: dict[str, Any]) -> None:
    assert message["examples"]
    for example in message["examples"]:
        assert contract.fits(contract.payload(message), example["payload"], contract.pushes()) == []


@pytest.mark.parametrize("name", TAKEN)
def test_examples_of_commands_are_read(name: str) -> None:
    for example in TAKEN[name]["examples"]:
        assert isinstance(read_command(msgspec.json.encode(example["payload"]).decode()), COMMANDS[name])


def test_it_has_every_error_code_and_every_close_code() -> None:
    codes = contract.pushes()["components"]["schemas"]["code"]["enum"]
    assert set(codes) == {kind.code for kind in refusals(errors.TidingsError)}
    told = re.findall(r"^\| (\d+) \|", contract.pushes()["info"]["description"], re.MULTILINE)
    assert {int(code) for code in told} == close_codes() | {1000}


@pytest.mark.parametrize(("schema", "check"), [
    ("room", addresses.check_room), ("user", addresses.check_user), ("address", addresses.check_address),
])  # fmt: skip
@pytest.mark.parametrize("value", [
    "", "a", "a" * 128, "a" * 129, "a" * 256, "a" * 257, "a b", "ä", "a\n", "\x7f", "\x80", "*", "everyone",
    "everyone\n", "user:", "user:a", "user:a\n", "user:" + "ä" * 256, "user:" + "ä" * 257, "room:", "room:a",
    "room:a b", "room:a\n", "room:" + "a" * 128, "room:" + "a" * 129, "else:a",
])  # fmt: skip
def test_patterns_allow_what_the_code_allows(schema: str, check: Any, value: str) -> None:
    """``$`` means the very end to ECMA-262, and Python's also what stands before a last line break."""
    described = contract.pushes()["components"]["schemas"][schema]
    exact = {**described, "pattern": described["pattern"].replace("$", r"\Z")}
    try:
        check(value)
    except errors.Invalid:
        assert contract.fits(exact, value, contract.pushes()) != []
    else:
        assert contract.fits(exact, value, contract.pushes()) == []


def test_both_documents_have_the_same_patterns() -> None:
    schemas = contract.pushes()["components"]["schemas"]
    for name, same in {"room": fields.ROOM, "user": fields.USER, "address": fields.ADDRESS}.items():
        assert schemas[name]["pattern"] == same["pattern"]
    assert schemas["position"]["maximum"] == fields.POSITION["maximum"]
