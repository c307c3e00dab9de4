"""Real children: what comes out of a run, and every failure code by a function that really does it."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest
from tests.enclave.sandbox.conftest import settled

from mesatee.enclave.sandbox import Job, Limits, OutputSpec, Supervisor, sealed_memfd
from mesatee.errors import Malformed, SandboxFailed
from mesatee.protocol import limits
from mesatee.table import Table

TABLE = Table.from_dict({"id": [1, 2, 3], "name": ["a", "b", "c"]})
HEAD = "from mesatee.table import Table\nimport os, sys, time\n"
PLAIN = HEAD + "def f(data: bytes) -> bytes:\n    "


def encoded(table, format):
    sink = io.BytesIO()
    table.write(sink, format)
    return sink.getvalue()


@pytest.mark.parametrize("format", ["csv", "parquet", "arrow"])
@pytest.mark.parametrize("threads", [1, 4])
def test_tables_of_every_format_with_one_and_more_threads(run_python, format, threads):
    code = HEAD + (
        "def f(table: Table, *, least: int = 2) -> Table:\n"
        "    frame = table.to_pandas()\n"
        "    return Table.from_pandas(frame[frame['id'] >= least])\n"
    )
    bounds = Limits(seconds=20, cpu_seconds=10, threads=threads)
    result = run_python(
        code, {"table": (format, encoded(TABLE, format))}, {"kept": OutputSpec(format)}, bounds, least=3
    )
    assert result.failure is None, result.text
    assert Table.read(result.outputs["kept"], format).to_dict() == {"id": [3], "name": ["c"]}


def test_several_outputs_by_a_named_tuple(run_python):
    code = HEAD + (
        "from typing import NamedTuple\n"
        "class Both(NamedTuple):\n    table: Table\n    counts: dict\n"
        "def f(left: Table, data: bytes) -> Both:\n"
        "    return Both(left, {'rows': left.num_rows, 'bytes': len(data)})\n"
    )
    result = run_python(
        code,
        {"data": ("bytes", b"12345"), "left": ("csv", encoded(TABLE, "csv"))},
        {"counts": OutputSpec("json"), "table": OutputSpec("parquet")},
    )
    assert result.failure is None, result.text
    assert json.loads(result.outputs["counts"]) == {"rows": 3, "bytes": 5}
    assert Table.from_parquet(result.outputs["table"]).num_rows == 3


def test_outputs_named_by_the_task(run_python):
    code = (
        "def f(inputs: dict[str, bytes]) -> dict[str, bytes]:\n"
        "    return {name: data[::-1] for name, data in inputs.items()}"
    )
    both = {"x": ("bytes", b"ab"), "y": ("json", b"cd")}
    result = run_python(code, both, {"x": OutputSpec("bytes"), "y": OutputSpec("bytes")})
    assert result.outputs == {"x": b"ba", "y": b"dc"}


def test_a_json_input_and_a_model(run_python):
    code = HEAD + (
        "from sklearn.linear_model import LinearRegression\n"
        "def f(points: list) -> dict:\n"
        "    import numpy as np\n"
        "    x = np.array(points)\n"
        "    return {'slope': float(LinearRegression().fit(x[:, :1], x[:, 1]).coef_[0])}\n"
    )
    result = run_python(code, {"points": ("json", b"[[0, 1], [1, 3], [2, 5]]")}, {"r": OutputSpec("json")})
    assert result.failure is None, result.text
    assert json.loads(result.outputs["r"])["slope"] == pytest.approx(2)


FAILURES = {
    "raises": ("raise RuntimeError('seen only in diagnostics')", "function_raised"),
    "leaves": ("sys.exit(3)", "function_raised"),
    "recurses": ("f = lambda: f()\n    f()", "function_raised"),
    "forks": ("os.fork()\n    return b''", "function_raised"),
    "kills itself": ("os.kill(os.getpid(), 9)\n    return b''", "function_raised"),
    "does not parse": ("return (", "function_raised"),
    "returns text": ("return 'text'", "wrong_output"),
    "returns nothing": ("pass", "wrong_output"),
    "sleeps": ("time.sleep(60)\n    return b''", "out_of_time"),
    "sleeps deaf": (
        "import signal\n    for s in set(signal.valid_signals()) - {9, 19}:\n"
        "        signal.signal(s, signal.SIG_IGN)\n    time.sleep(60)",
        "out_of_time",
    ),
    "loops": ("while True: pass", "out_of_cpu"),
    "loops outside of Python": ("sum(range(1 << 60))", "out_of_cpu"),
    "loops deaf": (
        "import signal\n    signal.signal(24, signal.SIG_IGN)\n    while True: pass",
        "out_of_cpu",
    ),
    "eats memory": ("x = []\n    while True: x.append(bytes(1 << 20))", "out_of_memory"),
    "eats memory at once": ("import numpy\n    return numpy.ones(1 << 32).tobytes()", "out_of_memory"),
    "large output": ("return bytes(2 << 20)", "output_too_large"),
    "leaves by the back door": ("os._exit(0)", "crashed"),
    "leaves with a code": ("os._exit(7)", "crashed"),
    "aborts": ("os.abort()", "crashed"),
    "reads address 0": ("import ctypes\n    ctypes.string_at(0)", "crashed"),
    "garbage as report": (
        "[try_write(fd, b'garbage\\n') for fd in range(3, 20)]\n    os._exit(0)",
        "crashed",
    ),
    "binary as report": (
        "[try_write(fd, bytes(range(256))) for fd in range(3, 20)]\n    return b''",
        "crashed",
    ),
    "another failure": (
        "for fd in range(3, 20):\n"
        '        try_write(fd, b\'{"failure":"cancelled","outputs":[]}\\n\')\n'
        "    os._exit(0)",
        "crashed",
    ),
    "flood of reports": (
        "while True:\n        for fd in range(3, 24): try_write(fd, b'x' * 65536)",
        "crashed",
    ),
    "closes everything": ("os.closerange(0, 256)\n    return b''", "crashed"),
}
WRITE = """
import fcntl
def try_write(fd, data):
    try:
        return os.write(fd, data)
    except OSError:
        return 0
