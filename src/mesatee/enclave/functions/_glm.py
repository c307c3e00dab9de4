"""Families and links of generalised linear models (McCullagh and Nelder 1989), elementwise.

What is near 1 is kept as its distance from 1 too: of a probability of 1 - 1e-20 nothing would be left otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from mesatee.errors import Malformed

FAMILIES: Final = ("gaussian", "binomial", "poisson", "gamma", "inverse_gaussian", "negative_binomial")
LINKS: Final = ("identity", "log", "logit", "probit", "inverse", "inverse_squared", "cloglog")
DEFAULT_LINK: Final = {
    "gaussian": "identity",
    "binomial": "logit",
    "poisson": "log",
    "gamma": "inverse",
    "inverse_gaussian": "inverse_squared",
    "negative_binomial": "log",
}
_ALLOWED: Final = {
    "gaussian": ("identity", "log", "inverse"),
    "binomial": ("logit", "probit", "cloglog", "log", "identity"),
    "poisson": ("log", "identity"),
    "gamma": ("inverse", "log", "identity"),
    "inverse_gaussian": ("inverse_squared", "inverse", "log", "identity"),
    "negative_binomial": ("log", "identity"),
}
ESTIMATED: Final = frozenset({"gaussian", "gamma", "inverse_gaussian"})
"""Families whose dispersion is estimated; of the others it is 1."""
_FAR: Final = 700.0
"""exp of more does not fit."""


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of each row, its distance from 1, its derivative by the predictor, and which rows may have it."""

    value: Any
    rest: Any
    slope: Any
    valid: Any


def inverse_link(link: str, predictor: Any) -> Mean:
    """The mean of what a row's predictor is, shape (rows,); `valid` is whether the link has such a mean."""
    import numpy as np
    from scipy import special

    eta = np.asarray(predictor, np.float64)
    anywhere = np.isfinite(eta)
    with np.errstate(all="ignore"):
        match link:
            case "identity":
                return Mean(eta, 1 - eta, np.ones_like(eta), anywhere)
            case "log":
                mean = np.exp(np.minimum(eta, _FAR))
                return Mean(mean, -np.expm1(np.minimum(eta, _FAR)), mean, anywhere & (eta < _FAR))
            case "logit":
                mean, rest = special.expit(eta), special.expit(-eta)
                return Mean(mean, rest, mean * rest, anywhere)
            case "probit":
                slope = np.exp(-eta * eta / 2) / np.sqrt(2 * np.pi)
                return Mean(special.ndtr(eta), special.ndtr(-eta), slope, anywhere)
            case "cloglog":
                rate = np.exp(np.minimum(eta, _FAR))
                rest = np.exp(-rate)
                return Mean(-np.expm1(-rate), rest, rate * rest, anywhere)
            case "inverse":
                mean = 1 / eta
                return Mean(mean, 1 - mean, -mean * mean, anywhere & (eta != 0))
            case _:  # inverse_squared
                mean = 1 / np.sqrt(eta)
                return Mean(mean, 1 - mean, -(mean**3) / 2, anywhere & (eta > 0))


def apply_link(link: str, mean: Any) -> Any:
    """The predictor of a mean, the reverse of `inverse_link`."""
    import numpy as np
    from scipy import special

    mean = np.asarray(mean, np.float64)
    with np.errstate(all="ignore"):
        match link:
            case "identity":
                return mean
            case "log":
                return np.log(mean)
            case "logit":
                return special.logit(mean)
            case "probit":
                return special.ndtri(mean)
            case "cloglog":
                return np.log(-np.log1p(-mean))
            case "inverse":
                return 1 / mean
            case _:
                return mean**-2.0


