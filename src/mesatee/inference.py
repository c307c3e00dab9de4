"""Inference for Python functions: an ONNX model from an input, run in one thread.

The model is an input like any other, so that its owner seals it, approves each task that uses it, and is never shown
to have given it away::

    import numpy as np
    from mesatee.inference import Model
    from mesatee.table import Table

    def score(model: bytes, people: Table) -> Table:
        rows = people.to_numpy().astype(np.float32)
        return Table.from_dict({"score": Model(model).run(rows)[0].ravel()})

A session has one thread, runs the graph in its order and asks for deterministic kernels: the same model and input give
the same result on the same kind of processor. Another kind may round in another way. It takes no library of operators
beside those built in, and neither reads nor writes a file where functions run.

Needs the package onnxruntime: ``pip install 'mesatee[ml]'`` on the worker's machine, and on the scientist's to test.
ONNX Runtime is C++ that parses a file which somebody made: load models in the sandbox, or your own.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from mesatee.errors import Malformed, Unavailable

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


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of a model: its name, numpy's name of its type, and its shape, None where any size fits."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class Model:
    """A model that is loaded once and run as often as one likes."""

    def __init__(self, model: bytes | bytearray | memoryview) -> None:
        """Load a model in ONNX format. Raises `Malformed` if it is none, and `Unavailable` without the package."""
        runtime = _runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
        options.use_deterministic_compute = True
        options.log_severity_level = _ERRORS_ONLY
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        try:
            self._session = runtime.InferenceSession(
                bytes(model), options, providers=["CPUExecutionProvider"], enable_fallback=False
            )
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  # the library has classes of its own
            # The library raises classes of its own for each of its states; each means that it takes no such model.
            raise Malformed(f"the model cannot be loaded: {_first_line(error)}") from None
        self.inputs = tuple(_tensor(item) for item in self._session.get_inputs())
        self.outputs = tuple(_tensor(item) for item in self._session.get_outputs())

    def run(self, *positional: ArrayLike, **named: ArrayLike) -> list[np.ndarray[Any, Any]]:
        """Run it on one array for each input, in their order or by name; returns the outputs in their order.

        An array of another type is converted where numpy calls that safe or of the same kind (float64 to float32).
        Raises `Malformed` for arrays that are not those of the model, or that it cannot be run on.
        """
        given = self._bind(positional, named)
        arrays = {item.name: _array(item, given[item.name]) for item in self.inputs}
        try:
            found: list[np.ndarray[Any, Any]] = self._session.run(
                [item.name for item in self.outputs], arrays
            )
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  # the library has classes of its own
            raise Malformed(f"the model cannot be run on these arrays: {_first_line(error)}") from None
        return found

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


def _tensor(item: Any) -> Tensor:
    dtype = _DTYPES.get(item.type)
    if dtype is None:
        raise Malformed(f"the model's {item.name} is {item.type}, and only tensors are taken")
    shape = tuple(size if isinstance(size, int) and size >= 0 else None for size in item.shape)
    return Tensor(item.name, dtype, shape)


def _array(wanted: Tensor, value: ArrayLike) -> np.ndarray[Any, Any]:
    import numpy as np

    array = np.asarray(value)
    if array.dtype != wanted.dtype:
        if not np.can_cast(array.dtype, wanted.dtype, "same_kind"):
            raise Malformed(f"{wanted.name} is {wanted.dtype}, and the array is {array.dtype}")
        array = array.astype(wanted.dtype)
    fits = array.ndim == len(wanted.shape) and all(
        size in (None, given) for size, given in zip(wanted.shape, array.shape, strict=True)
    )
    if not fits:
        shape = ", ".join("any" if size is None else str(size) for size in wanted.shape)
        raise Malformed(f"{wanted.name} has the shape ({shape}), and the array {array.shape}")
    return np.ascontiguousarray(array)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


__all__ = ["Model", "Tensor"]
