"""For each claim, histories that keep it and histories that do not."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proof.checker import Bounds, check
from proof.history import (
    UNKNOWN,
    Acknowledged,
    Answered,
    Closed,
    Connecting,
    Fault,
    Healed,
    Moved,
    Over,
    Placed,
    Posted,
    Recalling,
    Received,
    Record,
    Revoked,
    Sent,
    Stored,
    Token,
)  # fmt: skip

BOUNDS = Bounds(flush=1.0, revocation=1.0, delivery=5.0)
TICK = 0.01


class Story:
    """A history written by hand. Each record is a moment after the one before."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.now = 100.0

    def add(self, record: type[Any], /, **fields: Any) -> None:
        self.now += TICK
        self.records.append(record(at=self.now, **fields))

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def post(
        self, name: str, *to: str, at: int | None = None, status: int = 202, attempt: int = 1, **more: Any
    ) -> None:
        """Send an event; it is answered with the position ``at`` and what follows, if it is given."""
        self.begin(name, *to, attempt=attempt, **more)
        self.answer(name, *to, at=at, status=status, attempt=attempt)

    def begin(self, name: str, *to: str, attempt: int = 1, **more: Any) -> None:
        events = (Sent(name, to, **more),)
        self.add(Posted, post=name, attempt=attempt, producer="p", url="", events=events)

    def answer(self, name: str, *to: str, at: int | None, status: int = 202, attempt: int = 1) -> None:
        placed = () if at is None else tuple(Placed(each, at + n, str(at)) for n, each in enumerate(to))
        self.add(Answered, post=name, attempt=attempt, status=status, placed=placed)

    def connect(
        self, name: str, position: int = 0, *, head: int = 0, jti: str = "", rooms: tuple[str, ...] = (),
        **more: Any,
    ) -> None:  # fmt: skip
        """Let a device in: ``user/device#number``."""
        self.knock(name, jti=jti, rooms=rooms, **more)
        self.see(name, "welcome", position, head=head)

    def knock(
        self, name: str, *, jti: str = "", rooms: tuple[str, ...] = (), iat: int = 1, **more: Any
    ) -> None:
        user, _, device = name.partition("#")[0].partition("/")
        token = Token(user, jti or f"{name}-token", iat, rooms)
        self.add(Connecting, connection=name, url="", device=device, token=token, **more)

    def see(self, name: str, frame: str, position: int | None = None, **fields: Any) -> None:
        self.add(Received, connection=name, frame=frame, position=position, **fields)

    def event(self, name: str, mark: str, position: int, to: str, **fields: Any) -> None:
        self.see(name, "event", position, mark=mark, to=to, **({"id": str(position)} | fields))

    def close(self, name: str) -> None:
        self.add(Closed, connection=name)

    def claims(self) -> set[str]:
        """Return what is broken."""
        return {violation.claim for violation in check(self.records, BOUNDS)}


@pytest.fixture
def story() -> Story:
    """Two users are there: alice with a phone and a tablet, bob with a phone."""
    story = Story()
    for name in ("alice/phone#1", "alice/tablet#1", "bob/phone#1"):
        story.connect(name)
    return story


def to_alice(story: Story, mark: str, position: int, to: str = "user:alice", **fields: Any) -> None:
    for device in ("alice/phone#1", "alice/tablet#1"):
        story.event(device, mark, position, to, **fields)


def to_all(story: Story, mark: str, position: int) -> None:
    to_alice(story, mark, position, "everyone")
    story.event("bob/phone#1", mark, position, "everyone")


def test_a_sound_history(story: Story) -> None:
    story.post("a", "user:alice", at=1)
    to_alice(story, "a", 1)
    story.post("b", "everyone", "user:bob", at=2)
    to_all(story, "b", 2)
    story.event("bob/phone#1", "b", 3, "user:bob", id="2")
    assert story.claims() == set()


# C1


def test_an_acknowledged_event_is_missing(story: Story) -> None:
    story.post("a", "user:alice", at=1)
    story.event("alice/phone#1", "a", 1, "user:alice")
    assert story.claims() == {"C1"}


def test_it_may_come_over_a_later_connection(story: Story) -> None:
    story.post("a", "user:bob", at=1)
    story.close("bob/phone#1")
    story.connect("bob/phone#2", head=1)
    story.event("bob/phone#2", "a", 1, "user:bob")
    assert story.claims() == set()


def test_it_is_not_owed_to_who_is_excluded(story: Story) -> None:
    story.post("a", "everyone", at=1, exclude=("alice", "bob\nphone"))
    assert story.claims() == set()


