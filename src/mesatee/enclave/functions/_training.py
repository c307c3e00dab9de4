"""How nets learn: gradient descent, and the same with differential privacy (DP-SGD, Abadi et al. 2016)."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mesatee.enclave.functions import _accountant
from mesatee.enclave.functions._gaussian import DRAW_ERROR, Stream, discrete_gaussian
from mesatee.enclave.functions._net import Net, loss
from mesatee.errors import Malformed
from mesatee.noise import SEED_BYTES
from mesatee.table import Table

Array = np.ndarray[Any, Any]

EPOCHS: Final = 10_000
BATCH: Final = 2**16
OPTIMISERS: Final = ("adam", "sgd")
GRID: Final = 2**20
"""Steps into which the clip of DP-SGD is cut: gradients are whole steps, and so is their noise."""
EACH_FLOATS: Final = 2**22
"""Gradients of single rows that are held at once."""
EVALUATED: Final = 512
"""Rows that are evaluated at once."""


@dataclass(frozen=True, slots=True)
class Privacy:
    """What `dp` says: each row takes part in a step with probability `rate`, moves the sum of gradients by at most
    `clip`, and the sum gets Gaussian noise of `noise` clips.
    """

    clip: float
    noise: float
    rate: float
    delta: float
    steps: int
    """In one epoch."""
    error: float
    """Of the drawn noise, for one epoch."""

    def epsilon(self, epochs: int) -> float:
        """Spent after so many epochs."""
        return _accountant.epsilon(
            noise=self.noise,
            rate=self.rate,
            steps=self.steps * epochs,
            delta=self.delta,
            error=self.error * epochs,
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """How to train."""

    optimiser: str
    learning_rate: float
    momentum: float
    clip_norm: float | None
    epochs: int
    batch: int
    validation: float
    seed: int

    def __post_init__(self) -> None:
        """Raises `Malformed`."""
        if self.optimiser not in OPTIMISERS:
            raise Malformed(f"optimiser is one of {', '.join(OPTIMISERS)}")
        _between("learning_rate", self.learning_rate, 0, 100)
        if not 0 <= self.momentum < 1 or (self.momentum and self.optimiser != "sgd"):
            raise Malformed("momentum is from 0 to below 1, and for the optimiser sgd")
        if self.clip_norm is not None:
            _between("clip_norm", self.clip_norm, 0, 1e6)
        if not 1 <= self.epochs <= EPOCHS:
            raise Malformed(f"epochs is from 1 to {EPOCHS}")
        if not 1 <= self.batch <= BATCH:
            raise Malformed(f"batch is from 1 to {BATCH}")
        if not 0 <= self.validation < 1:
            raise Malformed("validation is a share of the rows, from 0 to below 1")
        if not 0 <= self.seed < 2**63:
            raise Malformed("seed is a whole number from 0")


def privacy(given: Mapping[str, Any], plan: Plan, net: Net, frozen: int) -> Privacy | None:
    """Read the argument `dp`; None if it is empty. Raises `Malformed`."""
    if not given:
        return None
    if set(given) not in ({"clip", "delta", "rate", "noise"}, {"clip", "delta", "rate", "epsilon"}):
        raise Malformed(
            'dp is {"clip": ..., "rate": ..., "delta": ...} with "noise" or "epsilon" beside these'
        )
    if plan.validation or plan.clip_norm is not None:
        raise Malformed("with dp there is neither validation, which would say more, nor clip_norm")
    if any(layer["layer"] == "dropout" for layer in net.said.layers):
        raise Malformed("with dp there is no dropout: noise is enough")
    clip = _between("clip of dp", given["clip"], 0, 1e6)
    delta = _between("delta of dp", given["delta"], 0, 0.1)
    rate = _between("rate of dp", given["rate"], 0, 1)
    steps = math.ceil(1 / rate)
    if steps * plan.epochs > _accountant.STEPS:
        raise Malformed(f"dp takes at most {_accountant.STEPS} steps: a larger rate, or fewer epochs")
    error = DRAW_ERROR * steps * sum(net.weights[name].size for name in trained(net, frozen))
    if "noise" in given:
        noise = _between("noise of dp", given["noise"], 0, _accountant.MOST_NOISE)
        if noise < _accountant.LEAST_NOISE:
            raise Malformed(f"noise of dp is at least {_accountant.LEAST_NOISE}: less protects nobody")
    else:
        noise = _accountant.noise_for(
            most=_between("epsilon of dp", given["epsilon"], 0, 1_000),
            rate=rate,
            steps=steps * plan.epochs,
            delta=delta,
            error=error * plan.epochs,
        )
    return Privacy(clip, noise, rate, delta, steps, error)


def _between(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low < value <= high:
        raise Malformed(f"{name} is a number above {low:g}, at most {high:g}")
    return float(value)


def trained(net: Net, frozen: int) -> list[str]:
    """The weights that change."""
    return [name for number in range(frozen, len(net.layers)) for name in net.named(number)]


class _Optimiser:
    """Adam (Kingma, Ba 2015, with its own constants) or gradient descent with momentum."""

    def __init__(self, plan: Plan, net: Net) -> None:
        self._plan = plan
        self._net = net
        self._first: dict[str, Array] = {}
        self._second: dict[str, Array] = {}
        self._steps = 0

    def step(self, grads: Mapping[str, Array]) -> None:
        """Change the net's weights."""
        self._steps += 1
        rate, weights = self._plan.learning_rate, self._net.weights
        if self._plan.clip_norm is not None:
            norm = math.sqrt(sum(float((grad.astype(np.float64) ** 2).sum()) for grad in grads.values()))
            rate_of = min(1.0, self._plan.clip_norm / norm) if norm > 0 else 1.0
            grads = {name: grad * grad.dtype.type(rate_of) for name, grad in grads.items()}
        for name, grad in grads.items():
            if self._plan.optimiser == "sgd":
                moved = self._first.get(name, 0) * self._plan.momentum + grad
                self._first[name] = moved
                weights[name] = (weights[name] - rate * moved).astype(weights[name].dtype)
                continue
            first = 0.9 * self._first.get(name, 0) + 0.1 * grad
            second = 0.999 * self._second.get(name, 0) + 0.001 * grad * grad
            self._first[name], self._second[name] = first, second
            mean = first / (1 - 0.9**self._steps)
            spread = np.sqrt(second / (1 - 0.999**self._steps))
            weights[name] = (weights[name] - rate * mean / (spread + 1e-8)).astype(weights[name].dtype)


