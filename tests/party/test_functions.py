from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mesatee.enclave.functions import registry
from mesatee.errors import DigestMismatch, Malformed, NotFound, TooLarge
from mesatee.party import Identity, Session, functions
from mesatee.protocol import envelope as dsse
from mesatee.protocol import limits, statements, wire
from mesatee.protocol.digests import sha256
from mesatee.protocol.jsonstrict import canonical

SOURCE = b"""
from mesatee.table import Table

def _helper() -> None: ...

def overlap(
    left: Table, right: bytes, *, key: str, ratio: float = 0.5, names: list[str] | None = None
) -> Table: ...
"""


def test_optional_inputs_batches_and_views_in_the_statement() -> None:
    found = functions.contract(
        b"def f(a: Batches, b: Table | None, c: memoryview | None = None) -> Batches: ..."
    )
    assert [(item.name, item.format, item.optional) for item in found.inputs] == [
        ("a", "csv", False),
        ("b", "csv", True),
        ("c", "bytes", True),
    ]
    assert [(item.name, item.format) for item in found.outputs] == [("result", "csv")]


def test_the_contract_comes_from_the_source() -> None:
    found = functions.contract(SOURCE)
    assert found.entry == "overlap"
    assert [(item.name, item.format) for item in found.inputs] == [("left", "csv"), ("right", "bytes")]
    assert [(item.name, item.type, item.required) for item in found.arguments] == [
        ("key", "str", True),
        ("ratio", "float", False),
        ("names", "list", False),
    ]
    assert [(item.name, item.format) for item in found.outputs] == [("result", "csv")]


def test_formats_of_outputs_can_be_chosen() -> None:
    found = functions.contract(SOURCE, formats={"result": "parquet"})
    assert found.outputs[0].format == "parquet"
    with pytest.raises(Malformed, match="no output"):
        functions.contract(SOURCE, formats={"other": "csv"})


def test_a_dict_of_tables_needs_names() -> None:
    source = b"def f(x: Table) -> dict[str, Table]: ..."
    with pytest.raises(Malformed, match="must be named"):
        functions.contract(source)
    assert [item.name for item in functions.contract(source, outputs=("a", "b")).outputs] == ["a", "b"]
    with pytest.raises(Malformed):
        functions.contract(source, outputs=("../a",))


@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"x = 1",
        b"def f(",
        b"def a() -> Table: ...\ndef b() -> Table: ...",
        b"\xff",
        b"def _a() -> Table: ...",
    ],
)
def test_what_is_no_single_function(source: bytes) -> None:
    with pytest.raises(Malformed):
        functions.contract(source)


@pytest.mark.parametrize("kind", ["int | None", "int | str | None", "Any"])
def test_types_that_a_statement_does_not_know(kind: str) -> None:
    with pytest.raises(Malformed, match="is of type"):
        functions.contract(f"def f(x: Table, *, a: {kind}) -> Table: ...".encode())


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        ("int", "int"),
        ("int | str", "json"),
        ("list[int | str]", "list"),
        ("str | list[str] | dict[str, str | list[str]]", "json"),
        ("dict[str, list[int | str]] | None = None", "dict"),
    ],
)
def test_unions_of_what_a_statement_knows(kind: str, known: str) -> None:
    found = functions.contract(f"def f(x: Table, *, a: {kind}) -> Table: ...".encode())
    assert [argument.type for argument in found.arguments] == [known]


def test_builtins_are_registered_as_the_worker_has_them() -> None:
    assert functions.builtins() == registry.names()
    for name in functions.builtins():
        contract, signature = functions.shipped(name), registry.find(name).signature
        assert (contract.executor, contract.entry) == ("builtin", name)
        assert [(item.name, item.required, item.default) for item in contract.arguments] == [
            (item.name, item.required, item.default) for item in signature.arguments
        ]
        assert contract.variadic == (signature.open_inputs is not None)
        assert [item.name for item in contract.outputs] == [item.name for item in signature.outputs]


def test_code_is_bounded(tmp_path: Path, fake: Any, alice: Identity) -> None:
    path = tmp_path / "f.py"
    path.write_bytes(b"#" * (limits.CODE_BYTES + 1))
    with Session(fake.url, alice, fake.trust) as session, pytest.raises(TooLarge):
        functions.put(session, path)


def test_the_code_is_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    source = f"open({str(mark)!r}, 'w')\ndef f(x: Table) -> Table: ...".encode()
    functions.contract(source)
    assert not mark.exists()


def test_private_code_leaves_sealed(fake: Any, alice: Identity, tmp_path: Path) -> None:
    path = tmp_path / "f.py"
    path.write_bytes(SOURCE)
    fake.answers["/v1/functions"] = lambda: (200, canonical({"items": []}))
    uploads: list[str] = []

    def upload(path: str) -> Any:
        return lambda: uploads.append(path) or (201, canonical({"items": []}))

    with Session(fake.url, alice, fake.trust) as session:

        class AnyBlob(dict[str, Any]):
            def __contains__(self, key: object) -> bool:
                return str(key).startswith("/v1/blobs/") or super().__contains__(key)

            def __missing__(self, key: str) -> Any:
                return upload(key)

        fake.answers = AnyBlob(fake.answers)
        functions.put(session, path, private=True)
        functions.put(session, path, "open-one")
    sealed, plain = [statements.verify(dsse.from_bytes(item)).predicate for item in fake.posted[-2:]]
    assert isinstance(sealed, statements.FunctionStatement)
    assert isinstance(plain, statements.FunctionStatement)
    assert sealed.private
    assert sealed.code is not None
    assert plain.code is not None
    assert plain.code.sha256 == sha256(SOURCE) != sealed.code.sha256
    assert uploads == [f"/v1/blobs/{sealed.code.sha256}", f"/v1/blobs/{plain.code.sha256}"]
    assert sealed.code.wrap is not None
    assert plain.code.wrap is None


def test_builtins_have_a_contract(fake: Any, alice: Identity) -> None:
    fake.answers["/v1/functions"] = lambda: (200, canonical({"items": []}))
    with Session(fake.url, alice, fake.trust) as session:
        for name in functions.builtins():
            functions.put_builtin(session, name)
        with pytest.raises(NotFound):
            functions.put_builtin(session, "none")


def test_shown_code_is_the_code_of_the_digest(fake: Any, alice: Identity, monkeypatch: Any) -> None:
    with Session(fake.url, alice, fake.trust) as session:
        made = session.post(
            statements.FunctionStatement,
            name="f",
            executor="python",
            entry="f",
            private=False,
            code=statements.CodeRef(sha256=sha256(SOURCE), size=len(SOURCE), wrap=None),
            inputs=(),
            variadic=False,
            arguments=(),
            outputs=(statements.Port(name="result"),),
            callers=None,
            quota=None,
        ).statement
        view = wire.FunctionView(
            digest=made.digest,
            owner=alice.id,
            owner_name="alice",
            name="f",
            index=4,
            executor="python",
            entry="f",
            private=False,
            code=sha256(SOURCE),
            inputs=(),
            variadic=False,
            arguments=(),
            outputs=(),
            callers=None,
            quota=None,
            retired=False,
            suspended=False,
            version=1,
        )
        monkeypatch.setattr(session, "statement", lambda index, kind, digest: made)
        fake.answers[f"/v1/blobs/{sha256(SOURCE)}"] = lambda: (200, SOURCE)
        assert functions.show(session, view).code == SOURCE
        fake.answers[f"/v1/blobs/{sha256(SOURCE)}"] = lambda: (200, SOURCE.replace(b"left", b"evil"))
        with pytest.raises(DigestMismatch):
            functions.show(session, view)
