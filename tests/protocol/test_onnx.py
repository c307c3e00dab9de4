"""Models in ONNX format: what is read of good ones, and why bad ones are refused."""

from __future__ import annotations

import doctest
import struct
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesatee.errors import InputError, Malformed, TooLarge, UnsupportedVersion
from mesatee.protocol import limits, onnx, onnx_schema, onnx_writer, protobuf
from mesatee.protocol.onnx_order import check_order
from mesatee.protocol.onnx_writer import (
    FLOAT32,
    INT64,
    attribute,
    field,
    graph,
    message,
    model,
    node,
    tensor,
    value,
    varint,
)

OPSETS = {"": 17}
X, Y = value("x", FLOAT32, ("rows", 3)), value("y", FLOAT32, ("rows", 3))
REAL = [
    *Path(str(metadata.distribution("onnxruntime").locate_file("onnxruntime/datasets"))).glob("*.onnx"),
    Path(str(metadata.distribution("magika").locate_file("magika/models/standard_v3_3/model.onnx"))),
]


def small(*nodes: bytes, tensors: tuple[bytes, ...] = (), inputs=(X,), outputs=(Y,), opsets=OPSETS) -> bytes:
    return model(graph(nodes or (node("Relu", ["x"], ["y"]),), inputs, outputs, tensors), opsets)


def weight(*dims: int, name: str = "w", **change: bytes) -> bytes:
    count = 1
    for size in dims:
        count *= size
    return tensor(name, FLOAT32, dims, change.get("raw", bytes(4 * count)))


def with_weight(item: bytes) -> bytes:
    return small(node("Add", ["x", "w"], ["y"]), tensors=(item,))


def with_attribute(item: bytes, operator: str = "Relu", domain: str = "") -> bytes:
    one = message((1, "x"), (2, "y"), (4, operator), (5, item), *(((7, domain),) if domain else ()))
    return small(one, opsets={**OPSETS, **({domain: 1} if domain else {})})


def branch(*nodes: bytes, output: str = "b") -> bytes:
    return graph(nodes, (), (value(output, FLOAT32, ("rows", 3)),))


def choice(then: bytes, otherwise: bytes) -> bytes:
    """An If node."""
    return message(
        (1, "c"),
        (2, "y"),
        (4, "If"),
        (5, message((1, "then_branch"), (6, then), (20, 5))),
        (5, message((1, "else_branch"), (6, otherwise), (20, 5))),
    )


CONDITION = value("c", 9, ())


def function(name: str, *nodes: bytes, domain: str = "own", output: str = "b") -> bytes:
    return message(
        (1, name),
        (4, "a"),
        (5, output),
        *((7, item) for item in nodes),
        (9, message((1, ""), (2, 17))),
        (9, message((1, domain), (2, 1))),
        (10, domain),
    )


def with_functions(*functions: bytes, calls: str = "f") -> bytes:
    whole = small(node(calls, ["x"], ["y"], domain="own"), opsets={**OPSETS, "own": 1})
    return whole + b"".join(field(25, item) for item in functions)


# -- good ones -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_real_models_say_of_themselves_what_onnx_runtime_says(path: Path) -> None:
    import onnxruntime

    found = onnx.read(path.read_bytes())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [port.name for port in found.inputs] == [item.name for item in session.get_inputs()]
    assert [port.name for port in found.outputs] == [item.name for item in session.get_outputs()]
    for port, item in zip(found.inputs, session.get_inputs(), strict=True):
        assert list(port.shape or ()) == item.shape
    assert found.size == path.stat().st_size


def test_what_a_model_says_of_itself() -> None:
    found = onnx.read(with_weight(weight(3)))
    assert found.inputs == (onnx.Port("x", "float32", ("rows", 3)),)
    assert (found.operators, found.nodes, found.parameters, found.opsets) == ({"Add": 1}, 1, 3, {"": 17})
    assert [item[0] for item in found.floats] == ["float32"]
    assert found.as_dict()["outputs"] == [{"name": "y", "dtype": "float32", "shape": ["rows", 3]}]


def test_nodes_in_any_order_and_inputs_with_a_default() -> None:
    late = small(node("Relu", ["m"], ["y"]), node("Add", ["x", "w"], ["m"]), tensors=(weight(3),))
    assert onnx.read(late).nodes == 2
    both = small(node("Add", ["x", "w"], ["y"]), inputs=(X, value("w", FLOAT32, (3,))), tensors=(weight(3),))
    assert [port.name for port in onnx.read(both).inputs] == ["x"]


