"""Examples of a function: saved from a run, repeated in the sandbox, and compared byte by byte."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mesatee.cli import examples, local
from mesatee.cli.main import app
from mesatee.cli.trial import Supervisor
from mesatee.enclave.sandbox import Limits
from mesatee.errors import Conflict, DigestMismatch, Malformed
from mesatee.party import functions
from mesatee.protocol import limits
from mesatee.protocol.examples import ByDigest, Example, Inline

COUNT = b"def count(text: bytes, *, least: int = 1) -> dict:\n    return {'n': len(text.split()) * least}\n"
ZERO = Limits(seconds=20, cpu_seconds=10)


@pytest.fixture(scope="module")
def supervisor() -> Iterator[Supervisor]:
    with Supervisor() as started:
        yield started


def code(source: bytes) -> local.Code:
    return local.Code("count", source, functions.contract(source))


def given(content: bytes) -> local.Given:
    return local.Given("bytes", content, "a file", False)


def repeat(
    supervisor: Supervisor, source: bytes, *signed: Example, files: dict[str, local.Given] | None = None
) -> list[examples.Repeated]:
    made = code(source)
    return examples.repeat(
        signed, files or {}, lambda inputs, arguments: local.run(supervisor, made, inputs, arguments, ZERO)
    )


def saved(supervisor: Supervisor, path: Path, content: bytes = b"a b", **arguments: Any) -> Example:
    inputs = {"text": given(content)}
    ran = local.run(supervisor, code(COUNT), inputs, arguments, ZERO)
    examples.save(path, inputs, arguments, ran)
    return examples.load(path)


def test_what_was_saved_comes_out_again(supervisor: Supervisor, tmp_path: Path) -> None:
    made = saved(supervisor, tmp_path / "two.json", least=3)
    assert (made.name, made.arguments) == ("two", {"least": 3})
    assert isinstance(made.inputs["text"], Inline)
    (found,) = repeat(supervisor, COUNT, made)
    assert (found.name, found.state) == ("two", "same")
    with pytest.raises(Conflict):
        saved(supervisor, tmp_path / "two.json")


def test_other_code_is_noticed(supervisor: Supervisor, tmp_path: Path) -> None:
    made = saved(supervisor, tmp_path / "two.json")
    (found,) = repeat(supervisor, COUNT.replace(b"len(text.split())", b"len(text)"), made)
    assert found.state == "differs"
    ((expected, got),) = found.outputs.values()
    assert expected == made.outputs["result"] != got
    (failed,) = repeat(supervisor, COUNT.replace(b"text.split()", b"text.split(7)"), made)
    assert (failed.state, failed.reason) == ("failed", "function_raised")
    assert "TypeError" in failed.diagnostics


def test_a_large_input_is_named_by_digest_and_has_to_be_given(supervisor: Supervisor, tmp_path: Path) -> None:
    content = b"x " * limits.EXAMPLE_INPUT_BYTES
    made = saved(supervisor, tmp_path / "large.json", content)
    assert isinstance(made.inputs["text"], ByDigest)
    (skipped,) = repeat(supervisor, COUNT, made)
    assert skipped.state == "skipped"
    assert made.inputs["text"].digest in skipped.reason
    (found,) = repeat(supervisor, COUNT, made, files={"text": given(content)})
    assert found.state == "same"
    with pytest.raises(DigestMismatch, match="no input of the examples"):
        repeat(supervisor, COUNT, made, files={"text": given(content + b"x")})


def test_arguments_that_do_not_fit_are_a_failure_of_the_example(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    made = saved(supervisor, tmp_path / "two.json").model_copy(update={"arguments": {"least": "many"}})
    (found,) = repeat(supervisor, COUNT, made)
    assert (found.state, found.reason) == ("failed", "argument least must be of type int")


def test_a_file_that_is_no_example_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("{}")
    with pytest.raises(Malformed, match=r"x\.json: example: name"):
        examples.load(path)


def test_on_the_command_line(supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mesatee.cli.trial.Supervisor", lambda: contextlib.nullcontext(supervisor))
    (tmp_path / "count.py").write_bytes(COUNT)

    def run(*words: str, fails: int = 0) -> dict[str, Any]:
        done = CliRunner().invoke(app, ["--home", "home", "function", "test", "count.py", *words, "--json"])
        assert done.exit_code == fails, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    run("--mock", "--rows", "2", "--save-example", "two.json")
    found = run("--example", "two.json")
    assert [(item["name"], item["state"]) for item in found["examples"]] == [("two", "same")]
    (tmp_path / "count.py").write_bytes(COUNT.replace(b"split()", b"split()[1:]"))
    assert run("--example", "two.json", fails=1)["examples"][0]["state"] == "differs"
    assert run("--examples", fails=1)["error"]["code"] == "not_found"
    assert run("--example", "two.json", "--mock", fails=1)["error"]["code"] == "malformed"
    assert run("--mock", "--save-example", "two.json", fails=1)["error"]["code"] == "input_error"


def test_whoever_saves_data_of_his_own_is_warned(
    supervisor: Supervisor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(supervisor, tmp_path / "mine.json")
    assert "has the whole of a file in it" in " ".join(capsys.readouterr().err.split())
    ran = local.run(supervisor, code(COUNT), {"text": given(b"mock")}, {}, ZERO)
    examples.save(tmp_path / "mock.json", {"text": local.Given("bytes", b"mock", "mock text", True)}, {}, ran)
    assert capsys.readouterr().err == ""