@dataclass(slots=True)
class _Figures:
    """One line of the history."""

    loss: float | None = None
    accuracy: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    epsilon: float | None = None


def train(
    net: Net,
    x: Array,
    y: Array,
    plan: Plan,
    *,
    frozen: int = 0,
    private: Privacy | None = None,
    seed: bytes | None = None,
    standardise: Callable[[Array], tuple[Array, Array]] | None = None,
) -> Table:
    """Train `net` on rows `x` with `y`; returns the history.

    `seed` is that of the noise, and fresh if it is None. `standardise` says shift and scale of the rows that are
    trained on. Raises `Malformed` when the weights do not stay finite, or too few rows are there.
    """
    random = np.random.default_rng(plan.seed)
    if not trained(net, frozen):
        raise Malformed("no layer that is not frozen has weights")
    held = round(len(x) * plan.validation)
    # With dp that there are none is told by the noise alone.
    if (private is None and len(x) - held < 1) or (plan.validation and held < 1):
        raise Malformed("there are too few rows to train on, and for the share for validation")
    order = random.permutation(len(x)) if held else np.arange(len(x))
    learned, kept = order[held:], order[:held]
    if standardise is not None:
        net.place(*standardise(x[learned]))
    x = net.prepared(x)
    if net.said.loss == "mse":
        y = y.astype(net.dtype)
    optimiser = _Optimiser(plan, net)
    stream = None
    if private is not None:
        stream = Stream(secrets.token_bytes(SEED_BYTES) if seed is None else seed)
    lines = []
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for epoch in range(plan.epochs):
            line = _Figures()
            if private is None or stream is None:
                line.loss, line.accuracy = _epoch(net, x, y, learned, plan, optimiser, random, frozen)
            else:
                for _ in range(private.steps):
                    _private_step(net, x, y, plan.batch, optimiser, private, stream, frozen)
                line.epsilon = private.epsilon(epoch + 1)
            if held:
                line.validation_loss, line.validation_accuracy = evaluate(net, x, y, kept)
            if not all(np.isfinite(net.weights[name]).all() for name in trained(net, frozen)):
                raise Malformed("the weights did not stay finite: use a smaller learning_rate, or clip_norm")
            lines.append(line)
    return _history(lines, private)


def _epoch(
    net: Net,
    x: Array,
    y: Array,
    rows: Array,
    plan: Plan,
    optimiser: _Optimiser,
    random: np.random.Generator,
    frozen: int,
) -> tuple[float, float | None]:
    """Each row once, in an order of chance. Returns mean loss and accuracy, as they were when a batch was taken."""
    order = random.permutation(rows)
    total, right, known = 0.0, 0, True
    for start in range(0, len(order), plan.batch):
        batch = order[start : start + plan.batch]
        logits, kept = net.forward(x[batch], random)
        losses, d, correct = loss(net.said, logits, y[batch])
        optimiser.step(net.backward(d / d.dtype.type(len(batch)), kept, frozen=frozen))
        total += float(losses.sum(dtype=np.float64))
        known = correct is not None
        right += 0 if correct is None else int(correct.sum())
    return total / len(order), right / len(order) if known else None


