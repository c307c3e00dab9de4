"""The contract in a module, and modules that are none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesatee.errors import InputError, Malformed, TooLarge
from mesatee.protocol import limits, wasm

EMPTY = wasm.PREAMBLE
CONTRACT = b'[inputs]\na = "csv"\n[outputs]\nresult = "bytes"\n'


def test_a_contract_comes_back_as_it_was_attached():
    module = wasm.attach(EMPTY, CONTRACT)
    assert wasm.contract_text(module) == CONTRACT
    found = wasm.derive(module)
    assert [(port.name, port.kind) for port in found.signature.inputs] == [("a", "table")]
    assert dict(found.formats) == {"a": "csv", "result": "bytes"}


def test_a_module_has_exactly_one_contract():
    with pytest.raises(Malformed, match="no sections"):
        wasm.derive(EMPTY)
    once = wasm.attach(EMPTY, CONTRACT)
    with pytest.raises(Malformed, match="already"):
        wasm.attach(once, CONTRACT)
    with pytest.raises(Malformed, match="2 sections"):
        wasm.derive(once + once[len(EMPTY) :])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[outputs]\n", "does not name the outputs"),
        ("inputs = 5\n[outputs]\nr = 'csv'", "tables"),
        ("[outputs]\nr = 'exe'", "format"),
        ("[outputs]\nr = {format = 'csv', optional = true}", "never optional"),
        ("[outputs]\ndiagnostics = 'csv'", "reserved"),
        ("[outputs]\nr = 'csv'\n[other]", "unknown fields: other"),
        ("[inputs]\nr = 'csv'\n[outputs]\nr = 'csv'", "one name"),
        ("[arguments]\nn = 'Table'\n[outputs]\nr = 'csv'", "argument is a type"),
        ("[arguments]\nn = {type = 'int', default = 'x'}\n[outputs]\nr = 'csv'", "not of type int"),
        ("[inputs]\n'../x' = 'csv'\n[outputs]\nr = 'csv'", "identifier"),
        ("entry = 'a b'\n[outputs]\nr = 'csv'", "identifier"),
        ("[outputs\n", "not TOML"),
        ("fuel = 0\n[outputs]\nr = 'csv'", "fuel is a number"),
        ("fuel = true\n[outputs]\nr = 'csv'", "fuel is a number"),
        ("fuel = 1.5\n[outputs]\nr = 'csv'", "fuel is a number"),
        (f"fuel = {limits.FUEL + 1}\n[outputs]\nr = 'csv'", "fuel is a number"),
        *(
            (f"seconds = {said}\n[outputs]\nr = 'csv'", "seconds is a number above 0")
            for said in (
                "0",
                "0.0",
                "-1",
                "-0.5",
                "nan",
                "inf",
                "-inf",
                "'2.5'",
                "true",
                "[1]",
                "12:00:00",
                f"{limits.RUN_SECONDS}.001",
                f"{limits.RUN_SECONDS + 1}",
                "1" + "0" * 400,
            )
        ),
    ],
)
def test_a_contract_that_makes_no_sense_says_why(text, said):
    with pytest.raises(Malformed, match=said):
        wasm.attach(EMPTY, text.encode())


@pytest.mark.parametrize(
    "module",
    [b"", b"\0asm", b"\0asm\x0d\0\1\0", EMPTY + b"\1", EMPTY + b"\0\xff\xff\xff\xff\xff", EMPTY + b"\0\2\5x"],
)
def test_what_is_no_module_is_refused(module):
    with pytest.raises(Malformed):
        wasm.derive(module)


def test_fuel_is_as_the_contract_says():
    assert wasm.parse(CONTRACT).fuel is None
    for fuel in (1, limits.FUEL):
        assert wasm.derive(wasm.attach(EMPTY, b"fuel = %d\n" % fuel + CONTRACT)).fuel == fuel


def test_seconds_are_as_the_contract_says():
    assert wasm.parse(CONTRACT).seconds is None
    for said, seconds in (
        ("2.5", 2.5),
        ("1", 1.0),
        ("1e-9", 1e-9),
        (f"{limits.RUN_SECONDS}", limits.RUN_SECONDS),
    ):
        found = wasm.derive(wasm.attach(EMPTY, f"seconds = {said}\n".encode() + CONTRACT))
        assert found.seconds == seconds
        assert found.fuel is None


def test_limits_one_below_and_one_above():
    filler = b"#" * (limits.CONTRACT_BYTES - len(CONTRACT))
    assert wasm.parse(CONTRACT + filler)
    with pytest.raises(TooLarge):
        wasm.parse(CONTRACT + filler + b"#")
    room = limits.CODE_BYTES - len(wasm.attach(EMPTY, CONTRACT)) - 4
    padded = EMPTY + b"\0" + wasm._leb(room) + b"\1x" + bytes(room - 2)
    assert len(wasm.attach(padded, CONTRACT)) <= limits.CODE_BYTES
    with pytest.raises(TooLarge):
        wasm.attach(padded + b"\0\1\0\0\1\0", CONTRACT)


@given(st.binary(max_size=200))
def test_only_our_errors(data):
    for read in (wasm.derive, wasm.parse):
        for text in (data, EMPTY + data):
            try:
                read(text)
            except InputError:
                continue
