"""What mesapy lacks is said with its line."""

from __future__ import annotations

import pytest

from mesatee.errors import Malformed
from mesatee.protocol import mesapy

PLAIN = "def f(data: bytes, *, n: int = 1) -> dict:\n    return {'n': n}\n"


def test_a_plain_function_has_its_contract():
    found = mesapy.derive(PLAIN.encode(), "f")
    assert [port.kind for port in (*found.inputs, *found.outputs)] == ["bytes", "json"]


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("class A:\n    pass\n", "line 3: mesapy has no classes"),
        ("def g():\n    yield 1\n", "line 4: mesapy has no generators"),
        ("import numpy\n", "line 3: mesapy has no module numpy"),
        ("from os import path\n", "line 3: mesapy has no module os"),
        ("from . import x\n", "line 3: mesapy has no module ."),
        ("def g(x):\n    with x:\n        pass\n", "line 4: mesapy has no with statement"),
        ("async def g():\n    pass\n", "line 3: mesapy has no async functions"),
        (
            "from datetime import datetime\ndef g():\n    return datetime.now()\n",
            "line 5: mesapy has no clock",
        ),
    ],
)
def test_what_is_lacking_is_said_with_its_line(extra, said):
    with pytest.raises(Malformed) as caught:
        mesapy.derive((PLAIN + extra).encode(), "f")
    assert caught.value.message.startswith(said)


@pytest.mark.parametrize(
    "head",
    [
        "def f(data: Table) -> bytes:",
        "def f(data: bytes) -> Table:",
        "def f(data: dict[str, Table]) -> bytes:",
        "def f(data: bytes) -> dict[str, Table]:",
        "def f(data: bytes, *, where: Attestation) -> bytes:",
    ],
)
def test_tables_and_places_are_not_there(head):
    with pytest.raises(Malformed):
        mesapy.derive(f"{head}\n    return data\n".encode(), "f")
