"""Maximum likelihood of generalised linear models, with or without a squared penalty, by scoring.

Each step is a least-squares problem that is solved by QR decomposition, in blocks of rows, of features that are
centred and scaled, for the change of the coefficients: so rounding shrinks with the steps. Of binomial models with
the link logit, of Poisson models with log and of gaussian ones with identity these are the steps of Newton.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from mesatee.enclave.functions._design import Design
from mesatee.enclave.functions._glm import Mean, Model, apply_link, inverse_link
from mesatee.enclave.functions._statistics import total
from mesatee.errors import Malformed

STEPS: Final = 200
HALVINGS: Final = 40
BLOCK: Final = 8_192
"""Rows that are decomposed at once."""
COLLINEAR: Final = 1e-14
"""What the others leave unexplained of a feature that follows from them, as a share of its squares."""
CONVERGED: Final = 1e-24
"""Of the deviance: a step that can lower it by no more is the last one."""
STILL: Final = 1e-11
"""A step that changes no row's predictor by more than this share is the last one too."""
_PERFECT: Final = 1e-22
"""A share of the deviance of the model without columns that is rounding, and nothing else."""
_AWAY: Final = 0.3
"""How far a step must move a row's predictor to be one of those that never end."""
_BACK: Final = 1e-9
"""As a share of that, what is rounding in the other rows."""
_SOLVED: Final = 1e-6
"""The same for the solution of a linear program."""


_FLAT: Final = 1e-5
"""What is left of the slope at an optimum, as a share of the rows' pulls, which cancel each other there."""
_ROUNDING: Final = 1e-14
"""Of a target: pulls that are smaller than this are no pulls."""


SEARCHED: Final = 4_000_000
"""Numbers of a matrix in which separation is looked for by a linear program."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Estimates in the features' own units, the intercept (if there is one) first: shape (terms,), covariance
    (terms, terms). `degrees` is rows less those that the coefficients take up. `dispersion` is 0 for a perfect fit.
    """

    estimates: Any
    covariance: Any
    degrees: float
    dispersion: float
    deviance: float
    null_deviance: float
    pearson: float
    steps: int
    mean: Any


class _Problem:
    """Features as they are worked with: `matrix` is centred (if there is an intercept) and scaled."""

    def __init__(self, model: Model, design: Design, intercept: bool, penalty: float, scale: bool) -> None:
        import numpy as np

        self.model, self.intercept = model, intercept
        self.target = design.target
        rows = design.rows
        self.weights = np.ones(rows) if design.weights is None else design.weights
        self.offset = np.zeros(rows) if design.offset is None else design.offset
        raw = design.matrix
        self.means = raw.mean(axis=0) if intercept else np.zeros(raw.shape[1])
        away = raw - self.means
        self.scales = np.sqrt((away * away).mean(axis=0))
        self.names = ["(intercept)"] * intercept + [name for name, _, _ in design.features]
        if not intercept and (self.scales == 0).any():
            raise Malformed(
                f"the column {self.names[int(np.argmin(self.scales))]!r} is 0 everywhere: leave it out"
            )
        away /= self.scales
        self.matrix = np.column_stack([np.ones(rows), away]) if intercept else away
        # The penalty is on coefficients of the features as they came, or of scaled ones.
        plain = np.full(raw.shape[1], penalty) / (1.0 if scale else self.scales**2)
        self.penalties = np.concatenate([np.zeros(int(intercept)), plain])

    def predictor(self, beta: Any) -> Any:
        return self.matrix @ beta + self.offset

    def objective(self, beta: Any, mean: Mean) -> float:
        return self.deviance(mean) + float((self.penalties * beta * beta).sum())

    def deviance(self, mean: Mean) -> float:
        return total(self.weights * self.model.deviances(self.target, mean))

    def triangle(self, root: Any, response: Any) -> Any:
        """The upper triangle of the QR decomposition of rows * `root` beside `response`."""
        import numpy as np

        width = self.matrix.shape[1] + 1
        found: Any = np.zeros((0, width))
        for at in range(0, len(self.matrix), BLOCK):
            rows = slice(at, at + BLOCK)
            block = np.column_stack([self.matrix[rows] * root[rows, None], response[rows]])
            found = np.linalg.qr(np.vstack([found, block]), mode="r")
        return found

    def independent(self) -> None:
        """Raises `Malformed`, naming the column, if a feature follows from those before it."""
        import numpy as np

        width = self.matrix.shape[1]
        root = np.sqrt(self.weights)
        found = self.triangle(root, np.zeros(len(root)))[:width, :width]
        left = np.zeros(width)
        left[: len(found)] = np.abs(np.diag(found))
        lengths = np.sqrt((found**2).sum(axis=0))
        follows = left**2 <= COLLINEAR * lengths**2
        if follows.any():
            raise Malformed(
                f"the column {self.names[int(np.argmax(follows))]!r} follows from others: no coefficient is its own",
                hint="leave it out (for categories: merge levels), or set a penalty",
            )


