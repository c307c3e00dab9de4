"""The contract of a function, derived from source that is never run."""

from __future__ import annotations

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesatee.errors import InputError, Malformed, TooLarge
from mesatee.protocol import limits
from mesatee.protocol.signature import Port, derive, from_dict

SOURCES = {
    "def f(a: Table, b: bytes, *, key: str, n: int = 3) -> Table: ...": ("one", ["a", "b"]),
    "def f(a: 'Table') -> 'bytes': ...": ("one", ["a"]),
    "import mesatee.table as t\ndef f(a: t.Table) -> dict: ...": ("one", ["a"]),
    "def f(a: dict[str, int]) -> list: ...": ("one", ["a"]),
    "def f() -> dict[str, Table | bytes]: ...": ("mapping", []),
    "def f(a: dict[str, Table]) -> dict[str, float]: ...": ("one", []),
    "from typing import NamedTuple\nclass R(NamedTuple):\n  x: Table\n  y: dict\ndef f() -> R: ...": (
        "fields",
        [],
    ),
}


@pytest.mark.parametrize("source", SOURCES)
def test_sources_that_keep_to_the_contract(source):
    returns, inputs = SOURCES[source]
    found = derive(source, "f")
    assert (found.returns, [port.name for port in found.inputs]) == (returns, inputs)
    assert from_dict(json.loads(json.dumps(found.as_dict()))) == found


@pytest.mark.parametrize(
    "source",
    [
        "",
        "def g() -> bytes: ...",
        "async def f() -> bytes: ...",
        "f = lambda: b''",
        "def f() -> bytes: ...\nf = 1",
        "def f() -> bytes: ...\nif 1:\n  for f in []: pass",
        "@cache\ndef f() -> bytes: ...",
        "def f(a) -> bytes: ...",
        "def f(a: int) -> bytes: ...",
        "def f(a: Table = None) -> bytes: ...",
        "def f(a: Table | None = 1) -> bytes: ...",
        "def f(a: Table | None = x) -> bytes: ...",
        "def f(a: None) -> bytes: ...",
        "def f(a: None | None) -> bytes: ...",
        "def f(a: Table | bytes) -> bytes: ...",
        "def f(a: Table | bytes | None) -> bytes: ...",
        "def f(a: Optional[int]) -> bytes: ...",
        "def f(a: dict[str, Table] | None) -> bytes: ...",
        "def f(a: dict[str, Batches]) -> bytes: ...",
        "def f(a: Table) -> Table | None: ...",
        "def f(*a: Table) -> bytes: ...",
        "def f(**a: Table) -> bytes: ...",
        "def f(a: Table): ...",
        "def f(a: Table) -> int: ...",
        "def f(a: Table) -> R: ...",
        "class R: x: Table\ndef f(a: Table) -> R: ...",
        "class R(NamedTuple):\n  diagnostics: Table\ndef f() -> R: ...",
        "def f(*, a: set) -> bytes: ...",
        "def f(*, a: int = 'x') -> bytes: ...",
        "def f(*, a: int = g()) -> bytes: ...",
        "def f(*, a: Any = (1,)) -> bytes: ...",
        "def f(a: Table, *, diagnostics: x.y.z) -> bytes: ...",
        "def f(a: 'Table[') -> bytes: ...",
        "def f(é: Table) -> bytes: ...",
        "def f(",
        "\0",
        "def f(*, a: " + "|".join(["int"] * 2500) + ") -> bytes: ...",
        "x = " + "(" * 5000,
        "x = " + "-" * 100_000 + "1",
    ],
)
def test_sources_that_do_not(source):
    with pytest.raises(Malformed):
        derive(source, "f")


def test_bounds_one_above_and_one_below():
    filler = "def f() -> bytes: ...\n#"
    derive(filler + "x" * (limits.CODE_BYTES - len(filler)), "f")
    with pytest.raises(TooLarge):
        derive(filler + "x" * (limits.CODE_BYTES - len(filler) + 1), "f")
    for count, error in ((limits.INPUTS, None), (limits.INPUTS + 1, TooLarge)):
        source = f"def f({', '.join(f'a{n}: Table' for n in range(count))}) -> bytes: ..."
        if error is None:
            assert len(derive(source, "f").inputs) == count
        else:
            with pytest.raises(error):
                derive(source, "f")
    with pytest.raises(TooLarge):
        derive(f"def f({'a' * 65}: Table) -> bytes: ...", "f")


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("int", [0, -5, 2**63 - 1], [True, 1.0, "1", None, 2**63]),
        ("float", [1.5, 2], [True, "1", float("nan"), float("inf")]),
        ("str", ["", "x"], [b"x", 1, None]),
        ("bool", [True], [1, "true"]),
        ("int | None", [1, None], ["x"]),
        ("Optional[str]", ["x", None], [1]),
        ("list[int]", [[], [1, 2]], [[1, "x"], (1,), {"a": 1}]),
        ("list", [[1, "x", [None]]], ["x", [float("nan")]]),
        ("dict[str, list[str]]", [{}, {"a": ["b"]}], [{"a": "b"}, {1: ["b"]}]),
        (
            "str | list[str] | dict[str, str | list[str]]",
            ["a", ["a"], {"a": "b"}, {"a": ["b"]}],
            [1, {"a": 1}],
        ),
        ("Any", [None, 1, {"a": [1.5]}], [b"x", {1: 2}, {1}]),
    ],
)
def test_values_of_arguments(kind, good, bad):
    found = derive(f"def f(*, a: {kind}) -> bytes: ...", "f")
    for value in good:
        assert found.bind({"a": value}) == {"a": value}
    for value in bad:
        with pytest.raises(Malformed):
            found.bind({"a": value})


