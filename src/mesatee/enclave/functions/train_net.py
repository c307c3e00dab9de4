"""Train a neural net on the rows of all inputs."""

from __future__ import annotations

from typing import Any, NamedTuple

from mesatee.enclave.functions._architecture import architecture
from mesatee.errors import Malformed
from mesatee.function import Attestation
from mesatee.table import Table


class Trained(NamedTuple):
    """The net as ONNX, and a row for each epoch."""

    model: bytes
    history: Table


def train_net(
    inputs: dict[str, Table],
    *,
    layers: list[dict[str, Any]],
    target: str | list[str],
    columns: list[str] = [],  # noqa: B006  a contract shows its defaults, and nothing changes this one
    shape: list[int] = [],  # noqa: B006  as above
    classes: list[str | int] = [],  # noqa: B006  as above
    loss: str = "softmax",
    divide: float = 1.0,
    standardise: bool = False,
    optimiser: str = "adam",
    learning_rate: float = 0.001,
    momentum: float = 0.0,
    clip_norm: float | None = None,
    epochs: int = 10,
    batch: int = 32,
    validation: float = 0.0,
    seed: int = 0,
    dp: dict[str, float] = {},  # noqa: B006  as above
    where: Attestation,
) -> Trained:
    """Train a convolutional, recurrent or plain neural net, from fresh weights; the result is an ONNX model.

    The inputs are tables of the same columns, whose rows are put together in the order of the inputs' names.
    `columns` are what the net sees, by default all but the target: numbers, truth values, or lists of numbers
    of one length (an Arrow tensor is such a list). A single column of lists may have shorter ones, which are
    filled with zeros before their first number. `shape` is that of one row: [numbers], [steps, numbers] of a
    sequence, or [channels, height, width] of an image. Numbers are divided by `divide` first; `standardise`
    does so by mean and deviation of each column, which become part of the model. Nulls, NaN and infinity are
    refused, or with `dp` rows that have any, or do not fit otherwise, are left out.

    `layers` is a list of at most 64 objects, such as {"layer": "dense", "units": 10}: ``dense`` (units),
    ``conv2d`` (filters, kernel = 3, stride = 1, padding = "same" or "valid"), ``max_pool`` and ``average_pool``
    (size = 2), ``flatten``, ``relu``, ``tanh``, ``sigmoid``, ``dropout`` (rate), ``layer_norm``, ``embedding``
    (tokens, units; first, on rows of token numbers), ``lstm`` and ``gru`` (units, sequences = false). A net has
    at most 2^23 weights.

    `loss` is ``softmax`` for one class of several, ``binary`` for a truth value (one unit at the end), or
    ``mse`` for numbers (one unit for each of several targets). Classes are whole numbers from 0, or the values
    in `classes`, in their order. The model gives ``probabilities``, ``probability`` or ``prediction``; its
    input is ``input``.

    `optimiser` is ``adam`` or ``sgd`` (with `momentum`), with `learning_rate` for each of its steps; `epochs`
    times the rows are gone through in an order of chance, `batch` at a time. `clip_norm` shortens gradients
    that are longer, for recurrent nets. The share `validation` of the rows, chosen by chance, is kept out and
    only evaluated. All chance but that of `dp` follows from `seed`: the same inputs give the same bytes on the
    same kind of processor.

    `dp` makes it differentially private (DP-SGD): {"clip": 1.0, "rate": 0.02, "delta": 1e-5} with either
    "noise" or the "epsilon" that is to be kept for it. In each of 1 / rate steps of an epoch every row takes
    part with probability `rate`; its gradient is shortened to the length `clip`; their sum gets discrete
    Gaussian noise of `noise` times `clip`, and is divided by `batch`. Neither dropout, `validation`,
    `standardise` nor `clip_norm` goes with it. The noise follows from a seed that the gateway gives for this
    task and these inputs, so that the same question has the same answer.

    The output ``history`` has a row for each epoch: ``loss`` and ``accuracy`` as they were while it went on,
    ``validation_loss`` and ``validation_accuracy``, or with `dp` none of these, but the ``epsilon`` spent so
    far, ``delta`` and ``noise``.

    Reveals to the receivers of ``model`` without `dp`: weights that were fitted to single rows; of a net that
    is large for its data, rows can be reconstructed. With `dp`, whether one row was there changes the
    probability of any outcome by a factor of at most exp(epsilon), but for an event of probability delta; where
    a person has several rows, this is for each. To those of ``history`` without `dp`: means over all rows. To
    anybody: that the columns are there and fit, by the run's success.
    """
    if standardise and dp:
        raise Malformed("standardise takes means of the rows as they are: with dp scale them by divide")
    if not 0 < divide <= 1e30:
        raise Malformed("divide is a number above 0")
    if divide != 1 and (standardise or (layers and layers[0].get("layer") == "embedding")):
        raise Malformed("divide goes neither with standardise nor with tokens")
    import numpy as np

    from mesatee.enclave.functions import _examples, _training
    from mesatee.enclave.functions._net import Net

    tables = dict(sorted(inputs.items()))
    targets = [target] if isinstance(target, str) else target
    chosen = _examples.chosen(tables, columns, targets)
    said = architecture(shape or _examples.natural_shape(tables, chosen), layers, loss, classes)
    if standardise and said.tokens is not None:
        raise Malformed("standardise is for measures, and the net takes tokens")
    plan = _training.Plan(optimiser, learning_rate, momentum, clip_norm, epochs, batch, validation, seed)
    net = Net(said, np.random.default_rng([seed, 1]))
    net.scale = np.array([divide], np.float32)
    history = _training.train(
        net,
        *_examples.read(tables, chosen, targets, said, net.outputs, strict=not dp),
        plan,
        private=_training.privacy(dp, plan, net, 0),
        seed=bytes.fromhex(where["noise"]) if "noise" in where else None,
        standardise=_examples.standard if standardise else None,
    )
    return Trained(net.write(), history)