def fit(model: Model, design: Design, *, intercept: bool, penalty: float = 0.0, scale: bool = False) -> Fit:
    """The model of most likelihood, less `penalty` / 2 times the squares of coefficients other than the intercept.

    Raises `Malformed` if there is no one such model: collinear features, too few rows, no finite optimum.
    """
    if not 0 <= penalty <= 1e12:
        raise Malformed("penalty is 0 or more, at most 1e12")
    width = design.matrix.shape[1] + intercept
    if not width:
        raise Malformed("a model without an intercept needs a column")
    if not penalty and design.rows <= width - (model.family not in ("gaussian", "gamma", "inverse_gaussian")):
        raise Malformed(
            f"{design.rows} rows with a value in every column are too few for {width} coefficients",
            hint="leave columns out, or set a penalty",
        )
    if design.rows < 2:
        raise Malformed("two rows with a value in every column are needed at least")
    model.check(design.target)
    if intercept:
        design.varies()
    problem = _Problem(model, design, intercept, penalty, scale)
    if not penalty:
        problem.independent()
    try:
        beta, mean, steps = _optimum(problem)
    except Malformed:
        if not penalty:
            _separated(problem)
        raise
    return _inference(problem, beta, mean, steps, _null_deviance(problem))


def _optimum(problem: _Problem) -> tuple[Any, Mean, int]:
    import numpy as np

    model = problem.model
    width = problem.matrix.shape[1]
    ends = model.ends(problem.target)
    unbounded = bool(ends.any()) and not problem.penalties[int(problem.intercept) :].any()
    beta = np.zeros(width)
    mean = inverse_link(model.link, apply_link(model.link, model.start(problem.target, problem.weights)))
    predictor = apply_link(model.link, mean.value)
    # 1. The first step goes from a mean for each row, to which no coefficients belong, 2. the others change them.
    base = _constant(problem)
    old = np.inf
    for step in range(1, STEPS + 1):
        away = predictor - problem.offset if step == 1 else np.zeros(len(predictor))
        change = _step(problem, mean, beta, away)
        if step > 1:
            moved = problem.matrix @ change
            # Where each outcome is told, the coefficients themselves are a way without an end.
            way = change if _endless(ends, moved) else beta
            if unbounded and _endless(ends, problem.matrix @ way):
                raise _without_end(problem, way)
            gain = _squares(problem, mean, moved, change)
            done = gain <= CONVERGED * max(old, np.finfo(float).tiny) or (
                np.abs(moved).max() <= STILL * (1 + np.abs(predictor).max())
            )
        else:
            done = False
        start = base if step == 1 else beta
        full = change if step == 1 else beta + change
        for _ in range(HALVINGS):
            predictor = problem.predictor(full)
            found = inverse_link(model.link, predictor)
            if model.holds(problem.target, found).all():
                new = problem.objective(full, found)
                if np.isfinite(new) and (done or new <= old + 1e-12 * abs(old)):
                    break
            if start is None:
                raise Malformed(
                    f"the link {model.link} gives means that the family {model.family} does not have",
                    hint="choose another link",
                )
            full = start + (full - start) / 2
        else:
            raise Malformed(_NO_END, hint=_NO_END_HINT)
        beta, mean, old = full, found, new
        if done:
            _at_an_optimum(problem, beta, mean)
            return beta, mean, step
    raise Malformed(_NO_END, hint=_NO_END_HINT)


_NO_END: Final = (
    "the model does not converge: the columns tell nearly all outcomes, or the best coefficients lie at the border of "
    "what the link allows"
)
_NO_END_HINT: Final = "choose another link, leave columns out, or set a penalty"


