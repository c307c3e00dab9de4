"""Gradient boosted trees, trained by XGBoost or LightGBM on rows or columns of several parties."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from mesatee._core import TreeModel
from mesatee.enclave.functions._boosting import Asked, Rows, train
from mesatee.enclave.functions._parties import Combined, combine
from mesatee.errors import Malformed
from mesatee.table import Table

CLASSES: Final = 1_000
CATEGORIES: Final = 65_536
"""Categorical columns have whole numbers from 0 to below this."""


class Trained(NamedTuple):
    """What comes out."""

    model: bytes
    metrics: Table


def gbdt_train(
    inputs: dict[str, Table],
    *,
    label: str,
    columns: str | list[str] = [],  # noqa: B006  a contract shows its defaults, and nothing changes this one
    categorical: list[str] = [],  # noqa: B006  as above
    weights: str | None = None,
    group: str | None = None,
    library: str = "xgboost",
    objective: str = "regression",
    trees: int = 100,
    depth: int = 6,
    leaves: int = 0,
    learning_rate: float = 0.3,
    l1: float = 0.0,
    l2: float = 1.0,
    least_weight: float = 1.0,
    row_share: float = 1.0,
    column_share: float = 1.0,
    bins: int = 255,
    test_share: float = 0.0,
    seed: int = 0,
    threads: int = 1,
    how: str = "rows",
    key: str | list[str] | dict[str, str | list[str]] | None = None,
) -> Trained:
    """Train gradient boosted trees that predict the column `label`. Needs the extra ``trees`` where functions run.

    `library` is ``xgboost`` or ``lightgbm``, `objective` ``regression`` (squared error), ``absolute``, ``poisson``,
    ``gamma``, ``binary``, ``multiclass`` or ``ranking`` (labels are whole numbers from 0 to 30, better ones larger;
    `group` names the column of queries). `columns` are the features; all other columns of numbers and truth values if
    it is left out. Null and NaN are missing values, which training sends where they do best; infinite values are
    refused. Columns in `categorical` are categories by whole numbers from 0. Classes are the values of `label` in
    their order, from class 0 on. Rows without a label, weight or group are left out and counted in `diagnostics`.

    At most `trees` trees for each class, `depth` levels (0: no limit) and `leaves` leaves (0: no limit), steps of
    `learning_rate`, penalties `l1` and `l2`, at least `least_weight` of the sum of second derivatives in a leaf,
    `bins` different values of a feature, and for each tree a random `row_share` and `column_share`. Of all rows
    `test_share` are drawn by `seed`, and kept out of training. The same inputs in any order of rows and the same
    arguments give the same bytes on the same kind of processor; with several `threads` LightGBM and XGBoost promise
    that less strictly.

    Two outputs. ``model`` is a model of the library: UBJ of XGBoost, text of LightGBM, for `gbdt_predict`. ``metrics``
    has a row for each measure: ``part`` (``train`` or ``test``), ``metric``, ``value`` and ``rows``. Measures are
    ``rmse``, ``mae`` and ``r2``; ``log_loss``, ``accuracy`` and for two classes ``auc``; ``ndcg`` of rankings; null
    where one is not defined.

    `how` is ``rows`` (the inputs are parts of one table; a column is there if all have it) or ``columns`` (the inputs
    are different columns of the same people, joined on the `key` column or columns: those people that all inputs have,
    once in each; a null matches nothing, and a column that several inputs have is named ``input.column``).

    Reveals to the receivers of the model thresholds, which are values of the features or lie between two of them, and
    leaves, which are means of labels of the rows there: with deep trees or few rows those of single people. Nothing
    bounds that: it is not differentially private. Reveals to the receivers of the metrics how well the model does.
    Reveals to the receivers of `diagnostics`: the numbers of rows of each input, how many have nulls, with ``columns``
    how many people all inputs have, and the numbers of classes and features.
    """
    asked = Asked(
        library,
        objective,
        trees,
        depth,
        leaves,
        learning_rate,
        l1,
        l2,
        least_weight,
        row_share,
        column_share,
        bins,
        seed,
        threads,
    )
    if not 0 <= test_share < 1:
        raise Malformed("test_share is from 0 to below 1")
    if (group is None) == (objective == "ranking"):
        raise Malformed("group names the column of queries, and is for objective=ranking alone")
    data = combine("gbdt_train", inputs, how, key)
    rows, classes = _rows(data, label, columns, categorical, weights, group, objective)
    parts = {"train": rows}
    if test_share:
        parts["train"], parts["test"] = _split(rows, test_share, seed)
    data.say(f"{len(rows.names)} features, {len(classes)} classes")
    model = train(asked, parts["train"], classes)
    forest = TreeModel(model)
    measured = [
        {"part": part, "metric": metric, "value": value, "rows": len(some.label)}
        for part, some in parts.items()
        for metric, value in _measured(objective, some, _predicted(forest, some.features))
    ]
    names = ("part", "metric", "value", "rows")
    return Trained(model, Table.from_dict({name: [row[name] for row in measured] for name in names}))


def _rows(
    data: Combined,
    label: str,
    columns: str | list[str],
    categorical: list[str],
    weights: str | None,
    group: str | None,
    objective: str,
) -> tuple[Rows, list[str]]:
    """Complete rows in an order that is theirs alone, and the names of the classes."""
    import numpy as np

    others = {name for name in (label, weights, group) if name is not None}
    if columns:
        names = data.chosen(columns)
    else:
        names = data.chosen([name for name in data.names if name not in others and data.is_number(name)])
    if others & set(names):
        raise Malformed("label, weights and group are no features")
    unknown = [name for name in categorical if name not in names]
    if unknown:
        raise Malformed(f"categorical names {unknown[0]!r}, which is no feature")
    features = np.stack([data.numbers(name) for name in names], axis=1)
    for name in categorical:
        values = features[:, names.index(name)]
        known = values[~np.isnan(values)]
        if not ((known >= 0) & (known < CATEGORIES) & (known == np.floor(known))).all():
            raise Malformed(f"the categories of {name!r} are no whole numbers from 0 to below {CATEGORIES}")
    classes: list[str] = []
    if objective in ("binary", "multiclass"):
        coded = data.categories(label, CLASSES)
        classes, labels = coded.texts, np.where(coded.codes < 0, np.nan, coded.codes)
    else:
        labels = data.numbers(label)
    weight = None if weights is None else data.numbers(weights)
    queries = None if group is None else data.categories(group, None).codes
    parts: list[Any] = [labels]
    if weight is not None:
        parts.append(weight)
    if queries is not None:
        parts.append(np.where(queries < 0, np.nan, queries))
    whole = data.complete(*parts)
    # Sums depend on the order of rows: it is that of their values, whatever the inputs' was.
    order = np.lexsort([*features[whole].T, *(part[whole] for part in parts)])
    chosen = np.flatnonzero(whole)[order]
    found = Rows(
        features[chosen],
        names,
        categorical,
        labels[chosen],
        None if weight is None else weight[chosen],
        None if queries is None else queries[chosen],
    )
    _check(found, classes, objective)
    return found, classes


def _check(rows: Rows, classes: list[str], objective: str) -> None:
    import numpy as np

    if len(rows.label) < 2:
        raise Malformed("fewer than two rows are complete: there is nothing to train on")
    if objective == "binary" and len(classes) != 2:
        raise Malformed(f"the label has {len(classes)} values, not two: objective=multiclass, or regression?")
    if objective == "multiclass" and len(classes) < 3:
        raise Malformed("the label has fewer than three values: objective=binary?")
    if rows.weight is not None and (rows.weight < 0).any():
        raise Malformed("a weight is negative")
    if objective == "poisson" and (rows.label < 0).any():
        raise Malformed("a label is negative, and objective=poisson counts")
    if objective == "gamma" and (rows.label <= 0).any():
        raise Malformed("a label is not above 0, as objective=gamma needs")
    if objective == "ranking":
        whole = (rows.label >= 0) & (rows.label <= 30) & (rows.label == np.floor(rows.label))
        if not whole.all():
            raise Malformed("labels of a ranking are whole numbers from 0 to 30")


def _split(rows: Rows, share: float, seed: int) -> tuple[Rows, Rows]:
    """Rows to train on and to test on; of rankings whole groups."""
    import numpy as np

    units = np.arange(len(rows.label)) if rows.groups is None else rows.groups
    known = np.unique(units)
    kept_out = np.random.default_rng(seed).permutation(known)[: round(share * len(known))]
    test = np.isin(units, kept_out)
    if not test.any() or test.all():
        raise Malformed("test_share leaves no row to train on, or none to test on")

    def part(chosen: Any) -> Rows:
        return Rows(
            rows.features[chosen],
            rows.names,
            rows.categorical,
            rows.label[chosen],
            None if rows.weight is None else rows.weight[chosen],
            None if rows.groups is None else rows.groups[chosen],
        )

    return part(~test), part(test)


def _predicted(forest: TreeModel, features: Any) -> Any:
    import numpy as np

    columns = [np.ascontiguousarray(column) for column in features.T]
    found = np.frombuffer(forest.predict(columns, len(features)))
    return found.reshape(len(features), -1) if forest.outputs > 1 else found


def _measured(objective: str, rows: Rows, found: Any) -> list[tuple[str, float | None]]:
    import numpy as np
    from sklearn import metrics

    label, weight = rows.label, rows.weight
    if weight is not None and not weight.any():
        return []
    if objective == "ranking":
        return [("ndcg", _ndcg(label, rows.groups, found))]
    if objective in ("binary", "multiclass"):
        two = objective == "binary"
        chances = np.stack([1 - found, found], 1) if two else np.asarray(found)
        # Float32 does not add up to one in float64.
        chances = chances / chances.sum(axis=1, keepdims=True)
        measured = [
            (
                "log_loss",
                metrics.log_loss(label, chances, sample_weight=weight, labels=range(chances.shape[1])),
            ),
            ("accuracy", metrics.accuracy_score(label, chances.argmax(axis=1), sample_weight=weight)),
        ]
        if two:
            defined = len(np.unique(label)) == 2
            measured.append(
                ("auc", metrics.roc_auc_score(label, found, sample_weight=weight) if defined else None)
            )
    else:
        measured = [
            ("rmse", metrics.root_mean_squared_error(label, found, sample_weight=weight)),
            ("mae", metrics.mean_absolute_error(label, found, sample_weight=weight)),
            ("r2", metrics.r2_score(label, found, sample_weight=weight) if len(label) > 1 else None),
        ]
    return [(name, None if value is None else float(value)) for name, value in measured]


def _ndcg(label: Any, groups: Any, found: Any) -> float | None:
    """The mean over all groups of more than one row."""
    import numpy as np
    from sklearn import metrics

    values = [
        metrics.ndcg_score([label[groups == group]], [found[groups == group]])
        for group in np.unique(groups)
        if (groups == group).sum() > 1
    ]
    return float(np.mean(values)) if values else None