@dataclass(frozen=True, slots=True)
class Model:
    """A family with a link; `alpha` is the negative binomial's, whose variance is mean + alpha * mean^2."""

    family: str
    link: str
    alpha: float = 1.0

    def check(self, target: Any) -> None:
        """Raises `Malformed` for a target, shape (rows,), that the family does not have."""
        import numpy as np

        match self.family:
            case "binomial":
                good, said = (target >= 0) & (target <= 1), "from 0 to 1"
            case "poisson" | "negative_binomial":
                good, said = target >= 0, "0 or more"
            case "gamma" | "inverse_gaussian":
                good, said = target > 0, "above 0"
            case _:
                return
        if not np.all(good):
            raise Malformed(f"the target has values that are not {said}, as the family {self.family} asks")

    def start(self, target: Any, weights: Any) -> Any:
        """A mean for each row to begin with."""
        import numpy as np

        match self.family:
            case "binomial":
                return (weights * target + 0.5) / (weights + 1)
            case "poisson" | "negative_binomial":
                return target + 0.1
            case "gaussian" if self.link != "identity":
                middle = float(np.average(target, weights=weights))
                return (
                    np.full_like(target, middle)
                    if self.link == "inverse" or middle <= 0
                    else (np.maximum(target, middle / 10))
                )
            case _:
                return target

    def holds(self, target: Any, mean: Mean) -> Any:
        """Whether each row's mean is one that the family has, and under which the target can be."""
        match self.family:
            case "binomial":
                low, high = mean.value > 0, mean.rest > 0
                if self.link in ("logit", "probit", "cloglog"):
                    # What is certain but for rounding may be, if it is so.
                    low, high = low | (target == 0), high | (target == 1)
                return mean.valid & low & high
            case "gaussian":
                return mean.valid
            case _:
                return mean.valid & (mean.value > 0)

    def variance(self, mean: Mean) -> Any:
        """Of a row with dispersion 1."""
        match self.family:
            case "gaussian":
                return mean.value * 0 + 1
            case "binomial":
                return mean.value * mean.rest
            case "poisson":
                return mean.value
            case "gamma":
                return mean.value**2
            case "inverse_gaussian":
                return mean.value**3
            case _:
                return mean.value + self.alpha * mean.value**2

    def scores(self, target: Any, mean: Mean) -> tuple[Any, Any]:
        """Slopes and residuals in units of a row's standard deviation; 0 where a row is certain and so."""
        import numpy as np

        with np.errstate(all="ignore"):
            variance = self.variance(mean)
            spread = np.sqrt(variance)
            slope, residual = mean.slope / spread, self.residual(target, mean) / spread
        if self.link in ("logit", "probit", "cloglog"):
            slope, residual = (np.where(variance > 0, item, 0.0) for item in (slope, residual))
        return slope, residual

    def residual(self, target: Any, mean: Mean) -> Any:
        """Target less mean, without the digits that a mean near 1 would cost."""
        import numpy as np

        if self.family != "binomial":
            return target - mean.value
        return np.where(target > 0.5, mean.rest - (1 - target), target - mean.value)

    def deviances(self, target: Any, mean: Mean) -> Any:
        """Each row's part of the deviance, for weight 1."""
        import numpy as np
        from scipy.special import xlogy

        y, mu = target, mean.value
        with np.errstate(all="ignore"):
            match self.family:
                case "gaussian":
                    return (y - mu) ** 2
                case "binomial":
                    return 2 * (
                        xlogy(y, np.where(y > 0, y, 1))
                        - xlogy(y, mu)
                        + xlogy(1 - y, np.where(y < 1, 1 - y, 1))
                        - xlogy(1 - y, mean.rest)
                    )
                case "poisson":
                    return 2 * (xlogy(y, y / mu) - (y - mu))
                case "gamma":
                    return 2 * ((y - mu) / mu - np.log(y / mu))
                case "inverse_gaussian":
                    return (y - mu) ** 2 / (y * mu**2)
                case _:
                    a = self.alpha
                    return 2 * (xlogy(y, y / mu) - (y + 1 / a) * np.log((1 + a * y) / (1 + a * mu)))

    def ends(self, target: Any) -> Any:
        """For each row 1 where only an infinite predictor would fit best, -1 where minus infinity would, else 0."""
        import numpy as np

        upper = self.family == "binomial" and self.link in ("logit", "probit", "cloglog")
        lower = upper or (self.link == "log" and self.family in ("binomial", "poisson", "negative_binomial"))
        found = np.zeros(len(target))
        if upper:
            found[target == 1] = 1
        if lower:
            found[target == 0] = -1
        return found


def model(family: str, link: str | None, alpha: float) -> Model:
    """The family and link of these names; None for the usual link. Raises `Malformed`."""
    if family not in FAMILIES:
        raise Malformed(f"family is one of {', '.join(FAMILIES)}")
    link = DEFAULT_LINK[family] if link is None else link
    if link not in _ALLOWED[family]:
        raise Malformed(f"link of {family} is one of {', '.join(_ALLOWED[family])}")
    if not 0 < alpha <= 1e6:
        raise Malformed("alpha is above 0, at most 1000000")
    return Model(family, link, alpha)


__all__ = [
    "DEFAULT_LINK",
    "ESTIMATED",
    "FAMILIES",
    "LINKS",
    "Mean",
    "Model",
    "apply_link",
    "inverse_link",
    "model",
]