def _at_an_optimum(problem: _Problem, beta: Any, mean: Mean) -> None:
    """Raises `Malformed` where steps end because the link allows no more, and not because the slope is 0."""
    import numpy as np

    if problem.model.link == "identity" and problem.model.family == "gaussian":
        return
    root, residual = _roots(problem, mean)
    pull = root * residual
    with np.errstate(all="ignore"):
        rounding = np.abs(root * np.sqrt(problem.weights) * problem.target) / np.sqrt(
            problem.model.variance(mean)
        )
    rounding = np.where(np.isfinite(rounding), rounding, 0.0)
    slope = np.abs(problem.matrix.T @ pull - problem.penalties * beta)
    sizes = np.abs(problem.matrix).T @ (np.abs(pull) + _ROUNDING * rounding)
    if not (slope <= _FLAT * (sizes + np.abs(problem.penalties * beta))).all():
        raise Malformed(_NO_END, hint=_NO_END_HINT)


def _constant(problem: _Problem) -> Any | None:
    """Coefficients of the model that has the same mean for all rows, if it has one."""
    import numpy as np

    if not problem.intercept:
        return None
    middle = float(np.average(problem.target, weights=problem.weights))
    found = np.zeros(problem.matrix.shape[1])
    level = apply_link(problem.model.link, np.asarray(middle)) - float(
        np.average(problem.offset, weights=problem.weights)
    )
    if not np.isfinite(level):
        return None
    found[0] = level
    mean = inverse_link(problem.model.link, problem.predictor(found))
    return found if problem.model.holds(problem.target, mean).all() else None


def _roots(problem: _Problem, mean: Mean) -> tuple[Any, Any]:
    """Square roots of the working weights, and the residuals in units of the standard deviation."""
    import numpy as np

    scale = np.sqrt(problem.weights)
    slope, residual = problem.model.scores(problem.target, mean)
    root, residual = scale * slope, scale * residual
    if not (np.isfinite(root).all() and np.isfinite(residual).all()):
        raise Malformed(_NO_END, hint=_NO_END_HINT)
    return root, residual


def _step(problem: _Problem, mean: Mean, beta: Any, away: Any) -> Any:
    import numpy as np
    from scipy.linalg import solve_triangular

    width = len(beta)
    root, residual = _roots(problem, mean)
    found = problem.triangle(root, residual + root * away)
    if problem.penalties.any():
        pull = np.sqrt(problem.penalties)
        found = np.linalg.qr(np.vstack([found, np.column_stack([np.diag(pull), -pull * beta])]), mode="r")
    if len(found) < width:
        found = np.vstack([found, np.zeros((width - len(found), width + 1))])
    upper = found[:width, :width]
    diagonal = np.abs(np.diag(upper))
    if not (diagonal > 1e-14 * max(diagonal.max(), 1e-300)).all():
        # Weights that vanish: the outcome of nearly all rows is certain.
        raise Malformed(
            "there is no finite optimum, or none that can be computed: the columns tell nearly all outcomes",
            hint="leave columns out, or set a penalty",
        )
    return solve_triangular(upper, found[:width, width])


def _squares(problem: _Problem, mean: Mean, moved: Any, change: Any) -> float:
    """By how much a step lowers the deviance, near the optimum."""
    root, _ = _roots(problem, mean)
    return float(((root * moved) ** 2).sum() + (problem.penalties * change * change).sum())


def _endless(ends: Any, moved: Any, back: float = _BACK) -> bool:
    """Whether a change makes some rows likelier, and none less likely, however often it is made: then the likelihood
    has no maximum (Albert and Anderson 1984).
    """
    import numpy as np

    worth = ends * moved
    most = float(worth.max())
    if most < _AWAY:
        return False
    still = np.abs(moved[ends == 0]).max(initial=0.0)
    return bool(worth[ends != 0].min() >= -back * most and still <= back * most)


def _without_end(problem: _Problem, way: Any) -> Malformed:
    import numpy as np

    sizes = np.abs(way)
    if problem.intercept and len(sizes) > 1 and sizes[1:].max() > _SOLVED * sizes[0]:
        # The intercept only makes up for the others.
        sizes[0] = 0
    return Malformed(
        "there is no finite optimum: the columns tell some outcomes perfectly, most of all "
        f"{problem.names[int(np.argmax(sizes))]!r}",
        hint="leave that column out (for categories: merge levels), or set a penalty",
    )