def test_it_is_not_owed_to_a_dead_token(story: Story) -> None:
    story.add(Revoked, position=1, jti="bob/phone#1-token")
    story.post("a", "user:bob", at=2)
    assert story.claims() == set()


@pytest.mark.parametrize("more", [{"ttl": 0.5}, {"collapse_key": "k"}, {}])
def test_what_has_expired_or_was_replaced_or_recalled_may_be_missing(
    story: Story, more: dict[str, Any]
) -> None:
    story.post("a", "user:bob", at=1, **more)
    if not more:
        assert story.claims() == {"C1"}
        story.add(Recalling, recalled=1)
    story.wait(1.0)
    story.post("b", "user:bob", at=2, **more)
    story.event("bob/phone#1", "b", 2, "user:bob")
    assert story.claims() == set()


@pytest.mark.parametrize("more", [{"ttl": 500.0}, {"collapse_key": "k"}])
def test_what_is_good_may_not(story: Story, more: dict[str, Any]) -> None:
    story.post("b", "user:bob", at=1, collapse_key="k")
    story.event("bob/phone#1", "b", 1, "user:bob")
    story.post("a", "user:bob", at=2, **more)
    story.wait(1.0)
    story.add(Over)
    assert story.claims() == {"C1"}


def test_what_was_put_off_is_nowhere(story: Story) -> None:
    story.post("a", "user:bob", after=0.1, id="a")
    assert story.claims() == {"C1"}
    story.event("bob/phone#1", "a", 1, "user:bob", id="a")
    assert story.claims() == set()


def test_a_restore_may_lose_what_came_before_it(story: Story) -> None:
    story.post("a", "user:bob", at=1)
    story.post("b", "user:bob", at=2)
    story.event("bob/phone#1", "a", 1, "user:bob")
    story.add(Fault, kind="restore", begins=False, lost_from=1)
    assert story.claims() == set()
    story.wait(2.0)
    story.post("c", "user:bob", at=3)
    assert story.claims() == {"C1"}


# C2


def test_nobody_has_sent_it(story: Story) -> None:
    story.event("bob/phone#1", "a", 1, "user:bob")
    assert story.claims() == {"C2"}


def test_it_was_refused(story: Story) -> None:
    story.post("a", "user:bob", status=503)
    assert story.claims() == set()
    story.event("bob/phone#1", "a", 1, "user:bob")
    assert story.claims() == {"C2"}


def test_it_was_sent_elsewhere(story: Story) -> None:
    story.post("a", "user:alice", at=1)
    to_alice(story, "a", 1)
    story.event("bob/phone#1", "a", 2, "user:bob")
    assert story.claims() == {"C2"}


def test_what_is_unknown_is_everywhere_or_nowhere(story: Story) -> None:
    story.post("a", "everyone", status=UNKNOWN)
    assert story.claims() == set()
    to_alice(story, "a", 1, "everyone")
    assert story.claims() == {"C2"}
    story.event("bob/phone#1", "a", 1, "everyone")
    assert story.claims() == set()


def test_so_is_each_part_of_it(story: Story) -> None:
    story.post("a", "user:alice", "user:bob", status=UNKNOWN)
    to_alice(story, "a", 1)
    assert story.claims() == {"C2"}
    story.event("bob/phone#1", "a", 2, "user:bob", id="1")
    assert story.claims() == set()


# C3


def test_a_connection_goes_back(story: Story) -> None:
    for n in (1, 2):
        story.post(str(n), "user:bob", at=n)
    for n in (2, 1):
        story.event("bob/phone#1", str(n), n, "user:bob")
    assert story.claims() == {"C3"}


def test_it_comes_after_live_and_stands_before_it(story: Story) -> None:
    story.post("a", "user:bob", at=1)
    story.see("bob/phone#1", "live", 1)
    story.event("bob/phone#1", "a", 1, "user:bob")
    assert story.claims() == set()
    story.post("b", "user:bob", at=2)
    story.see("bob/phone#1", "live", 3)
    story.event("bob/phone#1", "b", 2, "user:bob")
    assert story.claims() == {"C3"}


def test_the_later_request_stands_before_the_earlier(story: Story) -> None:
    story.post("a", "user:nobody", at=2)
    story.post("b", "user:nobody", at=1)
    assert story.claims() == {"C3"}


