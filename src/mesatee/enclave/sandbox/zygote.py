"""The warm interpreter from which every child is forked (ADR 1 "The sandbox").

Run as ``python -I -m mesatee.enclave.sandbox.zygote KIND [ENVIRONMENTS]``, with one SOCK_SEQPACKET socket as
descriptor 3. There are two kinds. The general one has numpy, pandas, polars, Arrow and scikit-learn loaded, the other
wasmtime and none of these: wasmtime leaves memory that is writable and executable, which no child but those that run
modules has. ENVIRONMENTS is the folder of environments that jobs may name; nothing is imported from it here.

It holds no key, runs no foreign code and sees neither jobs nor data: it keeps one child waiting, the *spare*, and
gives the supervisor the socket by which that child takes its only job. So nothing of a job can be left in the
memory from which the next child is forked. It has one thread, so that a fork is whole.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import math
import os
import select
import signal
import socket
import sys
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

from mesatee import _core
from mesatee.enclave.sandbox import child
from mesatee.enclave.sandbox.protocol import (
    COMMAND_BYTES,
    KILL,
    READY,
    Exit,
    Refused,
    Spare,
    SpareKind,
    parse_command,
)
from mesatee.errors import InputError
from mesatee.protocol import limits

CONTROL_FD: Final = 3
AGAIN_SECONDS: Final = 0.2
"""Pause before another child when one died without a job: whatever kills children must not keep us busy."""

PRELOADED: Final = (
    "duckdb",
    "mesatee.enclave.functions._examples",
    "mesatee.enclave.functions._training",
    "mesatee.inference",
    "numpy",
    "numpy.random",
    "onnxruntime",
    "pandas",
    "polars",
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
"""Imported once, by the general zygote, instead of by every child; what is not installed is left out."""


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


def preload(kind: SpareKind = "general") -> None:
    """Import what functions of this kind use, then make forks cheap and whole.

    Raises `RuntimeError` if a thread was started.
    """
    for name in PRELOADED if kind == "general" else ():
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    if kind == "general":
        _look_at_threads()
        _make_casts()
    # Here as well as in each child: what is made by a first call is made once.
    child.warm_up(kind)
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        raise RuntimeError(f"a library started {threads - 1} threads, so that forking would not be safe")
    # Objects that are here now will not be collected in children: fewer pages to copy.
    gc.collect()
    gc.freeze()
    # A fork copies an entry for each page, and a hundred megabytes are 25,000 of them, or 50 large ones.
    _core.collapse_memory()


def _look_at_threads() -> None:
    """Let scikit-learn find once whose threads it has to bound, which it does by a file that no child can read."""
    try:
        cluster = importlib.import_module("sklearn.cluster")
    except ImportError:
        return
    cluster.KMeans(1, n_init=1).fit([[0.0], [1.0]])


def _make_casts() -> None:
    """Let Arrow make its table of casts, which it does with the first one, all over the memory that children share."""
    try:
        pyarrow = importlib.import_module("pyarrow")
    except ImportError:
        return
    pyarrow.array([0]).cast(pyarrow.int32())


@dataclass(slots=True)
class _Family:
    """An outer child and all that came from it: one process group."""

    number: int
    pid: int
    pidfd: int


class _Zygote:
    """The loop: keep a spare, obey, and tell of each end."""

    def __init__(
        self, control: socket.socket, paths: list[str], kind: SpareKind, environments: str | None
    ) -> None:
        self._control = control
        self._kind: SpareKind = kind
        self._paths = paths
        self._environments = environments
        self._families: dict[int, _Family] = {}
        self._count = 0
        self._spare: int | None = None
        self._due = 0.0
        """When the next spare is to be made, by the monotonic clock; there is one while this is infinite."""
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def serve(self) -> None:
        """Until the supervisor hangs up; then no child is left."""
        try:
            while True:
                if self._due <= time.monotonic():
                    self._make_spare()
                left = self._due - time.monotonic()
                ready = {fd for fd, _ in self._poll.poll(None if left == math.inf else max(0, left * 1000))}
                if self._control.fileno() in ready and not self._obey():
                    return
                for family in [known for known in self._families.values() if known.pidfd in ready]:
                    self._control.send(self._bury(family).encode())
        except (BrokenPipeError, ConnectionResetError):
            # The supervisor has gone.
            return
        finally:
            for family in list(self._families.values()):
                self._kill(family)
                self._bury(family)

    def _make_spare(self) -> None:
        """Fork a child and tell of it. The supervisor may send a job at once: it waits in the socket."""
        theirs, childs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, childs:
            try:
                pid = os.fork()
            except OSError:
                self._due = time.monotonic() + AGAIN_SECONDS
                return
            if pid == 0:
                code = 1
                try:
                    code = child.outer(childs.fileno(), self._paths, self._kind, self._environments)
                finally:
                    # Never back into the zygote's loop, whatever happened.
                    os._exit(code)
            # The child does the same: whoever comes second finds it done.
            with contextlib.suppress(OSError):
                os.setpgid(pid, pid)
            self._count += 1
            family = _Family(self._count, pid, os.pidfd_open(pid))
            self._families[family.number] = family
            self._poll.register(family.pidfd, select.POLLIN)
            self._spare, self._due = family.number, math.inf
            socket.send_fds(self._control, [Spare(family.number).encode()], [theirs.fileno()])

    def _obey(self) -> bool:
        """One command; False when the supervisor has gone. One that makes no sense is refused."""
        message, fds, flags, _ = socket.recv_fds(self._control, COMMAND_BYTES, 0)
        for fd in fds:
            os.close(fd)
        if not message:
            return False
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise InputError("a command is short and comes without descriptors")
            word, number = parse_command(message)
        except InputError as error:
            self._control.send(Refused(error.message).encode())
            return True
        family = self._families.get(number)
        # A child that is gone by now has been told of already.
        if word == KILL:
            if family is not None:
                self._kill(family)
        elif self._spare in (number, None):
            self._spare, self._due = None, 0.0
        return True

    def _kill(self, family: _Family) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(family.pidfd, signal.SIGKILL)

    def _bury(self, family: _Family) -> Exit:
        """Wait until nothing of `family` is left, whose outer child has ended or was killed."""
        status, cpu, rss = 0, 0.0, 0
        # The inner child dies with the outer one and becomes ours, since the zygote is a subreaper.
        with contextlib.suppress(ChildProcessError):
            while True:
                found, raw, usage = os.wait4(-family.pid, 0)
                cpu += usage.ru_utime + usage.ru_stime
                rss = max(rss, usage.ru_maxrss * limits.KIB)
                if found == family.pid:
                    code = os.waitstatus_to_exitcode(raw)
                    status = code if code >= 0 else 128 - code
        self._poll.unregister(family.pidfd)
        os.close(family.pidfd)
        del self._families[family.number]
        if self._spare == family.number:
            self._spare, self._due = None, time.monotonic() + AGAIN_SECONDS
        return Exit(family.number, status, cpu, rss)


def main(arguments: Sequence[str]) -> int:
    """Make one child after another until the supervisor hangs up."""
    kinds = {kind: kind for kind in get_args(SpareKind)}
    if not 1 <= len(arguments) <= 2 or arguments[0] not in kinds:
        raise SystemExit(f"a zygote is one of {', '.join(kinds)}")
    kind: SpareKind = kinds[arguments[0]]
    os.setsid()
    os.closerange(CONTROL_FD + 1, os.sysconf("SC_OPEN_MAX"))
    _core.prepare_zygote()
    control = socket.socket(fileno=CONTROL_FD)
    control.set_inheritable(False)
    paths = read_paths()
    preload(kind)
    # A child, which is confined when it imports more, can neither write nor read the worker's cache.
    sys.dont_write_bytecode, sys.pycache_prefix = True, None
    control.send(READY)
    _Zygote(control, paths, kind, arguments[1] if len(arguments) > 1 else None).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