def _separated(problem: _Problem) -> None:
    """Raises `Malformed` if there is a change of coefficients that makes some rows likelier and none less likely: the
    linear program of Konis (2007). Steps of scoring find it too, unless they lose themselves in rounding before.
    """
    import numpy as np
    from scipy.optimize import linprog

    ends = problem.model.ends(problem.target)
    if not ends.any() or problem.matrix.size > SEARCHED:
        return
    towards = problem.matrix[ends != 0] * ends[ends != 0, None]
    others = problem.matrix[ends == 0]
    found = linprog(
        -towards.sum(axis=0),
        A_ub=-towards,
        b_ub=np.zeros(len(towards)),
        A_eq=others if len(others) else None,
        b_eq=np.zeros(len(others)) if len(others) else None,
        bounds=(-1, 1),
        method="highs-ds",
    )
    if found.x is None:
        return
    most = float((towards @ found.x).max())
    if most > _SOLVED and _endless(ends, problem.matrix @ found.x / most, _SOLVED):
        raise _without_end(problem, found.x)


def _variant(problem: _Problem, matrix: Any, penalties: Any) -> _Problem:
    """The same rows with other features or penalties."""
    found = object.__new__(_Problem)
    found.__dict__.update(problem.__dict__)
    found.matrix, found.penalties = matrix, penalties
    return found


def _null_deviance(problem: _Problem) -> float:
    """Of the model with no columns: only the intercept, or, without one, only the offset."""
    import numpy as np

    model = problem.model
    if not problem.intercept:
        mean = inverse_link(model.link, problem.offset)
        return problem.deviance(mean) if model.holds(problem.target, mean).all() else np.nan
    if not problem.offset.any():
        middle = total(problem.weights * problem.target) / total(problem.weights)
        lowest, highest = float(problem.target.min()), float(problem.target.max())
        level = np.full(len(problem.target), min(max(middle, lowest), highest))
        mean = Mean(level, 1 - level, np.ones_like(level), np.ones(len(level), bool))
        found = problem.deviance(mean)
        return found if np.isfinite(found) else np.nan
    _, mean, _ = _optimum(_variant(problem, problem.matrix[:, :1], np.zeros(1)))
    return problem.deviance(mean)


def _inference(problem: _Problem, beta: Any, mean: Mean, steps: int, null_deviance: float) -> Fit:
    """Standard errors from the expected information; with a penalty, of the estimates as they are shrunk:
    H^-1 I H^-1 for the information I and H = I + penalty, and as many degrees as the trace of I H^-1 says.
    """
    import numpy as np
    from scipy.linalg import solve_triangular

    width = len(beta)
    root, residual = _roots(problem, mean)
    upper = problem.triangle(root, np.zeros(len(root)))[:width, :width]
    whole = upper
    if problem.penalties.any():
        whole = np.linalg.qr(np.vstack([upper, np.diag(np.sqrt(problem.penalties))]), mode="r")
    inverse = solve_triangular(whole, np.eye(width))
    hat = upper @ inverse
    rows = len(root)
    degrees = rows - (float((hat * hat).sum()) if problem.penalties.any() else width)
    pearson = total(residual * residual)
    deviance = max(problem.deviance(mean), 0.0)
    dispersion = 1.0
    if problem.model.family in ("gaussian", "gamma", "inverse_gaussian"):
        perfect = pearson <= _PERFECT * total(problem.weights * problem.target**2)
        dispersion = 0.0 if perfect else pearson / degrees
    half = inverse @ hat.T
    covariance = half @ half.T * dispersion
    # Back to the features' own units.
    back = np.diag(np.concatenate([np.ones(int(problem.intercept)), 1 / problem.scales]))
    if problem.intercept:
        back[0, 1:] = -problem.means / problem.scales
    return Fit(
        back @ beta,
        back @ covariance @ back.T,
        degrees,
        dispersion,
        deviance,
        null_deviance,
        pearson,
        steps,
        mean,
    )


__all__ = ["Fit", "fit"]
