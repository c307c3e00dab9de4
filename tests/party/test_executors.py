"""What a module or a mesapy function lacks is said when it is registered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.support.cases import contract, module
from wasmtime import wat2wasm

from mesatee import extras
from mesatee.errors import Malformed, Unavailable
from mesatee.party import Identity, Session, functions
from mesatee.protocol import envelope as dsse
from mesatee.protocol import statements, wasm
from mesatee.protocol.digests import sha256
from mesatee.protocol.jsonstrict import canonical

TOML = contract("data", top='{type = "int", default = 3}')
ECHO = module("echo", TOML)


def bare(text: str) -> bytes:
    return bytes(wat2wasm(text))


def test_a_module_has_the_contract_that_it_carries() -> None:
    whole, said = functions.module(ECHO)
    assert whole == ECHO
    assert (said.executor, said.entry) == ("wasm", "_start")
    assert [(item.name, item.format, item.optional) for item in said.inputs] == [("data", "bytes", False)]
    assert [(item.name, item.type, item.default) for item in said.arguments] == [("top", "int", 3)]
    assert [item.name for item in said.outputs] == ["result"]


def test_an_optional_input_is_one_in_the_statement() -> None:
    text = b'[inputs]\nx = {format = "csv", optional = true}\n[arguments]\nn = "list"\n[outputs]\nr = "csv"\n'
    _, said = functions.module(bare('(module (memory (export "memory") 1) (func (export "_start")))'), text)
    assert said.inputs[0].optional
    assert said.arguments[0].type == "list"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('(import "env" "f" (func)) (func (export "_start"))', "imports 'env' 'f'"),
        ('(import "wasi_snapshot_preview1" "f" (func)) (func (export "_start"))', "which no worker has"),
        (
            '(import "wasi_snapshot_preview1" "random_get" (func (param i64 i32) (result i32)))'
            '(memory (export "memory") 1) (func (export "_start"))',
            "other parameters",
        ),
        ('(func (export "other"))', "no function _start"),
        ('(func (export "_start") (param i32))', "no function _start"),
        (
            '(import "wasi_snapshot_preview1" "sched_yield" (func (result i32))) (func (export "_start"))',
            "does not export its memory",
        ),
        ('(memory 1 2 shared) (func (export "_start"))', "not valid"),
        ('(memory i64 1) (func (export "_start"))', "not valid"),
    ],
)
def test_a_module_that_no_worker_can_run(text: str, said: str) -> None:
    with pytest.raises(Malformed, match=said):
        functions.module(bare(f"(module {text})"), TOML.encode())


def test_a_broken_module() -> None:
    with pytest.raises(Malformed, match="not valid"):
        functions.module(wasm.attach(wasm.PREAMBLE + b"\x01\x02\xff\xff", TOML.encode()))


def test_mesapy_names_the_line() -> None:
    source = b"def f(data: bytes) -> bytes:\n    return data + 1\n"
    with pytest.raises(Malformed, match=r"^line 2: error"):
        functions.contract(source, executor="mesapy")
    with pytest.raises(Malformed, match=r"^line 1: mesapy has no module numpy"):
        functions.contract(b"import numpy\n" + source, executor="mesapy")
    with pytest.raises(Malformed, match=r"^line 2: error.*open"):
        functions.contract(b"def f(data: bytes) -> bytes:\n    return open('x').read()\n", executor="mesapy")
    assert (
        functions.contract(b"def f(data: bytes) -> bytes:\n    return data\n", executor="mesapy").executor
        == "mesapy"
    )


@pytest.mark.parametrize("executor", ["wasm", "mesapy"])
def test_without_the_package_the_extra_is_named(executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "PACKAGES", {executor: "not-installed"})
    source = b"def f(data: bytes) -> bytes:\n    return data\n"
    register = {
        "wasm": lambda: functions.module(ECHO),
        "mesapy": lambda: functions.contract(source, executor="mesapy"),
    }
    with pytest.raises(Unavailable, match=rf"mesatee\[{executor}\]"):
        register[executor]()


def test_the_contract_is_part_of_what_is_signed(fake: Any, alice: Identity, tmp_path: Path) -> None:
    plain, said = tmp_path / "word-count.wasm", tmp_path / "contract.toml"
    plain.write_bytes(bare('(module (memory (export "memory") 1) (func (export "_start")))'))
    said.write_text(TOML)
    whole = wasm.attach(plain.read_bytes(), TOML.encode())
    fake.answers["/v1/functions"] = lambda: (200, canonical({"items": []}))
    fake.answers[f"/v1/blobs/{sha256(whole)}"] = lambda: (201, canonical({"items": []}))
    with Session(fake.url, alice, fake.trust) as session:
        functions.put(session, plain, contract_file=said)
        (tmp_path / "f.py").write_text("def f(data: bytes) -> bytes:\n    return data\n")
        with pytest.raises(Malformed, match="annotations"):
            functions.put(session, tmp_path / "f.py", contract_file=said)
        with pytest.raises(Malformed, match="contract"):
            functions.put(session, plain, entry="other", contract_file=said)
    posted = statements.verify(dsse.from_bytes(fake.posted[-1])).predicate
    assert isinstance(posted, statements.FunctionStatement)
    assert (posted.executor, posted.name) == ("wasm", "word_count")
    assert posted.code is not None
    assert posted.code.sha256 == sha256(whole)
