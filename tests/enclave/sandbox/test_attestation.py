"""A function asks where it runs: by a parameter, and by a file in its private root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.enclave.sandbox.conftest import QUICK, run_job
from tests.support import captured

from mesatee import _core
from mesatee.enclave.sandbox import Job, OutputSpec
from mesatee.errors import TooLarge
from mesatee.function import FILE
from mesatee.protocol import limits

SAID = {"version": 1, "level": 2, "evidence": "x" * 10}
OUTPUTS = {"result": OutputSpec("json")}
ASKS = "from mesatee.function import Attestation\ndef f(*, where: Attestation, n: int = 1) -> dict:\n"
READS = (
    "def f(*, n: int = 1) -> dict:\n"
    f"    with open('{FILE}', 'rb') as file:\n        text = file.read()\n"
    "    return {'text': text.decode()}\n"
)


def job(code: str, attestation: bytes, **args: object) -> Job:
    return Job(
        "python", "f", code=code.encode(), args=args, outputs=OUTPUTS, limits=QUICK, attestation=attestation
    )


def test_a_parameter_is_filled_by_the_worker(supervisor):
    result = run_job(
        supervisor, job(f"{ASKS}    return where | {{'n': n}}\n", json.dumps(SAID).encode(), n=7), {}
    )
    assert json.loads(result.outputs["result"]) == SAID | {"n": 7}


def test_no_task_can_fill_it(supervisor):
    asked = job(f"{ASKS}    return where\n", json.dumps(SAID).encode(), where={"level": 5})
    assert run_job(supervisor, asked, {}).failure == "bad_argument"


def test_where_nobody_says_it_is_a_failure(supervisor):
    result = run_job(supervisor, job(f"{ASKS}    return where\n", b""), {})
    assert result.failure == "bad_argument"
    assert "does not say" in result.text


@pytest.mark.parametrize("size", [1, limits.ATTESTATION_BYTES])
def test_the_file_holds_the_same_to_the_last_byte(supervisor, size):
    said = os.urandom(size // 2).hex().encode() + b"x" * (size % 2)
    result = run_job(supervisor, job(READS, said), {})
    captured.layers(result.layers, "private_root")
    assert result.failure is None, result.text
    assert json.loads(result.outputs["result"])["text"].encode() == said


def test_each_run_has_its_own(supervisor):
    found = [run_job(supervisor, job(READS, text), {}) for text in (b"first and longer", b"second")]
    captured.layers(found[0].layers, "private_root")
    assert [json.loads(item.outputs["result"])["text"] for item in found] == ["first and longer", "second"]


def test_size_one_above():
    with pytest.raises(TooLarge):
        job(READS, b"x" * (limits.ATTESTATION_BYTES + 1))


PLANTED = "the machine's own"
WITHOUT = """
import json, sys
from tests.enclave.sandbox.conftest import run_job
from tests.enclave.sandbox.test_attestation import FILE, READS, job
from mesatee.enclave.sandbox import Supervisor

with Supervisor() as supervisor:
    result = run_job(supervisor, job(READS, b"ours"), {})
print(json.dumps([open(FILE).read(), list(result.layers), result.failure, result.text, len(result.outputs)]))
"""
ROOT_WITH_THE_FILE = f"""
mount -t tmpfs none /mnt
for path in /*; do
  [ "$path" = /mnt ] && continue
  if [ -L "$path" ]; then cp -P "$path" /mnt/; fi
  if [ -d "$path" ] && [ ! -L "$path" ]; then mkdir "/mnt$path" && mount --rbind "$path" "/mnt$path"; fi
done
echo -n "{PLANTED}" > /mnt{FILE}
for kind in user mnt pid net ipc uts; do echo 0 > /proc/sys/user/max_${{kind}}_namespaces; done
exec chroot /mnt "$@"
"""


@pytest.mark.e2e
def test_the_machines_own_file_is_not_readable_without_a_private_root():
    """Where no namespace can be had, the path is the machine's: there may be another file there."""
    offered = [name for name, said in _core.sandbox_layers().items() if said == "yes"]
    captured.layers(offered, "user_namespace", "landlock")
    env = os.environ | {"PYTHONPATH": str(Path.cwd())}
    command = ["unshare", "-Urm", "sh", "-ec", ROOT_WITH_THE_FILE, "sh", sys.executable, "-c", WITHOUT]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    planted, layers, failure, text, outputs = json.loads(done.stdout)
    assert planted == PLANTED
    assert "private_root" not in layers
    assert (failure, outputs) == ("function_raised", 0)
    assert "PermissionError" in text
    assert PLANTED not in text
