"""A receiver's place in the log: its positions, its rooms, and what is due to it when."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.addresses import EVERYONE, Patterns
from service.domain.claims import Claims
from service.domain.delivery import Delivery, Membership, Session, Source, State
from service.domain.recent import FOREVER, Interval


def claims(*rooms: str) -> Claims:
    return Claims(user="alice", expires_at=2.0**40, rooms=Patterns(rooms))


def session(head: int = 10, **known: Any) -> Session:
    return Session(**({"head": head, "floor": 0, "first_seen": 4, "cursor": 0, "memberships": {}} | known))


def begun(*rooms: str, at: int = 0, manual: bool = False, **known: Any) -> Delivery:
    delivery = Delivery(claims(*rooms), "phone", manual=manual)
    delivery.begin(session(**known), at)
    return delivery


def due(delivery: Delivery, room: str) -> list[tuple[int, int]]:
    """The stretches in which a room's entries are due, in order."""
    return sorted((i.since, i.until) for i in delivery.intervals() if i.address == f"room:{room}")


# --- Positions


def test_it_begins_where_it_is_told_and_has_acknowledged_so_far() -> None:
    delivery = begun(at=7)
    assert (delivery.state, delivery.written, delivery.acked) == (State.CATCHING_UP, 7, 7)


def test_it_is_complete_to_the_hub_only_while_live() -> None:
    delivery = begun(at=7)
    assert delivery.complete_to(20) == 7
    delivery.went_live()
    assert delivery.complete_to(20) == 20
    delivery.fell_behind(25)
    assert delivery.complete_to(30) == 25


def test_only_the_answer_to_the_outstanding_ping_acknowledges() -> None:
    delivery = begun(at=7)
    delivery.went_live()
    assert delivery.pong(b"20") is None, "nothing was asked"
    assert delivery.ping(20) == 20
    assert delivery.ping(21) is None, "one at a time"
    for payload in (b"", b"21", b"020", b"\xff", b"19"):
        assert delivery.pong(payload) is None
    assert delivery.acked == 7
    assert delivery.pong(b"20") == 20
    assert delivery.pong(b"20") is None, "it was answered already"
    assert delivery.acked == 20


def test_a_pong_that_tells_nothing_new_makes_room_for_the_next_ping() -> None:
    delivery = begun(at=7)
    assert delivery.ping(20) == 7
    assert delivery.pong(b"7") is None
    delivery.written = 9
    assert delivery.ping(20) == 9
    assert delivery.pong(b"9") == 9


def test_a_pong_says_nothing_for_a_client_that_acknowledges_by_itself() -> None:
    delivery = begun(at=7, manual=True)
    delivery.went_live()
    assert delivery.ping(20) == 20
    assert delivery.pong(b"20") is None
    assert delivery.acked == 7
    assert delivery.ping(21) == 21, "but it is answered"


def test_an_acknowledgement_is_clamped_to_what_was_written_and_never_goes_back() -> None:
    delivery = begun(at=7, manual=True)
    assert delivery.ack(50, hub=20) is None, "nothing beyond its start was written"
    delivery.written = 9
    assert delivery.ack(50, hub=20) == 9
    assert delivery.ack(8, hub=20) is None
    assert delivery.ack(-1, hub=20) is None
    delivery.went_live()
    assert delivery.ack(15, hub=20) == 15
    assert delivery.ack(50, hub=20) == 20
    assert delivery.acked == 20


def test_a_quiet_client_follows_the_hub_once_it_has_acknowledged_what_it_got() -> None:
    delivery = begun(at=7, manual=True)
    assert delivery.follow(last=0, hub=20) is None, "it is not live"
    delivery.went_live()
    assert delivery.follow(last=12, hub=20) is None, "it has not acknowledged 12"
    delivery.ack(12, hub=20)
    assert delivery.follow(last=12, hub=20) == 20
    assert delivery.follow(last=12, hub=20) is None, "it is there already"
    assert delivery.acked == 20


def test_a_client_that_pongs_has_no_need_to_follow() -> None:
    delivery = begun(at=7)
    delivery.went_live()
    assert delivery.follow(last=0, hub=20) is None


