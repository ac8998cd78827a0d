"""The pure parts of the Python client that receives: what it decides, and what it takes for new."""

import asyncio
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness import eventually, token
from tidings_client import Closed, CommandFailed, Ended, FileStore, Unauthorized
from tidings_client.commands import BOUND, Commands
from tidings_client.course import LIMITED, LONGEST, Course, Ending
from tidings_client.events import event_of
from tidings_client.handling import Handling
from tidings_client.inflow import Inflow
from tidings_client.pace import BURST, Pace
from tidings_client.progress import Arrivals, Place, Stream, handled_by
from tidings_client.speaking import Speaking
from tidings_client.tokens import TokenClock, TokenSource, claims_of, life_of
from tidings_client.urls import base_url, socket_url
from tidings_client.watchers import Watchers

HERE, THERE = Stream("log", "alice"), Stream("another log", "alice")
LOST = Ending(None, "lost")


def course(*, renewable: bool = True) -> Course:
    return Course(Random(1), renewable=renewable)


# --- When to come back


def test_pauses_grow_to_half_a_minute_and_are_short_again_after_success() -> None:
    it = course()
    pauses = [it.after(LOST) for _ in range(200)]
    assert pauses[0] <= 0.5
    assert max(pauses[:6]) <= 16
    assert 20 < max(pauses) <= LONGEST
    assert min(pauses[10:]) < 3  # full jitter: not all come at the end
    it.live()
    assert it.after(LOST) <= 0.5


@pytest.mark.parametrize("code", [1000, 1001, 1006, 1009, 1011, 1012, 4009, None, 4999])
def test_other_ends_are_failures(code: int | None) -> None:
    assert course().after(Ending(code, "")) <= 0.5


@pytest.mark.parametrize(("code", "error"), [(4003, Unauthorized), (4010, Closed), (1008, Closed)])
def test_some_ends_are_final(code: int, error: type[Ended]) -> None:
    with pytest.raises(error) as raised:
        course().after(Ending(code, "why"))
    assert (raised.value.code, raised.value.reason) == (code, "why")
    assert str(raised.value) == f"closed: {code} why"


def test_who_was_too_much_waits_longer() -> None:
    assert all(LIMITED[0] <= course().after(Ending(4029, "")) <= LIMITED[1] for _ in range(50))


def test_a_dead_token_is_replaced_at_once_and_once() -> None:
    it = course()
    for _ in range(8):
        it.after(LOST)
    assert it.after(Ending(4001, "expired")) == 0
    with pytest.raises(Unauthorized):
        it.after(Ending(4001, "expired"))


def test_a_dead_token_that_cannot_be_replaced_is_the_end() -> None:
    with pytest.raises(Unauthorized):
        course(renewable=False).after(Ending(4001, ""))


def test_tokens_that_are_believed_and_then_are_not_do_not_make_a_hot_loop() -> None:
    it = course()
    pauses = []
    for _ in range(20):
        pauses.append(it.after(Ending(4001, "")))
        it.welcomed()
    assert pauses[0] == 0
    assert sum(pauses) > 10
    it.live()
    assert it.after(Ending(4001, "")) == 0


# --- Tokens


def test_a_token_says_whose_it_is_and_how_long_it_lives() -> None:
    claims = claims_of(token("alice", iat=1000, exp=1600))
    assert claims["sub"] == "alice"
    assert life_of(claims) == 600


@pytest.mark.parametrize("text", ["", "x", "a.b.c", "a.é.c", "..", "a.W10.c", "a.eyJ.c"])
def test_what_is_no_token_says_nothing(text: str) -> None:
    assert claims_of(text) == {}


@pytest.mark.parametrize("claims", [{}, {"iat": 1}, {"iat": 5, "exp": 5}, {"iat": "1", "exp": 2}])
def test_a_life_may_not_be_known(claims: dict[str, Any]) -> None:
    assert life_of(claims) is None


def test_a_token_is_renewed_at_four_fifths_of_its_life_whatever_the_time_of_day() -> None:
    clock = TokenClock()
    clock.renew(token("alice", iat=5, exp=105), now=1000.0)  # issued long ago, by somebody's clock
    assert clock.user == "alice"
    assert clock.due == 1080.0
    assert clock.usable(1099.9) is not None
    assert clock.usable(1100.0) is None
    clock.forget()
    assert clock.due is None


async def test_a_renewal_that_fails_is_tried_again_later_and_later() -> None:
    source = TokenSource(lambda: token("alice", iat=0, exp=100))
    await source.current(0.0)
    assert source.due_in(0.0) == 80
    assert source.due_in(90.0) == 0
    pauses = []
    for _ in range(8):
        source.postpone(90.0)
        pauses.append(source.due_in(90.0))
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


async def test_one_text_is_never_renewed_and_loses_its_line_end() -> None:
    source = TokenSource(token("alice", iat=0, exp=100) + "\n")
    assert not (await source.current(0.0)).endswith("\n")
    assert source.due_in(99.0) is None


