"""The zygote as the supervisor sees it: its process, the socket to it, and the child that waits for a job."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Final

from mesatee.enclave.sandbox.protocol import READY, Exit, Refused, Spare, SpareKind, command, parse_answer
from mesatee.errors import InputError, SandboxFailed
from mesatee.protocol import limits

KILL_SECONDS: Final = 1.0
"""After this a zygote that does not report a killed child is killed itself, and its children die with it."""
START_SECONDS: Final = 120.0
"""For the zygote's imports, from a cold disk and compiled anew."""
_ENVIRONMENT: Final = {
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    # One thread in the zygote: none of the libraries may start any when it is loaded.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ARROW_IO_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "_RJEM_MALLOC_CONF": "background_thread:false",
    # Allocators that reserve address space far ahead would run into RLIMIT_AS.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "2",
}
"""All that the zygote's environment holds; the child clears it."""
_CONTROL_FD: Final = 3


class ZygoteProcess:
    """The zygote process, the socket to it, and the child that waits for a job."""

    def __init__(self, python: str, kind: SpareKind, environments: Path | None = None) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        errors = os.memfd_create("zygote-stderr")
        self.control = ours
        self.spare: tuple[int, socket.socket] | None = None
        self._reaped = False
        try:
            actions = [
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, errors, 2),
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), _CONTROL_FD),
            ]
            # As its worker: byte code that was compiled from the sources, not what lies beside them.
            own = ["-X", f"pycache_prefix={sys.pycache_prefix}"] if sys.pycache_prefix else []
            writes = [] if own and not sys.dont_write_bytecode else ["-B"]
            command = [python, "-I", *own, *writes, "-m", "mesatee.enclave.sandbox.zygote", kind]
            if environments is not None:
                command.append(str(environments.resolve()))
            self.pid = os.posix_spawn(python, command, _ENVIRONMENT, file_actions=actions)
            theirs.close()
            self._await_ready(errors)
        finally:
            theirs.close()
            os.close(errors)

    def _await_ready(self, errors: int) -> None:
        self.control.settimeout(START_SECONDS)
        try:
            answer = self.control.recv(limits.JOB_BYTES)
        except OSError:
            answer = b""
        if answer == READY:
            self.control.settimeout(None)
            return
        self.close()
        # Nothing but our own start-up code and the libraries' imports has run: this is no text of a function.
        said = (
            os.pread(errors, limits.DIAGNOSTICS_BYTES, 0)
            .decode("utf-8", "replace")
            .strip()
            .rpartition("\n")[2]
        )
        raise SandboxFailed(f"the zygote did not start: {said or 'no answer'}")

    def hear(self) -> Exit | None:
        """Take one message: keep a new spare, return an end. Waits for it.

        Raises `SandboxFailed` when the zygote has died or breaks the protocol.
        """
        fds: list[int] = []
        try:
            message, fds, _, _ = socket.recv_fds(self.control, limits.JOB_BYTES, 1)
        except OSError:
            message = b""
        if not message:
            raise SandboxFailed("the zygote died during a run")
        try:
            answer = parse_answer(message)
        except InputError as error:
            answer = Refused(error.message)
        match answer, fds:
            case Spare(child), [fd]:
                self.drop_spare()
                self.spare = (child, socket.socket(fileno=fd))
                return None
            case Exit(child), []:
                if self.spare is not None and self.spare[0] == child:
                    self.drop_spare()
                return answer
        for fd in fds:
            os.close(fd)
        raise SandboxFailed(f"the zygote broke the protocol: {answer}")

    def tell(self, word: bytes, child: int) -> None:
        """A command. A dead zygote shows itself by the end of the socket."""
        with contextlib.suppress(OSError):
            self.control.send(command(word, child))

    def drop_spare(self) -> None:
        """Let go of its socket: it has its job, or is gone."""
        if self.spare is not None:
            self.spare[1].close()
            self.spare = None

    def alive(self) -> bool:
        """Whether the process is still there; reaps it if not."""
        if not self._reaped:
            self._reaped = os.waitpid(self.pid, os.WNOHANG)[0] == self.pid
        return not self._reaped

    def kill(self) -> None:
        """End it at once; its children die with it."""
        if self.alive():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._reaped = True

    def close(self) -> None:
        """Hang up, and kill it if it does not go by itself."""
        self.drop_spare()
        self.control.close()
        end = time.monotonic() + KILL_SECONDS
        while self.alive() and time.monotonic() < end:
            time.sleep(0.005)
        self.kill()


__all__ = ["KILL_SECONDS", "START_SECONDS", "ZygoteProcess"]
