"""The launcher and its processes: who ends when, and what is left."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.town import children

from mesatee.cli import attesters, up
from mesatee.cli.processes import GATEWAY_END_SECONDS, WORKER_END_SECONDS
from mesatee.errors import Conflict, Malformed, Unavailable

STUCK = """
import sys, threading, time
from mesatee.cli.processes import Lifeline
lifeline = Lifeline()
if sys.argv[1] != "starting":
    lifeline.serve(lambda: print("asked", flush=True), float(sys.argv[1]))
print("here", flush=True)
threading.Event().wait()
"""
LAUNCHER = """
import sys
from pathlib import Path
from mesatee.cli import up
up.start(Path(sys.argv[1]))
print("up", flush=True)
sys.stdin.read()
"""


def stuck(seconds: str) -> subprocess.Popen[bytes]:
    """A process that waits for what never comes, and is told to leave after these seconds."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-B", "-c", STUCK, seconds], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"here\n"
    return process


@pytest.mark.parametrize("how", ["launcher gone", "terminated"])
@pytest.mark.parametrize("seconds", ["0.3", "starting"])
def test_a_process_that_waits_for_ever_still_leaves(seconds: str, how: str) -> None:
    process = stuck(seconds)
    assert process.stdin is not None
    assert process.stdout is not None
    began = time.monotonic()
    if how == "terminated":
        process.terminate()
    else:
        process.stdin.close()
    assert process.wait(20) == 0
    if seconds != "starting":
        assert time.monotonic() - began >= float(seconds)
        assert process.stdout.read() == b"asked\n"
    process.stdin.close()
    process.stdout.close()


def test_processes_leave_before_their_launcher_loses_its_patience() -> None:
    assert WORKER_END_SECONDS < GATEWAY_END_SECONDS < up.STOP_SECONDS < up.LEFTOVER_SECONDS


@pytest.mark.parametrize("text", ["id,age\n1,2\n", "permit (principal, action, resource) when { 1 };"])
def test_a_platform_policy_that_is_none_founds_nothing(tmp_path: Path, text: str) -> None:
    """A service never changes its rules: it was founded on garbage, and could not be mended."""
    (tmp_path / "people.csv").write_text(text)
    with pytest.raises(Malformed) as caught:
        up.run(
            tmp_path / "home",
            level=None,
            attester=None,
            tpm="",
            port=0,
            platform_policy=tmp_path / "people.csv",
            as_json=True,
        )
    assert "docs/policy.md" in caught.value.hint
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(("name", "level"), [(None, None), (None, 1), ("software", None), ("snp", None)])
def test_a_tpm_that_nothing_would_use_is_refused(name: str | None, level: int | None) -> None:
    """It was ignored, and the service ran at level 2."""
    with pytest.raises(Malformed, match="`--tpm` needs `--attester tpm`"):
        attesters.choose(name, level, "unix:/nowhere")
    with pytest.raises(Unavailable) as caught:
        attesters.choose("tpm", None, "unix:/nowhere")
    assert "doctor --tpm unix:/nowhere" in caught.value.hint


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short folder for temporary files of this test alone: a socket's path must be short."""
    with tempfile.TemporaryDirectory(prefix="up-") as name:
        monkeypatch.setenv("TMPDIR", name)
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)


@pytest.mark.e2e
def test_a_worker_that_waits_at_the_queue_ends_with_its_launcher(tmp_path: Path, temporary: Path) -> None:
    """It lingered for seconds in a call to the queue, of a host that did not answer any more."""
    service = up.start(tmp_path / "home")
    try:
        host, worker = service.process("host").child, service.process("worker").child
        assert host is not None
        assert worker is not None
        assert worker.stdin is not None
        deadline = time.monotonic() + 60
        while not children(worker.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        zygotes = children(worker.pid)
        os.kill(host.pid, signal.SIGSTOP)
        worker.stdin.close()
        began = time.monotonic()
        assert worker.wait(20) == 0
        assert time.monotonic() - began < WORKER_END_SECONDS + 4
        os.kill(host.pid, signal.SIGCONT)
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{pid}/exe").exists() for pid in zygotes) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(os.path.exists(f"/proc/{pid}/exe") for pid in zygotes)  # noqa: PTH110
    finally:
        service.stop()
    assert list(temporary.iterdir()) == []


@pytest.mark.e2e
def test_a_start_waits_for_the_processes_of_a_killed_launcher_and_removes_what_they_left(
    tmp_path: Path, temporary: Path
) -> None:
    home = tmp_path / "home"
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"up\n"
        assert len(list(temporary.iterdir())) == 1
        with pytest.raises(Conflict, match="runs in"):
            up.start(home)
        first.kill()
    service = up.start(home)
    try:
        assert list(temporary.iterdir()) == [service.runtime]
    finally:
        service.stop()
    assert list(temporary.iterdir()) == []


def test_a_process_that_does_not_end_is_a_conflict(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up, "LEFTOVER_SECONDS", 0.2)
    home = tmp_path / "home"
    (home / "service").mkdir(parents=True, mode=0o700)
    held = os.open(home / "service" / "processes.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(Conflict, match="does not end"):
        up.start(home)
    os.close(held)
    assert list(temporary.iterdir()) == []


def test_a_note_of_another_folder_removes_nothing(tmp_path: Path, temporary: Path) -> None:
    mine = tmp_path / f"{up.RUNTIME_PREFIX}mine"
    mine.mkdir()
    (tmp_path / "runtime").write_text(str(mine))
    up._new_runtime(tmp_path)
    assert mine.exists()


@pytest.mark.e2e
def test_a_start_that_fails_leaves_no_process(tmp_path: Path, temporary: Path) -> None:
    home = tmp_path / "home"
    before = set(children(os.getpid()))
    with pytest.raises(Unavailable):
        up.start(home, environ={"MESATEE_FAULT": "epoch.logged"})
    assert set(children(os.getpid())) <= before
    assert list(temporary.iterdir()) == []
