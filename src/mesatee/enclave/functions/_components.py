"""Principal components of numbers, with signs that do not depend on rounding."""

from __future__ import annotations

from typing import Any, Final

from mesatee.errors import Malformed

EQUAL: Final = 1e-9
"""Of the largest loading: what differs by less is taken for equally large."""


class Components:
    """The components of `values`: `directions` (components, columns), `scores` (rows, components) and the rest."""

    def __init__(self, values: Any, chosen: list[str], components: int, scale: bool) -> None:
        import numpy as np
        from sklearn.decomposition import PCA

        with np.errstate(over="ignore", invalid="ignore"):
            self.means = values.mean(axis=0)
            self.scales = np.ones(values.shape[1])
            if scale:
                self.scales = values.std(axis=0, ddof=1)
                # Not by the deviation: of equal values that are no sums of powers of two it is not quite 0.
                constant = (values == values[0]).all(axis=0) | (self.scales == 0)
                if constant.any():
                    raise Malformed(
                        f"the column {chosen[int(np.argmax(constant))]!r} is constant and has no scale: leave it out"
                    )
            ready = (values - self.means) / self.scales
            self.whole = float(ready.var(axis=0, ddof=1).sum())
        if not np.isfinite(ready).all() or not np.isfinite(self.whole):
            raise Malformed("the values are too large to be squared: give them in a larger unit")
        # Of rows that do not differ it divides 0 by 0, for a number that is not used here.
        with np.errstate(invalid="ignore"):
            model = PCA(components, svd_solver="full").fit(ready)
        self.directions = model.components_ * _signs(model.components_)[:, None]
        self.variances = model.explained_variance_
        self.scores = ready @ self.directions.T


def _signs(directions: Any) -> Any:
    """1 or -1 for each, so that the first of its largest loadings becomes positive."""
    import numpy as np

    sizes = np.abs(directions)
    first = np.argmax(sizes >= sizes.max(axis=1, keepdims=True) * (1 - EQUAL), axis=1)
    return np.where(directions[np.arange(len(directions)), first] < 0, -1.0, 1.0)


__all__ = ["Components"]