"""


@pytest.mark.parametrize("name", FAILURES)
def test_failure(run_python, name):
    body, expected = FAILURES[name]
    seconds = 1.0 if expected == "out_of_time" else 20.0
    bounds = Limits(seconds=seconds, cpu_seconds=1, memory_bytes=2**28, output_bytes=2**20)
    start = time.monotonic()
    result = run_python(
        HEAD + WRITE + f"def f(data: bytes) -> bytes:\n    {body}\n", {"data": ("bytes", b"d")}, limits=bounds
    )
    assert (result.failure, result.outputs) == (expected, {}), result.text
    assert time.monotonic() - start < seconds + 3
    assert "seccomp" in result.layers


def test_what_is_raised_stands_in_diagnostics(run_python):
    result = run_python(PLAIN + "print('printed')\n    raise ValueError('why')", {"data": ("bytes", b"")})
    assert result.failure == "function_raised"
    assert "ValueError: why" in result.text
    assert "line 5, in f" in result.text
    assert "printed" in result.text
    assert "calling.py" not in result.text
    assert result.text.index("printed") < result.text.index("Traceback")


def test_a_flood_of_output_is_cut_and_its_end_is_kept(run_python):
    body = "for _ in range(300): print('x' * 10000)\n    raise ValueError('at the end')"
    result = run_python(PLAIN + body, {"data": ("bytes", b"")})
    assert result.failure == "function_raised"
    assert len(result.text.encode()) <= limits.DIAGNOSTICS_BYTES
    assert re.search(r"\[mesatee: \d+ bytes left out\]", result.text)
    assert result.text.rstrip().endswith("at the end")


TYPED = "def f(data: bytes, *, count: int, rate: float = 0.5) -> bytes:\n    return b'ok'"


@pytest.mark.parametrize(
    "args", [{}, {"count": "1"}, {"count": True}, {"count": 1, "more": 2}, {"count": 1, "rate": None}]
)
def test_wrong_arguments(run_python, args):
    assert run_python(TYPED, {"data": ("bytes", b"")}, **args).failure == "bad_argument"


@pytest.mark.parametrize(
    ("format", "data"),
    [
        ("csv", b"a,b\n1,2,3\n"),
        ("csv", b""),
        ("parquet", b"PAR1" + bytes(100) + b"PAR1"),
        ("arrow", b"ARROW1" + bytes(100)),
        ("arrow", b"\xff" * 64),
        ("bytes", b"a,b\n1,2\n"),
    ],
)
def test_unreadable_tables(run_python, format, data):
    code = HEAD + "def f(table: Table) -> bytes:\n    return b'ok'"
    result = run_python(code, {"table": (format, data)})
    assert result.failure == "bad_input"
    assert "table" in result.text


def test_wrong_names_of_inputs_and_outputs(run_python):
    assert run_python(PLAIN + "return data", {"other": ("bytes", b"")}).failure == "bad_input"
    two = {"a": OutputSpec("bytes"), "b": OutputSpec("bytes")}
    assert run_python(PLAIN + "return data", {"data": ("bytes", b"")}, two).failure == "wrong_output"


def test_output_limits_one_above_and_one_below(run_python):
    code = "def f(*, size: int) -> bytes:\n    return bytes(size)"
    spec = {"result": OutputSpec("bytes", max_bytes=1000)}
    assert len(run_python(code, None, spec, size=1000).outputs["result"]) == 1000
    assert run_python(code, None, spec, size=1001).failure == "output_too_large"
    # Two that are small enough each, and together too large.
    code = "def f(*, size: int) -> dict[str, bytes]:\n    return {'a': bytes(size), 'b': bytes(size)}"
    both = {"a": OutputSpec("bytes"), "b": OutputSpec("bytes")}
    bounds = Limits(seconds=20, cpu_seconds=10, output_bytes=2000)
    assert run_python(code, None, both, bounds, size=1000).failure is None
    assert run_python(code, None, both, bounds, size=1001).failure == "output_too_large"


def test_a_run_sees_nothing_of_the_one_before(run_python):
    leave = (
        "import builtins, numpy\n"
        + PLAIN
        + "builtins.left = numpy.left = data\n    os.environ['LEFT'] = '1'\n    return data"
    )
    look = (
        "import builtins, numpy\n"
        + PLAIN
        + "found = [hasattr(builtins, 'left'), hasattr(numpy, 'left'), dict(os.environ)]\n"
        "    return repr(found).encode()"
    )
    assert run_python(leave, {"data": ("bytes", b"secret")}).failure is None
    assert run_python(look, {"data": ("bytes", b"x")}).outputs["result"] == b"[False, False, {}]"


def test_each_run_has_seeds_of_its_own(run_python):
    code = (
        "import random, numpy\n"
        "def f() -> bytes:\n    return f'{random.random()} {numpy.random.rand()}'.encode()"
    )
    results = {run_python(code).outputs["result"] for _ in range(3)}
    assert len(results) == 3
    assert len({text.split()[0] for text in results}) == len({text.split()[1] for text in results}) == 3


def test_fifty_runs_leave_no_descriptor_and_no_process():
    # A supervisor of its own: another test's module would make a second zygote in between.
    with Supervisor() as supervisor:
        fifty_runs(supervisor)


def fifty_runs(supervisor):
    data = sealed_memfd("data", b"")

    def run(body):
        job = Job(
            "python",
            "f",
            code=(PLAIN + body).encode(),
            inputs={"data": "bytes"},
            outputs={"result": OutputSpec("bytes")},
        )
        supervisor.run(job, {"data": data}).close()

    run("return data")
    pid = supervisor.zygote_pid()

    def seen():
        """Once the spare is there: the number of our descriptors and the zygote's, its children, our zombies."""
        deadline = time.monotonic() + 10
        last, now = None, sample()
        while (now != last or len(session(pid)) != 3) and time.monotonic() < deadline:
            time.sleep(0.1)
            last, now = now, sample()
        return now

    def sample():
        children = subprocess.run(["ps", "--ppid", str(pid), "-o", "stat="], capture_output=True, text=True)
        mine = subprocess.run(
            ["ps", "--ppid", str(os.getpid()), "-o", "stat="], capture_output=True, text=True
        )
        zombies = [line for line in mine.stdout.split() if line.startswith("Z")]
        # The zygote is not dumpable: only root may count its descriptors.
        theirs = len(list(Path(f"/proc/{pid}/fd").iterdir())) if os.getuid() == 0 else 0
        return settled(supervisor), theirs, len(children.stdout.split()), zombies

    before = seen()
    for number in range(50):
        body = ("return data", "raise ValueError", "os._exit(1)")[number % 3]
        run(body)
    assert seen() == before
    os.close(data)
    assert before[2:] == (1, [])


