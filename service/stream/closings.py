"""How many connections an order closed: here, and by what the other instances tell of theirs."""

import asyncio
from collections import OrderedDict
from collections.abc import Collection
from typing import Final

from service.domain.messages import Closed
from service.stream.courier import Courier

REMEMBERED: Final = 1024
"""Orders, the latest."""


class Closings:
    """Counts by order and by instance; an order is named by what it is about."""

    def __init__(self, courier: Courier, instance: str) -> None:
        self._courier = courier
        self._instance = instance
        self._counts: OrderedDict[str, dict[str, int]] = OrderedDict()
        self._told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        courier.on(Closed, self._note)

    def count(self, subject: str, closed: int) -> None:
        """Note what this instance closed, none included, and tell the others."""
        report = Closed(subject, self._instance, closed)
        self._note(report)
        self._courier.send(report)

    def _note(self, report: Closed) -> None:
        counts = self._counts.setdefault(report.subject, {})
        counts[report.instance] = counts.get(report.instance, 0) + report.count
        if len(self._counts) > REMEMBERED:
            self._counts.popitem(last=False)
        told, self._told = self._told, asyncio.get_running_loop().create_future()
        told.set_result(None)

    def closed(self, subject: str) -> int:
        """Return how many connections are known to have been closed."""
        return sum(self._counts.get(subject, {}).values())

    async def told_by(self, subject: str, instances: Collection[str], seconds: float) -> bool:
        """Wait until all these instances have told of theirs, but not for longer; tell whether they have."""
        missing = set(instances)
        try:
            async with asyncio.timeout(seconds):
                while missing := missing - self._counts.get(subject, {}).keys():
                    await asyncio.shield(self._told)
        except TimeoutError:
            return False
        return True