def test_branches_use_what_is_around_them_and_functions_are_unfolded() -> None:
    inner = choice(branch(node("Relu", ["x"], ["b"])), branch(node("Neg", ["x"], ["b"])))
    found = onnx.read(small(inner, inputs=(X, CONDITION)))
    assert found.operators == {"If": 1, "Neg": 1, "Relu": 1}
    used = with_functions(function("f", node("Relu", ["a"], ["b"])))
    assert onnx.read(used).operators == {"Relu": 1, "own.f": 1}


def test_one_below_zero_is_a_dimension_that_nobody_knows() -> None:
    assert onnx.read(small(inputs=(value("x", FLOAT32, (-1, 3)),))).inputs[0].shape == (None, 3)


def test_packed_and_unpacked_numbers_are_the_same() -> None:
    whole = weight(3)
    packed = message((1, b"\x03"), (2, FLOAT32), (8, "w"), (9, bytes(12)))
    assert onnx.read(with_weight(whole)).parameters == onnx.read(with_weight(packed)).parameters == 3


@pytest.mark.parametrize(
    ("dtype", "number", "data"),
    [
        (1, 4, struct.pack("<3f", 1, 2, 3)),
        (10, 5, varint(0x3C00) * 3),
        (7, 7, varint(-1) + varint(5) + varint(1 << 40)),
        (11, 10, struct.pack("<3d", 1, 2, 3)),
        (13, 11, varint(1 << 63) * 3),
        (9, 5, b"\x00\x01\x01"),
    ],
)
def test_data_in_a_field_of_its_own_type(dtype: int, number: int, data: bytes) -> None:
    def made(content: bytes) -> bytes:
        return with_weight(message((1, 3), (2, dtype), (8, "w"), (number, content)))

    assert onnx.read(made(data)).parameters == 3
    with pytest.raises(Malformed, match=r"not as much as|cut off"):
        onnx.read(made(data[: -(len(data) // 3)]))
    with pytest.raises(Malformed, match="of another type"):
        onnx.read(with_weight(message((1, 3), (2, 8 if dtype != 8 else 1), (8, "w"), (number, data))))


def test_sparse_tensors() -> None:
    assert onnx.read(with_sparse([0, 5, 11])).parameters == 6
    assert onnx.read(with_sparse([[0, 0], [1, 1], [2, 3]])).parameters == 9


def with_sparse(places: list, dims=(3, 4), count: int | None = None, dtype: int = INT64) -> bytes:
    flat = [number for row in places for number in (row if isinstance(row, list) else [row])]
    shape = (len(places), 2) if places and isinstance(places[0], list) else (len(places),)
    values = weight(len(places) if count is None else count)
    indices = tensor("", dtype, shape, struct.pack(f"<{len(flat)}q", *flat))
    item = message((1, values), (2, indices), *((3, size) for size in dims))
    whole = message((1, node("Add", ["x", "w"], ["y"])), (2, "g"), (15, item), (11, X), (12, Y))
    return model(whole, OPSETS)


# -- bad ones --------------------------------------------------------------------------------------------


def circle() -> bytes:
    return small(node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"]))


def deep(levels: int) -> bytes:
    inner = branch(node("Relu", ["x"], ["b"]))
    for _ in range(levels - 2):
        inner = graph(
            (choice(inner, inner).replace(b"\x12\x01y", b"\x12\x01b"),), (), (Y.replace(b"y", b"b"),)
        )
    return small(choice(inner, branch(node("Relu", ["x"], ["b"]))), inputs=(X, CONDITION))


def bomb(levels: int, width: int) -> bytes:
    """Functions that call the next one several times."""
    made = [function(f"f{levels}", node("Relu", ["a"], ["b"]))]
    for level in range(levels):
        calls = [node(f"f{level + 1}", ["a"], [f"v{n}" if n else "b"], domain="own") for n in range(width)]
        made.append(function(f"f{level}", *calls))
    return with_functions(*made, calls="f0")


EXTERNAL = message((1, "location"), (2, "/etc/passwd"))
REFUSED = {
    "empty": (b"", Malformed, "empty"),
    "text": (b"{}", Malformed, "cut off|none of the format"),
    "no graph": (message((1, 8), (8, message((2, 17)))), Malformed, "no graph"),
    "old format": (
        model(graph([node("Relu", ["x"], ["y"])], [X], [Y]), OPSETS, ir_version=2),
        UnsupportedVersion,
        "version 2",
    ),
    "new format": (
        model(graph([node("Relu", ["x"], ["y"])], [X], [Y]), OPSETS, ir_version=14),
        UnsupportedVersion,
        "version 14",
    ),
    "old operators": (small(opsets={"": 6}), UnsupportedVersion, "version 6 of the operators ai.onnx"),
    "new operators": (small(opsets={"": 27}), UnsupportedVersion, "version 27"),
    "no operators": (small(opsets={}), Malformed, "imports no set"),
    "operators twice": (small(opsets={"": 17, "ai.onnx": 17}), Malformed, "twice"),
    "custom operator": (
        small(node("Mine", ["x"], ["y"], domain="my.own"), opsets={**OPSETS, "my.own": 1}),
        Malformed,
        "custom",
    ),
    "not imported": (small(node("Scaler", ["x"], ["y"], domain="ai.onnx.ml")), Malformed, "does not import"),
    "file operator": (
        small(node("EPContext", ["x"], ["y"], domain="com.microsoft"), opsets={**OPSETS, "com.microsoft": 1}),
        Malformed,
        "reads a file",
    ),
    "training": (small() + field(20, b""), Malformed, "training"),
    "unknown field": (small() + field(99, 1), Malformed, "field 99"),
    "twice": (small() + field(1, 8), Malformed, "ir_version of the model stands twice"),
    "external data": (
        with_weight(message((1, 3), (2, FLOAT32), (8, "w"), (13, EXTERNAL), (14, 1))),
        Malformed,
        "another file",
    ),
    "external location only": (with_weight(weight(3) + field(14, 1)), Malformed, "another file"),
    "external entries only": (with_weight(weight(3) + field(13, EXTERNAL)), Malformed, "another file"),
    "segments": (with_weight(weight(3) + field(3, b"")), Malformed, "segments"),
    "negative dimension": (with_weight(tensor("w", FLOAT32, (-3,), bytes(12))), Malformed, "negative"),
    "huge dimension": (with_weight(tensor("w", FLOAT32, (1 << 62,), b"")), TooLarge, "elements"),
    "overflowing dimensions": (
        with_weight(tensor("w", FLOAT32, (1 << 32, 1 << 32), b"")),
        TooLarge,
        "elements",
    ),
    "hidden by a zero": (with_weight(tensor("w", FLOAT32, (1 << 62, 0), b"")), TooLarge, "elements"),
    "many dimensions": (with_weight(tensor("w", FLOAT32, (1,) * 17, bytes(4))), TooLarge, "17 dimensions"),
    "too little data": (with_weight(tensor("w", FLOAT32, (3,), bytes(11))), Malformed, "not as much"),
    "too much data": (with_weight(tensor("w", FLOAT32, (3,), bytes(13))), Malformed, "not as much"),
    "no data": (with_weight(message((1, 3), (2, FLOAT32), (8, "w"))), Malformed, "not as much"),
    "data twice": (with_weight(weight(3) + field(4, bytes(12))), Malformed, "two places"),
    "unknown data type": (with_weight(tensor("w", 99, (3,), bytes(12))), UnsupportedVersion, "99"),
    "raw text": (with_weight(tensor("w", 8, (3,), bytes(12))), Malformed, "not as much"),
    "negative input": (small(inputs=(value("x", FLOAT32, (-2, 3)),)), Malformed, "negative"),
    "huge input": (small(inputs=(value("x", FLOAT32, (1 << 20, 1 << 20)),)), TooLarge, "elements"),
    "input without a type": (small(inputs=(message((1, "x")),)), Malformed, "no type"),
    "input of two types": (
        small(inputs=(message((1, "x"), (2, message((1, b""), (4, b"")))),)),
        Malformed,
        "two types",
    ),
    "input without a name": (small(inputs=(value("", FLOAT32, (3,)),)), Malformed, "no name"),
    "cycle": (circle(), Malformed, "cycle"),
    "own input": (small(node("Add", ["x", "y"], ["y"])), Malformed, "cycle"),
    "undefined input": (small(node("Add", ["x", "z"], ["y"])), Malformed, "nothing gives"),
    "undefined output": (small(outputs=(Y, value("z", FLOAT32, (3,)))), Malformed, "given by nothing"),
    "no output": (small(outputs=()), Malformed, "no output"),
    "output twice": (small(outputs=(Y, Y)), Malformed, "twice"),
    "given twice": (small(node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["y"])), Malformed, "twice"),
    "input given again": (small(node("Relu", ["x"], ["x"]), node("Neg", ["x"], ["y"])), Malformed, "twice"),
    "weight twice": (
        small(node("Add", ["x", "w"], ["y"]), tensors=(weight(3), weight(3))),
        Malformed,
        "twice",
    ),
    "undefined in a branch": (
        small(
            choice(branch(node("Relu", ["z"], ["b"])), branch(node("Neg", ["x"], ["b"]))),
            inputs=(X, CONDITION),
        ),
        Malformed,
        "nothing gives",
    ),
    "cycle by a branch": (
        small(
            choice(branch(node("Relu", ["y"], ["b"])), branch(node("Neg", ["x"], ["b"]))),
            inputs=(X, CONDITION),
        ),
        Malformed,
        "cycle",
    ),
    "path": (with_attribute(attribute("mode", "/etc/passwd")), Malformed, "names a file"),
    "relative path": (with_attribute(attribute("mode", "../secret")), Malformed, "names a file"),
    "path of Windows": (with_attribute(attribute("mode", "C:\\secret")), Malformed, "names a file"),
    "address of a file": (with_attribute(attribute("mode", "file:///secret")), Malformed, "names a file"),
    "asks for a file": (with_attribute(attribute("model_path", "weights")), Malformed, "asks for a file"),
    "NaN": (with_attribute(attribute("alpha", float("nan"))), Malformed, "NaN"),
    "NaN among others": (with_attribute(attribute("scales", [1.0, float("nan")])), Malformed, "NaN"),
    "another type": (with_attribute(message((1, "alpha"), (3, 1), (20, 1))), Malformed, "another type"),
    "no type": (with_attribute(message((1, "alpha"), (3, 1))), Malformed, "another type"),
    "two values": (
        with_attribute(message((1, "alpha"), (3, 1), (2, 1.0), (20, 1))),
        Malformed,
        "another type",
    ),
    "reference": (
        with_attribute(message((1, "alpha"), (20, 1), (21, "beta"))),
        Malformed,
        "only a function's",
    ),
    "function of a built-in set": (
        small() + field(25, function("Relu", node("Neg", ["a"], ["b"]), domain="")),
        Malformed,
        "place of a built-in",
    ),
    "function twice": (
        with_functions(*[function("f", node("Relu", ["a"], ["b"]))] * 2),
        Malformed,
        "one name",
    ),
    "function that calls itself": (
        with_functions(function("f", node("f", ["a"], ["b"], domain="own"))),
        Malformed,
        "circle",
    ),
    "function that calls itself by a default": (
        with_functions(
            function("f", node("Relu", ["a"], ["b"]))
            + field(11, message((1, "g"), (6, branch(node("f", [""], ["b"], domain="own"))), (20, 5)))
        ),
        Malformed,
        "circle",
    ),
    "function with an undefined input": (
        with_functions(function("f", node("Relu", ["x"], ["b"]))),
        Malformed,
        "nothing gives",
    ),
    "function with a path": (
        with_functions(function("f", node("Relu", ["a"], ["b"], {"p": "/x/y"}))),
        Malformed,
        "names a file",
    ),
    "unfolds without end": (bomb(17, 4), TooLarge, "unfolds"),
    "too deep": (deep(limits.ONNX_DEPTH + 1), TooLarge, "deep"),
    "huge sparse tensor": (with_sparse([0], dims=(1 << 12, 1 << 13)), TooLarge, "elements"),
    "sparse index outside": (with_sparse([0, 12]), Malformed, "outside"),
    "sparse index below": (with_sparse([-1, 3]), Malformed, "outside"),
    "sparse index outside in one dimension": (with_sparse([[0, 4]]), Malformed, "outside"),
    "sparse indices fall": (with_sparse([5, 2]), Malformed, "rise"),
    "sparse values without indices": (with_sparse([0, 1], count=3), Malformed, "one for each value"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_models_are_refused_with_the_reason(name: str) -> None:
    data, kind, reason = REFUSED[name]
    with pytest.raises(kind, match=reason):
        onnx.read(data)


def test_no_message_has_a_name_from_the_model() -> None:
    for data, _, _ in REFUSED.values():
        secret = data.replace(b"own", b"OWN").replace(b"passwd", b"PASSWD")
        with pytest.raises(InputError) as caught:
            onnx.read(secret)
        assert "OWN" not in caught.value.message
        assert "PASSWD" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("depth", deep(limits.ONNX_DEPTH), deep(limits.ONNX_DEPTH + 1)),
        ("rank", with_weight(weight(*(1,) * limits.ONNX_RANK)), with_weight(weight(*(1,) * (limits.ONNX_RANK + 1)))),
        ("sparse", with_sparse([0], dims=(1 << 12, 1 << 12)), with_sparse([0], dims=(1 << 12, (1 << 12) + 1))),
        (
            "elements",
            small(inputs=(value("x", FLOAT32, (limits.ONNX_ELEMENTS,)),)),
            small(inputs=(value("x", FLOAT32, (limits.ONNX_ELEMENTS + 1,)),)),
        ),
        (
            "names",
            small(node("Relu", ["x"], ["n" * limits.ONNX_NAME_BYTES]), node("Relu", ["x"], ["y"])),
            small(node("Relu", ["x"], ["n" * (limits.ONNX_NAME_BYTES + 1)]), node("Relu", ["x"], ["y"])),
        ),
        (
            "strings",
            with_attribute(attribute("mode", "s" * limits.ONNX_STRING_BYTES)),
            with_attribute(attribute("mode", "s" * (limits.ONNX_STRING_BYTES + 1))),
        ),
        (
            "ports",
            small(node("Concat", ["x"] * limits.ONNX_PORTS, ["y"])),
            small(node("Concat", ["x"] * (limits.ONNX_PORTS + 1), ["y"])),
        ),
    ],
)  # fmt: skip
def test_limits_hold_one_above_and_one_below(name: str, good: bytes, bad: bytes) -> None:
    onnx.read(good)
    with pytest.raises(TooLarge):
        onnx.read(bad)


def test_nodes_and_fields_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = small(node("Relu", ["x"], ["a"]), node("Relu", ["a"], ["y"]))
    monkeypatch.setattr(limits, "ONNX_NODES", 2)
    onnx.read(whole)
    monkeypatch.setattr(limits, "ONNX_NODES", 1)
    with pytest.raises(TooLarge, match="more than 1 nodes"):
        onnx.read(whole)
    monkeypatch.undo()
    monkeypatch.setattr(limits, "ONNX_FIELDS", 20)
    with pytest.raises(TooLarge, match="more fields"):
        onnx.read(whole)


def test_types_within_types_are_bounded() -> None:
    kind = message((1, message((1, FLOAT32))))
    for level in range(1, limits.ONNX_TYPE_DEPTH + 1):
        made = small(outputs=(Y, message((1, "x"), (2, kind))))
        if level < limits.ONNX_TYPE_DEPTH:
            assert onnx.read(made).outputs[1].dtype == ("float32" if level == 1 else "sequence")
        kind = message((4, message((1, kind))))
    with pytest.raises(TooLarge, match="types within types"):
        onnx.read(small(outputs=(Y, message((1, "x"), (2, kind)))))


# -- any bytes ---------------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    with pytest.raises(InputError):
        onnx.read(data)


SEED = bytes(with_weight(weight(3)))


@settings(max_examples=300)
@given(st.data())
def test_changed_models_are_refused_or_read(data: st.DataObject) -> None:
    changed = bytearray(data.draw(st.sampled_from([SEED, deep(3), with_sparse([0, 5]), bomb(2, 2)])))
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        onnx.read(changed)
    except InputError:
        return


def test_a_model_that_is_cut_off_anywhere_is_refused() -> None:
    for end in range(len(SEED)):
        with pytest.raises(InputError):
            onnx.read(SEED[:end])


names = st.sampled_from("abcdefgh")


@given(st.lists(st.tuples(st.sets(names, max_size=3), names), max_size=8, unique_by=lambda item: item[1]))
def test_a_circle_is_found_exactly_when_there_is_one(nodes: list[tuple[set[str], str]]) -> None:
    gives = [[name] for _, name in nodes]
    needs = [set(inputs) for inputs, _ in nodes]
    # The oracle takes away what can be run, as long as there is any.
    left = dict(enumerate(needs))
    while ready := [n for n in left if not left[n] & {gives[m][0] for m in left}]:
        for number in ready:
            del left[number]
    if left:
        with pytest.raises(Malformed, match=f"{len(left)} nodes wait"):
            check_order(needs, gives, "it")
    else:
        check_order(needs, gives, "it")


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_packed_numbers_come_back(numbers: list[int]) -> None:
    data = b"".join(varint(number) for number in numbers)
    reader = protobuf.Reader(memoryview(data), 100)
    assert reader.packed((0, len(data)), "it") == numbers
    assert reader.count_packed((0, len(data)), "it") == len(numbers)


def test_the_examples_run_and_the_tables_agree() -> None:
    for module in (onnx, onnx_writer, protobuf):
        assert doctest.testmod(module).failed == 0
    known = {name for name, _ in onnx_schema.ATTRIBUTE.values()}
    assert set(onnx_schema.ATTRIBUTE_FIELDS.values()) <= known
    assert set(onnx_schema.DATA) <= {name for name, _ in onnx_schema.TENSOR.values()}
