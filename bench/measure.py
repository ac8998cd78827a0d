"""What processes cost, from /proc: CPU in seconds, memory in bytes. And where they may run."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

SERVER_CORE: Final = {0}
OTHER_CORE: Final = {1}
"""The load generator's, and the database's."""
ANY_CORE: Final = SERVER_CORE | OTHER_CORE

_TICKS = os.sysconf("SC_CLK_TCK")
_GONE = (FileNotFoundError, ProcessLookupError)


def family(pid: int) -> list[int]:
    """Return the process and all below it."""
    found = [pid]
    for parent in found:
        for task in _tasks(parent):
            with suppress(*_GONE):
                found += map(int, (task / "children").read_text().split())
    return found


def cpu(pid: int) -> float:
    """Return the CPU time of a process and all below it that live, in seconds, to the nanosecond."""
    total = 0
    for member in family(pid):
        for task in _tasks(member):
            with suppress(*_GONE):
                total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def cpu_of_reaped(pid: int) -> float:
    """Return the CPU time of the process's children that have ended, in seconds, to the tick."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / _TICKS


def memory(pid: int) -> int:
    """Return the proportional set size of a process and all below it."""
    total = 0
    for member in family(pid):
        for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def pin(pids: Iterable[int], cores: set[int]) -> None:
    """Let the processes and all below them run on these cores only; what they start inherits it."""
    for pid in pids:
        for member in family(pid):
            for task in _tasks(member):
                with suppress(*_GONE):
                    os.sched_setaffinity(int(task.name), cores)


@contextmanager
def running_on(cores: set[int]) -> Iterator[None]:
    """Let this thread run on these cores for a while."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except _GONE:
        return []
