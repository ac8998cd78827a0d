"""What the answers to a batch mean, and when to send it again."""

import json
from collections.abc import Sequence
from random import Random
from typing import Any, Final, NamedTuple

from tidings_client.errors import Refused, Unconfirmed
from tidings_client.outgoing import Sent

SHORTEST: Final = 0.1
"""Seconds that the first pause may have at most."""
LONGEST: Final = 10.0
_AGAIN: Final = {408, 409, 425, 429}
_IN_PARTS: Final = {400, 413, 422}
"""What may be wrong with one event, or with their sum, and was said of all."""


class Again(NamedTuple):
    """Send the same again, ``after`` so many seconds where the service says so."""

    reason: str
    after: float | None = None


class Split(NamedTuple):
    """Send it in two halves: what is wrong may be wrong with one of them only."""


Results = Sequence[Sent | Refused]
Verdict = Results | Again | Split


def judge(status: int, retry_after: str | None, body: bytes, count: int) -> Verdict:
    """Return what became of a batch of ``count`` events, or what to do about it."""
    answer = _json(body)
    if status == 207:
        return _results(answer, count)
    if status >= 500 or status in _AGAIN or status < 400:
        return Again(f"the service answers {status}", _seconds(retry_after))
    if status in _IN_PARTS and count > 1:
        return Split()
    return [Refused(status, answer if isinstance(answer, dict) else {})] * count


class Retries:
    """Says how long to wait before the same is sent again, and when to give up."""

    def __init__(self, random: Random, until: float) -> None:
        self._random = random
        self._until = until
        self._failures = 0

    def pause(self, again: Again, now: float) -> float:
        """Return the seconds: by full jitter, but not before the service says. Raises Unconfirmed."""
        longest = min(LONGEST, SHORTEST * 2.0 ** min(self._failures, 10))
        self._failures += 1
        pause = max(self._random.uniform(0, longest), again.after or 0.0)
        if now + pause > self._until:
            raise Unconfirmed(again.reason)
        return pause


def _results(answer: Any, count: int) -> Results | Again:
    try:
        results = [_result(each) for each in answer["results"]]
    except (KeyError, TypeError):
        results = []
    return results if len(results) == count else Again("the service answers something else")


def _result(each: dict[str, Any]) -> Sent | Refused:
    if "problem" in each:
        return Refused(each["status"], each["problem"])
    events = each["events"]
    return Sent(
        tuple(event["position"] for event in events if "position" in event),
        events[0].get("id"),
        tuple(event["scheduled"] for event in events if "scheduled" in event),
    )


def _seconds(retry_after: str | None) -> float | None:
    """Return what a ``Retry-After`` says in seconds; the other form, a date, is not the service's."""
    return float(retry_after) if retry_after and retry_after.isdecimal() else None


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
