"""What the built-in learners find out, as a document that others keep, exchange and predict with (docs/learning.md).

A document is strict JSON: what it is (`kind`, `version`), which columns it looks at and how it makes numbers of them
(`columns`), and its parameters. Nothing in it is code. Whoever reads one takes it for hostile: `read` refuses what
does not fit together, with the reason.

A column gives one feature, its number, or, if it has `levels`, one feature for each level but the `reference`, which
is 1 where the value is this level and 0 elsewhere; levels are texts, as `text_of` writes values. Features stand in
the order of the columns.

>>> age = Feature(name="age", levels=None, reference=None)
>>> line = Linear(
...     kind="linear", version=1, columns=(age,), family="gaussian", link="identity", intercept=1.0,
...     coefficients=(2.0,), offset=None, classes=None,
... )
>>> read(write(line)) == line
True
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Final, Literal

from pydantic import Field, RootModel, ValidationError, model_validator

from ..errors import Malformed
from . import limits
from .jsonstrict import canonical, parse_object
from .model import Column, Model, malformed

VERSION: Final = 1
KINDS: Final = ("linear", "k_means", "naive_bayes", "svm", "gaussian_mixture", "pca")

Level = Annotated[str, Field(max_length=limits.LEARNED_LEVEL_CHARS)]
Label = bool | int | float | Level
"""A class as the training data had it: all of one model are of one type, and stand in order."""
Numbers = Annotated[tuple[float, ...], Field(max_length=limits.LEARNED_NUMBERS)]
Matrix = Annotated[tuple[Numbers, ...], Field(max_length=limits.LEARNED_NUMBERS)]
Family = Literal["gaussian", "binomial", "poisson", "gamma", "inverse_gaussian", "negative_binomial"]
Link = Literal["identity", "log", "logit", "probit", "inverse", "inverse_squared", "cloglog"]


class Feature(Model):
    """A column, and how numbers are made of it."""

    name: Column
    levels: Annotated[tuple[Level, ...], Field(min_length=1, max_length=limits.LEARNED_LEVELS)] | None
    """Of a column of categories, each once; None for one of numbers."""
    reference: Level | None
    """The level without a feature of its own; None if each has one."""

    @property
    def width(self) -> int:
        """How many features it gives."""
        return 1 if self.levels is None else len(self.levels) - (self.reference is not None)

    @model_validator(mode="after")
    def _consistent(self) -> Feature:
        if len(set(self.levels or ())) != len(self.levels or ()):
            raise ValueError("each level is named once")
        if self.reference is not None and self.reference not in (self.levels or ()):
            raise ValueError("the reference is one of the levels")
        return self


def _shape(what: str, matrix: tuple[tuple[float, ...], ...], rows: int, columns: int) -> None:
    if len(matrix) != rows or any(len(row) != columns for row in matrix):
        raise ValueError(f"{what} has {rows} rows of {columns} numbers")


def _length(what: str, numbers: tuple[Any, ...], length: int) -> None:
    if len(numbers) != length:
        raise ValueError(f"{what} has {length} numbers, one for each")


def _positive(what: str, numbers: tuple[float, ...]) -> None:
    if not all(number > 0 for number in numbers):
        raise ValueError(f"{what} are above 0")


def _ordered(classes: tuple[Label, ...]) -> None:
    """Labels of one type, each once."""
    if len({type(label) for label in classes}) > 1:
        raise ValueError("all classes are of one type")
    if any(not before < after for before, after in pairwise(classes)):  # type: ignore[operator]  # of one type
        raise ValueError("classes stand in order, each once")


class _Document(Model):
    version: Literal[1]
    columns: Annotated[tuple[Feature, ...], Field(max_length=limits.LEARNED_COLUMNS)]

    @property
    def width(self) -> int:
        """How many features there are."""
        return sum(column.width for column in self.columns)

    @model_validator(mode="after")
    def _columns_once(self) -> _Document:
        if len({column.name for column in self.columns}) != len(self.columns):
            raise ValueError("each column is named once")
        if self.width > limits.LEARNED_FEATURES:
            raise ValueError(f"there are at most {limits.LEARNED_FEATURES} features")
        return self


class Linear(_Document):
    """A generalised linear model: the link of the mean is intercept + offset + the sum of coefficients * features."""

    kind: Literal["linear"]
    family: Family
    link: Link
    intercept: float
    coefficients: Numbers
    offset: Column | None
    """A column that is added as it is."""
    classes: Annotated[tuple[Label, Label], Field()] | None
    """Of a classifier: the mean is the probability of the second one."""

    @model_validator(mode="after")
    def _consistent(self) -> Linear:
        _length("coefficients", self.coefficients, self.width)
        if self.classes is not None:
            if type(self.classes[0]) is not type(self.classes[1]) or self.classes[0] == self.classes[1]:
                raise ValueError("the two classes are different, and of one type")
            if self.family != "binomial":
                raise ValueError("only the family binomial has classes")
        return self


class _Scaled(_Document):
    """Each feature has its `centre` taken away and is divided by its `scale` before anything else."""

    centre: Numbers
    scale: Numbers

    @model_validator(mode="after")
    def _scaled(self) -> _Scaled:
        _length("centre", self.centre, self.width)
        _length("scale", self.scale, self.width)
        _positive("scales", self.scale)
        return self


class KMeans(_Scaled):
    """Clusters by the nearest of `centres`, which are scaled as the features are; clusters are numbered from 1."""

    kind: Literal["k_means"]
    centres: Annotated[Matrix, Field(min_length=1, max_length=limits.LEARNED_GROUPS)]

    @model_validator(mode="after")
    def _consistent(self) -> KMeans:
        _shape("centres", self.centres, len(self.centres), self.width)
        return self


class NaiveBayes(_Document):
    """Classes by features that are independent within each class.

    ``gaussian``: `means` and `variances`, a row for each class. ``multinomial``: features are counts, `log_shares` a
    row for each class. ``categorical``: every column has levels and no reference, `log_shares` of its features.
    """

    kind: Literal["naive_bayes"]
    distribution: Literal["gaussian", "multinomial", "categorical"]
    classes: Annotated[tuple[Label, ...], Field(min_length=2, max_length=limits.LEARNED_GROUPS)]
    log_priors: Numbers
    means: Matrix | None
    variances: Matrix | None
    log_shares: Matrix | None

    @model_validator(mode="after")
    def _consistent(self) -> NaiveBayes:
        _ordered(self.classes)
        rows = len(self.classes)
        _length("log_priors", self.log_priors, rows)
        gaussian = self.distribution == "gaussian"
        if (self.means is not None, self.variances is not None, self.log_shares is not None) != (
            gaussian,
            gaussian,
            not gaussian,
        ):
            raise ValueError("means and variances are for gaussian, log_shares for the others")
        for what in ("means", "variances", "log_shares"):
            if (matrix := getattr(self, what)) is not None:
                _shape(what, matrix, rows, self.width)
        for row in self.variances or ():
            _positive("variances", row)
        if any(
            (column.levels is not None) != (self.distribution == "categorical") for column in self.columns
        ):
            raise ValueError("columns have levels if, and only if, the distribution is categorical")
        if any(column.reference is not None for column in self.columns):
            raise ValueError("no level is left out")
        return self


class Svm(_Scaled):
    """A support vector machine for classes, or, without `classes`, for a number.

    ``linear``: `weights` and `intercepts`, one for each pair of classes (first with second, first with third, ...) or
    one. ``rbf``: `vectors`, in the order of their classes, of which each has `counts`, and `weights`: those that
    libsvm calls dual coefficients, a row for each class but one. A pair's decision above 0 is for its first class, as
    in libsvm; most votes win, and of several the first.
    """

    kind: Literal["svm"]
    kernel: Literal["linear", "rbf"]
    classes: Annotated[tuple[Label, ...], Field(min_length=2, max_length=limits.LEARNED_SVM_CLASSES)] | None
    gamma: Annotated[float, Field(gt=0)] | None
    vectors: Matrix | None
    counts: tuple[Annotated[int, Field(ge=0)], ...] | None
    weights: Matrix
    intercepts: Numbers

    @model_validator(mode="after")
    def _consistent(self) -> Svm:
        groups = 2 if self.classes is None else len(self.classes)
        if self.classes is not None:
            _ordered(self.classes)
        pairs = groups * (groups - 1) // 2
        _length("intercepts", self.intercepts, pairs)
        rbf = self.kernel == "rbf"
        if (self.vectors is not None) != rbf or (self.gamma is not None) != rbf:
            raise ValueError("vectors and gamma are for rbf")
        if (self.counts is not None) != (rbf and self.classes is not None):
            raise ValueError("counts are for rbf with classes")
        if self.vectors is None:
            _shape("weights", self.weights, pairs, self.width)
            return self
        _shape("vectors", self.vectors, len(self.vectors), self.width)
        _shape("weights", self.weights, groups - 1, len(self.vectors))
        if self.counts is not None and (len(self.counts) != groups or sum(self.counts) != len(self.vectors)):
            raise ValueError("counts say for each class how many of the vectors are its")
        return self


class GaussianMixture(_Scaled):
    """Normal distributions with `weights`, `means` and whole `covariances`, of features that are scaled."""

    kind: Literal["gaussian_mixture"]
    weights: Annotated[Numbers, Field(min_length=1, max_length=limits.LEARNED_GROUPS)]
    means: Matrix
    covariances: Annotated[tuple[Matrix, ...], Field(max_length=limits.LEARNED_GROUPS)]

    @model_validator(mode="after")
    def _consistent(self) -> GaussianMixture:
        groups = len(self.weights)
        _positive("weights", self.weights)
        _shape("means", self.means, groups, self.width)
        _length("covariances", self.covariances, groups)
        for matrix in self.covariances:
            _shape("a covariance", matrix, self.width, self.width)
            if any(matrix[i][j] != matrix[j][i] for i in range(self.width) for j in range(i)):
                raise ValueError("a covariance is symmetric")
        return self


class Pca(_Scaled):
    """Principal components: scores are the features times each of `directions`."""

    kind: Literal["pca"]
    directions: Annotated[Matrix, Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Pca:
        _shape("directions", self.directions, len(self.directions), self.width)
        return self


Document = Linear | KMeans | NaiveBayes | Svm | GaussianMixture | Pca


class _Any(RootModel[Annotated[Document, Field(discriminator="kind")]]):
    """Whichever its `kind` says."""


def write(document: Document) -> bytes:
    """The one text of a document. Raises `Malformed` if it is longer than what is read."""
    data = canonical(document.model_dump(mode="json"))
    if len(data) > limits.LEARNED_BYTES:
        raise Malformed(
            f"the model would have {len(data)} bytes, the limit is {limits.LEARNED_BYTES}",
            hint="train with fewer columns or levels; a support vector machine also with fewer rows",
        )
    return data


def read(data: bytes) -> Document:
    """A document of anybody's. Raises `Malformed` or `TooLarge`, naming the field, never a value."""
    # 1. By the strict parser, for the text as such; 2. by the model. Both read the same bytes, and after 1. in one way.
    found = parse_object(data, limit=limits.LEARNED_BYTES)
    if found.get("kind") not in KINDS:
        raise Malformed(
            f"the model has no kind of {', '.join(KINDS)}", hint="is it a model of a built-in learner?"
        )
    if found.get("version") is True or found.get("version") != VERSION:
        raise Malformed(
            f"the model has another version than {VERSION}", hint="train it anew, or use a newer MesaTEE"
        )
    try:
        return _Any.model_validate_json(data).root
    except ValidationError as error:
        raise malformed("the model", error) from None


__all__ = [
    "KINDS",
    "VERSION",
    "Document",
    "Family",
    "Feature",
    "GaussianMixture",
    "KMeans",
    "Label",
    "Linear",
    "Link",
    "NaiveBayes",
    "Pca",
    "Svm",
    "read",
    "write",
]
