"""How fast commands are sent: no faster than the service takes them."""

from typing import Final

RATE: Final = 40.0
"""Commands a second, on the average: the service refuses more than 50."""
BURST: Final = 20


class Pace:
    """Lets so many through at once, and then one after the other (GCRA)."""

    def __init__(self, rate: float = RATE, burst: int = BURST) -> None:
        self._each = 1 / rate
        self._ahead = (burst - 1) / rate
        self._due = 0.0
        """When the next one would be due, if there were no bursts."""

    def next(self, now: float) -> float:
        """Count one more; return how many seconds to wait before it."""
        due = max(now, self._due)
        self._due = due + self._each
        return max(0.0, due - self._ahead - now)
