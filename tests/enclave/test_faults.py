"""Fault points: declared, used, and deadly exactly when asked."""

from __future__ import annotations

import doctest
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import mesatee
from mesatee.enclave import faults
from mesatee.errors import Malformed

SOURCE = Path(mesatee.__file__).parent
CALL = re.compile(r"(?:faults\.|(?<![\w.]))point\(\s*(?P<argument>[^)\s]*)")


def _calls() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in SOURCE.rglob("*.py"):
        if path.name == "faults.py":
            continue
        text = path.read_text()
        if "faults" in text:
            for match in CALL.finditer(text):
                found.setdefault(match["argument"], []).append(path.name)
    return found


def test_every_point_in_the_source_is_a_declared_literal_and_every_declared_one_is_used() -> None:
    calls = _calls()
    assert all(re.fullmatch(r'"[a-z0-9_.]+"', argument) for argument in calls), calls
    assert {argument.strip('"') for argument in calls} == set(faults.POINTS)
    assert all(len(text) > 10 for text in faults.POINTS.values())


def test_doctest() -> None:
    assert doctest.testmod(faults).failed == 0


def _run(variable: str | None, hits: int) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from mesatee.enclave.faults import point\n"
        f"for number in range({hits}):\n"
        "    print(number, flush=True); point('records.append.after'); point('records.append.before')"
    )
    environment = {key: value for key, value in os.environ.items() if key != faults.VARIABLE}
    if variable is not None:
        environment[faults.VARIABLE] = variable
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("variable", "printed", "status"),
    [
        (None, "0\n1\n2\n3\n", 0),
        ("", "0\n1\n2\n3\n", 0),
        ("records.append.after", "0\n", -signal.SIGKILL),
        ("records.append.after:1", "0\n", -signal.SIGKILL),
        ("records.append.after:3", "0\n1\n2\n", -signal.SIGKILL),
        ("records.append.after:5", "0\n1\n2\n3\n", 0),
        ("records.append.sent", "0\n1\n2\n3\n", 0),
    ],
)
def test_the_process_dies_at_the_hit_that_was_asked_for(
    variable: str | None, printed: str, status: int
) -> None:
    result = _run(variable, 4)
    assert (result.stdout, result.returncode) == (printed, status)


@pytest.mark.parametrize(
    "variable",
    ["no.such.point", "records.append.after:0", "records.append.after:x", "a b", ":3", "ticket.done:stop"],
)
def test_a_fault_that_cannot_happen_is_refused_at_start(variable: str) -> None:
    with pytest.raises(Malformed):
        faults.parse(variable)
    result = _run(variable, 1)
    assert result.returncode == 1
    assert "Malformed" in result.stderr


def test_a_pause_stops_the_process_and_it_can_go_on() -> None:
    code = (
        "from mesatee.enclave.faults import point; point('ticket.done'); point('ticket.done'); print('alive')"
    )
    environment = {**os.environ, faults.VARIABLE: "ticket.done:2:pause"}
    child = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert os.WSTOPSIG(status) == signal.SIGSTOP
    os.kill(child.pid, signal.SIGCONT)
    assert child.communicate(timeout=60)[0] == b"alive\n"
    assert child.returncode == 0


def test_the_environment_is_read_once() -> None:
    code = (
        "import os; from mesatee.enclave.faults import point\n"
        "os.environ['MESATEE_FAULT'] = 'records.append.after'; point('records.append.after'); print('alive')"
    )
    environment = {key: value for key, value in os.environ.items() if key != faults.VARIABLE}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert result.stdout == "alive\n"
