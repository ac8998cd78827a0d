"""What is asked of whatever carries messages between instances."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence


class Notifier(ABC):
    """Carries short texts from each instance to all that listen, itself included.

    An adapter may lose, and may not hold back: what is sent reaches those that listen within
    milliseconds or never, at most once, in the order in which its sender sent it. Losing costs its
    user time, never an event: the log is what everyone goes by. Nothing of one log reaches those
    that follow another.

    An adapter opens and reopens its own connections; whatever is wrong with them it tells by
    raising Unavailable, within seconds also where packets vanish without a word.
    """

    capacity: int
    """Bytes of UTF-8 that one text may have."""

    @abstractmethod
    async def publish(self, texts: Sequence[str]) -> None:
        """Send texts, in this order; raises Unavailable where some of them may not have been sent."""

    @abstractmethod
    async def listen(self, receive: Callable[[str], None], ready: Callable[[], None]) -> None:
        """Hand every text to ``receive`` until cancelled; call ``ready`` once none is missed any more.

        Raises Unavailable where the connection is lost: what is sent from then on is missed.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close what is open."""