def test_requests_at_the_same_time_have_no_order(story: Story) -> None:
    story.begin("a", "user:nobody")
    story.post("b", "user:nobody", at=1)
    story.answer("a", "user:nobody", at=2)
    story.post("c", "user:nobody", at=3)
    assert story.claims() == set()


# C4


def test_a_hole_that_is_filled_too_late(story: Story) -> None:
    for n in (1, 2):
        story.post(str(n), "user:bob", at=n)
    story.event("bob/phone#1", "2", 2, "user:bob")
    story.close("bob/phone#1")
    story.connect("bob/phone#2", head=2)
    for n in (1, 2):
        story.event("bob/phone#2", str(n), n, "user:bob")
    assert story.claims() == {"C4"}


def test_retention_is_told(story: Story) -> None:
    story.post("a", "user:bob", at=1)
    story.close("bob/phone#1")
    story.add(Fault, kind="retention", floor=1)
    story.connect("bob/phone#2", head=1)
    story.see("bob/phone#2", "live", 1)
    assert story.claims() == {"C4"}
    story.connect("bob/phone#3", head=1)
    story.see("bob/phone#3", "gap", 1, since=0, reason="retention")
    story.see("bob/phone#3", "live", 1)
    story.records = [r for r in story.records if getattr(r, "connection", "") != "bob/phone#2"]
    assert story.claims() == set()


@pytest.mark.parametrize("reason", ["retention", "failover", "unknown_position"])
def test_a_gap_has_a_reason(story: Story, reason: str) -> None:
    story.see("bob/phone#1", "gap", 5, since=0, reason=reason)
    assert story.claims() == {"C4"}


def test_a_gap_for_no_reason_excuses_nothing(story: Story) -> None:
    story.post("a", "user:bob", at=1)
    story.see("bob/phone#1", "gap", 1, since=0, reason="failover")
    story.see("bob/phone#1", "live", 1)
    assert story.claims() == {"C1", "C4"}


# C5


def test_it_comes_twice(story: Story) -> None:
    story.post("a", "user:bob", at=1)
    for _ in range(2):
        story.event("bob/phone#1", "a", 1, "user:bob")
    assert story.claims() == {"C5"}


def test_it_was_had_before(story: Story) -> None:
    story.post("a", "user:bob", at=1)
    story.event("bob/phone#1", "a", 1, "user:bob")
    story.add(Acknowledged, connection="bob/phone#1", position=1)
    story.close("bob/phone#1")
    story.connect("bob/phone#2", 1, head=1)
    assert story.claims() == set()
    story.event("bob/phone#2", "a", 1, "user:bob")
    assert story.claims() == {"C5"}


@pytest.mark.parametrize(("stays", "broken"), [(0.5, False), (2.0, False), (2.0, True)])
def test_the_cursor_is_behind_by_a_flush_at_most(story: Story, stays: float, *, broken: bool) -> None:
    story.post("a", "user:bob", at=1)
    story.event("bob/phone#1", "a", 1, "user:bob")
    story.add(Acknowledged, connection="bob/phone#1", position=1)
    story.wait(stays)
    if broken:
        story.add(Fault, kind="kill")
        story.add(Fault, kind="kill", begins=False)
    story.close("bob/phone#1")
    story.connect("bob/phone#2", 0, head=1)
    story.event("bob/phone#2", "a", 1, "user:bob")
    assert story.claims() == ({"C5"} if stays > BOUNDS.flush and not broken else set())


def test_one_post_has_one_id(story: Story) -> None:
    story.post("a", "user:bob", "everyone", at=1)
    story.event("bob/phone#1", "a", 1, "user:bob")
    for device in ("alice/phone#1", "alice/tablet#1", "bob/phone#1"):
        story.event(device, "a", 2, "everyone", id="1")
    assert story.claims() == set()
    story.records[-1] = msgspec.structs.replace(story.records[-1], id="2")
    assert story.claims() == {"C5"}


# C6


def test_two_positions_for_one_request(story: Story) -> None:
    story.post("a", "user:nobody", at=1, id="a")
    story.post("a", "user:nobody", at=1, id="a", attempt=2)
    assert story.claims() == set()
    story.post("a", "user:nobody", at=2, id="a", attempt=3)
    assert story.claims() == {"C6"}


def test_two_events_at_one_position(story: Story) -> None:
    story.begin("a", "user:nobody")
    story.begin("b", "user:nobody")
    story.answer("a", "user:nobody", at=1)
    story.answer("b", "user:nobody", at=1)
    assert story.claims() == {"C6"}


# C7


