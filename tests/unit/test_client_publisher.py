"""The pure parts of the Python client that sends."""

import asyncio
import json
from datetime import UTC, datetime
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings_client import Refused, Sent, Unconfirmed
from tidings_client.answers import LONGEST, Again, Retries, Split, judge
from tidings_client.outgoing import BYTES, EVENTS, Buffer, Outgoing, batch_body, encoded


def outgoing(size: int = 10, id: str | None = None) -> Outgoing:
    return Outgoing(b"x" * size, id, asyncio.get_event_loop().create_future())


# --- Batches


def test_an_event_is_encoded_as_it_is_said() -> None:
    at = datetime(2026, 11, 26, tzinfo=UTC)
    body = encoded(("user:a", "room:b"), "t", {"ü": 1.5}, {"id": "i", "ttl": 5, "deliver_at": at})
    assert json.loads(body) == {
        "to": ["user:a", "room:b"], "type": "t", "data": {"ü": 1.5}, "id": "i", "ttl": 5,
        "deliver_at": "2026-11-26T00:00:00+00:00",
    }  # fmt: skip
    assert json.loads(encoded("everyone", "t", None, {})) == {"to": "everyone", "type": "t", "data": None}


@pytest.mark.parametrize("data", [float("nan"), float("inf"), "\ud800", object(), {1, 2}])
def test_what_is_no_json_concerns_nobody_else(data: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        encoded("user:a", "t", data, {})


@given(
    st.lists(
        st.tuples(st.sampled_from([1, 1000, BYTES // 3, BYTES, 2 * BYTES]), st.sampled_from([None, "a", "b"]))
    )
)
def test_batches_keep_the_order_and_the_bounds(events: list[tuple[int, str | None]]) -> None:
    loop = asyncio.new_event_loop()
    try:
        buffer = Buffer(10**6, 10**12)
        waiting = [Outgoing(b"x" * size, name, loop.create_future()) for size, name in events]
        for one in waiting:
            buffer.add(one)
        batches = []
        while batch := buffer.cut():
            batches.append(batch)
            ids = [one.id for one in batch if one.id is not None]
            assert len(ids) == len(set(ids))
            assert len(batch) <= EVENTS
            assert len(batch) == 1 or sum(len(one.body) for one in batch) <= 2 * BYTES
            assert len(batch) == 1 or len(batch_body(batch)) < 1024 * 1024
        assert [one for batch in batches for one in batch] == waiting
        for batch in batches:
            buffer.settle(batch)
        assert len(buffer) == 0
    finally:
        loop.close()


async def test_the_buffer_is_bounded_in_events_and_in_bytes() -> None:
    few, small = Buffer(2, 10**9), Buffer(10**9, 25)
    for buffer in (few, small):
        buffer.add(outgoing())
        assert buffer.takes(b"x" * 10)
        buffer.add(outgoing())
        assert not buffer.takes(b"x" * 10)
        batch = buffer.cut()
        assert not buffer.takes(b"x" * 10)  # on its way, it counts
        buffer.settle(batch)
        assert buffer.takes(b"x" * 100)  # one always fits, or it would wait for ever


# --- Answers


def test_each_event_of_a_batch_has_its_own_answer() -> None:
    told = {"results": [
        {"status": 202, "events": [{"position": 2, "to": "user:a", "id": "2"}]},
        {"status": 422, "problem": {"code": "invalid", "detail": "no address"}},
        {"status": 202, "events": [{"scheduled": "s", "to": "user:a", "id": "x", "deliver_at": "…"}]},
        {"status": 202, "events": [{"to": "user:a"}]},
    ]}  # fmt: skip
    one, two, three, four = judge(207, None, json.dumps(told).encode(), 4)
    assert one == Sent((2,), "2")
    assert one.position == 2
    assert isinstance(two, Refused)
    assert (two.status, two.code, str(two)) == (422, "invalid", "invalid: no address (422)")
    assert three == Sent((), "x", ("s",))
    assert four == Sent((), None)
    assert four.position is None


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 200, 302])
def test_some_answers_are_no_answers(status: int) -> None:
    assert judge(status, "7", b"<html>", 3) == Again(f"the service answers {status}", 7.0)
    assert judge(status, "Wed, 21 Oct", b"", 3) == Again(f"the service answers {status}", None)


@pytest.mark.parametrize("body", [b"{}", b"[]", b"x", b'{"results": []}', b'{"results": [{}]}'])
def test_an_answer_that_makes_no_sense_is_asked_for_again(body: bytes) -> None:
    assert isinstance(judge(207, None, body, 1), Again)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_may_be_one_events_fault_is_looked_for(status: int) -> None:
    problem = json.dumps({"code": "too_large", "title": "Too large"}).encode()
    assert judge(status, None, problem, 2) == Split()
    [refused] = judge(status, None, problem, 1)
    assert isinstance(refused, Refused)
    assert refused.code == "too_large"


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_is_everyones_fault_is_told_to_all(status: int) -> None:
    results = judge(status, None, b"no", 3)
    assert isinstance(results, list)
    assert [result.status for result in results] == [status] * 3


# --- Pauses


def test_pauses_grow_and_end() -> None:
    retries = Retries(Random(1), until=100.0)
    pauses = [retries.pause(Again("down"), 0.0) for _ in range(100)]
    assert pauses[0] <= 0.1
    assert 5 < max(pauses) <= LONGEST
    assert retries.pause(Again("limited", 42.0), 0.0) == 42.0
    with pytest.raises(Unconfirmed, match="down"):
        retries.pause(Again("down", 1.0), 99.5)


def test_who_is_told_to_come_back_at_once_does_not_go_round_and_round() -> None:
    retries = Retries(Random(1), until=100.0)
    assert sum(retries.pause(Again("down", 0.0), 0.0) for _ in range(20)) > 10