def evaluate(net: Net, x: Array, y: Array, rows: Array) -> tuple[float, float | None]:
    """Mean loss and accuracy of prepared rows."""
    total, right, known = 0.0, 0, True
    for start in range(0, len(rows), EVALUATED):
        part = rows[start : start + EVALUATED]
        losses, _, correct = loss(net.said, net.forward(x[part])[0], y[part])
        total += float(losses.sum(dtype=np.float64))
        known = correct is not None
        right += 0 if correct is None else int(correct.sum())
    return total / len(rows), right / len(rows) if known else None


# -- with differential privacy ---------------------------------------------------------------------


def _private_step(
    net: Net,
    x: Array,
    y: Array,
    batch: int,
    optimiser: _Optimiser,
    private: Privacy,
    stream: Stream,
    frozen: int,
) -> None:
    """One step of DP-SGD.

    1. Each row takes part with the probability `rate`, by a coin of its own (Poisson sampling).
    2. Its gradient is computed by itself, shortened to `clip`, and rounded towards 0 to whole steps of a grid, so
       that in exact integers its length is at most `GRID` (Abadi et al. 2016, algorithm 1).
    3. The integers are summed, which is exact, and each sum gets discrete Gaussian noise of `noise` times `GRID`.
    4. What follows knows nothing of the rows: the sum is divided by `batch`, which the task says.
    """
    # 1.
    rows = stream.chosen(private.rate, len(x))
    names = trained(net, frozen)
    sizes = [net.weights[name].size for name in names]
    # 2.
    total = np.zeros(sum(sizes), np.int64)
    most = max(1, EACH_FLOATS // max(1, len(total)))
    for start in range(0, len(rows), most):
        part = rows[start : start + most]
        total += whole(each_gradient(net, x[part], y[part], names, frozen), private.clip).sum(axis=0)
    # 3.
    total += discrete_gaussian(stream, private.noise * GRID, len(total))
    # 4.
    mean = total * (private.clip / GRID / batch)
    grads, at = {}, 0
    for name, size in zip(names, sizes, strict=True):
        grads[name] = mean[at : at + size].reshape(net.weights[name].shape).astype(net.dtype)
        at += size
    optimiser.step(grads)


def each_gradient(net: Net, x: Array, y: Array, names: Sequence[str], frozen: int) -> Array:
    """Shape (rows, weights): what each row says, whatever the others are."""
    logits, kept = net.forward(x, each=True)
    _, d, _ = loss(net.said, logits, y)
    grads = net.backward(d, kept, each=True, frozen=frozen)
    return np.concatenate([grads[name].reshape(len(x), -1) for name in names], axis=1).astype(np.float64)


def whole(grads: Array, clip: float) -> Array:
    """Gradients of single rows as whole steps of clip / GRID, each row with a length of at most GRID, exactly.

    A row whose gradient is not finite says nothing.
    """
    grads = np.where(np.isfinite(grads).all(axis=1, keepdims=True), grads, 0.0)
    # By the largest part first, so that no square is too large or too small.
    largest = np.abs(grads).max(axis=1, keepdims=True, initial=0.0)
    unit = grads / np.where(largest > 0, largest, 1.0)
    length = largest * np.sqrt((unit * unit).sum(axis=1, keepdims=True))
    found: Array = np.trunc(grads * (GRID / np.maximum(length, clip))).astype(np.int64)
    while True:
        # Steps are at most 2^20 and squares 2^40: of up to 2^23 weights the sum is exact in 63 bits.
        long = (found * found).sum(axis=1) > GRID * GRID
        if not long.any():
            return found
        # The length was rounded: a step less of each is shorter for sure.
        found[long] -= np.sign(found[long])


def _history(lines: Sequence[_Figures], private: Privacy | None) -> Table:
    import pyarrow as pa

    found: dict[str, Any] = {"epoch": pa.array(range(1, len(lines) + 1), pa.int64())}
    for name in ("loss", "accuracy", "validation_loss", "validation_accuracy", "epsilon"):
        found[name] = pa.array([getattr(line, name) for line in lines], pa.float64())
    found["delta"] = pa.array([None if private is None else private.delta] * len(lines), pa.float64())
    found["noise"] = pa.array([None if private is None else private.noise] * len(lines), pa.float64())
    return Table(pa.table(found))


__all__ = [
    "BATCH",
    "EPOCHS",
    "GRID",
    "Plan",
    "Privacy",
    "each_gradient",
    "evaluate",
    "privacy",
    "train",
    "trained",
    "whole",
]
