"""The process in which somebody's model is read by the framework that made it.

Run as ``python -I -B -m mesatee.cli.convert.child JOB``, JOB being JSON. Such files can hold code: a pickle is code, a
SavedModel is a program. So the process locks itself in as the child of a worker does, before it opens the model:

1. Namespaces of its own: no network, no other process, a root with nothing but the readable paths.
2. A fork, so that what converts is process 1 of its namespace; Landlock, no capabilities.
3. The framework is imported: packages that the lock pins by hash.
4. Limits and seccomp: no file is written, no process started, no socket made. Only then the model is read.

What comes out goes through the memory files that the caller made, and the caller believes none of it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import traceback
from typing import Any, Final

from mesatee import _core, trees

CHANCE: Final = "/dev/urandom"
"""A private root has no devices. Some frameworks do not start without this one: they find a file of random bytes."""
CHANCE_BYTES: Final = 64 << 10
COMPILER_BYTES: Final = 64 << 30
"""Address space that a framework may reserve beside the memory that it uses."""
REPORT_CHARS: Final = 2_000
HERE: Final = (trees,)
"""Loaded before anything is locked in, for scripts that use them: afterwards nothing of MesaTEE can be read."""
_ENVIRONMENT: Final = {
    "CUDA_VISIBLE_DEVICES": "",
    "HDF5_USE_FILE_LOCKING": "FALSE",
    "HOME": "/nonexistent",
    "KERAS_BACKEND": "tensorflow",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TORCHINDUCTOR_CACHE_DIR": "/",
    "TORCH_SHOW_CPP_STACKTRACES": "0",
    "TRITON_HOME": "/nonexistent",
}
"""One thread, so that the same model gives the same output; no graphics card, no place to write to."""


def main(text: str) -> int:
    """Outer and inner process; returns the exit code."""
    job = json.loads(text)
    os.environ.clear()
    os.environ.update(_ENVIRONMENT)
    layers: list[str] = []
    if job["private_root"]:
        layers, late = _core.enter_namespaces(job["read"], CHANCE)
        if late is not None:
            os.write(late, os.urandom(CHANCE_BYTES))
            os.close(late)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = _inner(job, layers)
        except BaseException:  # noqa: BLE001  # it ends here, and its parent shows what it said
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _inner(job: dict[str, Any], layers: list[str]) -> int:
    fds: dict[str, int] = job["fds"]
    kept = [0, 1, 2, *fds.values()]
    # TensorFlow ends itself where it cannot read by what command it was started.
    command = f"/proc/{os.getpid()}/cmdline"
    layers += _core.prepare_sandbox([*job["read"], CHANCE, command], kept)
    sys.path[:] = job["path"]
    # There is no such place; some packages ask for its name when they are imported.
    tempfile.tempdir = _ENVIRONMENT["HOME"]
    sys.dont_write_bytecode = True
    try:
        if not {"landlock", "private_root"} & set(layers):
            raise _NotConfined("this kernel neither has Landlock nor lets a process have a root of its own")
        script = importlib.import_module(job["script"])
        layers += _core.enter_sandbox(
            job["memory"], COMPILER_BYTES, job["seconds"], job["file_bytes"], job["threads"], kept
        )
        said = script.convert(job)
        for name, data in said.pop("files").items():
            with os.fdopen(os.dup(fds[name]), "wb") as target:
                target.write(data)
    except MemoryError:
        said = {"refused": "the model does not fit into the memory that a converter has"}
    # Whatever a framework raises for a file that it does not take: the caller hears its kind and first line.
    except Exception as error:  # noqa: BLE001  # frameworks raise everything
        said = _reason(error)
    said["layers"] = layers
    with os.fdopen(os.dup(fds["report"]), "wb") as target:
        target.write(json.dumps(said).encode())
    return 0


class _NotConfined(Exception):  # a refusal like the scripts' own
    refusal = True
    hint = "import on a machine that has one of them: `mesatee doctor` says what this one has"


def _reason(error: Exception) -> dict[str, Any]:
    if getattr(error, "refusal", False):
        return {"refused": str(error)[:REPORT_CHARS], "hint": getattr(error, "hint", None)}
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return {"failed": f"{type(error).__name__}: {first}"[:REPORT_CHARS]}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