def test_the_cursor_is_further_than_the_pong(story: Story) -> None:
    story.add(Acknowledged, connection="bob/phone#1", position=3)
    story.add(Stored, user="bob", device="phone", cursor=3)
    assert story.claims() == set()
    story.add(Stored, user="bob", device="phone", cursor=4)
    assert story.claims() == {"C7"}


def test_a_client_that_acknowledges_is_taken_over_what_is_not_its_own(story: Story) -> None:
    story.connect("bob/tv#1", manual=True)
    story.post("a", "user:alice", at=1)
    to_alice(story, "a", 1)
    story.add(Stored, user="bob", device="tv", cursor=1)
    assert story.claims() == set()
    story.post("b", "user:bob", at=2)
    for device in ("phone", "tv"):
        story.event(f"bob/{device}#1", "b", 2, "user:bob")
    story.add(Stored, user="bob", device="tv", cursor=2)
    assert story.claims() == {"C7"}


def test_a_new_device_begins_where_another_is(story: Story) -> None:
    story.add(Acknowledged, connection="bob/phone#1", position=1)
    story.connect("bob/tv#1", 1, head=1)
    assert story.claims() == set()
    story.connect("bob/car#1", 2, head=2)
    assert story.claims() == {"C7"}


# C8


def test_a_revoked_socket_is_written_to(story: Story) -> None:
    story.add(Revoked, position=1, jti="bob/phone#1-token")
    story.post("a", "user:bob", at=2)
    story.event("bob/phone#1", "a", 2, "user:bob")
    assert story.claims() == set()
    story.wait(2.0)
    story.post("b", "user:bob", at=3)
    story.event("bob/phone#1", "b", 3, "user:bob")
    assert story.claims() == {"C8"}


@pytest.mark.parametrize(
    ("order", "dead"),
    [
        ({"user": "bob", "issued_before": 5}, True),
        ({"user": "bob", "issued_before": 4}, False),
        ({"user": "bob"}, True),
        ({"user": "alice"}, False),
        ({"jti": "j"}, True),
        ({"jti": "k"}, False),
    ],
)
def test_a_revoked_token_is_accepted(story: Story, order: dict[str, Any], *, dead: bool) -> None:
    story.add(Revoked, position=1, **order)
    story.wait(2.0)
    story.connect("bob/phone#2", head=1, jti="j", iat=5)
    assert story.claims() == ({"C8"} if dead else set())


def test_a_refusal_is_no_welcome(story: Story) -> None:
    story.add(Revoked, position=1, user="bob")
    story.wait(2.0)
    story.knock("bob/phone#2")
    story.add(Closed, connection="bob/phone#2", code=401)
    assert story.claims() == set()


# C9


def test_it_is_somebody_elses(story: Story) -> None:
    story.post("a", "user:alice", at=1)
    to_alice(story, "a", 1)
    story.event("bob/phone#1", "a", 1, "user:alice")
    assert story.claims() == {"C9"}


@pytest.mark.parametrize("excluded", ["bob", "bob\nphone"])
def test_it_excludes_them(story: Story, excluded: str) -> None:
    story.post("a", "everyone", at=1, exclude=(excluded,))
    to_all(story, "a", 1)
    assert story.claims() == {"C9"}


def test_it_was_before_their_time(story: Story) -> None:
    story.post("a", "everyone", at=1)
    to_all(story, "a", 1)
    story.connect("carol/phone#1", head=1)
    assert story.claims() == set()
    story.event("carol/phone#1", "a", 1, "everyone")
    assert story.claims() == {"C9"}


def test_a_room_is_for_its_members_of_that_moment(story: Story) -> None:
    story.post("a", "room:r", at=1)
    story.add(Moved, user="bob", room="r", joins=True, source="api", position=2)
    story.see("bob/phone#1", "joined_room", 2, room="r")
    story.post("b", "room:r", at=3)
    story.event("bob/phone#1", "b", 3, "room:r")
    story.add(Moved, user="bob", room="r", joins=False, source="api", position=4)
    story.see("bob/phone#1", "left_room", 4, room="r")
    story.post("c", "room:r", at=5)
    assert story.claims() == set()
    story.event("bob/phone#1", "c", 5, "room:r")
    assert story.claims() == {"C9"}


@pytest.mark.parametrize("granted", [True, False])
def test_what_a_client_has_joined_needs_the_grant(story: Story, *, granted: bool) -> None:
    story.connect("dave/phone#1", rooms=("r*",) if granted else ())
    story.add(Moved, user="dave", room="r1", joins=True, source="client")
    story.see("dave/phone#1", "joined_room", 1, room="r1")
    story.post("a", "room:r1", at=2)
    assert story.claims() == ({"C1"} if granted else set())
    story.event("dave/phone#1", "a", 2, "room:r1")
    assert story.claims() == (set() if granted else {"C9"})