# --- What is new


@given(st.data())
def test_over_any_connections_each_event_comes_once_and_in_order(data: st.DataObject) -> None:
    """Each connection starts behind what is handled by then, and brings all of the rest in order."""
    log = data.draw(st.lists(st.integers(0, 60), min_size=1, unique=True).map(sorted))
    arrivals, came = Arrivals(None), list[int]()
    arrivals.turn_to(HERE)
    open_at: list[int] = []  # where each of at most two connections stands in the log
    for _ in range(data.draw(st.integers(1, 60))):
        if len(open_at) < 2 and data.draw(st.booleans()):
            handled = data.draw(st.integers(0, len(came)))
            open_at.append(handled)
            continue
        if not open_at:
            continue
        which = data.draw(st.integers(0, len(open_at) - 1))
        if data.draw(st.integers(0, 9)) == 0:
            del open_at[which]
        elif open_at[which] < len(log):
            frame = {"type": "event", "position": log[open_at[which]]}
            open_at[which] += 1
            if arrivals.is_new(HERE, frame):
                came.append(frame["position"])
    assert came == log[: len(came)]


def test_what_follows_a_gap_counts_from_its_end_also_where_that_is_less() -> None:
    arrivals = Arrivals(Place(HERE, 100))
    gap = {"type": "gap", "from": 100, "to": 40, "reason": "failover"}
    assert arrivals.is_new(HERE, gap)
    assert handled_by(gap) == 40
    assert not arrivals.is_new(HERE, {"type": "event", "position": 40})
    assert arrivals.is_new(HERE, {"type": "event", "position": 41})


def test_positions_of_another_log_say_nothing_about_this_one() -> None:
    arrivals = Arrivals(Place(HERE, 100))
    arrivals.turn_to(THERE)
    assert arrivals.is_new(THERE, {"type": "event", "position": 1})
    # The former connection may still bring some.
    assert not arrivals.is_new(HERE, {"type": "event", "position": 101})
    assert arrivals.is_new(THERE, {"type": "event", "position": 2})


async def test_of_another_log_nothing_is_handled_yet() -> None:
    handling = Handling(None, "key", Watchers())
    event = {"type": "event", "position": 7, "to": "everyone", "event": "t", "time": "2026-11-24T03:09:41Z"}
    for stream in (HERE, THERE):
        handling.take(stream, {"type": "welcome", "log": stream.log, "user": stream.user, "position": 0})
        if stream == HERE:
            handling.take(stream, event)
            await handling.next()
            await handling.done()
    assert handling.place == Place(HERE, 7)
    waiting = asyncio.ensure_future(handling.next())
    await asyncio.sleep(0)
    assert handling.place is None
    handling.inflow.end()
    assert await waiting is None


def test_what_has_no_position_is_always_new() -> None:
    arrivals = Arrivals(Place(HERE, 100))
    ephemeral = {"type": "event", "to": "user:alice", "event": "x", "ephemeral": True}
    others = ({"type": kind, "position": 5} for kind in ("welcome", "live"))
    for frame in (ephemeral, *others, {"type": "user_connected", "user": "b"}):
        assert arrivals.is_new(HERE, frame)
    assert handled_by(ephemeral) is None


def test_a_place_survives_being_stored() -> None:
    place = Place(HERE, 7)
    assert Place.read(place.text()) == place
    assert place.resume == "log:7"


@pytest.mark.parametrize("text", [None, "", "x", "[]", "{}", '{"log": "l", "user": "u", "position": -1}'])
def test_a_store_that_makes_no_sense_is_an_empty_one(text: str | None) -> None:
    assert Place.read(text) is None


def test_a_file_keeps_texts_for_several_receivers(tmp_path: Path) -> None:
    path = tmp_path / "positions"
    store = FileStore(path)
    store.set("a", "1")
    store.set("b", "2")
    store.set("a", "3")
    again = FileStore(path)
    assert (again.get("a"), again.get("b"), again.get("c")) == ("3", "2", None)
    path.write_text('{"a": "3", "b')
    assert FileStore(path).get("a") is None


def test_an_event_says_what_its_frame_says() -> None:
    frame = {
        "type": "event", "position": 6, "id": "n-1", "to": "room:orders", "event": "note", "data": ["any"],
        "time": "2026-11-24T03:09:46.354Z", "from": "alice", "new": "is passed over",
    }  # fmt: skip
    event = event_of(frame)
    assert (event.position, event.id, event.to, event.type) == (6, "n-1", "room:orders", "note")
    assert (event.data, event.from_, event.ephemeral) == (["any"], "alice", False)
    assert event.time.isoformat() == "2026-11-24T03:09:46.354000+00:00"


# --- The queue


async def test_a_full_inflow_has_room_again_once_half_of_it_is_taken() -> None:
    inflow = Inflow(bound=4)
    for number in range(4):
        assert not inflow.full
        inflow.put({"n": number})
    assert inflow.full
    room = asyncio.ensure_future(inflow.room())
    await inflow.get()
    await asyncio.sleep(0)
    assert not room.done()
    await inflow.get()
    await room


