"""Who wants to be told of what besides events."""

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import partial
from inspect import isawaitable

from tidings_client.events import Kind, Notice

log = logging.getLogger("tidings_client")

Watcher = Callable[[Notice], Awaitable[object] | object]


class Watchers:
    """Functions by what they watch. What they raise is told to those who watch ``error``, or logged."""

    def __init__(self) -> None:
        self._watchers: dict[Kind, list[Watcher]] = defaultdict(list)

    def add(self, kind: Kind, watcher: Watcher) -> Callable[[], None]:
        """Call this one too; return what takes it off."""
        self._watchers[kind] = [*self._watchers[kind], watcher]
        return partial(self._remove, kind, watcher)

    async def tell_in_turn(self, kind: Kind, notice: Notice) -> None:
        """Call each, and wait for what it has to do."""
        for watcher in self._watchers.get(kind, ()):
            try:
                result = watcher(notice)
                if isawaitable(result):
                    await result
            except Exception as error:  # noqa: BLE001 - one mistake must not hold up all that follows
                self.report(error)

    def tell(self, kind: Kind, notice: Notice) -> None:
        """Call each, which must have nothing to wait for."""
        for watcher in self._watchers.get(kind, ()):
            try:
                watcher(notice)
            except Exception as error:  # noqa: BLE001 - as above
                self.report(error)

    def report(self, error: Exception) -> None:
        """Tell of an error."""
        watchers = self._watchers.get("error", ())
        for watcher in watchers:
            try:
                watcher({"error": error})
            except Exception:
                log.exception("a function that watches errors has failed")
        if not watchers:
            log.error("something went wrong beside the events", exc_info=error)

    def _remove(self, kind: Kind, watcher: Watcher) -> None:
        self._watchers[kind] = [one for one in self._watchers[kind] if one is not watcher]
