"""What an entry looks like to clients, and that it is made once."""

import json
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from service.domain.events import Entry
from service.domain.frames import entry_frame, event_list, finished
from service.domain.websocket import text_frame
from service.store import log as store

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
TIME = "2030-01-01T00:00:00.000Z"


@given(texts, texts, texts, st.none() | texts, st.none() | texts)
def test_an_event_shows_its_fields_in_order_and_its_data_as_it_came(
    room: str, about: str, value: str, given_id: str | None, sender: str | None
) -> None:
    data = json.dumps({"a": value, "b": 1.0}, ensure_ascii=False, separators=(" ,", ": "))
    entry = Entry(1007, "event", f"room:{room}", about, data, TIME, 7, given_id, sender)
    shown = {
        "position": 1007, "id": "1000" if given_id is None else given_id, "to": f"room:{room}",
        "event": about, "data": json.loads(data), "time": TIME,
    } | ({} if sender is None else {"from": sender})  # fmt: skip
    frame = entry_frame(entry)
    assert list(json.loads(frame).items()) == list(({"type": "event"} | shown).items())
    assert f'"data":{data},"time"'.encode() in frame
    assert json.loads(event_list([entry], None))["data"] == [shown]


def test_a_frame_is_made_once_and_kept() -> None:
    entry = Entry(1, "event", "everyone", "t", '"x"', TIME)
    assert entry.frame is None
    frame = finished(entry)
    assert frame == text_frame(entry_frame(entry))
    assert finished(entry) is frame


def test_what_an_entry_weighs_counts_the_frame_before_it_is_made() -> None:
    """Else the window in memory would grow beyond its bound as it is read."""
    entry = Entry(1, "event", "everyone", "t", '"' + "x" * 10_000 + '"', TIME)
    before = entry.size
    finished(entry)
    assert entry.size == before > 20_000


@given(st.integers(0, 4_000_000_000_000))
def test_a_time_comes_out_of_the_database_to_the_millisecond(milliseconds: int) -> None:
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    assert store._timestamp(milliseconds * 1000 / 1e6) == store.timestamp(at)
