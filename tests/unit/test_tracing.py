"""Which ``traceparent`` is believed, and what of it log lines show."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.tracing import Trace, trace_of
from service.observe.requests import Asked, current, mark

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SOUND = f"00-{TRACE}-{SPAN}-01"


def read(*values: str) -> Trace | None:
    return trace_of([(b"host", b"here"), *((b"traceparent", value.encode("latin-1")) for value in values)])


@pytest.mark.parametrize("value", [
    SOUND,
    f"00-{TRACE}-{SPAN}-00",
    f"00-{TRACE}-{SPAN}-ff",
    f" {SOUND}\t",
    f"01-{TRACE}-{SPAN}-01",
    f"cc-{TRACE}-{SPAN}-01-what-the-future-will-bring",
    f"fe-{TRACE}-{SPAN}-01-",
])  # fmt: skip
def test_a_sound_one_is_believed(value: str) -> None:
    assert read(value) == Trace(TRACE, SPAN)


@pytest.mark.parametrize("value", [
    "",
    "nonsense",
    SOUND.upper(),
    f"ff-{TRACE}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE}-{SPAN}",
    f"00-{TRACE}-{SPAN}-1",
    f"00-{TRACE}-{SPAN}-zz",
    f"00-{TRACE[1:]}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}0-01",
    f"0-{TRACE}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}-01-more",
    f"00-{TRACE}-{SPAN}-01.",
    f"cc-{TRACE}-{SPAN}-01.more",
    f"cc-{TRACE}-{SPAN}-010",
    f"{SOUND}\n",
])  # fmt: skip
def test_any_other_is_ignored(value: str) -> None:
    assert read(value) is None


def test_none_and_two_are_ignored() -> None:
    assert read() is None
    assert read(SOUND, SOUND) is None


@given(st.binary(max_size=80))
def test_whatever_comes_is_read_without_a_failure(value: bytes) -> None:
    trace_of([(b"traceparent", value)])


def test_a_line_carries_the_request_that_it_is_about() -> None:
    record = logging.makeLogRecord({"msg": "m", "span_id": "its own"})
    token = current.set(Asked("id-1", [(b"traceparent", SOUND.encode())]))
    try:
        assert mark(record)
    finally:
        current.reset(token)
    assert (vars(record)["request_id"], vars(record)["trace_id"]) == ("id-1", TRACE)
    assert vars(record)["span_id"] == "its own"


def test_a_line_about_no_request_carries_none() -> None:
    record = logging.makeLogRecord({"msg": "m"})
    assert mark(record)
    assert "request_id" not in vars(record)
