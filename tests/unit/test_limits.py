"""Rates and quotas: never more than was agreed, and never less."""

from collections.abc import Iterator
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain import limits
from service.domain.limits import DAY, Buckets, Limit, Quota, Standing, Usage, limit_of, ratelimit_headers
from service.domain.publication import MAX_EVENTS

NOW = 1_800_000_000.0
SLACK = 1e-6
"""Seconds: times near NOW are multiples of 0.24 µs."""

rates = st.floats(0.01, 50_000)
bursts = st.integers(1, 5_000)
steps = st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 1.1)), min_size=1, max_size=60)
"""Pauses as parts of the time that a bucket takes to fill, and events as parts of what it holds."""

Steps = list[tuple[float, float]]


def scaled(limit: Limit, steps: Steps) -> Iterator[tuple[float, int]]:
    """Yield when how much is asked for."""
    now = NOW
    for pause, part in steps:
        now += pause * limit.burst / limit.rate
        yield now, round(part * limit.burst)


def taken(limit: Limit, steps: Steps) -> list[tuple[float, int]]:
    """Return when how much was let through."""
    buckets, passed = Buckets(), []
    for now, events in scaled(limit, steps):
        if buckets.take("a", limit, events, now).wait is None:
            passed.append((now, events))
    return passed


@given(rates, bursts, steps)
def test_no_window_has_more_than_the_burst_and_what_came_in_it(rate: float, burst: int, steps: Steps) -> None:
    passed = taken(Limit(rate, burst), steps)
    for first, (begin, _) in enumerate(passed):
        sent = 0
        for end, events in passed[first:]:
            sent += events
            assert sent <= burst + rate * (end - begin) + 1e-5 + SLACK * rate


@given(rates, bursts, steps)
def test_it_is_what_a_bucket_that_is_filled_step_by_step_does(rate: float, burst: int, steps: Steps) -> None:
    limit, buckets, level, before = Limit(rate, burst), Buckets(), float(burst), NOW
    for now, events in scaled(limit, steps):
        level = min(burst, level + (now - before) * rate)
        before = now
        standing = buckets.take("a", limit, events, now)
        if abs(level - events) > 1e-5 + SLACK * rate:
            assert (standing.wait is None) == (events <= level)
        if standing.wait is None:
            level -= events
        assert abs(standing.left - max(0, int(level))) <= 1
        assert abs(standing.reset - (burst - level) / rate) <= 1


@given(rates, bursts, st.data())
def test_who_waits_as_told_is_let_through_and_who_does_not_is_not(
    rate: float, burst: int, data: st.DataObject
) -> None:
    limit, buckets = Limit(rate, burst), Buckets()
    buckets.take("a", limit, burst, NOW)
    events = data.draw(st.integers(1, burst))
    wait = buckets.take("a", limit, events, NOW).wait
    assert wait == pytest.approx(events / rate)
    assert buckets.take("a", limit, events, NOW + wait * 0.9 - 1e-6).wait is not None
    assert buckets.take("a", limit, events, NOW + ceil(wait * 1e6) / 1e6 + 1e-6).wait is None


def test_it_lets_through_exactly_its_rate() -> None:
    buckets, limit = Buckets(), Limit(1000, 50)
    passed = sum(buckets.take("a", limit, 1, NOW + n / 2000).wait is None for n in range(100_001))
    assert passed == 50 + 50_000


def test_a_refusal_takes_nothing() -> None:
    buckets, limit = Buckets(), Limit(1, 10)
    assert buckets.take("a", limit, 8, NOW).left == 2
    assert buckets.take("a", limit, 3, NOW) == Standing(limit, 2, 8, pytest.approx(1))
    assert buckets.take("a", limit, 2, NOW).left == 0


def test_names_do_not_share() -> None:
    buckets, limit = Buckets(), Limit(1, 1)
    for name in ("a", "b"):
        assert buckets.take(name, limit, 1, NOW).wait is None
        assert buckets.take(name, limit, 1, NOW).wait is not None


def test_a_clock_that_is_set_back_gives_nothing_away_and_stops_nobody() -> None:
    buckets, limit = Buckets(), Limit(1, 10)
    buckets.take("a", limit, 10, NOW)
    assert buckets.take("a", limit, 1, NOW - 3600).wait == pytest.approx(1)
    assert buckets.take("a", limit, 1, NOW - 3599).wait is None


def test_full_buckets_are_forgotten_as_others_are_used() -> None:
    buckets, limit = Buckets(), Limit(10, 10)
    for number in range(1000):
        buckets.take(f"early {number}", limit, 10, NOW)
    assert len(buckets) == 1000
    for number in range(501):
        buckets.take(f"late {number}", limit, 1, NOW + 1)
    assert len(buckets) == 501
    assert all(buckets.take(f"late {n}", limit, 10, NOW + 1).wait is not None for n in range(501))


def test_their_number_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_KEPT", 100)
    buckets, limit = Buckets(), Limit(0.001, 1)
    for number in range(1000):
        buckets.take(str(number), limit, 1, NOW)
    assert len(buckets) == 100
    assert buckets.take("999", limit, 1, NOW).wait is not None


def test_a_burst_holds_a_second_and_a_whole_batch_unless_it_is_said() -> None:
    assert limit_of(None) is None
    assert limit_of(0) is None
    assert limit_of(0.5) == Limit(0.5, 1000)
    assert limit_of(2500.5) == Limit(2500.5, 2501)
    assert limit_of(5, 7) == Limit(5, 7)
    assert limits.BATCH == MAX_EVENTS


class TestUsage:
    def test_it_counts_what_is_stored_and_what_is_new(self) -> None:
        usage, quota, today = Usage(), Quota(10), int(NOW // DAY)
        usage.store({}, today, {"a": 4})
        usage.count("a", 3, NOW)
        assert usage.standing("a", quota, 3, NOW).wait is None
        assert usage.standing("a", quota, 4, NOW).wait is not None
        assert usage.standing("a", quota, 3, NOW).left == 3
        assert usage.standing("b", quota, 10, NOW).wait is None

    def test_what_comes_while_it_is_written_stays_new(self) -> None:
        usage, quota, today = Usage(), Quota(10), int(NOW // DAY)
        usage.count("a", 3, NOW)
        written = usage.new()
        usage.count("a", 2, NOW)
        usage.store(written, today, {"a": 3})
        assert usage.new() == {("a", today): 2}
        assert usage.standing("a", quota, 1, NOW).left == 5
        usage.store(usage.new(), today, {"a": 5})
        assert usage.new() == {}

    def test_a_day_begins_at_midnight_utc(self) -> None:
        usage, quota = Usage(), Quota(10)
        midnight = (NOW // DAY + 1) * DAY
        usage.count("a", 10, midnight - 0.5)
        usage.store(usage.new(), int(NOW // DAY), {"a": 10})
        late = usage.standing("a", quota, 1, midnight - 0.5)
        assert (late.wait, late.reset, late.left) == (1.0, 1, 0)
        assert usage.standing("a", quota, 10, midnight).wait is None


def test_the_headers_are_structured_fields_that_fit_each_other() -> None:
    assert ratelimit_headers([]) == {}
    standings = [Standing(Quota(5000), 12, 3600), Standing(Limit(2.5, 10), 3, 3)]
    assert ratelimit_headers(standings) == {
        "ratelimit-policy": '"daily-events";q=5000;w=86400, "events";q=10;w=4',
        "ratelimit": '"daily-events";r=12;t=3600, "events";r=3;t=3',
    }
