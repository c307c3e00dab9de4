"""The inventory, and the first promise: gateway and worker map nothing that is not on the list."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from mesatee import _core
from mesatee.cli import inventory, native_libraries, sbom, up
from mesatee.cli.bench.task import Client
from mesatee.errors import MesateeError, Unavailable

NATIVE = ("numpy", "pandas", "pyarrow", "scikit-learn", "scipy")
RUST_MARK = b"/rustc/"


# -- reading ----------------------------------------------------------------------------------------


def test_only_executable_memory_counts() -> None:
    maps = (
        b"7f00-7f01 r--p 00000000 fe:00 1 /usr/lib/locale/C.utf8/LC_CTYPE\n"
        b"7f01-7f02 r-xp 00000000 fe:00 2 /usr/lib/x86_64-linux-gnu/libc.so.6\n"
        b"7f02-7f03 rw-p 00000000 00:00 0 [heap]\n"
        b"7f03-7f04 r-xp 00000000 00:00 0 [vdso]\n"
        b"7f04-7f05 r-xp 00000000 fe:00 3 /with blanks/x.so (deleted)\n"
        b"7f05-7f06 rwxp 00000000 00:00 0 \n"
    )
    assert inventory.mapped(maps) == [
        "/usr/lib/x86_64-linux-gnu/libc.so.6",
        "/with blanks/x.so",
        "[anonymous]",
        "[vdso]",
    ]


@given(st.binary(max_size=300))
def test_maps_of_any_bytes_raise_only_our_errors(data: bytes) -> None:
    with contextlib.suppress(MesateeError):
        inventory.mapped(data)


def test_code_without_a_file_is_never_allowed() -> None:
    for file in ("[anonymous]", "/memfd:x", "[heap]", "/tmp/evil.so"):
        origin, name, package = inventory.origin_of(file)
        for role in native_libraries.ROLES:
            # wasmtime makes it, where nothing but modules runs.
            made = file == "[anonymous]" and role == "wasm_zygote"
            assert native_libraries.judge(role, origin, name, package)[0] is made


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("/usr/lib/x86_64-linux-gnu/libcrypto.so.3", ("system", "libcrypto", None)),
        ("/usr/lib/x86_64-linux-gnu/libz.so.1.2.13", ("system", "libz", None)),
        ("/lib/x86_64-linux-gnu/libm-2.31.so", ("system", "libm", None)),
        ("/lib64/ld-linux-x86-64.so.2", ("system", "ld-linux-x86-64", None)),
        ("[vdso]", ("kernel", "[vdso]", None)),
        ("/somewhere/libc.so.6", ("unknown", "libc", None)),
    ],
)
def test_files_are_placed(file: str, expected: tuple[str, str, str | None]) -> None:
    assert inventory.origin_of(file) == expected


def test_our_core_is_placed_and_an_impostor_is_not(tmp_path: Path) -> None:
    assert inventory.origin_of(str(_core.__file__))[2] == "mesatee"
    impostor = tmp_path / "_core.abi3.so"
    impostor.touch()
    assert inventory.origin_of(str(impostor))[0] == "unknown"


def test_every_entry_of_the_allow_list_has_a_reason() -> None:
    tables = (native_libraries.STDLIB, native_libraries.PACKAGES, native_libraries.SYSTEM)
    for table in tables:
        for name, known in table.items():
            assert len(known.reason) > 15, name
            assert known.language, name
    for banned in ("_sqlite3", "_ctypes", "pyexpat", "_elementtree", "_tkinter", "_dbm"):
        assert banned not in native_libraries.STDLIB
    for banned in (*NATIVE, "duckdb", "onnxruntime", "cryptography"):
        assert banned not in native_libraries.PACKAGES
    for banned in ("libsqlite3", "libxml2", "libffi", "libstdc++", "libexpat"):
        assert banned not in native_libraries.SYSTEM


def test_what_is_called_rust_was_made_by_rustc() -> None:
    for file, package in inventory._package_files().items():
        if package in native_libraries.PACKAGES:
            assert "Rust" in native_libraries.PACKAGES[package].language
            assert RUST_MARK in Path(file).read_bytes(), file
        elif package == "numpy":
            assert RUST_MARK not in Path(file).read_bytes(), file


def test_a_gateway_that_loads_numpy_or_a_database_is_caught() -> None:
    code = (
        "import mesatee.cli.processes, numpy, sqlite3, sys;sys.stdout.write(open('/proc/self/maps').read())"
    )
    said = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=True).stdout
    for role in native_libraries.TRUSTED:
        libraries = inventory.describe(role, inventory.mapped(said))
        refused = {item.package or item.name for item in libraries if not item.allowed}
        assert "numpy" in refused
        assert any("sqlite3" in item.name for item in libraries if not item.allowed)
        # What is there rightly stays allowed.
        assert any(item.package == "mesatee" and item.allowed for item in libraries)


def test_instances_stand_for_what_does_not_run(tmp_path: Path) -> None:
    found = {item.role: item for item in inventory.take(tmp_path)}
    assert set(found) == set(native_libraries.ROLES)
    assert {item.source for item in found.values()} == {"instance"}
    assert not any(item.refused for item in found.values())
    assert "numpy" in {item.package for item in found["zygote"].libraries}
    packages = {item.package for item in found["wasm_zygote"].libraries}
    assert "wasmtime" in packages
    assert not packages & {"numpy", "pyarrow", "pandas", "scikit-learn"}
    # Executable memory that stands in no file is nowhere else.
    made = {role for role, item in found.items() if any(part.origin == "memory" for part in item.libraries)}
    assert made == {"wasm_zygote"}
    assert any(item.name == "_sqlite3" for item in found["host"].libraries)
    for role in native_libraries.TRUSTED:
        packages = {item.package for item in found[role].libraries}
        assert not packages & set(NATIVE)
        assert {"mesatee", "cedarpy", "pydantic-core", "cbor2"} <= packages


def test_a_process_that_is_gone_cannot_be_read() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    with pytest.raises(Unavailable):
        inventory.read_maps(int(ended.stdout))


# -- output -----------------------------------------------------------------------------------------


def output(
    home: Path, capsys: pytest.CaptureFixture[str], as_json: bool, cyclonedx: bool = False
) -> tuple[str, int]:
    code = 0
    try:
        inventory.run(home, as_json, cyclonedx)
    except typer.Exit as left:
        code = left.exit_code
    return capsys.readouterr().out, code


def test_the_sbom_is_cyclonedx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, code = output(tmp_path, capsys, False, True)
    found = json.loads(text)
    assert code == 0
    assert (found["bomFormat"], found["specVersion"], found["version"]) == ("CycloneDX", "1.6", 1)
    assert found["serialNumber"].startswith("urn:uuid:")
    refs = [item["bom-ref"] for item in found["components"]]
    assert len(refs) == len(set(refs))
    for item in found["components"]:
        assert item["type"] in ("library", "file")
        assert item["name"]
    purls = {item.get("purl", "").partition("@")[0] for item in found["components"]}
    assert {"pkg:pypi/cedarpy", "pkg:pypi/numpy", "pkg:pypi/h11"} <= purls
    assert "pkg:pypi/pytest" not in purls
    if sbom.lock_file() is not None:
        assert {"pkg:cargo/rustls", "pkg:cargo/age", "pkg:cargo/mesatee-custody"} <= purls
        # The benches' load generator is no part of the service.
        assert "pkg:cargo/mesatee-loadgen" not in purls
    natives = [item for item in found["components"] if item["type"] == "file"]
    core = next(item for item in natives if item["bom-ref"] == f"file:{_core.__file__}")
    said = {entry["name"]: entry["value"] for entry in core["properties"]}
    assert said["mesatee:language"].startswith("Rust")
    assert {"mesatee:process:gateway", "mesatee:process:worker"} <= set(said)
    assert len(core["hashes"][0]["content"]) == 64


# -- the running service ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A service that has run a task, so that everything that is loaded late is there."""
    folder = tmp_path_factory.mktemp("inventory")
    with up.running(folder), contextlib.ExitStack() as stack:
        client = Client.join(folder, "alice", 2, stack)
        client.run()
        yield folder


