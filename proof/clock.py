"""A wall clock that jumps: libfaketime, preloaded into one process, reads by how much from a file."""

from pathlib import Path
from typing import Final

from proof.postgres import Missing

_LIBRARIES: Final = Path("/usr/lib")
_NAME: Final = "faketime/libfaketimeMT.so.1"


class Clock:
    """The wall clock of whatever runs with ``environment``; the monotonic one is left alone.

    Raises Missing where the library is not installed.
    """

    def __init__(self, file: Path) -> None:
        found = [*_LIBRARIES.glob(f"*/{_NAME}"), *_LIBRARIES.glob(_NAME)]
        if not found:
            raise Missing("libfaketime is not installed")
        self._file = file
        self.environment = {
            "LD_PRELOAD": str(found[0]), "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_RESET": "1",
        }  # fmt: skip
        self.jump(0)

    def jump(self, seconds: int) -> None:
        """Be ahead of the time by so much, or with a negative number behind it."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}\n")
        fresh.rename(self._file)
