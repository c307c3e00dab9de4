"""``mesatee model test``: which function runs a model of which kind, and on what."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .. import tensors
from ..errors import InputError, Malformed, NotFound
from ..party import data, functions
from ..party.http import visible
from ..protocol import limits
from ..protocol.model_card import Tensor
from . import local
from .common import typed
from .convert import comparing
from .models import RANK, Look

if TYPE_CHECKING:
    import numpy as np

BY_ROWS: Final[Mapping[str, str]] = {
    "linear": "predict",
    "lightgbm": "gbdt_predict",
    "onnx": "onnx_predict",
    "trees": "gbdt_predict",
    "xgboost": "gbdt_predict",
}
"""Kind of a model -> the built-in function that runs it on rows of a table."""
BY_TENSORS: Final = "onnx_run"
LENGTH: Final = 8
"""Of a dimension that a model leaves open, in made-up input."""
SEED: Final = 20_240_229
TENSORS_BYTES: Final = limits.GIB
LINES_SHOWN: Final = 12
VALUES_SHOWN: Final = 6
MADE_UP_BYTES: Final = 256 * limits.MIB
"""Made-up input of one model, in bytes."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What came out, and what it took."""

    function: str
    origin: str
    format: str
    content: bytes = field(repr=False)
    seconds: float
    cpu_seconds: float
    memory_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "function": self.function,
            "input": self.origin,
            "format": self.format,
            "size": len(self.content),
            "output": self.shown(),
            "seconds": round(self.seconds, 6),
            "cpu_seconds": round(self.cpu_seconds, 6),
            "memory_bytes": self.memory_bytes,
        }

    def shown(self) -> list[str]:
        """The front of it, in lines."""
        if self.format == "bytes":
            return [_line(name, value) for name, value in tensors.read(self.content).items()]
        text = self.content.decode("utf-8", "replace").splitlines()
        rest = len(text) - LINES_SHOWN
        return [visible(item) for item in text[:LINES_SHOWN]] + (
            [f"and {rest} more lines"] if rest > 0 else []
        )


def _line(name: str, value: np.ndarray[Any, Any]) -> str:
    front = ", ".join(
        f"{item:.6g}" if value.dtype.kind == "f" else str(item) for item in value.ravel()[:VALUES_SHOWN]
    )
    more = ", ..." if value.size > VALUES_SHOWN else ""
    return f"{visible(name)} {value.dtype.name}{list(value.shape)}: {front}{more}"


def run(seen: Look, model: bytes, path: Path | None, rows: int, arguments: Mapping[str, str]) -> Tried:
    """Run it on a file, or on made-up input. Raises `Malformed`, `InputError` or `NotFound`."""
    name, port, given = _input(seen, path, rows)
    contract = functions.shipped(name)
    types = {item.name: item.type for item in contract.arguments}
    ran = comparing.run_builtin(
        name,
        {"model": model, port: given},
        typed(types, dict(arguments)),
    )
    made = ran.outputs["result"]
    return Tried(
        name,
        given.origin,
        made.format,
        made.content,
        ran.usage.seconds,
        ran.usage.cpu_seconds,
        ran.usage.max_rss_bytes,
    )


def _input(seen: Look, path: Path | None, rows: int) -> tuple[str, str, local.Given]:
    if path is None:
        return _made_up(seen, rows)
    if not path.is_file():
        raise NotFound(f"there is no file {path}", hint="check the path")
    suffix = path.suffix.lower()
    if suffix in (".npz", ".npy", ".safetensors"):
        if seen.kind != "onnx":
            raise InputError(
                f"a model of the kind {seen.kind} takes a table of rows", hint="give a CSV or Parquet"
            )
        return BY_TENSORS, "tensors", local.Given("bytes", _tensors(seen, path), f"file {path}", False)
    format = data.FORMATS.get(suffix)
    if format not in ("csv", "parquet", "arrow"):
        raise InputError(f"{path} is no table and no file of tensors", hint=".csv, .parquet, .arrow, .npz")
    return BY_ROWS[seen.kind], "rows", local.Given(format, path, f"file {path}", False)


def _tensors(seen: Look, path: Path) -> bytes:
    """A file of one's own. numpy reads it, and no object in it."""
    import numpy as np

    if path.stat().st_size > TENSORS_BYTES:
        raise InputError(f"{path} has more than {TENSORS_BYTES} bytes")
    if path.suffix.lower() == ".safetensors":
        return path.read_bytes()
    try:
        if path.suffix.lower() == ".npy":
            return tensors.write({seen.inputs[0].name: np.load(path, allow_pickle=False)})
        with np.load(path, allow_pickle=False) as file:
            return tensors.write({name: file[name] for name in file.files})
    except (ValueError, OSError, EOFError) as error:
        raise Malformed(f"{path} is no file of numbers: {error}", hint="write it by numpy.savez") from None


def _made_up(seen: Look, rows: int) -> tuple[str, str, local.Given]:
    import numpy as np

    random = np.random.default_rng(SEED)
    origin = f"{rows} made-up rows"
    if seen.kind == "onnx":
        arrays = {item.name: _array(random, item, rows) for item in seen.inputs}
        return BY_TENSORS, "tensors", local.Given("bytes", tensors.write(arrays), origin, True)
    if seen.kind == "linear":
        raise InputError(
            "made-up rows would not fit the columns of this model", hint="give rows by --data FILE.csv"
        )
    names = list(seen.columns) or [f"f{number}" for number in range(int(seen.details["features"]))]
    from ..table import Table

    made = Table.from_dict({name: random.standard_normal(rows) for name in names})
    file = io.BytesIO()
    made.write(file, "arrow")
    return BY_ROWS[seen.kind], "rows", local.Given("arrow", file.getvalue(), origin, True)


def _array(random: np.random.Generator, item: Tensor, rows: int) -> np.ndarray[Any, Any]:
    import numpy as np

    if item.shape == (RANK,):
        raise InputError(
            f"the input {visible(item.name)} does not say its shape", hint="give arrays by --data FILE.npz"
        )
    shape = [
        size if isinstance(size, int) else (rows if place == 0 else LENGTH)
        for place, size in enumerate(item.shape)
    ]
    if item.dtype in ("string", "bfloat16"):
        raise InputError(f"the input {visible(item.name)} is {item.dtype}", hint="run it by a task")
    dtype = np.dtype(item.dtype)
    size = dtype.itemsize
    for length in shape:
        size *= length
    if size > MADE_UP_BYTES:
        raise InputError(
            f"the input {visible(item.name)} takes {size} bytes", hint="give arrays by --data FILE.npz"
        )
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    # Small, because such an input mostly is an index into a table.
    return random.integers(0, 2, shape).astype(dtype)


__all__ = ["BY_ROWS", "BY_TENSORS", "Tried", "run"]
