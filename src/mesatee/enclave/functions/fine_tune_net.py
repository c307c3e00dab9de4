"""Train a neural net further, on other rows."""

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


def fine_tune_net(
    start: bytes,
    rows: Table,
    rows_2: Table | None = None,
    rows_3: Table | None = None,
    rows_4: Table | None = None,
    rows_5: Table | None = None,
    rows_6: Table | None = None,
    rows_7: Table | None = None,
    rows_8: Table | None = None,
    *,
    target: str | list[str],
    columns: list[str] = [],  # noqa: B006  a contract shows its defaults, and nothing changes this one
    layers: list[dict[str, Any]] = [],  # noqa: B006  as above
    classes: list[str | int] = [],  # noqa: B006  as above
    freeze: int = 0,
    optimiser: str = "adam",
    learning_rate: float = 0.0001,
    momentum: float = 0.0,
    clip_norm: float | None = None,
    epochs: int = 10,
    batch: int = 32,
    validation: float = 0.0,
    seed: int = 0,
    dp: dict[str, float] = {},  # noqa: B006  as above
    where: Attestation,
) -> Trained:
    """Train a net that `train_net` or this function made, from the weights that it has; the result is an ONNX model.

    ``start`` is that model, byte for byte. ``rows`` and up to seven more tables have the rows, in the columns
    and with the target that `train_net` says; shape, scaling and loss are those of the model.

    `layers` replaces the list of layers: the first ones that are the same as before keep their weights, from
    the first other one on they are fresh. So a net gets a new end, with `classes` of its own. The first
    `freeze` layers keep their weights as they are.

    The other arguments, `dp` too, and the outputs are those of `train_net`:

    `optimiser` is ``adam`` or ``sgd`` (with `momentum`), with `learning_rate` for each of its steps; `epochs`
    times the rows are gone through in an order of chance, `batch` at a time. `clip_norm` shortens gradients
    that are longer, for recurrent nets. The share `validation` of the rows, chosen by chance, is kept out and
    only evaluated. All chance but that of `dp` follows from `seed`: the same inputs give the same bytes on the
    same kind of processor.

    Reveals to the receivers of ``model``: what `train_net` says of the rows here, and what the model said of
    its own ones before. `dp` covers the rows here. Frozen layers are those of ``start``, so whoever gets the
    model knows them. To those of ``history``: means over all rows, which say something of ``start`` too, or
    with `dp` nothing but what it cost. To anybody: that columns and model fit each other, by the run's success.
    """
    import numpy as np

    from mesatee.enclave.functions import _examples, _training
    from mesatee.enclave.functions._net import Net

    before = Net.read(start)
    given = [rows, rows_2, rows_3, rows_4, rows_5, rows_6, rows_7, rows_8]
    tables = {f"rows_{number}": table for number, table in enumerate(given, 1) if table is not None}
    targets = [target] if isinstance(target, str) else target
    chosen = _examples.chosen(tables, columns, targets)
    said = before.said
    if layers or classes:
        said = architecture(
            said.shape,
            layers or said.layers_as_given(),
            said.loss,
            classes or (() if layers else said.classes),
        )
    net = Net(said, np.random.default_rng([seed, 1]))
    net.shift, net.scale = before.shift, before.scale
    same = 0
    for number, (layer, other) in enumerate(zip(said.layers, before.said.layers, strict=False)):
        if dict(layer) != dict(other):
            break
        same = number + 1
        for name in net.named(number):
            net.weights[name] = before.weights[name]
    if said.tokens != before.said.tokens:
        raise Malformed("another embedding would be another input: train a new net")
    if not 0 <= freeze <= same:
        raise Malformed(f"freeze is from 0 to {same}, the number of layers that are as before")
    plan = _training.Plan(optimiser, learning_rate, momentum, clip_norm, epochs, batch, validation, seed)
    history = _training.train(
        net,
        *_examples.read(tables, chosen, targets, said, net.outputs, strict=not dp),
        plan,
        frozen=freeze,
        private=_training.privacy(dp, plan, net, freeze),
        seed=bytes.fromhex(where["noise"]) if "noise" in where else None,
    )
    return Trained(net.write(), history)
