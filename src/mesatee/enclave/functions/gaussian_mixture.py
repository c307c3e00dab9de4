"""Mixtures of normal distributions."""

from __future__ import annotations

import warnings
from typing import Any, Final, NamedTuple

from mesatee.enclave.functions._design import Asked, enough, gather, matrix_of, one_thread, scaling, within
from mesatee.enclave.functions._linear import one_row
from mesatee.enclave.functions._statistics import column, one_of
from mesatee.errors import Malformed
from mesatee.protocol import learned, limits
from mesatee.table import Table

COVARIANCES: Final = ("full", "diag", "tied", "spherical")
STARTS: Final = 100
"""Different beginnings that are tried at most."""
ROUNDS: Final = 500
"""Of expectation and maximisation, from each start."""
WIDENED: Final = 1e-6
"""Is added to each variance, so that no component shrinks to a point, as scikit-learn does."""


class Learned(NamedTuple):
    """What comes out."""

    components: Table
    fit: Table
    model: bytes


def gaussian_mixture(
    inputs: dict[str, Table],
    *,
    components: int,
    columns: str | list[str] = [],  # noqa: B006  a contract shows its defaults, and nothing changes this one
    covariance: str = "full",
    scale: bool = False,
    starts: int = 1,
    tolerance: float = 1e-3,
    seed: int = 0,
    how: str = "rows",
    key: str | list[str] | dict[str, str | list[str]] | None = None,
) -> Learned:
    """Describe rows as drawn from so many normal distributions, the `components`, by expectation and maximisation.

    `columns` are of numbers or truth values; all of these if it is left out. With `scale` each is centred and divided
    by its standard deviation (with n) before; constant columns are refused then. Rows with a null in one of them (NaN
    among it) are left out and counted in `diagnostics`; infinite values are refused. There are up to 1000 components,
    at least as many different rows, and two rows. `covariance` is ``full`` (each component has its own), ``diag``
    (without correlation), ``tied`` (all have the same) or ``spherical`` (one variance for each); 1e-6 is added to each
    variance. It begins with `starts` clusterings (1 to 100) drawn by `seed`, and ends when the mean log-likelihood of
    a row grows by less than `tolerance`, after 500 rounds at most.

    Three outputs. ``components`` has a row for each, the one of most weight first: ``component`` (its number, from 1),
    ``rows`` (those that it is the likeliest one of), ``weight``, and the mean of each column in its own units. ``fit``
    has one row: ``rows``, ``log_likelihood`` (the mean of a row's, of scaled columns with `scale`), ``aic``, ``bic``,
    ``rounds``, and ``converged``, which is 1 or 0. ``model`` is a document for `predict`, which gives the component
    of each row and its probabilities. Results are the same for any order of rows.

    `how` is ``rows`` (the inputs are parts of one table; a column is there if all have it, and ``input`` says
    which input a row is from) or ``columns`` (the inputs are different columns of the same people, joined on
    the `key` column or columns: those people that all inputs have, once in each; a null matches nothing, and
    a column that several inputs have is named ``input.column``).

    Reveals to the receivers of the outputs means, variances and correlations of the columns within each component, of
    all inputs together: of a component of few rows nearly these rows. Reveals to the receivers of `diagnostics`: the
    numbers of rows of each input, how many have nulls, and with ``columns`` how many people all of them have.
    """
    import numpy as np
    import pyarrow as pa
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    one_of("covariance", covariance, COVARIANCES)
    within("components", components, limits.LEARNED_GROUPS)
    within("starts", starts, STARTS)
    within("seed", seed, 2**32 - 1, 0)
    within("tolerance", tolerance, 1.0, 1e-12)
    design = gather("gaussian_mixture", inputs, Asked(columns, text=False), how, key)
    enough(design, max(2, components), "a mixture")
    centre, by, ready = scaling(design, scale)
    if (different := len(np.unique(ready, axis=0))) < components:
        raise Malformed(f"{different} different rows cannot make {components} components")
    mixture = GaussianMixture(
        components,
        covariance_type=covariance,
        tol=tolerance,
        reg_covar=WIDENED,
        max_iter=ROUNDS,
        n_init=starts,
        random_state=seed,
    )
    one_thread()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = mixture.fit(ready)
    except ValueError:
        raise Malformed(
            "the mixture has no end: a component shrinks to nothing", hint="ask for fewer, or set scale"
        ) from None
    if not found.converged_:
        design.data.say(f"it did not converge in {ROUNDS} rounds")
    order = np.lexsort([*found.means_.T[::-1], -found.weights_])
    means, whole = found.means_[order], _whole(found, covariance, order)
    likeliest = np.argsort(order)[found.predict(ready)]
    names = [feature.name for feature in design.columns]
    shown: dict[str, Any] = {
        "component": pa.array(range(1, components + 1), pa.int64()),
        "rows": pa.array(np.bincount(likeliest, minlength=components), pa.int64()),
        "weight": column(found.weights_[order]),
    }
    if taken := [name for name in names if name in shown]:
        raise Malformed(f"the column {taken[0]!r} has a name of the output's: rename it")
    shown |= {name: column(means[:, at] * by[at] + centre[at]) for at, name in enumerate(names)}
    document = learned.GaussianMixture(
        kind="gaussian_mixture",
        version=1,
        columns=design.columns,
        centre=tuple(centre.tolist()),
        scale=tuple(by.tolist()),
        weights=tuple(found.weights_[order].tolist()),
        means=matrix_of(means),
        covariances=tuple(matrix_of(matrix) for matrix in whole),
    )
    fit = one_row(
        design.rows,
        log_likelihood=found.score(ready),
        aic=found.aic(ready),
        bic=found.bic(ready),
        rounds=int(found.n_iter_),
        converged=int(found.converged_),
    )
    return Learned(Table(pa.table(shown)), fit, learned.write(document))


def _whole(found: Any, covariance: str, order: Any) -> list[Any]:
    """Each component's covariance as a symmetric matrix."""
    import numpy as np

    width = found.means_.shape[1]
    match covariance:
        case "full":
            matrices = [found.covariances_[at] for at in order]
        case "tied":
            matrices = [found.covariances_ for _ in order]
        case "diag":
            matrices = [np.diag(found.covariances_[at]) for at in order]
        case _:
            matrices = [np.eye(width) * found.covariances_[at] for at in order]
    return [(matrix + matrix.T) / 2 for matrix in matrices]
