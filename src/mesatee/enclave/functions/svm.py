"""Support vector machines."""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

from mesatee.enclave.functions._design import (
    Asked,
    Design,
    enough,
    gather,
    matrix_of,
    scaling,
    text_of,
    within,
)
from mesatee.enclave.functions._statistics import one_of
from mesatee.errors import Malformed
from mesatee.protocol import learned, limits
from mesatee.table import Table

KINDS: Final = ("classes", "number")
KERNELS: Final = ("linear", "rbf")
ROWS: Final = 100_000
"""Training takes time that grows with their square, or more."""


class Learned(NamedTuple):
    """What comes out."""

    fit: Table
    model: bytes


def svm(
    inputs: dict[str, Table],
    *,
    target: str,
    kind: str = "classes",
    kernel: str = "rbf",
    columns: str | list[str] = [],  # noqa: B006  a contract shows its defaults, and nothing changes this one
    categorical: str | list[str] = [],  # noqa: B006  as above
    scale: bool = True,
    c: float = 1.0,
    gamma: float | None = None,
    epsilon: float = 0.1,
    tolerance: float = 1e-3,
    how: str = "rows",
    key: str | list[str] | dict[str, str | list[str]] | None = None,
) -> Learned:
    """Learn a class or a number, `target`, by a support vector machine (libsvm).

    `kind` is ``classes`` (`target` has two to 100 values of any kind; every pair of classes has a machine, and most
    votes win) or ``number``. `kernel` is ``linear`` or ``rbf``, exp(-`gamma` * squared distance), where `gamma` is by
    default 1 / (features * variance of all features). `c` is what an error costs; errors of a number smaller than
    `epsilon` are none. `tolerance` is where the solver stops.

    `columns` tell the target; all other columns of numbers and truth values if it is left out. Columns of text, dates
    or times, and those that `categorical` names, are categories: each level becomes a feature that is 1 or 0. With
    `scale` each feature is centred and divided by its standard deviation (with n) before, so that units do not
    matter; constant ones are refused then. Rows with a null in one of these columns (NaN among it) are left out and
    counted in `diagnostics`; infinite values are refused. At most 100,000 rows are left.

    Two outputs. ``fit`` has a row for each class (``class``, as text), or one, with ``rows`` and ``vectors``: how many
    of them are support vectors. ``model`` is a document for `predict`. Results are the same for any order of rows.

    `how` is ``rows`` (the inputs are parts of one table; a column is there if all have it, and ``input`` says
    which input a row is from) or ``columns`` (the inputs are different columns of the same people, joined on
    the `key` column or columns: those people that all inputs have, once in each; a null matches nothing, and
    a column that several inputs have is named ``input.column``).

    Reveals to the receivers of the outputs, with ``rbf``, the support vectors: **rows of the inputs as they are**, all
    columns of them, often most of the rows, and nearly their targets. With ``linear`` it reveals a weighted sum of
    them for each pair of classes, and how many rows and vectors there are. Reveals to the receivers of
    `diagnostics`: the numbers of rows of each input, how many have nulls, and with ``columns`` how many people all of
    them have.
    """
    import numpy as np
    import pyarrow as pa

    one_of("kind", kind, KINDS)
    one_of("kernel", kernel, KERNELS)
    for name, value in (("c", c), ("gamma", gamma or 1.0), ("tolerance", tolerance)):
        within(name, value, 1e9, 1e-9)
    if gamma == 0:
        raise Malformed("gamma is above 0")
    within("epsilon", epsilon, 1e9, 0)
    classified = kind == "classes"
    asked = Asked(
        columns, target, "classes" if classified else "numbers", categorical=categorical, whole=True
    )
    design = gather("svm", inputs, asked, how, key)
    enough(design, 2, "a machine")
    if design.rows > ROWS:
        raise Malformed(f"{design.rows} rows are too many: at most {ROWS}")
    classes = design.classes
    if classes is not None and not 2 <= len(classes) <= limits.LEARNED_SVM_CLASSES:
        raise Malformed(
            f"the target {target!r} has {len(classes)} different values in complete rows: 2 to 100 are needed"
        )
    centre, by, ready = scaling(design, scale)
    if kernel == "linear":
        gamma = None
    elif gamma is None:
        spread = float(ready.var())
        gamma = 1 / (ready.shape[1] * spread) if spread > 0 else 1.0
    options = {"C": c, "kernel": kernel, "gamma": gamma or 1.0, "tol": tolerance}
    found = _fitted(design, ready, options, epsilon)
    sizes = (
        [design.rows]
        if classes is None
        else np.bincount(design.target.astype(np.int64), minlength=len(classes)).tolist()
    )
    counts = [int(count) for count in found.n_support_]
    table: dict[str, Any] = (
        {} if classes is None else {"class": pa.array([text_of(label) for label in classes])}
    )
    table |= {"rows": pa.array(sizes, pa.int64()), "vectors": pa.array(counts[: len(sizes)], pa.int64())}
    document = learned.Svm(
        kind="svm",
        version=1,
        columns=design.columns,
        centre=tuple(centre.tolist()),
        scale=tuple(by.tolist()),
        kernel=kernel,  # type: ignore[arg-type]  # one of KERNELS
        classes=classes,
        gamma=gamma,
        vectors=matrix_of(found.support_vectors_) if gamma is not None else None,
        counts=tuple(counts) if gamma is not None and classes is not None else None,
        **_weights(found, classes is not None and len(classes) == 2, gamma is None),
    )
    return Learned(Table(pa.table(table)), learned.write(document))


def _fitted(design: Design, ready: Any, options: dict[str, Any], epsilon: float) -> Any:
    from sklearn.svm import SVC, SVR

    machine = SVR(epsilon=epsilon, **options) if design.classes is None else SVC(**options)
    found = machine.fit(ready, design.target)
    if not all(math.isfinite(value) for value in found.intercept_.tolist()):
        raise Malformed("no machine can be found: the numbers are too large, set scale")
    return found


def _weights(found: Any, two: bool, linear: bool) -> dict[str, Any]:
    # Of two classes scikit-learn turns the signs of libsvm, so that above 0 is the second one.
    sign = -1.0 if two else 1.0
    weights = found.coef_ if linear else found.dual_coef_
    return {
        "weights": matrix_of(sign * weights + 0.0),
        "intercepts": tuple((sign * found.intercept_ + 0.0).tolist()),
    }
