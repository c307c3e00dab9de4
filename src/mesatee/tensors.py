"""Named tensors in one file, in the safetensors format: a JSON header, then the numbers as they lie in memory.

The same format as the package safetensors reads and writes (github.com/huggingface/safetensors, "Format"); this module
needs none, and is as strict with what comes from others.

>>> import numpy as np
>>> data = write({"x": np.zeros((2, 3), np.float32)})
>>> read(data)["x"].shape
(2, 3)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from mesatee.errors import Malformed, TooLarge
from mesatee.protocol import limits
from mesatee.protocol.jsonstrict import parse_object

if TYPE_CHECKING:
    import numpy as np

DTYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "BOOL": "bool",
        "F16": "float16",
        "F32": "float32",
        "F64": "float64",
        "I16": "int16",
        "I32": "int32",
        "I64": "int64",
        "I8": "int8",
        "U16": "uint16",
        "U32": "uint32",
        "U64": "uint64",
        "U8": "uint8",
    }
)
"""The format's name of a type, and numpy's."""
_NAMES: Final = {ours: name for name, ours in DTYPES.items()}
_METADATA: Final = "__metadata__"
_LENGTH_BYTES: Final = 8
_ALIGNMENT: Final = 8


def read(data: bytes | bytearray | memoryview) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of a file by name, sorted; those of a buffer that is aligned are views of it.

    1. The header is JSON within its bounds.
    2. Each tensor has a type that numpy has, a shape, and as many bytes as these say.
    3. The tensors fill the rest of the file, without a gap and without sharing a byte.
    4. Truth values are 0 or 1.

    Raises `Malformed` or `TooLarge`.
    """
    import numpy as np

    view = memoryview(data).cast("B")
    # 1.
    if len(view) < _LENGTH_BYTES:
        raise Malformed("the file is too short for a safetensors file")
    size = int.from_bytes(view[:_LENGTH_BYTES], "little")
    if size > limits.TENSORS_HEADER_BYTES:
        raise TooLarge(f"the header of the tensors has over {limits.TENSORS_HEADER_BYTES} bytes, or is none")
    start = _LENGTH_BYTES + size
    if start > len(view):
        raise Malformed("the file of tensors is cut off in its header")
    header = parse_object(bytes(view[_LENGTH_BYTES:start]))
    header.pop(_METADATA, None)
    if len(header) > limits.TENSORS:
        raise TooLarge(f"the file has {len(header)} tensors, the limit is {limits.TENSORS}")
    # 2.
    spans = sorted((*_span(item), name) for name, item in header.items())
    # 3.
    at = 0
    for first, last, _ in spans:
        if first != at:
            raise Malformed("the tensors of the file overlap, or leave a gap")
        at = last
    if at != len(view) - start:
        raise Malformed("the file of tensors is cut off, or longer than its tensors")
    found = {}
    for name in sorted(header):
        item = header[name]
        first, last = item["data_offsets"]
        raw = np.frombuffer(view[start + first : start + last], np.uint8)
        dtype = np.dtype(DTYPES[item["dtype"]]).newbyteorder("<")
        # 4.
        if dtype.kind == "b" and raw.size and int(raw.max()) > 1:
            raise Malformed("a truth value of a tensor is neither 0 nor 1")
        found[name] = raw.view(dtype).reshape(item["shape"])
    return found


def write(tensors: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """The file of these tensors; the same tensors give the same bytes. Raises `Malformed` or `TooLarge`."""
    import numpy as np

    if len(tensors) > limits.TENSORS:
        raise TooLarge(f"{len(tensors)} tensors are too many, the limit is {limits.TENSORS}")
    for array in tensors.values():
        if array.dtype.name not in _NAMES:
            raise Malformed(f"a tensor of the type {array.dtype.name} has no place in a safetensors file")
    # Wide types first, so that each stands at a multiple of its width.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header, at = {}, 0
    for name in order:
        array = tensors[name]
        header[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > limits.TENSORS_HEADER_BYTES:
        raise TooLarge("the names of the tensors are too long")
    pieces = [
        np.ascontiguousarray(tensors[name], tensors[name].dtype.newbyteorder("<")).tobytes() for name in order
    ]
    return b"".join((len(text).to_bytes(_LENGTH_BYTES, "little"), text, *pieces))


def _span(item: Any) -> tuple[int, int]:
    import numpy as np

    if not isinstance(item, dict) or set(item) != {"dtype", "shape", "data_offsets"}:
        raise Malformed("a tensor has dtype, shape and data_offsets")
    dtype, shape, offsets = item["dtype"], item["shape"], item["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise Malformed(f"a tensor is of one of the types {', '.join(DTYPES)}")
    if not _sizes(shape) or len(shape) > limits.ONNX_RANK:
        raise Malformed(f"the shape of a tensor is a list of at most {limits.ONNX_RANK} sizes")
    if not _sizes(offsets) or len(offsets) != 2:
        raise Malformed("the data_offsets of a tensor are two numbers")
    elements = 1
    for size in shape:
        elements *= max(1, size)
        if elements > limits.ONNX_ELEMENTS:
            raise TooLarge(f"a tensor has more than {limits.ONNX_ELEMENTS} elements")
    first, last = offsets
    if last - first != (0 if 0 in shape else elements) * np.dtype(DTYPES[dtype]).itemsize:
        raise Malformed("the data of a tensor is not as much as its shape says")
    return first, last


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in value
    )


__all__ = ["DTYPES", "read", "write"]