@pytest.mark.parametrize("seconds", [0.0, 0.3])
def test_cancel_ends_a_run_within_a_second(supervisor, seconds):
    job = Job(
        "python",
        "f",
        code=b"import time\ndef f() -> bytes:\n    time.sleep(60)",
        outputs={"r": OutputSpec("bytes")},
    )
    ended = []

    def run():
        with supervisor.run(job, {}) as outcome:
            ended.append((outcome.failure, time.monotonic()))

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(seconds + 0.05)
    asked = time.monotonic()
    supervisor.cancel()
    thread.join(10)
    assert ended[0][0] == "cancelled"
    assert ended[0][1] - asked < 1


def test_cancel_without_a_run_does_nothing(supervisor, run_python):
    supervisor.cancel()
    assert run_python(PLAIN + "return data", {"data": ("bytes", b"")}).failure is None


def _state(pid):
    """The letter that the kernel gives for a process; None if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return None


def test_a_dead_zygote_is_replaced():
    job = Job("builtin", "echo", inputs={"data": "bytes"}, outputs={"r": OutputSpec("bytes")})
    fd = sealed_memfd("data", b"x")
    with Supervisor() as own:
        first = own.zygote_pid()
        os.kill(first, signal.SIGKILL)
        # It holds gigabytes of mappings, which a busy machine takes its time to give back.
        deadline = time.monotonic() + 30
        while (state := _state(first)) not in (None, "Z"):
            assert time.monotonic() < deadline, state
            time.sleep(0.01)
        with own.run(job, {"data": fd}) as outcome:
            assert outcome.failure is None
        assert own.zygote_pid() != first
        sleeper = Job(
            "python",
            "f",
            code=b"import time\ndef f() -> bytes:\n    time.sleep(60)",
            outputs={"r": OutputSpec("bytes")},
        )
        threading.Timer(0.3, os.kill, (own.zygote_pid(), signal.SIGKILL)).start()
        with pytest.raises(SandboxFailed, match="zygote died"):
            own.run(sleeper, {})
        with own.run(job, {"data": fd}) as outcome:
            assert outcome.failure is None
    with pytest.raises(SandboxFailed, match="closed"):
        own.run(job, {"data": fd})
    os.close(fd)


def test_nothing_outlives_a_supervisor_that_is_killed():
    code = (
        "from mesatee.enclave.sandbox import *\n"
        "with Supervisor() as own:\n"
        "    print(own.zygote_pid(), flush=True)\n"
        "    code = b'import time\\ndef f() -> bytes:\\n    time.sleep(60)'\n"
        "    own.run(Job('python', 'f', code=code, outputs={'r': OutputSpec('bytes')}), {})\n"
    )
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    zygote = int(program.stdout.readline())
    deadline = time.monotonic() + 10
    while len(session(zygote)) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(session(zygote)) == 5
    program.kill()
    program.communicate()
    while session(zygote) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert session(zygote) == []


def session(zygote):
    """The zygote, and outer and inner child of a run and of the spare, are the processes of one session.

    Those that have ended do not count.
    """
    found = subprocess.run(["ps", "-s", str(zygote), "-o", "stat="], capture_output=True, text=True)
    return [state for state in found.stdout.split() if not state.startswith("Z")]


def test_a_missing_layer_that_is_required_stops_the_run_before_foreign_code(supervisor):
    job = Job("python", "f", code=b"def f() -> bytes:\n    return b''", outputs={"r": OutputSpec("bytes")})
    with (
        Supervisor(require=["seccomp", "no_such_layer"]) as own,
        pytest.raises(SandboxFailed, match="no_such_layer"),
    ):
        own.run(job, {})


def test_a_zygote_that_does_not_start_says_why():
    with pytest.raises(SandboxFailed, match="did not start"):
        Supervisor(python="/bin/false").start()


def test_inputs_that_are_not_sealed_or_not_named_are_refused(supervisor):
    job = Job("builtin", "echo", inputs={"data": "bytes"}, outputs={"r": OutputSpec("bytes")})
    open_fd = os.memfd_create("open", os.MFD_ALLOW_SEALING)
    with pytest.raises(Malformed, match="not sealed"):
        supervisor.run(job, {"data": open_fd})
    with pytest.raises(Malformed, match="names"):
        supervisor.run(job, {"other": open_fd})
    os.close(open_fd)
    read, write = os.pipe()
    with pytest.raises(Malformed, match="not a memory file"):
        supervisor.run(job, {"data": read})
    os.close(read)
    os.close(write)


def test_outputs_are_sealed(supervisor):
    job = Job("builtin", "echo", inputs={"data": "bytes"}, outputs={"r": OutputSpec("bytes")})
    fd = sealed_memfd("data", b"x")
    with supervisor.run(job, {"data": fd}) as outcome, pytest.raises(PermissionError):
        os.pwrite(outcome.outputs["r"].fd, b"y", 0)
    os.close(fd)


def test_layers_are_those_that_the_kernel_offers(run_python):
    from mesatee import _core

    offered = {name for name, answer in _core.sandbox_layers().items() if answer == "yes"}
    result = run_python(PLAIN + "return data", {"data": ("bytes", b"")})
    assert offered <= set(result.layers)


def test_a_function_can_take_more_than_the_interpreter_itself(run_python):
    """A table of 40 MB through pandas and back, within its limit."""
    big = Table(pa.table({"x": pa.array(range(2_000_000)), "y": pa.array([0.5] * 2_000_000)}))
    code = HEAD + "def f(table: Table) -> dict:\n    return {'sum': float(table.to_pandas()['y'].sum())}"
    result = run_python(code, {"table": ("arrow", encoded(big, "arrow"))}, {"r": OutputSpec("json")})
    assert json.loads(result.outputs["r"]) == {"sum": 1_000_000.0}


def test_the_supervisor_loads_no_native_parser():
    code = (
        "import mesatee.enclave.sandbox.supervisor, sys\n"
        "native = {'numpy', 'pandas', 'pyarrow', 'sklearn', 'scipy', 'sqlite3', 'ctypes', 'ssl'}\n"
        "print(sorted(native & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
