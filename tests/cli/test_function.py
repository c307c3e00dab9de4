"""What is shown of a function that one is asked to approve."""

from __future__ import annotations

import pytest
from tests.support.cases import contract, module
from typer.testing import CliRunner

from mesatee.cli.function import app, describe, shown_code
from mesatee.errors import Malformed
from mesatee.party.functions import Shown
from mesatee.party.functions import contract as contract_of
from mesatee.protocol.digests import sha256
from mesatee.protocol.statements import FunctionStatement


def shown(executor: str, code: bytes) -> Shown:
    said = FunctionStatement.model_construct(
        name="f", executor=executor, code={"sha256": sha256(code), "size": len(code), "wrap": None}
    )
    return Shown("0" * 64, "1" * 64, "alice", said, code)


def test_of_a_module_the_contract_is_shown_of_others_the_source() -> None:
    text = contract("data")
    assert shown_code(shown("wasm", module("echo", text))) == text
    assert shown_code(shown("mesapy", b"def f(): pass")) == "def f(): pass"


def test_an_input_that_a_task_may_leave_out_stands_in_brackets() -> None:
    found = contract_of(b"def f(a: Batches, b: Table | None, c: memoryview | None = None) -> Batches: ...")
    said = FunctionStatement.model_construct(
        entry=found.entry,
        variadic=found.variadic,
        inputs=found.inputs,
        arguments=found.arguments,
        outputs=found.outputs,
    )
    assert describe(said) == "f(a, [b], [c]) -> result (csv)"


@pytest.mark.parametrize("executor", ["builtin", "fortran"])
def test_an_executor_that_takes_no_file_is_refused(executor: str) -> None:
    result = CliRunner().invoke(app, ["put", "f.py", "--executor", executor])
    assert result.exit_code != 0
    # The command line's own wrapper may have printed the error and left, or let it through.
    assert isinstance(result.exception, (Malformed, SystemExit))
