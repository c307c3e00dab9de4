"""Inference for Python functions: an ONNX model from an input, checked, and run in as many threads as one says.

The model is an input like any other, so that its owner seals it, approves each task that uses it, and is never shown
to have given it away::

    import numpy as np
    from mesatee.inference import Model
    from mesatee.table import Table

    def score(model: bytes, people: Table) -> Table:
        rows = people.to_numpy().astype(np.float32)
        return Table.from_dict({"score": Model(model).run(rows)[0].ravel()})

A session runs the graph in its order and asks for deterministic kernels: the same model, input and number of threads
give the same result on the same kind of processor. Another kind may round in another way. It takes no library of
operators beside those built in, and neither reads nor writes a file where functions run.

Each model goes through `check` first: what `mesatee.protocol.onnx` refuses, and weights that are no numbers, ONNX
Runtime never sees.

Needs the package onnxruntime: ``pip install 'mesatee[ml]'`` on the worker's machine, and on the scientist's to test.
ONNX Runtime is C++ that parses a file which somebody made: load models in the sandbox, or your own.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from mesatee.errors import Malformed, Unavailable
from mesatee.protocol import onnx

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

_DTYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "tensor(bool)": "bool",
        "tensor(double)": "float64",
        "tensor(float)": "float32",
        "tensor(float16)": "float16",
        "tensor(int16)": "int16",
        "tensor(int32)": "int32",
        "tensor(int64)": "int64",
        "tensor(int8)": "int8",
        "tensor(string)": "object",
        "tensor(uint16)": "uint16",
        "tensor(uint32)": "uint32",
        "tensor(uint64)": "uint64",
        "tensor(uint8)": "uint8",
    }
)
_ERRORS_ONLY: Final = 3
_FATAL: Final = 4
_NO_MEMORY: Final = ("Failed to allocate memory", "bad allocation", "std::bad_alloc")
"""How the library says that there is no memory: it has no class for it."""
_PIECE_BYTES: Final = 1 << 20
"""Weights that are looked at together, in bytes."""
_EXPONENTS: Final[Mapping[str, tuple[str, int]]] = MappingProxyType(
    {
        "float16": ("uint16", 0x7C00),
        "bfloat16": ("uint16", 0x7F80),
        "float32": ("uint32", 0x7F80_0000),
        "complex64": ("uint32", 0x7F80_0000),
        "float64": ("uint64", 0x7FF0 << 48),
        "complex128": ("uint64", 0x7FF0 << 48),
        "float8_e5m2": ("uint8", 0x7C),
    }
)
"""The unsigned type of the same width, and the exponent of infinity and NaN (IEEE 754-2019, section 3.4)."""
_NANS: Final[Mapping[str, tuple[int, ...]]] = MappingProxyType(
    {
        "float8_e4m3fn": (0x7F, 0xFF),
        "float8_e4m3fnuz": (0x80,),
        "float8_e5m2fnuz": (0x80,),
        "float4_e2m1fn": (),
    }
)
"""Types without infinities, and what stands for NaN in them (the OCP's and the ONNX project's 8-bit formats)."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of a model: its name, numpy's name of its type, and its shape, None where any size fits. The
    shape is None where the model does not say how many dimensions there are."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


def check(data: bytes | bytearray | memoryview) -> onnx.Model:
    """What a model says of itself, once all that can be found wrong with it without running it has been looked for.

    Beside what `onnx.read` checks, no weight is NaN, and none infinite, but in tensors of nothing else than zeros and
    infinities: masks and bounds are made so. Raises `Malformed`, `TooLarge` or `UnsupportedVersion`.
    """
    found = onnx.read(data)
    view = memoryview(data).cast("B")
    for dtype, start, stop in found.floats:
        if _not_finite(view, dtype, start, stop):
            raise Malformed(
                "a weight of the model is not a number (NaN), or infinite among others that are not"
            )
    return found


def _not_finite(view: memoryview, dtype: str, start: int, stop: int) -> bool:
    import numpy as np

    plain, _, packed = dtype.partition(":")
    if packed:
        pieces = iter([_unpacked(view[start:stop])])
    else:
        kind = _EXPONENTS.get(plain, ("uint8", 0))[0]
        pieces = (
            np.frombuffer(bytes(view[at : min(stop, at + _PIECE_BYTES)]), kind)
            for at in range(start, stop, _PIECE_BYTES)
        )
    if plain in _NANS:
        return any(bool(np.isin(piece, _NANS[plain]).any()) for piece in pieces if _NANS[plain])
    name, exponent = _EXPONENTS[plain]
    size_only = (1 << (8 * np.dtype(name).itemsize - 1)) - 1
    infinite = plainly = False
    for piece in pieces:
        # Without the sign, infinity is the exponent alone, and everything above it NaN.
        size = piece & piece.dtype.type(size_only)
        most = int(size.max())
        if most > exponent:
            return True
        if most == exponent:
            infinite = True
            size = size[size != exponent]
        plainly = plainly or bool(size.any())
        if infinite and plainly:
            return True
    return False


