"""What one instance holds, and what it has done since it started."""

from collections import Counter
from operator import attrgetter

import msgspec

from service.domain.delivery import State
from service.stream.control import Control
from service.stream.follower import Follower

_state = attrgetter("state")


class Figures(msgspec.Struct):
    """Counts, the bytes of the log in memory, and how far and how recently (s) the log was followed."""

    position: int
    head_confirmed_age: float
    users: int
    connections: dict[str, int]
    """By state."""
    delivered: int
    recent_bytes: int
    revocations: int


def figures(follower: Follower, control: Control) -> Figures:
    """Return an instance's figures as they are now."""
    hub = follower.hub
    states = Counter(map(_state, hub))
    return Figures(
        position=hub.position,
        head_confirmed_age=round(follower.confirmed_age, 3),
        users=len(hub.users),
        connections={state.value: states[state] for state in (State.CATCHING_UP, State.LIVE)},
        delivered=hub.delivered,
        recent_bytes=hub.recent.bytes,
        revocations=len(control.revocations),
    )
