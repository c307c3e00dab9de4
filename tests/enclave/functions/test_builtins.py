"""The built-in functions, called directly; `tests/enclave/sandbox` runs them in children."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesatee.enclave import functions
from mesatee.enclave.functions.echo import echo
from mesatee.errors import NotFound
from mesatee.table import Table


def ids(*values, column="id"):
    return Table.from_dict({column: list(values), "other": ["secret"] * len(values)})


@given(st.binary())
def test_echo_gives_every_byte_back(data):
    assert echo(data) == data


def test_the_registry():
    assert {"echo", "psi"} <= set(functions.names())
    assert all("Reveals" in functions.find(name).reveals for name in functions.names())
    assert [argument.name for argument in functions.find("psi").signature.arguments] == [
        "key",
        "mode",
        "leakage",
        "normalise",
    ]
    with pytest.raises(NotFound):
        functions.find("exec")
