"""Tensors in files: what comes back, and what is refused."""

from __future__ import annotations

import doctest
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mesatee import tensors
from mesatee.errors import InputError, Malformed, TooLarge
from mesatee.protocol import limits

DTYPES = st.sampled_from(sorted(tensors.DTYPES.values()))
ANY = st.dictionaries(
    st.text("abc_.é", min_size=1, max_size=5),
    DTYPES.flatmap(
        lambda dtype: arrays.arrays(
            dtype, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
        )
    ),
    max_size=4,
)


@given(ANY)
def test_what_is_written_comes_back(given_tensors: dict[str, np.ndarray]) -> None:
    data = tensors.write(given_tensors)
    found = tensors.read(data)
    assert list(found) == sorted(given_tensors)
    for name, array in given_tensors.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()
    # The same tensors in another order are the same file, and each stands at a multiple of its width.
    assert tensors.write(dict(reversed(given_tensors.items()))) == data
    size = int.from_bytes(data[:8], "little")
    for item in json.loads(data[8 : 8 + size]).values():
        width = np.dtype(tensors.DTYPES[item["dtype"]]).itemsize
        assert (8 + size + item["data_offsets"][0]) % width == 0


def file(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def item(shape: list, first: int, last: int, dtype: str = "U8") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


def test_a_file_as_the_format_is_described() -> None:
    data = file(
        {"__metadata__": {"made": "by hand"}, "x": item([2, 1], 0, 8, "F32")}, struct.pack("<2f", 1, 2)
    )
    assert tensors.read(data)["x"].tolist() == [[1.0], [2.0]]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", Malformed),
        (b"1234567", Malformed),
        (struct.pack("<Q", 2**63), TooLarge),
        (struct.pack("<Q", 100) + b"{}", Malformed),
        (file(b"[]"), Malformed),
        (file(b'{"x":1,"x":1}'), Malformed),
        (file({"x": 1}), Malformed),
        (file({"x": {**item([1], 0, 1), "more": 1}}, b"1"), Malformed),
        (file({"x": item([1], 0, 1, "BF16")}, b"1"), Malformed),
        (file({"x": item([1], 0, 1, [])}, b"1"), Malformed),  # type: ignore[arg-type]
        (file({"x": item([-1], 0, 1)}, b"1"), Malformed),
        (file({"x": item([True], 0, 1)}, b"1"), Malformed),
        (file({"x": item([2], 0, 1)}, b"1"), Malformed),
        (file({"x": item([1], 1, 0)}, b"1"), Malformed),
        (file({"x": item([1], 1, 2)}, b"12"), Malformed),
        (file({"x": item([1], 0, 1)}, b"12"), Malformed),
        (file({"x": item([1], 0, 1)}), Malformed),
        (file({"x": item([2], 0, 2), "y": item([2], 1, 3)}, b"123"), Malformed),
        (file({"x": item([1], 0, 1), "y": item([1], 2, 3)}, b"123"), Malformed),
        (file({"x": item([2**40, 2**40], 0, 0)}), TooLarge),
        (file({"x": item([2**62, 0], 0, 0)}), TooLarge),
        (file({"x": item([1] * 17, 0, 1)}, b"1"), Malformed),
        (file({"x": item([1], 0, 1, "BOOL")}, b"\2"), Malformed),
    ],
)
def test_other_files_are_refused(data: bytes, kind: type[InputError]) -> None:
    with pytest.raises(kind):
        tensors.read(data)


def test_limits() -> None:
    most = {f"t{number}": np.zeros(0, np.uint8) for number in range(limits.TENSORS)}
    assert len(tensors.read(tensors.write(most))) == limits.TENSORS
    with pytest.raises(TooLarge):
        tensors.write({**most, "x": np.zeros(0)})
    with pytest.raises(TooLarge):
        tensors.read(file({**{name: item([0], 0, 0) for name in most}, "x": item([0], 0, 0)}))
    with pytest.raises(TooLarge):
        tensors.write({"n" * limits.TENSORS_HEADER_BYTES: np.zeros(0)})
    with pytest.raises(Malformed):
        tensors.write({"x": np.array(["text"])})


@given(st.binary(max_size=60), st.binary(max_size=20))
def test_any_bytes(header: bytes, data: bytes) -> None:
    for text in (header, b'{"x":' + header + b"}"):
        with pytest.raises(InputError):
            tensors.read(file(text, data + b"!"))


def test_the_example_runs() -> None:
    assert doctest.testmod(tensors).failed == 0
