"""Where a receiver keeps how far it is, so that it can go on there after its process has ended."""

import json
import os
from collections.abc import Awaitable
from pathlib import Path
from typing import Protocol


class Store(Protocol):
    """Keeps texts by key, for good once ``set`` has returned. Either may be a coroutine function.

    Only one receiver writes a key at a time. What ``set`` raises ends the loop over the events, and the
    event comes again.
    """

    def get(self, key: str, /) -> str | Awaitable[str | None] | None:
        """Return what is kept, if anything is."""

    def set(self, key: str, value: str, /) -> Awaitable[None] | None:
        """Keep this from now on."""


class FileStore:
    """A store in a file of its own, which only one process may use at a time.

    The file is replaced at once and whole, so whenever a process is killed the one or the other is there.
    It is not forced to the disk: where a machine loses power the last events may come again.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._next = self._path.with_name(f"{self._path.name}.new")
        self._texts = self._read()

    def get(self, key: str, /) -> str | None:
        """Return what is kept, if anything is."""
        return self._texts.get(key)

    def set(self, key: str, value: str, /) -> None:
        """Keep this from now on. Raises OSError."""
        self._texts[key] = value
        self._next.write_text(json.dumps(self._texts))
        self._next.replace(self._path)

    def _read(self) -> dict[str, str]:
        try:
            texts = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return texts if isinstance(texts, dict) else {}
