"""`mesatee demo`, as the first thing that anybody runs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.e2e.processes import COMMAND, Watch, alive, gone

from mesatee.cli.demo import refusals, stage


def test_the_demo_is_as_it_should_be(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [*COMMAND, "demo", "--json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        text=True,
    )
    watch = Watch(demo.pid)
    try:
        out, said = demo.communicate(timeout=180)
    finally:
        demo.kill()
        seen = watch.stop()
    assert demo.returncode == 0, said
    found = json.loads(out)
    assert set(found) == {"steps", "refused", "facts", "ok"}
    assert found["ok"] is True
    # Every refusal is there, each by the error that it must be.
    wanted = {item.title: item.expected for item in (*refusals.ONLINE, *refusals.OFFLINE)}
    assert len(wanted) == 13
    assert [item["what"] for item in found["refused"]] == list(wanted)
    for item in found["refused"]:
        assert item["ok"] is True
        assert item["code"] == wanted[item["what"]]("x").code
        assert item["why"]
    assert len(found["steps"]) >= 7
    assert all(item["ok"] is True for item in found["steps"])
    # The figures are those of the real data, computed here once more from the plaintext.
    tables = stage.tables()
    facts = found["facts"]
    assert facts["common_patients"] == facts["rows"] == tables.common
    assert 0.9 < facts["accuracy"] <= 1.0
    assert 0.5 < facts["majority_class"] < 0.7
    assert facts["features"] == 30
    assert {"seccomp", "no_new_privs", "resource_limits"} <= set(facts["layers"])
    # For people there is a line for each, and nothing is left behind.
    assert all(item["why"] in said for item in found["refused"])
    assert list(tmp_path.iterdir()) == []
    assert len({item.command for item in seen}) >= 4
    assert gone(lambda: alive(seen))
