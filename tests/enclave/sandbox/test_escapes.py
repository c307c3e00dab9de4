"""Attempts to get out of the sandbox, each made in a real child."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support import captured

from mesatee import _core

HOSTILE = Path(__file__).with_name("hostile.py")
spec = importlib.util.spec_from_file_location("hostile", HOSTILE)
assert spec is not None
assert spec.loader is not None
hostile = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hostile)

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the attempts use x86-64 call numbers")


@pytest.mark.parametrize("name", hostile.ATTEMPTS)
def test_is_refused(name, supervisor):
    said, layers = hostile.attempt(supervisor, name)
    captured.layers(layers, *hostile.ATTEMPTS[name].get("needs", ()))
    assert said.startswith("refused"), said


@pytest.fixture
def namespaces():
    """For tests that make namespaces themselves."""
    captured.layers(
        [name for name, said in _core.sandbox_layers().items() if said == "yes"], "user_namespace"
    )


def judged(command):
    """Run all attempts by `command` and return the layers; every attempt must be refused."""
    done = subprocess.run([*command, sys.executable, HOSTILE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: said for name, said in found["results"].items() if not said.startswith("refused")} == {}
    assert len(found["results"]) >= len(hostile.ATTEMPTS) - 2
    return found["uid"], set(found["layers"])


@pytest.mark.e2e
def test_without_any_namespaces_everything_is_still_refused(namespaces):
    each = "echo 0 > /proc/sys/user/max_${kind}_namespaces"
    forbid = f"for kind in user mnt pid net ipc uts; do {each}; done"
    _, layers = judged(["unshare", "-Ur", "sh", "-c", f'{forbid}; exec "$@"', "sh"])
    assert not any(name.endswith("_namespace") for name in layers)
    assert {"seccomp", "no_new_privs", "resource_limits", "no_capabilities"} <= layers


@pytest.mark.e2e
def test_as_root_of_a_container(namespaces):
    _, layers = judged(["unshare", "-Ur"])
    assert {"seccomp", "private_root", "pid_namespace"} <= layers


@pytest.mark.e2e
@pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("setpriv"), reason="only root can start it as somebody else"
)
def test_as_an_unprivileged_user():
    # The interpreter may lie below a home folder that others cannot enter: open the way, in a mount
    # namespace only.
    way = Path(sys.base_prefix).resolve()
    script = 'exec setpriv --reuid=1234 --regid=1234 --clear-groups "$@"'
    if way.is_relative_to("/root"):
        script = (
            f"mount --bind {way} /mnt && mount -t tmpfs -o mode=755 none /root && mkdir -p {way} && "
            f"mount --bind /mnt {way} && {script}"
        )
    uid, layers = judged(["unshare", "-m", "sh", "-c", script, "sh"])
    assert uid == 1234
    assert {"seccomp", "user_namespace", "private_root", "pid_namespace", "thread_limit"} <= layers