@pytest.mark.e2e
def test_gateway_and_worker_map_only_what_is_listed(home: Path) -> None:
    found = {item.role: item for item in inventory.take(home)}
    for role in native_libraries.TRUSTED:
        process = found[role]
        assert process.refused == (), [item.file for item in process.refused]
        packages = {item.package for item in process.libraries}
        assert not packages & set(NATIVE)
        assert not any("sqlite" in item.file or "arrow" in item.file for item in process.libraries)
        assert not any(item.origin in ("memory", "unknown") for item in process.libraries)


@pytest.mark.e2e
def test_all_processes_are_found(home: Path) -> None:
    found = inventory.find_processes(home)
    # The second zygote comes with the first module.
    assert set(found) == set(native_libraries.ROLES) - {"wasm_zygote"}
    assert len(set(found.values())) == len(found)


@pytest.mark.e2e
def test_the_running_processes_are_read(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, code = output(home, capsys, True)
    found = json.loads(text)
    assert (code, found["allowed"]) == (0, True)
    for process in found["processes"]:
        # Trusted processes hide their memory from other users, so that only root can read them.
        if process["source"] == "running":
            assert process["pid"] > 0
        assert process["libraries"]
        for library in process["libraries"]:
            assert library["allowed"] is True
            assert library["reason"]
    by_role = {process["role"]: process for process in found["processes"]}
    zygote = {item["package"] for item in by_role["zygote"]["libraries"]}
    assert {"numpy", "pandas", "pyarrow"} <= zygote


@pytest.mark.e2e
def test_another_home_is_another_service(home: Path, tmp_path: Path) -> None:
    assert inventory.find_processes(tmp_path) == {}
