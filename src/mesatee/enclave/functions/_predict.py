"""What each kind of model document says of rows: numbers in, numbers out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any, Final

from mesatee.enclave.functions._glm import inverse_link
from mesatee.enclave.functions._parties import Combined, combine, text_of
from mesatee.errors import Malformed
from mesatee.protocol import learned
from mesatee.protocol.learned import Document, Feature, Label
from mesatee.table import Table

CELLS: Final = 4_000_000
"""Numbers that are held at once of what is computed between rows and what a model keeps."""


@dataclass(frozen=True, slots=True)
class Features:
    """`matrix` of shape (rows, features); of rows that are not `complete` it means nothing."""

    matrix: Any
    complete: Any
    unknown: int
    """Rows with a level that the model does not know."""


@dataclass(frozen=True, slots=True)
class Said:
    """Of each row: columns of numbers (NaN for none), or places in `labels` (-1 for none)."""

    numbers: dict[str, Any]
    places: Any | None = None
    labels: Sequence[Label] = ()
    probabilities: dict[str, Any] | None = None


def rows_of(table: Table) -> Combined:
    """The rows of one table, in their order. Raises `Malformed`."""
    return combine("predict", {"rows": table}, "rows", None)


def encode(data: Combined, columns: Sequence[Feature]) -> Features:
    """The features of all rows, in their order. Raises `Malformed` for a column that is missing or of another kind."""
    import numpy as np

    matrix = np.zeros((data.rows, sum(column.width for column in columns)))
    complete, known = np.ones(data.rows, bool), np.ones(data.rows, bool)
    at = 0
    for column in columns:
        if column.levels is None:
            values = data.numbers(column.name)
            complete &= ~np.isnan(values)
            matrix[:, at] = values
        else:
            found = data.categories(column.name, most=None)
            complete &= found.codes >= 0
            place = {level: number for number, level in enumerate(column.levels)}
            # Of each label the level it is; what follows is for rows without a value.
            levels = np.array([*(place.get(text, -1) for text in found.texts), -1], np.int64)[found.codes]
            known &= (levels >= 0) | (found.codes < 0)
            shown = [number for number, level in enumerate(column.levels) if level != column.reference]
            matrix[:, at : at + len(shown)] = levels[:, None] == np.asarray(shown, np.int64)[None, :]
        at += column.width
    return Features(matrix, complete & known, int((complete & ~known).sum()))


def say(model: Document, matrix: Any, offset: Any | None) -> Said:
    """What a model says of rows that are complete. `offset` is for linear models that have one."""
    match model:
        case learned.Linear():
            return _linear(model, matrix, offset)
        case learned.KMeans():
            return _k_means(model, matrix)
        case learned.NaiveBayes():
            return _naive_bayes(model, matrix)
        case learned.Svm():
            return _svm(model, matrix)
        case learned.GaussianMixture():
            return _mixture(model, matrix)
        case learned.Pca():
            ready = _scaled(model, matrix)
            scores = ready @ _array(model.directions, ready.shape[1]).T
            return Said({f"pc{number + 1}": scores[:, number] for number in range(scores.shape[1])})


def _array(rows: Any, width: int) -> Any:
    import numpy as np

    return np.array(rows, np.float64).reshape(len(rows), width)


def _scaled(model: learned.KMeans | learned.Svm | learned.GaussianMixture | learned.Pca, matrix: Any) -> Any:
    import numpy as np

    return (matrix - np.array(model.centre, np.float64)) / np.array(model.scale, np.float64)


def _linear(model: learned.Linear, matrix: Any, offset: Any | None) -> Said:
    import numpy as np

    # Row by row, so that no row's digits depend on where it stands.
    predictor = (matrix * np.array(model.coefficients, np.float64)).sum(axis=1) + model.intercept
    if offset is not None:
        predictor = predictor + offset
    mean = inverse_link(model.link, predictor)
    value = np.where(mean.valid, mean.value, np.nan)
    if model.classes is None:
        return Said({"prediction": value})
    rest = np.where(mean.valid, mean.rest, np.nan)
    places = np.where(np.isnan(value), -1, (value > rest).astype(np.int64))
    return _classified({}, places, model.classes, np.column_stack([rest, value]))


def _classified(numbers: dict[str, Any], places: Any, labels: Sequence[Label], chances: Any) -> Said:
    names = named(labels)
    return Said(numbers, places, labels, {name: chances[:, at] for at, name in enumerate(names)})


def named(labels: Sequence[Label]) -> list[str]:
    """The columns of the probabilities of classes or groups."""
    return [f"probability.{text_of(label)}" for label in labels]


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Stretches of rows of which each takes `width` numbers."""
    size = max(1, CELLS // max(1, width))
    return (slice(at, at + size) for at in range(0, rows, size))


def distances(points: Any, others: Any) -> Any:
    """Squared distances, shape (points, others), each by itself: without what squares that cancel would cost."""
    import numpy as np

    found = np.empty((len(points), len(others)))
    for at, other in enumerate(others):
        found[:, at] = ((points - other) ** 2).sum(axis=1)
    return found


def _k_means(model: learned.KMeans, matrix: Any) -> Said:
    import numpy as np

    ready = _scaled(model, matrix)
    found = distances(ready, _array(model.centres, ready.shape[1]))
    nearest = found.argmin(axis=1)
    return Said(
        {"distance": np.sqrt(found[np.arange(len(found)), nearest])},
        nearest,
        range(1, len(model.centres) + 1),
    )


def _naive_bayes(model: learned.NaiveBayes, matrix: Any) -> Said:
    import numpy as np

    width = matrix.shape[1]
    joint = np.tile(np.array(model.log_priors, np.float64), (len(matrix), 1))
    if model.means is not None and model.variances is not None:
        means, variances = _array(model.means, width), _array(model.variances, width)
        for at in range(len(means)):
            joint[:, at] -= 0.5 * np.log(2 * np.pi * variances[at]).sum()
            joint[:, at] -= 0.5 * ((matrix - means[at]) ** 2 / variances[at]).sum(axis=1)
    elif model.log_shares is not None:
        if model.distribution == "multinomial" and (matrix < 0).any():
            raise Malformed("a column has counts below 0, of which the model says nothing")
        joint += matrix @ _array(model.log_shares, width).T
    return _most(joint, model.classes)


def _most(joint: Any, labels: Sequence[Label]) -> Said:
    """The label of most joint likelihood, and the share of each; none where numbers are too large."""
    import numpy as np
    from scipy.special import logsumexp

    good = ~np.isnan(joint).any(axis=1) & (joint.max(axis=1) > -np.inf) & (joint.max(axis=1) < np.inf)
    joint = np.where(good[:, None], joint, 0.0)
    chances = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    chances[~good] = np.nan
    return _classified({}, np.where(good, joint.argmax(axis=1), -1), labels, chances)


def _svm(model: learned.Svm, matrix: Any) -> Said:
    import numpy as np

    decisions = _decisions(model, _scaled(model, matrix))
    if model.classes is None:
        return Said({"prediction": decisions[:, 0]})
    votes = np.zeros((len(matrix), len(model.classes)))
    for at, (first, second) in enumerate(combinations(range(len(model.classes)), 2)):
        won = decisions[:, at] > 0
        votes[won, first] += 1
        votes[~won, second] += 1
    places = np.where(np.isfinite(decisions).all(axis=1), votes.argmax(axis=1), -1)
    # Above 0 for the second class, as with all others that have two.
    numbers = {"decision": -decisions[:, 0]} if len(model.classes) == 2 else {}
    return Said(numbers, places, model.classes)


def _decisions(model: learned.Svm, ready: Any) -> Any:
    """For each pair of classes, or the number, shape (rows, pairs)."""
    import numpy as np

    shift = np.array(model.intercepts, np.float64)
    if model.vectors is None:
        return ready @ _array(model.weights, ready.shape[1]).T + shift
    vectors = _array(model.vectors, ready.shape[1])
    weights = _array(model.weights, len(vectors))
    found = np.empty((len(ready), len(shift)))
    groups = [(0, len(vectors))]
    if model.counts is not None:
        ends = np.cumsum([0, *model.counts]).tolist()
        groups = list(pairwise(ends))
    for rows in blocks(len(ready), len(vectors)):
        kernel = np.exp(-(model.gamma or 0.0) * distances(ready[rows], vectors))
        if model.counts is None:
            found[rows] = kernel @ weights.T + shift
            continue
        for at, (first, second) in enumerate(combinations(range(len(groups)), 2)):
            one, other = slice(*groups[first]), slice(*groups[second])
            found[rows, at] = (
                kernel[:, one] @ weights[second - 1, one]
                + kernel[:, other] @ weights[first, other]
                + shift[at]
            )
    return found


def _mixture(model: learned.GaussianMixture, matrix: Any) -> Said:
    import numpy as np
    from scipy.linalg import solve_triangular

    ready = _scaled(model, matrix)
    width = ready.shape[1]
    joint = np.empty((len(ready), len(model.weights)))
    for at, (weight, mean, covariance) in enumerate(
        zip(model.weights, model.means, model.covariances, strict=True)
    ):
        try:
            root = np.linalg.cholesky(_array(covariance, width))
        except np.linalg.LinAlgError:
            raise Malformed("a covariance of the model is none: it is not positive definite") from None
        away = solve_triangular(root, (ready - np.array(mean)).T, lower=True, check_finite=False)
        joint[:, at] = (
            np.log(weight)
            - 0.5 * (width * np.log(2 * np.pi) + (away**2).sum(axis=0))
            - np.log(np.diag(root)).sum()
        )
    return _most(joint, range(1, len(model.weights) + 1))


__all__ = ["CELLS", "Features", "Said", "blocks", "distances", "encode", "named", "rows_of", "say"]