def test_a_membership_is_told_to_its_own(story: Story) -> None:
    story.add(Moved, user="nobody", room="r", joins=True, source="api", position=1)
    assert story.claims() == set()
    story.see("bob/phone#1", "joined_room", 1, room="r")
    assert "C9" in story.claims()


# C10


@pytest.mark.parametrize("late", [1.0, 10.0])
def test_it_comes_soon(story: Story, late: float) -> None:
    story.post("a", "user:bob", at=1)
    story.add(Healed)
    story.wait(late)
    story.event("bob/phone#1", "a", 1, "user:bob")
    assert story.claims() == (set() if late < BOUNDS.delivery else {"C10"})


def test_it_does_not_come_at_all(story: Story) -> None:
    story.post("a", "user:bob", at=1)
    story.add(Healed)
    story.wait(10.0)
    story.add(Over)
    assert story.claims() == {"C1", "C10"}


def test_who_stays_outside(story: Story) -> None:
    story.knock("carol/phone#1")
    story.add(Closed, connection="carol/phone#1", code=503)
    assert story.claims() == set()
    story.add(Healed)
    assert story.claims() == {"C10"}


# A model of the whole

USERS = ("ann", "ben", "cat")
Sends = list[tuple[tuple[str, ...], tuple[str, ...]]]
addresses = st.sampled_from(["everyone", *(f"user:{user}" for user in USERS)])
sends = st.lists(
    st.tuples(
        st.lists(addresses, min_size=1, max_size=3, unique=True).map(tuple),
        st.lists(st.sampled_from(USERS), max_size=1).map(tuple),
    ),
    min_size=2,
    max_size=12,
)


def told(sent: Sends, breaks: list[bool]) -> Story:
    """Tell of a service that is right; a device comes anew before the events that ``breaks`` marks."""
    story, position = Story(), 0
    visits, has = dict.fromkeys(USERS, 1), dict.fromkeys(USERS, 0)
    for user in USERS:
        story.connect(f"{user}/d#1")
    for n, (to, exclude) in enumerate(sent):
        first = position + 1
        story.post(f"e{n}", *to, at=first, exclude=exclude)
        for position, address in enumerate(to, first):
            for user in USERS:
                if address not in {"everyone", f"user:{user}"} or user in exclude:
                    continue
                if breaks[n % len(breaks)]:
                    story.close(f"{user}/d#{visits[user]}")
                    visits[user] += 1
                    story.connect(f"{user}/d#{visits[user]}", has[user], head=position)
                here = f"{user}/d#{visits[user]}"
                story.event(here, f"e{n}", position, address, id=str(first))
                story.add(Acknowledged, connection=here, position=position)
                has[user] = position
        story.wait(0.5)
    return story


breaks = st.lists(st.booleans(), min_size=1, max_size=5)


@given(sends, breaks)
def test_what_is_right_is_found_so(sent: Sends, breaks: list[bool]) -> None:
    assert check(told(sent, breaks).records, BOUNDS) == []


@given(sends, breaks, st.sampled_from(["drop", "swap", "twice", "foreign", "moved"]), st.data())
def test_whatever_is_wrong_is_found(sent: Sends, breaks: list[bool], how: str, data: st.DataObject) -> None:
    records = told(sent, breaks).records
    deliveries = [n for n, r in enumerate(records) if isinstance(r, Received) and r.frame == "event"]
    pairs = [
        (one, other) for one in deliveries for other in deliveries
        if one < other and records[one].connection == records[other].connection
    ]  # fmt: skip
    if not deliveries or (how == "swap" and not pairs):
        return
    n = data.draw(st.sampled_from(deliveries))
    frame = records[n]
    match how:
        case "drop":
            del records[n]
        case "swap":
            one, other = data.draw(st.sampled_from(pairs))
            records[one], records[other] = records[other], records[one]
        case "twice":
            records.insert(n + 1, frame)
        case "moved":
            records[n] = msgspec.structs.replace(frame, position=frame.position + 100)
        case "foreign":
            other = next(user for user in USERS if not frame.connection.startswith(user))
            theirs = msgspec.structs.replace(frame, connection=f"{other}/d#1", to=f"user:{frame.connection}")
            records.insert(n + 1, theirs)
    assert check(records, BOUNDS)
