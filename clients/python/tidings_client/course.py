"""Decides, by how connections end, when the next one is made, or that there is none."""

from random import Random
from typing import Final, NamedTuple

from tidings_client.errors import Closed, Ended, Unauthorized

SHORTEST: Final = 0.5
"""Seconds that the first pause may have at most."""
LONGEST: Final = 30.0
LIMITED: Final = (5.0, 60.0)
"""Seconds, at least and at most, after the service has said that it is too much (4029)."""

DEAD_TOKEN: Final = 4001
_TOO_MUCH: Final = 4029
_FINAL: Final[dict[int, type[Ended]]] = {4003: Unauthorized, 4010: Closed, 1008: Closed}


class Ending(NamedTuple):
    """How a connection, or an attempt at one, has ended; without a ``code`` it was lost, or never was."""

    code: int | None
    reason: str

    @property
    def error(self) -> Ended | None:
        """Return what is to be raised, where nobody is to come back after this, whatever the token."""
        if self.code is None or self.code not in _FINAL:
            return None
        return _FINAL[self.code](self.code, self.reason)


class Course:
    """Counts failures, and fresh tokens that were no good."""

    def __init__(self, random: Random, *, renewable: bool) -> None:
        """``renewable`` says that there is a fresh token to be had."""
        self._random = random
        self._renewable = renewable
        self._renewed = False
        """The last token was fresh, and has not been believed yet."""
        self._renewals = 0
        self._failures = 0

    def welcomed(self) -> None:
        """Note that a token is believed."""
        self._renewed = False

    def live(self) -> None:
        """Note that a connection has come to its purpose: the next pause is short again."""
        self._failures = self._renewals = 0

    def after(self, ending: Ending) -> float:
        """Return how many seconds to wait before the next attempt.

        With full jitter: clients that fail together do not come back together. Raises Ended.
        """
        if ending.error is not None:
            raise ending.error
        if ending.code == DEAD_TOKEN:
            return self._with_a_fresh_token(ending)
        if ending.code == _TOO_MUCH:
            return self._random.uniform(*LIMITED)
        return self.failed()

    def failed(self) -> float:
        """Return how many seconds to wait after a failure."""
        longest = min(LONGEST, SHORTEST * 2.0 ** min(self._failures, 10))
        self._failures += 1
        return self._random.uniform(0, longest)

    def _with_a_fresh_token(self, ending: Ending) -> float:
        """Come back at once, but once only until the service has believed a token.

        One that it believes and then does not is no reason to ask for tokens without a pause.
        """
        if not self._renewable or self._renewed:
            raise Unauthorized(DEAD_TOKEN, ending.reason)
        self._renewed = True
        self._renewals += 1
        return 0.0 if self._renewals == 1 else self.failed()
