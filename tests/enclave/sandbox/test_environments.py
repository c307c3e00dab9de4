"""Functions in environments, and what a malicious package can do there: nothing that a function cannot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.captured import lacking

from mesatee.enclave.sandbox import Job, OutputSpec, Supervisor
from mesatee.errors import Malformed, SandboxFailed
from mesatee.protocol import environments as said

from .conftest import QUICK, Result, run_job
from .hostile import ATTEMPTS, PRELUDE

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("environments")
    for part in (made, *made.parents[:3]):
        # Where there is no private root, nobody else than the user has to reach it.
        part.chmod(part.stat().st_mode | 0o055)
    return made


@pytest.fixture(scope="module")
def environments(folder: Path) -> Iterator[Supervisor]:
    with Supervisor(environments=folder) as started:
        yield started


@pytest.fixture
def plant(folder: Path) -> Iterator[Callable[..., str]]:
    """An environment with these files and no check of any kind: a builder or worker refuses many of them."""
    planted: list[Path] = []

    def make(files: dict[str, str | bytes], name: str = "planted") -> str:
        for path, content in files.items():
            target = folder / name / said.PACKAGES / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content if isinstance(content, bytes) else content.encode())
        planted.append(folder / name)
        return name

    yield make
    for path in planted:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def run(environments: Supervisor) -> Run:
    def go(code: str, environment: str, **args: Any) -> Result:
        job = Job(
            "python",
            "f",
            code=code.encode(),
            args=args,
            outputs={"result": OutputSpec("json")},
            limits=QUICK,
            environment=environment,
        )
        return run_job(environments, job, {})

    return go


def test_a_function_imports_from_its_environment_and_no_other(
    run: Run, plant: Callable[..., str], folder: Path
) -> None:
    plant({"demo/__init__.py": "import numpy\nA = int(numpy.ones(41).sum())\n"}, "mine")
    plant({"theirs/__init__.py": "B = 1\n"}, "others")
    code = f"""
import os
def f() -> dict:
    import demo
    try:
        import theirs
        other = "imported"
    except ModuleNotFoundError:
        other = "not found"
    try:
        open({str(folder / "others" / said.PACKAGES / "theirs/__init__.py")!r})
        read = "read"
    except OSError:
        read = "refused"
    return {{"A": demo.A, "other": other, "read": read}}
"""
    done = run(code, "mine")
    assert done.failure is None, done.text
    assert json.loads(done.outputs["result"]) == {"A": 41, "other": "not found", "read": "refused"}


def test_without_an_environment_all_of_them_are_out_of_reach(
    run: Run, plant: Callable[..., str], folder: Path
) -> None:
    plant({"demo/__init__.py": "A = 41\n"})
    code = f"""
import os, sys
def f() -> dict:
    found = {{}}
    for path in ({str(folder)!r}, {str(folder / "planted" / said.PACKAGES)!r}):
        try:
            found[path] = os.listdir(path)
        except OSError:
            found[path] = "refused"
    sys.path.insert(0, {str(folder / "planted" / said.PACKAGES)!r})
    try:
        import demo
        found["demo"] = demo.A
    except ModuleNotFoundError:
        found["demo"] = "refused"
    return found
"""
    done = run(code, "")
    assert done.failure is None, done.text
    assert set(json.loads(done.outputs["result"]).values()) == {"refused"}


def test_it_is_read_only(run: Run, plant: Callable[..., str], folder: Path) -> None:
    plant({"demo/__init__.py": "A = 41\n"})
    target = folder / "planted" / said.PACKAGES / "demo"
    code = f"""
import os
def f() -> dict:
    said = []
    for attempt in (
        lambda: open({str(target / "__init__.py")!r}, "a"),
        lambda: open({str(target / "new.py")!r}, "w"),
        lambda: os.unlink({str(target / "__init__.py")!r}),
        lambda: os.rename({str(target)!r}, {str(target) + "2"!r}),
        lambda: os.chmod({str(target)!r}, 0o777),
    ):
        try:
            attempt()
            said.append("done")
        except OSError:
            said.append("refused")
    return {{"said": said}}
