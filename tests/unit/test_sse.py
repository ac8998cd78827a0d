"""What a stream is sent is what a socket is sent, to a reader that keeps to the standard."""

import json
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.claims import Claims
from service.domain.events import Entry
from service.domain.frames import Farewell, entry_frame, finished, frame, gap_frame
from service.domain.recent import Gap
from service.domain.sse import PING, Messages, message, messages, retry
from service.domain.websocket import text_frame, texts
from service.gateway.sse import STAY_AWAY, EventStream, last_message
from service.stream.outbox import Outbox
from tests.eventsource import Parser

space = st.text(" \t\r\n", max_size=4)
values = st.recursive(
    st.one_of(st.none(), st.integers(), st.text()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


def event(position: int, data: str) -> Entry:
    return Entry(position, "event", "everyone", "t", data, "2026-11-24T03:09:41.527Z")


def spaced(text: str, between: str) -> str:
    """Put white space of a producer's own where JSON allows it."""
    return f"{between}{text.replace(', ', f',{between}').replace(': ', f':{between}')}{between}"


@given(st.lists(st.tuples(values, space, st.booleans()), min_size=1, max_size=5), st.integers(1, 40))
def test_a_reader_gets_each_frame_with_its_position_however_it_is_cut(
    sent: list[tuple[Any, str, bool]], size: int
) -> None:
    entries = [
        event(position, spaced(json.dumps(data, ensure_ascii=ascii_only), between))
        for position, (data, between, ascii_only) in enumerate(sent, 1)
        if '", ' not in json.dumps(data) and '": ' not in json.dumps(data)
    ]
    stream = messages(b"".join(map(finished, entries)))
    parser = Parser()
    got = [m for at in range(0, len(stream), size) for m in parser.feed(stream[at : at + size])]
    assert [int(last_id) for _, last_id in got] == [entry.position for entry in entries]
    assert [json.loads(text) for text, _ in got] == [json.loads(entry_frame(entry)) for entry in entries]


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_frames_of_every_length_are_taken_apart(size: int) -> None:
    payloads = [b"x" * size, b"", b"y" * size, b"z"]
    assert list(texts(b"".join(map(text_frame, payloads)))) == payloads


def test_the_id_is_the_position_up_to_which_the_stream_is_complete() -> None:
    joined = Entry(8, "joined", "user:alice", "red", "api", "")
    for made, at in (
        (entry_frame(event(7, '{"position":9,"type":"gap","to":10}')), b"7"),
        (entry_frame(joined), b"8"),
        (frame("live", position=9), b"9"),
        (frame("welcome", user='","position":99,"', position=3, head=20), b"3"),
        (gap_frame(Gap(5, 11, "retention")), b"11"),
    ):
        assert message(made) == b"id: %b\ndata: %b\n\n" % (at, made)
    for made in (
        frame("user_connected", user="bob", info=msgspec.Raw(b'{"position":5}')),
        frame("error", code="forbidden", message="no"),
        b'{"type":"event","id":"e","to":"everyone","event":"t","data":{"position":5}}',
    ):
        assert message(made) == b"data: %b\n\n" % made


@pytest.mark.parametrize("data", ['"\\ud800"', "1e400", "[" * 64 + "]" * 64, '"\\u0000"'])
def test_what_a_producer_wrote_is_not_read(data: str) -> None:
    assert data.encode() in message(entry_frame(event(1, data)))


def test_a_heartbeat_is_a_comment_that_dispatches_nothing() -> None:
    parser = Parser()
    assert messages(text_frame(frame("ping", ts=1))) == PING
    assert parser.feed(PING + retry(5) + PING) == []
    assert (parser.comments, parser.retry) == (2, 5)


def test_the_same_bytes_are_translated_once() -> None:
    memo, made = Messages(), finished(event(1, "1"))
    assert memo.of(made) is memo.of(made)
    assert memo.of(made) == messages(made)
    assert memo.of(finished(event(2, "1"))) != messages(made)


def test_what_several_get_of_a_group_is_joined_and_translated_once() -> None:
    class Stream:
        def __init__(self) -> None:
            self.got: list[bytes] = []

        def send(self, frames: bytes) -> int:
            self.got.append(memo.of(frames))
            return len(frames)

        def send_rest(self, rest: memoryview) -> None:
            raise AssertionError

    memo, outbox = Messages(), Outbox[Stream]()
    one, two, other = streams = [Stream() for _ in range(3)]
    frames = [finished(event(n, "1")) for n in (1, 2)]
    outbox.add({each: each.send for each in streams}, frames[0])
    outbox.add({each: each.send for each in (one, two)}, frames[1])
    outbox.flush()
    assert one.got == [messages(b"".join(frames))]
    assert two.got[0] is one.got[0]
    assert other.got == [messages(frames[0])]


def test_a_stream_s_last_message_says_when_to_come_back() -> None:
    def pause(farewell: Farewell) -> int | None:
        parser = Parser()
        [(text, last_id)] = parser.feed(last_message(farewell))
        assert (text.encode(), last_id) == (farewell.frame(), "")
        return parser.retry

    assert pause(Farewell(1012, "restarting", reconnect=True, retry_after_ms=70)) == 70
    assert pause(Farewell(1012, "restored", reconnect=True)) is None
    assert pause(Farewell(4009, "dead link", reconnect=True)) is None
    assert pause(Farewell(4001, "token revoked")) is None
    assert pause(Farewell(4010, "disconnected by an admin")) == STAY_AWAY


class Loaded(EventStream):
    """A stream of which some is always on its way."""

    def __init__(self) -> None:
        super().__init__(SimpleNamespace(), "id", Claims(user="alice", expires_at=0), "tv", manual=True)
        self.under_way = 0

    def outstanding(self) -> int:
        return self.under_way


def test_who_takes_bytes_is_alive_however_many_are_under_way() -> None:
    stream = Loaded()
    for n in range(20):
        stream.total += 1000
        stream.under_way = 500 + 10 * n
        assert stream.alive()


def test_who_takes_none_is_dead_after_two_heartbeats_however_many_are_written() -> None:
    stream = Loaded()
    assert [stream.alive() for _ in range(5)] == [True] * 5, "nothing is under way"
    stream.total = stream.under_way = 7  # written at the last of these
    assert stream.alive()
    stream.total = stream.under_way = 5000
    assert not stream.alive()
