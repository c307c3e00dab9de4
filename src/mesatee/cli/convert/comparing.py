"""Whether a converted model does what the original did: both run on the same sample, and their outputs compared."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from ... import tensors
from ...enclave.sandbox.protocol import Limits
from ...enclave.sandbox.supervisor import Supervisor
from ...errors import Malformed
from ...party import functions
from ...protocol import learned, limits
from ...protocol.failures import MEANINGS
from .. import local

if TYPE_CHECKING:
    import numpy as np

    from ...protocol.model_card import ModelKind

TOLERANCE: Final = 1e-4
"""The largest deviation that an import takes, relative to the largest value of the output."""
LEAST_SCALE: Final = 1e-6
"""An output whose values are all smaller than this is compared as if they were this large."""
RUN: Final = Limits(
    seconds=600, cpu_seconds=1_200, memory_bytes=8 * limits.GIB, output_bytes=limits.GIB, threads=2
)


@dataclass(frozen=True, slots=True)
class Deviation:
    """Of one output: the largest difference of two values, the largest value, and the one divided by the other."""

    output: str
    shape: tuple[int, ...]
    absolute: float
    scale: float
    relative: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def run_onnx(model: bytes, sample: bytes, outputs: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Our run of a model on a file of tensors, in the sandbox that a worker has. Raises `Malformed`."""
    ran = run_builtin("onnx_run", {"model": model, "tensors": sample}, {"outputs": list(outputs)})
    return tensors.read(ran.outputs["result"].content)


def run_rows(
    kind: ModelKind, model: bytes, rows: np.ndarray[Any, Any], names: Sequence[str]
) -> np.ndarray[Any, Any]:
    """The same of a model that takes a table: what it says of each row, a column for each number."""
    import numpy as np

    from ...table import Table

    columns = list(names) or [f"f{number}" for number in range(rows.shape[1])]
    file = io.BytesIO()
    Table.from_dict({name: rows[:, place] for place, name in enumerate(columns)}).write(file, "arrow")
    given: dict[str, bytes | local.Given] = {
        "model": model,
        "rows": local.Given("arrow", file.getvalue(), "sample", False),
    }
    function = "predict" if kind == "linear" else "gbdt_predict"
    shares = kind == "linear" and learned_shares(model)
    ran = run_builtin(function, given, {"probabilities": True} if shares else {})
    made = ran.outputs["result"]
    found = Table.read(made.content, cast(Any, made.format))
    wanted = [name for name in found.columns if name.startswith("probability.")] if shares else found.columns
    return np.stack([found[name].to_numpy().astype(np.float64) for name in wanted], axis=1)


def learned_shares(model: bytes) -> bool:
    """Whether a learner's document gives probabilities."""
    read = learned.read(model)
    return read.kind == "linear" and read.classes is not None


def run_builtin(
    name: str, inputs: Mapping[str, bytes | local.Given], arguments: Mapping[str, Any]
) -> local.Ran:
    """A built-in function on bytes, on this machine. Raises `Malformed` with what it said."""
    code = local.Code(name, b"", functions.shipped(name))
    given = {
        key: value if isinstance(value, local.Given) else local.Given("bytes", value, key, False)
        for key, value in inputs.items()
    }
    with Supervisor() as supervisor:
        ran = local.run(supervisor, code, given, arguments, RUN)
    if ran.failure is not None:
        said = [line for line in ran.diagnostics.splitlines() if line.strip()]
        raise Malformed(f"the model does not run here: {said[-1] if said else MEANINGS[ran.failure]}")
    return ran


def renamed(sample: bytes, wanted: list[str]) -> bytes:
    """The sample for a model whose inputs have other names, in the same order. Raises `Malformed`."""
    given = tensors.read(sample)
    if set(given) == set(wanted):
        return sample
    if len(given) == 1 and len(wanted) == 1:
        return tensors.write({wanted[0]: next(iter(given.values()))})
    raise Malformed(
        f"the converted model has the inputs {', '.join(wanted)}, the original {', '.join(sorted(given))}"
    )


def compare(
    expected: Mapping[str, np.ndarray[Any, Any]],
    found: Mapping[str, np.ndarray[Any, Any]],
    tolerance: float = TOLERANCE,
) -> list[Deviation]:
    """How far each output is from the original's. By name, or, of one output, as it is.

    Raises `Malformed` where an output is missing, has another shape, or deviates by more than `tolerance`.
    """
    if len(expected) == 1 and len(found) == 1:
        pairs = [(next(iter(expected)), next(iter(expected.values())), next(iter(found.values())))]
    else:
        missing = sorted(set(expected) ^ set(found))
        if missing or not expected:
            raise Malformed(f"the outputs of both are not the same: {', '.join(missing) or 'there is none'}")
        pairs = [(name, expected[name], found[name]) for name in sorted(expected)]
    deviations = [_deviation(*pair) for pair in pairs]
    for item in deviations:
        if not item.relative <= tolerance:
            raise Malformed(
                f"the output {item.output} deviates by {item.relative:.3g} of its largest value, and "
                f"{tolerance:g} is allowed",
                hint="another sample (--sample) may show where; --tolerance allows more, if that is right for it",
            )
    return deviations


def _deviation(name: str, wanted: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> Deviation:
    import numpy as np

    if wanted.shape != found.shape:
        raise Malformed(
            f"the output {name} has the shape {found.shape}, the original's {wanted.shape}",
            hint="a dimension that hangs on the input did not convert: fix it by --shape",
        )
    if wanted.dtype.kind != "f" or found.dtype.kind != "f":
        # A class or a count is right or wrong.
        same = bool(np.array_equal(wanted, found))
        return Deviation(name, wanted.shape, 0.0 if same else 1.0, 1.0, 0.0 if same else 1.0)
    left, right = wanted.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(left)
    if not np.array_equal(finite, np.isfinite(right)) or not np.array_equal(
        left[~finite], right[~finite], equal_nan=True
    ):
        raise Malformed(f"the output {name} is infinite or no number where the original's is not")
    left, right = left[finite], right[finite]
    absolute = float(np.max(np.abs(left - right), initial=0.0))
    scale = float(np.max(np.abs(left), initial=0.0))
    return Deviation(name, wanted.shape, absolute, scale, absolute / max(scale, LEAST_SCALE))


__all__ = [
    "LEAST_SCALE",
    "TOLERANCE",
    "Deviation",
    "compare",
    "learned_shares",
    "renamed",
    "run_builtin",
    "run_onnx",
    "run_rows",
]