"""
    done = run(code, "planted")
    assert json.loads(done.outputs["result"])["said"] == ["refused"] * 5, done.text
    assert (target / "__init__.py").read_text() == "A = 41\n"


def test_an_environment_that_is_not_there(run: Run, supervisor: Supervisor) -> None:
    code = "def f() -> dict:\n    return {}\n"
    with pytest.raises(SandboxFailed, match="cannot read the environment absent"):
        run(code, "absent")
    job = Job("python", "f", code=code.encode(), outputs={"r": OutputSpec("json")}, environment="absent")
    with pytest.raises(SandboxFailed, match="no environments"):
        run_job(supervisor, job, {})
    for name in ("../planted", "/etc", "a/b", "base", "A", "."):
        with pytest.raises(Malformed):
            run(code, name)


def test_an_environment_leaves_nothing_for_the_next_run(run: Run, plant: Callable[..., str]) -> None:
    plant({"demo/__init__.py": "import sys\nsys.path.append('/left')\n"})
    assert run("def f() -> dict:\n    import demo\n    return {}\n", "planted").failure is None
    done = run(
        "import sys\ndef f() -> dict:\n    return {'demo': 'demo' in sys.modules, 'path': sys.path}\n", ""
    )
    found = json.loads(done.outputs["result"])
    assert found["demo"] is False
    assert not any("planted" in path or path == "/left" for path in found["path"])


HOOK = "import os\nopen('/dev/fd/1', 'w').write('ran')\n"


@pytest.mark.parametrize("name", ["sitecustomize.py", "usercustomize.py", "sitecustomize/__init__.py"])
def test_start_up_hooks_are_not_run(run: Run, plant: Callable[..., str], name: str) -> None:
    """The interpreter that would run them has started before, without this folder."""
    plant({name: "import builtins\nbuiltins.hooked = True\n"})
    done = run(
        "import builtins\ndef f() -> dict:\n    return {'hooked': hasattr(builtins, 'hooked')}\n", "planted"
    )
    assert json.loads(done.outputs["result"]) == {"hooked": False}
    # The same file, imported, does what it says.
    module = name.partition(".")[0].partition("/")[0]
    done = run(
        f"import builtins, {module}\ndef f() -> dict:\n    return {{'h': builtins.hooked}}\n", "planted"
    )
    assert json.loads(done.outputs["result"]) == {"h": True}


def test_pth_files_are_not_run(run: Run, plant: Callable[..., str]) -> None:
    plant({"evil.pth": "import builtins; builtins.hooked = True\n"})
    done = run(
        "import builtins\ndef f() -> dict:\n    return {'hooked': hasattr(builtins, 'hooked')}\n", "planted"
    )
    assert json.loads(done.outputs["result"]) == {"hooked": False}


def test_what_the_base_has_loaded_is_not_shadowed(run: Run, plant: Callable[..., str]) -> None:
    """Also if the checks of builder and worker were not there."""
    names = ("mesatee", "numpy", "json", "os")
    plant({f"{name}/__init__.py": "EVIL = True\n" for name in names})
    code = f"""
def f() -> dict:
    import importlib
    names = {names!r}
    return {{name: hasattr(importlib.import_module(name), "EVIL") for name in names}}
"""
    done = run(code, "planted")
    assert json.loads(done.outputs["result"]) == dict.fromkeys(names, False)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A shared object whose constructor makes a file, and does what a program may not do in the sandbox."""
    compiler = shutil.which("cc")
    if compiler is None:
        lacking("there is no C compiler")
    folder = tmp_path_factory.mktemp("library")
    source = folder / "evil.c"
    source.write_text(r"""
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>
int opened = -1, forked = -1, connected = -1, ran = 0;
__attribute__((constructor)) static void start(void) {
    ran = 1;
    opened = open("/etc/passwd", O_RDONLY);
    connected = socket(AF_INET, SOCK_STREAM, 0);
    forked = fork();
    if (forked == 0) _exit(0);
}
""")
    target = folder / "evil.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(target), str(source)], check=True)
    return target.read_bytes()


CALL = """
def f() -> dict:
    import ctypes, evil
    found = ctypes.CDLL(evil.PATH)
    return {name: ctypes.c_int.in_dll(found, name).value for name in ("ran", "opened", "connected", "forked")}
"""


def test_a_native_constructor_runs_and_reaches_nothing(
    run: Run, plant: Callable[..., str], library: bytes, folder: Path
) -> None:
    path = folder / "planted" / said.PACKAGES / "evil" / "evil.so"
    plant({"evil/evil.so": library, "evil/__init__.py": f"PATH = {str(path)!r}\n"})
    done = run(CALL, "planted")
    assert done.failure is None, done.text
    assert json.loads(done.outputs["result"]) == {"ran": 1, "opened": -1, "connected": -1, "forked": -1}
    # Outside it reaches all of them.
    outside = subprocess.run(
        ["python3", "-c", f"import sys; sys.path.insert(0, {str(path.parent.parent)!r})\n{CALL}\nprint(f())"],
        capture_output=True,
        text=True,
        check=True,
    )
    values = dict(eval(outside.stdout))
    assert values["ran"] == 1
    assert min(values["opened"], values["connected"], values["forked"]) > 0


@pytest.mark.parametrize("name", sorted(ATTEMPTS)[::6])
def test_the_escapes_of_functions_fail_from_a_package_too(
    environments: Supervisor, plant: Callable[..., str], name: str
) -> None:
    """The attempt runs when the package is imported, from files of the environment."""
    body = "\n".join("    " + line for line in ATTEMPTS[name]["body"].strip().splitlines())
    package = f"""{PRELUDE}
PARENT = {os.getpid()}

def attempt():
    data = b"original"
{body}

try:
    SAID = repr(attempt())
except OSError as error:
    SAID = "refused: " + str(error)
"""
    plant({"evil/__init__.py": package})
    job = Job(
        "python",
        "f",
        code=b"def f(data: bytes) -> dict:\n    import evil\n    return {'said': evil.SAID}\n",
        inputs={"data": "bytes"},
        outputs={"result": OutputSpec("json")},
        limits=QUICK,
        environment="planted",
    )
    done = run_job(environments, job, {"data": b"original"})
    if set(ATTEMPTS[name].get("needs", ())) <= set(done.layers):
        assert done.failure is None, done.text
        assert json.loads(done.outputs["result"])["said"].lstrip("'").startswith("refused"), done.text
