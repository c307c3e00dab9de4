from __future__ import annotations

import json
import types
from pathlib import Path

import pytest

from mesatee.enclave.platform import measure as m
from mesatee.errors import NotFound


@pytest.fixture(scope="module")
def measurement() -> m.Measurement:
    return m.measure()


def test_measuring_twice_gives_the_same(measurement: m.Measurement) -> None:
    assert m.measure() == measurement
    assert json.loads(json.dumps(measurement.as_dict()))["measurement"] == measurement.digest
    assert measurement.explain()[0].endswith(measurement.digest)


def test_the_code_tree_has_the_core_and_no_caches() -> None:
    tree = m.code_tree()
    assert any(name.startswith("_core.") and name.endswith(".so") for name in tree)
    assert {"errors.py", "attestation/verify.py"} <= set(tree)
    assert not any("__pycache__" in name or name.endswith(".pyi") for name in tree)


def test_the_interpreter_tree() -> None:
    tree = m.interpreter_tree()
    assert {"bin/python", "stdlib/os.py", "stdlib/json/decoder.py"} <= set(tree)
    assert any(name.startswith("stdlib/lib-dynload/") for name in tree)
    for left_out in ("/test/", "/idlelib/", "/site-packages/", "__pycache__"):
        assert not any(left_out in name for name in tree)


def test_the_libraries_have_what_they_require() -> None:
    names = m.closure(m.TCB_ROOTS)
    assert {"pydantic-core", "anyio", "idna", "annotated-types"} <= set(names)
    assert "numpy" not in names
    assert {"scipy", "joblib", "threadpoolctl", "python-dateutil"} <= set(m.closure(m.ENVIRONMENTS["base"]))
    tree = m.distributions_tree(names)
    assert any(name.startswith("pydantic-core==") and name.endswith(".so") for name in tree)
    assert any(name.endswith("/typing_extensions.py") for name in tree), "a module without a folder"
    assert not any("dist-info" in name for name in tree)


def test_an_environment_covers_the_executors_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"wasmtime", "pydantic-monty"} <= set(m.closure(m._roots("base")))
    monkeypatch.setattr(m, "missing", lambda executor: "not here" if executor == "wasm" else None)
    assert "wasmtime" not in m._roots("base")
    assert "pydantic-monty" in m._roots("base")


def test_missing_distribution() -> None:
    with pytest.raises(NotFound):
        m.closure(["no-such-distribution"])
    with pytest.raises(NotFound):
        m.distributions_tree(["no-such-distribution"])
    with pytest.raises(NotFound):
        m.environment_digest("no-such-environment")


def test_the_digest_depends_on_names_bytes_and_their_border(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    trees = [
        {"a": one},
        {"b": one},
        {"a": two},
        {"a": one, "b": two},
        {"a": two, "b": one},
        {"a/b": one},
        {},
    ]
    assert len({m.tree_digest(tree).digest for tree in trees}) == len(trees)
    assert m.tree_digest({"b": two, "a": one}) == m.tree_digest({"a": one, "b": two})
    two.write_bytes(b"3")
    assert m.tree_digest({"a": two}).digest != m.tree_digest({"a": one}).digest


def test_an_unreadable_file_is_not_skipped(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        m.tree_digest({"a": tmp_path / "absent"})


def test_a_planted_file_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RECORD says which folders belong to a distribution, not which files count."""
    info = tmp_path / "demo-1.0.dist-info"
    info.mkdir()
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "__init__.py").write_text("")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n")
    (info / "RECORD").write_text(f"demo/__init__.py,sha256={'0' * 43},0\ndemo-1.0.dist-info/METADATA,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = m.tree_digest(m.distributions_tree(["demo"]))
    assert before.files == 1
    (tmp_path / "demo" / "planted.py").write_text("")
    after = m.tree_digest(m.distributions_tree(["demo"]))
    assert (after.files, after.digest != before.digest) == (2, True)
    (info / "entry_points.txt").write_text("[pydantic]\nplugin = demo\n")
    assert m.tree_digest(m.distributions_tree(["demo"])).files == 3


def test_what_an_interpreter_runs_when_it_starts_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever put it there: a planted one would run before any code of ours."""
    monkeypatch.setattr(m.sysconfig, "get_path", lambda kind: str(tmp_path))
    (tmp_path / "package.py").write_text("")
    empty = m.tree_digest(m.start_up_tree())
    assert empty.files == 0
    seen = {empty.digest}
    for name in ("evil.pth", "sitecustomize.py", "usercustomize.cpython-311-x86_64-linux-gnu.so"):
        (tmp_path / name).write_text("import os\n")
        seen.add(m.tree_digest(m.start_up_tree()).digest)
    (tmp_path / "sitecustomize").mkdir()
    (tmp_path / "sitecustomize" / "__init__.py").write_text("")
    seen.add(m.tree_digest(m.start_up_tree()).digest)
    assert len(seen) == 5


def test_it_counts_in_the_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = tmp_path / "evil.pth"
    planted.write_text("import evil\n")
    for name in ("code_tree", "interpreter_tree"):
        monkeypatch.setattr(m, name, dict)
    before = m.measure()
    plain = m.start_up_tree()
    monkeypatch.setattr(m, "start_up_tree", lambda: plain | {"site/evil.pth": planted})
    after = m.measure()
    assert after.components.libraries != before.components.libraries
    assert after.digest != before.digest


def test_unmeasured_modules(tmp_path: Path) -> None:
    import os

    planted = types.ModuleType("planted")
    planted.__file__ = str(tmp_path / "planted.py")
    loaded = {"mesatee.enclave.platform.measure": m, "os": os, "planted": planted, "gone": None}
    assert m.unmeasured_modules(loaded) == ("planted",)
