"""The warm interpreter from which every child is forked (ADR 1 "The sandbox").

Run as ``python -I -B -m mesatee.enclave.sandbox.zygote``, with one SOCK_SEQPACKET socket as descriptor 3.
It has numpy, pandas, Arrow and scikit-learn loaded, holds no key, runs no foreign code and reads no foreign
byte: jobs come from the supervisor, data goes unread to the child by descriptor. It has one thread, so that
a fork is whole.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import socket
import sys
import sysconfig
from pathlib import Path
from typing import Final

from mesatee import _core
from mesatee.enclave.sandbox import child
from mesatee.enclave.sandbox.protocol import Exit, Job
from mesatee.protocol import limits

CONTROL_FD: Final = 3
KILL: Final = b"kill"
READY: Final = b"ready"
FIXED_FDS: Final = 3
"""A job's first descriptors: stdout and stderr, the report, the code."""
MOST_FDS: Final = FIXED_FDS + 2 * limits.INPUTS

PRELOADED: Final = (
    "numpy",
    "numpy.random",
    "pandas",
    "pyarrow",
    "pyarrow.acero",
    "pyarrow.compute",
    "pyarrow.csv",
    "pyarrow.feather",
    "pyarrow.ipc",
    "pyarrow.parquet",
    "sklearn.ensemble",
    "sklearn.linear_model",
    "sklearn.metrics",
    "sklearn.model_selection",
    "sklearn.preprocessing",
)
"""Imported once, here, instead of by every child; what is not installed is left out."""


def read_paths() -> list[str]:
    """What a child may read: standard library, installed packages, system libraries and time zones."""
    found = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    multiarch = sysconfig.get_config_var("MULTIARCH")
    if multiarch:
        found += [f"/lib/{multiarch}", f"/usr/lib/{multiarch}"]
    found += ["/lib64", "/usr/lib64", "/usr/share/zoneinfo"]
    # An installed interpreter may keep its own shared library beside its standard library.
    found += [str(path) for path in Path(sys.base_prefix, "lib").glob("libpython*.so*")]
    return sorted({path for path in found if path and Path(path).exists()})


def preload() -> None:
    """Import what functions use, then make forks cheap and whole.

    Raises `RuntimeError` if a thread was started.
    """
    for name in PRELOADED:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        raise RuntimeError(f"a library started {threads - 1} threads, so that forking would not be safe")
    # Objects that are here now will not be collected in children: fewer pages to copy.
    gc.collect()
    gc.freeze()


def main() -> int:
    """Serve one job after another until the supervisor hangs up."""
    os.setsid()
    os.closerange(CONTROL_FD + 1, os.sysconf("SC_OPEN_MAX"))
    _core.prepare_zygote()
    control = socket.socket(fileno=CONTROL_FD)
    control.set_inheritable(False)
    paths = read_paths()
    preload()
    control.send(READY)
    while True:
        message, fds, flags, _ = socket.recv_fds(control, limits.JOB_BYTES, MOST_FDS)
        if not message:
            return 0
        if message == KILL:
            # It came too late: its child had ended by itself.
            continue
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            return 1
        if not _run(control, message, fds, paths):
            return 0


def _run(control: socket.socket, message: bytes, fds: list[int], paths: list[str]) -> bool:
    """Fork a child for one job and wait for it; False when the supervisor has gone."""
    job = Job.decode(message)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            control.close()
            code = child.outer(job, fds, paths)
        finally:
            # Never back into the zygote's loop, whatever happened.
            os._exit(code)
    for fd in fds:
        os.close(fd)
    status, cpu, rss, present = _wait(control, pid)
    if present:
        control.send(Exit(status, cpu, rss).encode())
    return present


def _wait(control: socket.socket, pid: int) -> tuple[int, float, int, bool]:
    """Wait until `pid` and its orphans are gone; kill them when the supervisor says so or hangs up."""
    present = True
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(control, select.POLLIN)
        while not any(fd == pidfd for fd, _ in poll.poll()):
            present = bool(control.recv(limits.JOB_BYTES))
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            poll.unregister(control)
    finally:
        os.close(pidfd)
    status, cpu, rss = 0, 0.0, 0
    # The inner child dies with the outer one and becomes ours, since the zygote is a subreaper.
    while True:
        try:
            found, raw, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return status, cpu, rss, present
        cpu += usage.ru_utime + usage.ru_stime
        rss = max(rss, usage.ru_maxrss * limits.KIB)
        if found == pid:
            code = os.waitstatus_to_exitcode(raw)
            status = code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