def test_an_int_stays_one_where_both_fit():
    found = derive("def f(*, a: float | int, b: float) -> bytes: ...", "f").bind({"a": 1, "b": 1})
    assert [type(value) for value in found.values()] == [int, float]


def test_nothing_is_run():
    assert derive("raise SystemExit\ndef f(a: Table) -> bytes: ...", "f").inputs == (Port("a", "table"),)


@pytest.mark.parametrize(
    ("kind", "port"),
    [
        ("Table | None", Port("a", "table", True)),
        ("None | Table", Port("a", "table", True)),
        ("Optional[Table]", Port("a", "table", True)),
        ("typing.Optional[mesatee.table.Table]", Port("a", "table", True)),
        ("'bytes | None'", Port("a", "bytes", True)),
        ("Batches", Port("a", "batches")),
        ("Batches | None", Port("a", "batches", True)),
        ("memoryview", Port("a", "view")),
        ("list | None", Port("a", "json", True)),
    ],
)
def test_kinds_of_inputs(kind, port):
    for default in ("", " = None") if port.optional else ("",):
        found = derive(f"def f(a: {kind}{default}) -> Batches: ...", "f")
        assert found.inputs == (port,)
        assert found.outputs == (Port("result", "batches"),)
        assert from_dict(json.loads(json.dumps(found.as_dict()))) == found


def test_an_optional_input_may_be_left_out():
    found = derive("def f(a: Table, b: Table | None) -> Table: ...", "f")
    for names in (["a"], ["a", "b"]):
        found.check_inputs(names)
    for names in ([], ["b"], ["a", "c"]):
        with pytest.raises(Malformed, match="may do without b"):
            found.check_inputs(names)


def test_names_that_a_task_may_use():
    one = derive("def f(a: Table) -> Table: ...", "f")
    one.check_inputs(["a"])
    one.check_outputs(["whatever"])
    for names in ([], ["b"], ["a", "b"]):
        with pytest.raises(Malformed):
            one.check_inputs(names)
    for names in ([], ["a", "b"], ["diagnostics"]):
        with pytest.raises(Malformed):
            one.check_outputs(names)
    fields = derive("class R(NamedTuple):\n  x: Table\n  y: dict\ndef f() -> R: ...", "f")
    fields.check_outputs(["y", "x"])
    with pytest.raises(Malformed):
        fields.check_outputs(["x"])


@given(st.text(string.printable, max_size=200))
def test_random_source_raises_only_our_errors(text):
    for source in (
        text,
        f"def f({text}) -> bytes: ...",
        f"def f(*, a: {text}) -> bytes: ...",
        f"def f() -> {text}: ...",
    ):
        try:
            derive(source, "f")
        except InputError:
            continue


VALID = derive("def f(a: Table, *, n: int = 1) -> Table: ...", "f").as_dict()


@given(
    st.sampled_from(sorted(VALID)),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda v: (
            st.lists(v, max_size=3)
            | st.dictionaries(st.sampled_from(["name", "kind", "type", "required", "default"]), v, max_size=5)
        ),
        max_leaves=10,
    ),
)
def test_hostile_statements_raise_only_our_errors(name, value):
    try:
        from_dict({**VALID, name: value})
    except InputError:
        return


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {**VALID, "more": 1},
        {name: item for name, item in VALID.items() if name != "attestation"},
        {**VALID, "returns": []},
        {**VALID, "open_inputs": []},
        {**VALID, "entry": "a b"},
    ],
)
def test_other_statements_are_refused(value):
    with pytest.raises(Malformed):
        from_dict(value)


def test_a_function_asks_where_it_runs():
    found = derive("def f(a: bytes, *, n: int, where: mesatee.function.Attestation) -> dict: ...", "f")
    assert found.attestation == "where"
    assert [item.name for item in found.arguments] == ["n"]
    assert from_dict(found.as_dict()) == found
    # It is the worker's to fill: to a task it is no argument at all.
    assert found.bind({"n": 1}) == {"n": 1}
    with pytest.raises(Malformed):
        found.bind({"n": 1, "where": {"level": 5}})


@pytest.mark.parametrize(
    "head",
    [
        "*, a: Attestation, b: Attestation",
        "*, a: Attestation = None",
        "a: Attestation",
        "*, a: Attestation | None",
        "*, a: list[Attestation]",
    ],
)
def test_it_asks_once_and_by_a_keyword_alone(head):
    with pytest.raises(Malformed):
        derive(f"def f({head}) -> dict: ...", "f")


@pytest.mark.parametrize("value", [7, "a b", "a", "n", [], ""])
def test_what_a_statement_may_not_say_of_it(value):
    with pytest.raises(Malformed):
        from_dict({**VALID, "attestation": value})
