"""The queue between the connections and the application."""

import asyncio
from collections import deque
from typing import Final

from tidings_client.progress import Frame

BOUND: Final = 1000
"""Frames that wait for the application."""


class Inflow:
    """Frames in the order in which they came; one task takes them.

    It does not refuse any: who puts them looks whether it is ``full``, and then waits for ``room``.
    """

    def __init__(self, bound: int = BOUND) -> None:
        self._bound = bound
        self._frames: deque[Frame] = deque()
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._over = False
        self._error: Exception | None = None

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def full(self) -> bool:
        """Tell whether as many wait as should."""
        return len(self._frames) >= self._bound

    def put(self, frame: Frame) -> None:
        """Let a frame wait."""
        self._frames.append(frame)
        self._arrived.set()
        if self.full:
            self._room.clear()

    async def room(self) -> None:
        """Wait, once it was full, until half of it is worked off."""
        await self._room.wait()

    async def get(self) -> Frame | None:
        """Return the next frame, when there is one; None after the end. Raises what it has ended with."""
        while not self._frames:
            if self._over:
                if self._error is not None:
                    raise self._error
                return None
            self._arrived.clear()
            await self._arrived.wait()
        frame = self._frames.popleft()
        if len(self._frames) * 2 <= self._bound:
            self._room.set()
        return frame

    def end(self, error: Exception | None = None) -> None:
        """Let nothing more come; what waits is still given out, unless it ends without an error."""
        if self._over:
            return
        self._over, self._error = True, error
        if error is None:
            self._frames.clear()
        self._arrived.set()
        self._room.set()