async def test_after_an_error_what_waits_is_still_given_out() -> None:
    inflow = Inflow()
    inflow.put({"n": 1})
    inflow.end(Closed(4010, "evicted"))
    assert await inflow.get() == {"n": 1}
    for _ in range(2):
        with pytest.raises(Closed):
            await inflow.get()


async def test_one_that_is_closed_gives_nothing_more() -> None:
    inflow = Inflow()
    waiting = asyncio.ensure_future(inflow.get())
    await asyncio.sleep(0)
    inflow.put({"n": 1})
    inflow.end()
    assert await waiting is None
    assert len(inflow) == 0


# --- Commands


async def test_answers_are_told_apart_by_their_ref() -> None:
    commands = Commands()
    one, two = (commands.add({"type": "rooms"}, repeats=True) for _ in range(2))
    assert not commands.answered({"type": "error", "code": "invalid", "message": "of nobody"})
    assert commands.answered({"type": "ok", "ref": two.frame["ref"], "rooms": []})
    refusal = {"type": "error", "code": "forbidden", "message": "no", "retry_after_ms": 5}
    assert commands.answered({**refusal, "ref": one.frame["ref"]})
    assert (await two.answer)["rooms"] == []
    with pytest.raises(CommandFailed) as raised:
        await one.answer
    assert (raised.value.code, raised.value.retry_after_ms) == ("forbidden", 5)


async def test_after_a_loss_what_may_be_repeated_is_and_the_rest_fails() -> None:
    commands = Commands()
    safe, unsafe, unsent = (commands.add({"type": t}, repeats=t != "b") for t in "abc")
    safe.sent = unsafe.sent = True
    commands.lost()
    assert commands.unsent() is safe
    safe.sent = True
    assert commands.unsent() is unsent
    with pytest.raises(CommandFailed, match="disconnected"):
        await unsafe.answer


async def test_of_what_was_sent_the_largest_was_too_large() -> None:
    commands = Commands()
    small, large, unsent = (commands.add({"data": "x" * n}, repeats=True) for n in (1, 100, 1000))
    small.sent = large.sent = True
    commands.lost(1009)
    with pytest.raises(CommandFailed, match="too_large"):
        await large.answer
    assert commands.unsent() is small
    assert not unsent.answer.done()


async def test_only_so_many_commands_wait() -> None:
    commands = Commands()
    for _ in range(BOUND):
        last = commands.add({"type": "rooms"}, repeats=True)
    with pytest.raises(CommandFailed, match="rate_limited"):
        commands.add({"type": "rooms"}, repeats=True)
    commands.forget(last)
    commands.add({"type": "rooms"}, repeats=True)


async def test_who_gives_up_while_sending_for_others_loses_none_of_theirs() -> None:
    sent: list[str] = []

    class Line:
        async def send(self, frame: dict[str, Any]) -> None:
            sent.append(frame["type"])

    speaking = Speaking(Watchers())
    line: Any = Line()
    asked = [asyncio.create_task(speaking.ask(str(n))) for n in range(BURST + 2)]
    await asyncio.sleep(0)
    over = asyncio.create_task(speaking.over(line))
    await eventually(lambda: len(sent) >= BURST)
    over.cancel()  # in the pause before the next one
    another = asyncio.create_task(speaking.ask("last"))
    await eventually(lambda: "last" in sent)
    assert sent == [*map(str, range(BURST + 2)), "last"]
    for task in (*asked, another):
        task.cancel()


@given(st.lists(st.floats(0, 2), min_size=1, max_size=300))
def test_commands_keep_to_the_rate_that_the_service_takes(pauses: list[float]) -> None:
    pace, now, sent = Pace(), 0.0, list[float]()
    for pause in pauses:
        now += pause / 10
        now += pace.next(now)
        sent.append(now)
    for index, at in enumerate(sent):
        assert sum(at - 1 < other <= at for other in sent[: index + 1]) <= 60


# --- URLs


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("http://a:1", "http://a:1"),
        ("https://a/", "https://a"),
        ("ws://a:1/", "http://a:1"),
        ("wss://a/push/", "https://a/push"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_a_url_may_be_given_in_several_ways(given: str, base: str) -> None:
    assert base_url(given) == base
    assert socket_url(base, {"device": "a b"}) == f"ws{base[4:]}/v1/ws?device=a+b"


@pytest.mark.parametrize("url", ["", "a", "localhost:8000", "ftp://a", "http://", "http://a:b", "/v1"])
def test_what_is_no_url_is_told(url: str) -> None:
    with pytest.raises(ValueError, match="is not the URL of a service"):
        base_url(url)


def test_what_is_stored_is_json(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "positions")
    store.set("k", Place(HERE, 1).text())
    assert json.loads(json.loads((tmp_path / "positions").read_text())["k"])["position"] == 1