def _unpacked(data: memoryview) -> np.ndarray[Any, Any]:
    """The numbers of a protocol buffer's packed varints."""
    import numpy as np

    raw = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(raw < 0x80)
    starts = np.concatenate(([0], ends[:-1] + 1))
    places = np.arange(raw.size) - np.repeat(starts, ends - starts + 1)
    return np.add.reduceat((raw & 0x7F).astype(np.uint64) << (7 * places).astype(np.uint64), starts)


class Model:
    """A model that is loaded once and run as often as one likes."""

    def __init__(
        self, model: bytes | bytearray | memoryview, *, threads: int = 1, quiet: bool = False
    ) -> None:
        """Check a model in ONNX format (`check`) and load it.

        `threads`: of one run, at most those that the task allows. With `quiet` no error has text of the library's,
        which may name parts of the model and values. Raises `Malformed`, `TooLarge` or `UnsupportedVersion` for a model
        that is refused, and `Unavailable` without the package.
        """
        runtime = _runtime()
        self.facts = check(model)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
        options.use_deterministic_compute = True
        options.log_severity_level = _FATAL if quiet else _ERRORS_ONLY
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        self._quiet = quiet
        try:
            self._session = runtime.InferenceSession(
                bytes(model), options, providers=["CPUExecutionProvider"], enable_fallback=False
            )
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  # the library has classes of its own
            # The library raises classes of its own for each of its states; each means that it takes no such model.
            raise self._refused("the model cannot be loaded", error) from None
        shapes = {port.name: port.shape for port in (*self.facts.inputs, *self.facts.outputs)}
        self.inputs = tuple(_tensor(item, shapes) for item in self._session.get_inputs())
        # Sequences and maps are what some converters put beside the tensors.
        self.outputs = tuple(
            _tensor(item, shapes) for item in self._session.get_outputs() if item.type in _DTYPES
        )
        if not self.outputs:
            raise Malformed("the model gives no tensor, and nothing else is taken")

    def run(self, *positional: ArrayLike, **named: ArrayLike) -> list[np.ndarray[Any, Any]]:
        """Run it on one array for each input, in their order or by name; returns the outputs in their order.

        An array of another type is converted where numpy calls that safe or of the same kind (float64 to float32).
        Raises `Malformed` for arrays that are not those of the model, or that it cannot be run on.
        """
        return self.give(self._bind(positional, named), [item.name for item in self.outputs])

    def give(self, given: Mapping[str, ArrayLike], wanted: Sequence[str]) -> list[np.ndarray[Any, Any]]:
        """As `run`, with a mapping of all inputs, and only the outputs named by `wanted`."""
        arrays = {item.name: _array(item, given[item.name]) for item in self.inputs}
        try:
            found: list[np.ndarray[Any, Any]] = self._session.run(list(wanted), arrays)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  # the library has classes of its own
            raise self._refused("the model cannot be run on these arrays", error) from None
        return found

    def _refused(self, what: str, error: Exception) -> Exception:
        if any(text in str(error) for text in _NO_MEMORY):
            return MemoryError()
        return Malformed(f"{what}: {type(error).__name__ if self._quiet else _first_line(error)}")

    def _bind(
        self, positional: tuple[ArrayLike, ...], named: Mapping[str, ArrayLike]
    ) -> dict[str, ArrayLike]:
        names = [item.name for item in self.inputs]
        given = dict(zip(names, positional, strict=False))
        if len(positional) > len(names) or set(given) & set(named) or {*given, *named} != set(names):
            raise Malformed(f"the model takes {', '.join(names) or 'no input'}, each once")
        return given | dict(named)


def _runtime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError:
        raise Unavailable(
            "inference needs the package onnxruntime", hint="pip install 'mesatee[ml]' where functions run"
        ) from None


def _tensor(item: Any, shapes: Mapping[str, tuple[int | str | None, ...] | None]) -> Tensor:
    dtype = _DTYPES.get(item.type)
    if dtype is None:
        raise Malformed(f"the model's {item.name} is {item.type}, and only tensors are taken")
    said = shapes.get(item.name)
    shape = None if said is None else tuple(size if isinstance(size, int) else None for size in said)
    return Tensor(item.name, dtype, shape)


def _array(wanted: Tensor, value: ArrayLike) -> np.ndarray[Any, Any]:
    import numpy as np

    array = np.asarray(value)
    if array.dtype != wanted.dtype:
        if not np.can_cast(array.dtype, wanted.dtype, "same_kind"):
            raise Malformed(f"{wanted.name} is {wanted.dtype}, and the array is {array.dtype}")
        array = array.astype(wanted.dtype)
    fits = wanted.shape is None or (
        array.ndim == len(wanted.shape)
        and all(size in (None, given) for size, given in zip(wanted.shape, array.shape, strict=True))
    )
    if wanted.shape is not None and not fits:
        shape = ", ".join("any" if size is None else str(size) for size in wanted.shape)
        raise Malformed(f"{wanted.name} has the shape ({shape}), and the array {array.shape}")
    return np.require(array, requirements=("C", "A"))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


__all__ = ["Model", "Tensor", "check"]
