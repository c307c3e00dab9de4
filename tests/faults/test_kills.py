"""Kill -9 at every step of the life cycle: nothing acknowledged is lost, and every run ends once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mesatee.cli import up
from mesatee.enclave import faults

COUNTS = {
    "statement.decided": 7,
    "statement.logged": 7,
    "records.append.before": 9,
    "records.append.sent": 9,
    "records.append.after": 9,
}
"""The count-th passing, where a point is passed before the story begins."""
APART = {
    "epoch.logged": "passed before anybody can connect: the first start fails, see below",
    "closed.logged": "needs a run that ends without a receipt",
    "snapshot.stored": "passed at a clean stop",
}
"""Points that this story does not pass."""
POINTS = [f"{name}:{COUNTS[name]}" if name in COUNTS else name for name in faults.POINTS if name not in APART]
ORDINARY = {"statement.logged:7", "grant.logged", "function.ran", "receipt.logged", "release.logged"}
"""One of each kind in the ordinary suite; all of them in the slow one."""


def died(service: up.Service) -> bool:
    """Whether a process of the service was started more than once."""
    return any(process.ends for process in service.processes)


@pytest.mark.parametrize(
    "point", [pytest.param(name, marks=[] if name in ORDINARY else pytest.mark.slow) for name in POINTS]
)
def test_killed_at(point: str, told: Callable[..., up.Service]) -> None:
    assert died(told(point)), "the point was never passed"


def test_killed_while_it_takes_up_the_log(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with pytest.raises(Exception, match="gateway did not start"):
        up.start(home, environ={faults.VARIABLE: "epoch.logged"}, with_worker=False)
    up.start(home, with_worker=False).stop()


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["host", "gateway", "worker"])
def test_killed_at_any_time(
    victim: str, told: Callable[..., up.Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every 0.4 s for five times, whatever it is doing."""
    started: list[up.Service] = []
    real = up.start

    def start(*arguments: object, **options: object) -> up.Service:
        service = real(*arguments, **options)  # type: ignore[arg-type]
        if not started:
            started.append(service)
            threading.Thread(target=kill, args=(service,), daemon=True).start()
        return service

    def kill(service: up.Service) -> None:
        for _ in range(4):
            time.sleep(0.8)
            child = service.process(victim).child
            if child is not None and child.poll() is None:
                os.kill(child.pid, signal.SIGKILL)

    monkeypatch.setattr(up, "start", start)
    assert died(told(""))


def test_nothing_outlives_a_killed_launcher(tmp_path: Path) -> None:
    """The processes see their standard input end, and stop by themselves."""
    import subprocess
    import sys

    script = (
        "import sys, time; from pathlib import Path; from mesatee.cli import up\n"
        f"service = up.start(Path({str(tmp_path / 'home')!r}))\n"
        "print(*[process.child.pid for process in service.processes], flush=True)\n"
        "time.sleep(60)\n"
    )
    launcher = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    pids = [int(word) for word in launcher.stdout.readline().split()]
    assert len(pids) == 3
    launcher.kill()
    launcher.communicate()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a process outlived its launcher"
        time.sleep(0.1)
    # And the same folder can be used again at once.
    up.start(tmp_path / "home", with_worker=False).stop()
