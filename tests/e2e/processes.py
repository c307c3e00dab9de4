"""Processes of a service, found in /proc: what a launcher started, and what it has left."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

COMMAND: Final = [sys.executable, "-c", "from mesatee.cli.main import main; main()"]
"""The command line, by this interpreter."""


@dataclass(frozen=True)
class Running:
    """A process; its start time tells it from a later one of the same number."""

    pid: int
    parent: int
    started: str
    command: str


def every() -> Iterator[Running]:
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # The name in brackets may contain anything, also brackets and spaces.
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if fields[0] == "Z":
                continue
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            yield Running(int(path.name), int(fields[1]), fields[19], command)


def below(pid: int) -> set[Running]:
    """All descendants of a process."""
    found: set[Running] = set()
    parents = {pid}
    everybody = list(every())
    while True:
        more = {item for item in everybody if item.parent in parents} - found
        if not more:
            return found
        found |= more
        parents |= {item.pid for item in more}


class Watch:
    """Remembers every process that is ever seen below `pid`."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._seen: set[Running] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.2):
            self._seen |= below(self._pid)

    def stop(self) -> set[Running]:
        """All that were seen."""
        self._over.set()
        self._thread.join()
        return self._seen


def alive(seen: set[Running]) -> set[str]:
    """The commands of those that still run."""
    known = {(item.pid, item.started) for item in seen}
    return {item.command for item in every() if (item.pid, item.started) in known}


def gone(left: Callable[[], object], seconds: float = 5) -> bool:
    """Whether nothing is left, now or soon."""
    deadline = time.monotonic() + seconds
    while left():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
