"""The trust map is the folder map (design, section 2): who may import whom, and what is pure."""

from __future__ import annotations

import sys

import pytest
from tests.support.source import attributes, below, imports, modules, targets

ALLOWED: dict[str, set[str]] = {
    "protocol": {"protocol"},
    "attestation": {"attestation", "protocol"},
    "channel": {"channel", "attestation", "protocol"},
    "endorse": {"endorse", "attestation", "protocol"},
    "party": {"party", "channel", "attestation", "extras", "noise", "protocol", "table"},
    # Only functions and the executors, in the sandboxed child, use `table`: see the test of native libraries.
    "enclave": {
        "enclave",
        "channel",
        "attestation",
        "extras",
        "function",
        "inference",
        "tensors",
        "noise",
        "protocol",
        "table",
        "batches",
    },
    "host": {"host", "attestation", "protocol"},
}
"""Place -> places that it may import, beside the package itself, `errors` and the Rust core."""
EVERYBODY = {"", "errors", "_core"}

PURE_STANDARD = {
    "__future__",
    "ast",
    "base64",
    "binascii",
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "hashlib",
    "itertools",
    "json",
    "math",
    "operator",
    "re",
    "struct",
    "types",
    "typing",
}
"""What of the standard library the protocol uses: nothing of it reads a clock, a disk, a socket or chance."""
PURE: dict[str, set[str]] = {
    # TOML of contracts, look-alike names of files.
    "protocol": PURE_STANDARD | {"pydantic", "tomllib", "unicodedata"},
    # TOML of trust policies, CBOR of evidence, a lock around the cache of appraisals; dates in collateral, whose clock
    # the next test looks for; verifiers of single TEEs that are imported by name.
    "attestation": PURE_STANDARD
    | {"tomllib", "threading", "cbor2", "pydantic", "datetime", "importlib", "itertools"},
}
PURE_CORE = {
    "X509",
    "X509Crl",
    "merkle_leaves",
    "merkle_nodes",
    "parse_json",
    "pem_certificates",
    "spki_from_point",
    "spki_from_rsa",
    "verify_ed25519",
    "verify_lasting_signature",
    "verify_signature",
    "forget_signatures",
}
"""What of the Rust core is a function of its arguments alone; what it remembers changes no answer, only its cost."""
PURE_GATEWAY = ["permit", "budgets", "policies", "policy", "rules", "state", "peer", "openapi"]
"""Modules of the gateway's core that decide: time, chance and transport are their arguments."""


def place_of(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


@pytest.mark.parametrize("place", sorted(ALLOWED))
def test_each_place_imports_only_what_it_may(place: str) -> None:
    for module in below(place):
        for target in targets(module):
            assert place_of(target) in ALLOWED[place] | EVERYBODY, f"{module.place} imports {target}"


def test_only_the_command_line_puts_the_places_together() -> None:
    for module in modules():
        if place_of(module.name) != "cli":
            assert not any(place_of(target) == "cli" for target in targets(module)), module.place


def test_errors_import_nothing_of_ours() -> None:
    (module,) = below("errors.py")
    assert not targets(module)


@pytest.mark.parametrize(
    ("room", "never"),
    [
        ("enclave/functions", ("gateway", "worker", "platform", "sandbox")),
        ("enclave/sandbox/executors", ("gateway", "worker", "platform")),
        ("enclave/sandbox", ("gateway", "worker", "platform")),
        ("enclave/platform", ("gateway", "worker", "sandbox", "functions")),
        ("enclave/gateway", ("worker", "sandbox", "functions", "doors", "doorlinks")),
        ("enclave/worker", ("gateway", "doors", "doorlinks")),
    ],
)
def test_a_room_uses_only_rooms_below_it(room: str, never: tuple[str, ...]) -> None:
    assert below(room)
    for module in below(room):
        for target in targets(module):
            _, inner, chamber, *_ = [*target.split("."), "", ""]
            assert inner != "enclave" or chamber not in never, (module.place, target)


@pytest.mark.parametrize("place", sorted(PURE))
def test_pure_places_know_no_clock_disk_socket_or_chance(place: str) -> None:
    for module in below(place):
        for item in imports(module):
            top = item.module.split(".")[0]
            if top == "mesatee":
                continue
            assert top in PURE[place], f"{module.place} imports {top}"
            assert item.module != "mesatee._core" or item.name in PURE_CORE


@pytest.mark.parametrize("place", sorted(PURE))
def test_pure_places_use_only_the_cores_pure_functions(place: str) -> None:
    for module in below(place):
        for item in imports(module):
            if item.module.endswith("_core") and item.name:
                assert item.name in PURE_CORE, f"{module.place} imports {item.name}"
        core = {"SigningKey", "HpkeKey", "SecretKey", "age_open", "connect", "Listener", "memfd"}
        assert not attributes(module) & core, module.place
        assert not attributes(module) & {"now", "today", "utcnow"}, module.place


@pytest.mark.parametrize("name", PURE_GATEWAY)
def test_what_decides_is_given_time_and_chance(name: str) -> None:
    (module,) = below(f"enclave/gateway/{name}.py")
    impure = {"os", "time", "random", "secrets", "socket", "subprocess", "threading", "asyncio", "pathlib"}
    for item in imports(module):
        assert item.module.split(".")[0] not in impure, (module.place, item.module)


def test_the_monitor_is_given_its_clocks() -> None:
    (module,) = below("enclave/gateway/monitor.py")
    assert not {"time", "datetime", "random", "secrets"} & {item.module for item in imports(module)}


def test_the_trusted_places_name_no_native_library() -> None:
    """Static half of the first promise; `test_processes` looks at what is really loaded."""
    native = {"numpy", "pandas", "pyarrow", "sklearn", "sqlite3", "scipy", "polars", "onnxruntime", "duckdb"}
    for module in below("protocol", "attestation", "channel", "enclave/gateway", "enclave/worker"):
        assert not {"mesatee.table", "mesatee.batches"} & set(targets(module)), module.place
    for module in below("protocol", "attestation", "channel", "enclave/gateway", "enclave/worker"):
        for item in imports(module):
            assert item.module.split(".")[0] not in native, (module.place, item.module)


def test_the_host_sees_no_key_and_no_verification() -> None:
    keys = {"SigningKey", "HpkeKey", "SecretKey", "AgeKey", "FileKey"}
    for module in below("host"):
        assert not {item.name for item in imports(module)} & keys, module.place


def test_every_import_is_of_the_standard_library_or_named_here() -> None:
    third = {
        "protocol": {"pydantic"},
        "attestation": {"cbor2", "pydantic"},
        "enclave/gateway": {"pydantic", "pydantic_core", "starlette", "cedarpy"},
        "enclave/worker": {"pydantic", "httpx"},
        "enclave/platform": set(),
        "host": set(),
    }
    for place, named in third.items():
        for module in below(place):
            for item in imports(module):
                top = item.module.split(".")[0]
                assert top == "mesatee" or top in sys.stdlib_module_names or top in named, (
                    module.place,
                    top,
                )