moves = st.lists(
    st.tuples(
        st.sampled_from(["page", "live", "behind", "ping", "pong", "forged", "ack", "follow"]),
        st.integers(0, 9),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(script=moves, manual=st.booleans())
def test_what_is_acknowledged_only_grows_and_never_beyond_what_was_written(
    script: list[tuple[str, int]], *, manual: bool
) -> None:
    delivery, hub = begun(at=5, manual=manual), 20
    for move, n in script:
        before = delivery.acked
        told: int | None = None
        match move:
            case "page" if delivery.state is State.CATCHING_UP:
                delivery.written = min(hub, delivery.written + n)
            case "live" if delivery.written == hub:
                delivery.went_live()
            case "behind" if delivery.state is State.LIVE:
                hub += n
                delivery.fell_behind(hub)
            case "ping":
                delivery.ping(hub)
            case "pong":
                told = delivery.pong(b"%d" % (delivery.pinged or 0))
            case "forged":
                told = delivery.pong(b"%d" % (hub + 1 + n))
            case "ack":
                told = delivery.ack(before + n, hub)
            case "follow":
                told = delivery.follow(0, hub)
        assert before <= delivery.acked <= delivery.complete_to(hub)
        assert told == (delivery.acked if delivery.acked > before else None), "the cursor hears of each move"


# --- What is due


def test_a_users_own_entries_are_due_from_the_beginning_and_everyones_from_when_it_was_first_seen() -> None:
    delivery = begun(first_seen=4)
    assert delivery.intervals() == [Interval("user:alice"), Interval(EVERYONE, 4)]
    assert list(delivery.addresses()) == [EVERYONE]


@pytest.mark.parametrize(
    ("source", "grants", "received"),
    [("api", (), True), ("client", (), False), ("client", ("red",), True), ("client", ("r*",), True),
     ("client", ("blue",), False), ("connection", (), False), ("connection", ("red",), True)],
)  # fmt: skip
def test_a_membership_needs_the_grant_unless_the_api_made_it(
    source: Source, grants: tuple[str, ...], *, received: bool
) -> None:
    ended = (Interval("room:red", 1, 2), source)
    delivery = begun(*grants, memberships={"red": Membership(source, 3)}, past=(ended,))
    assert ("room:red" in delivery.addresses()) is received
    assert due(delivery, "red") == ([(1, 2), (3, FOREVER)] if received else [])


def test_a_newer_token_changes_what_is_due() -> None:
    delivery = begun("red", memberships={"red": Membership("client", 3), "blue": Membership("client", 5)})
    delivery.claims = claims("blue")
    assert due(delivery, "red") == []
    assert due(delivery, "blue") == [(5, FOREVER)]


def test_what_a_room_held_until_it_was_left_is_still_due() -> None:
    delivery = begun(memberships={"red": Membership("api", 3)})
    delivery.left("red", 12)
    assert due(delivery, "red") == [(3, 12)]
    assert "room:red" not in delivery.addresses()

    delivery.joined("red", "api", 15)
    assert due(delivery, "red") == [(3, 12), (15, FOREVER)], "what lay between is not"

    delivery.written = 12
    assert due(delivery, "red") == [(15, FOREVER)], "what was written is not read again"


def test_while_live_nothing_that_lies_behind_is_due() -> None:
    delivery = begun(memberships={"red": Membership("api", 3)}, past=((Interval("room:blue", 1, 9), "api"),))
    delivery.written = 10
    delivery.went_live()
    delivery.left("red", 12)
    assert delivery.past == ()
    delivery.fell_behind(14)
    assert due(delivery, "red") == due(delivery, "blue") == []


def test_the_api_takes_a_membership_over_and_what_came_before_still_needs_the_grant() -> None:
    delivery = begun("red", memberships={"red": Membership("client", 3)})
    delivery.joined("red", "api", 12)
    assert due(delivery, "red") == [(3, 12), (12, FOREVER)]
    delivery.claims = claims()
    assert due(delivery, "red") == [(12, FOREVER)]


def test_leaving_a_room_that_it_is_not_in_changes_nothing() -> None:
    delivery = begun()
    delivery.left("red", 12)
    assert due(delivery, "red") == []


def test_what_the_session_knows_already_is_not_applied_again() -> None:
    delivery = begun(head=10, memberships={"red": Membership("api", 8)})
    delivery.left("red", 7)
    delivery.joined("blue", "api", 10)
    assert due(delivery, "red") == [(8, FOREVER)]
    assert due(delivery, "blue") == []


changes = st.lists(
    st.tuples(st.sampled_from(["red", "blue"]), st.sampled_from(["api", "client", None])), max_size=12
)


@settings(deadline=None)
@given(changes, st.data())
def test_it_makes_no_difference_when_the_session_was_loaded(
    script: list[tuple[str, Source | None]], data: st.DataObject
) -> None:
    """The log's joins and leaves reach it all; the snapshot lies anywhere, and so does its load."""
    numbered = list(enumerate(script, 1))
    registered = data.draw(st.integers(0, len(script)), label="it registers after")
    head = data.draw(st.integers(registered, len(script)), label="the snapshot is taken after")
    loaded = data.draw(st.integers(registered, len(script)), label="it begins after")

    delivery = Delivery(claims("*"), "phone")
    snapshot = replayed(numbered[:head], 0)
    for position, (room, source) in numbered[registered:loaded]:
        apply(delivery, room, source, position)
    delivery.begin(session(head, memberships=snapshot.rooms, past=snapshot.past), 0)
    for position, (room, source) in numbered[loaded:]:
        apply(delivery, room, source, position)

    whole = replayed(numbered, 0)
    assert delivery.rooms == whole.rooms
    assert sorted(delivery.intervals()) == sorted(whole.intervals())


def replayed(script: list[tuple[int, tuple[str, Source | None]]], head: int) -> Delivery:
    delivery = begun("*", head=head)
    for position, (room, source) in script:
        apply(delivery, room, source, position)
    return delivery


def apply(delivery: Delivery, room: str, source: Source | None, position: int) -> None:
    if source is None:
        delivery.left(room, position)
    else:
        delivery.joined(room, source, position)
