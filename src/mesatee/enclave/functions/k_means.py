"""Clusters around centres."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from mesatee.enclave.functions._design import Asked, enough, gather, matrix_of, one_thread, scaling, within
from mesatee.enclave.functions._predict import distances
from mesatee.enclave.functions._statistics import column, total
from mesatee.errors import Malformed
from mesatee.protocol import learned, limits
from mesatee.table import Table

STARTS: Final = 100
"""Different first centres that are tried at most."""
ROUNDS: Final = 1_000
"""Of moving the centres, from each start."""


class Learned(NamedTuple):
    """What comes out."""

    clusters: Table
    model: bytes


def k_means(
    inputs: dict[str, Table],
    *,
    clusters: int,
    columns: str | list[str] = [],  # noqa: B006  a contract shows its defaults, and nothing changes this one
    scale: bool = False,
    starts: int = 10,
    seed: int = 0,
    how: str = "rows",
    key: str | list[str] | dict[str, str | list[str]] | None = None,
) -> Learned:
    """Part rows into so many `clusters` that each row is near the centre of its cluster.

    `columns` are of numbers or truth values; all of these if it is left out. With `scale` each is centred and divided
    by its standard deviation (with n) before, so that units do not matter; constant columns are refused then. Rows
    with a null in one of them (NaN among it) are left out and counted in `diagnostics`; infinite values are refused.
    There are at least as many different rows as clusters, of which there are up to 1000. Lloyd's algorithm begins
    with `starts` different centres (1 to 100, by k-means++) drawn by `seed`, and the best end is taken.

    Two outputs. ``clusters`` has a row for each, the largest first and of equal ones the one with smaller centres:
    ``cluster`` (its number, from 1), ``rows``, ``inertia`` (the sum of squared distances of its rows from the centre,
    scaled if they were) and the centre, a column for each, in the columns' own units. ``model`` is a document for
    `predict`, which gives the cluster of each row. Results are the same for any order of rows.

    `how` is ``rows`` (the inputs are parts of one table; a column is there if all have it, and ``input`` says
    which input a row is from) or ``columns`` (the inputs are different columns of the same people, joined on
    the `key` column or columns: those people that all inputs have, once in each; a null matches nothing, and
    a column that several inputs have is named ``input.column``).

    Reveals to the receivers of the outputs the mean of each cluster's rows, of all inputs together, and how many
    these are: of a cluster of one row that row itself, of small ones nearly so. Reveals to the receivers of
    `diagnostics`: the numbers of rows of each input, how many have nulls, and with ``columns`` how many people all of
    them have.
    """
    import numpy as np
    import pyarrow as pa
    from sklearn.cluster import KMeans

    within("clusters", clusters, limits.LEARNED_GROUPS)
    within("starts", starts, STARTS)
    within("seed", seed, 2**32 - 1, least=0)
    design = gather("k_means", inputs, Asked(columns, text=False), how, key)
    enough(design, 1, "clusters")
    centre, by, ready = scaling(design, scale)
    different = len(np.unique(ready, axis=0))
    if different < clusters:
        raise Malformed(f"{different} different rows cannot make {clusters} clusters")
    one_thread()
    found = KMeans(
        clusters,
        init="k-means++",
        n_init=starts,
        max_iter=ROUNDS,
        tol=0.0,
        random_state=seed,
        algorithm="lloyd",
    ).fit(ready)
    if found.n_iter_ == ROUNDS:
        design.data.say(f"centres still moved after {ROUNDS} rounds")
    centres = found.cluster_centers_ + 0.0
    labels = distances(ready, centres).argmin(axis=1)
    sizes = np.bincount(labels, minlength=clusters)
    order = np.lexsort([*centres.T[::-1], -sizes])
    centres = centres[order]
    away = distances(ready, centres)
    labels = away.argmin(axis=1)
    inertia = [total(away[labels == number, number]) for number in range(clusters)]
    names = [feature.name for feature in design.columns]
    own = centres * by + centre
    shown: dict[str, Any] = {
        "cluster": pa.array(range(1, clusters + 1), pa.int64()),
        "rows": pa.array(np.bincount(labels, minlength=clusters), pa.int64()),
        "inertia": column(inertia),
    }
    if taken := [name for name in names if name in shown]:
        raise Malformed(f"the column {taken[0]!r} has a name of the output's: rename it")
    document = learned.KMeans(
        kind="k_means",
        version=1,
        columns=design.columns,
        centre=tuple(centre.tolist()),
        scale=tuple(by.tolist()),
        centres=matrix_of(centres),
    )
    shown |= {name: column(own[:, at]) for at, name in enumerate(names)}
    return Learned(Table(pa.table(shown)), learned.write(document))
