"""Recurrent layers, with the equations and the order of gates of ONNX' operators LSTM and GRU."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mesatee.enclave.functions._layers import Array, Layer, Weights, added, outer, sigmoid, times
from mesatee.enclave.functions._netfile import Graph


class _Recurrent(Layer):
    """What both have in common: the last state of a sequence, or with `sequences` all states."""

    gates = 0

    def fit(self) -> None:
        self.needs((2,), "sequences of the shape [steps, numbers]")
        steps, inside = self.before
        units = self.spec["units"]
        self.shape = (steps, units) if self.spec["sequences"] else (units,)
        self.weights = {
            "kernel": (self.gates * units, inside),
            "recurrent": (self.gates * units, units),
            "bias": (self.gates * units,),
        }

    def begin(self, random: np.random.Generator) -> dict[str, Array]:
        bound = 1 / math.sqrt(self.spec["units"])
        return {name: random.uniform(-bound, bound, shape) for name, shape in self.weights.items()}

    def _result(self, states: Array) -> Array:
        return states if self.spec["sequences"] else states[:, -1]

    def _each_step(self, d: Array) -> Array:
        """The gradient of every state."""
        if self.spec["sequences"]:
            return d
        steps = self.before[0]
        whole = np.zeros((len(d), steps, d.shape[1]), d.dtype)
        whole[:, -1] = d
        return whole

    def _write(
        self, graph: Graph, name: str, given: str, w: Mapping[str, str], bias: str, **settings: Any
    ) -> str:
        """Our arrays begin with the rows, the operator's with the steps, and its weights with the direction."""
        steps = graph.node("Transpose", [given], f"{name}.steps", perm=[1, 0, 2])
        kernel = graph.node("Unsqueeze", [w["kernel"], graph.axis(0)], f"{name}.W")
        recurrent = graph.node("Unsqueeze", [w["recurrent"], graph.axis(0)], f"{name}.R")
        states, last = f"{name}.states", f"{name}.last"
        graph.nodes(
            self.spec["layer"].upper(),
            [steps, kernel, recurrent, bias],
            [states, last],
            hidden_size=self.spec["units"],
            **settings,
        )
        if not self.spec["sequences"]:
            return graph.node("Squeeze", [last, graph.axis(0)], f"{name}.output")
        flat = graph.node("Squeeze", [states, graph.axis(1)], f"{name}.all")
        return graph.node("Transpose", [flat], f"{name}.output", perm=[1, 0, 2])


class Lstm(_Recurrent):
    """Long short-term memory (Hochreiter, Schmidhuber 1997), gates in the order input, output, forget, cell."""

    gates = 4

    def begin(self, random: np.random.Generator) -> dict[str, Array]:
        found = super().begin(random)
        units = self.spec["units"]
        # Remember, to begin with (Jozefowicz et al. 2015).
        found["bias"][2 * units : 3 * units] = 1
        return found

    def forward(
        self, x: Array, w: Weights, random: np.random.Generator | None, each: bool
    ) -> tuple[Array, Any]:
        rows, steps, _ = x.shape
        units = self.spec["units"]
        given = times(x, w["kernel"].T, each) + w["bias"]
        state = np.zeros((rows, units), x.dtype)
        cell = np.zeros((rows, units), x.dtype)
        states, cells = (np.zeros((rows, steps + 1, units), x.dtype) for _ in range(2))
        gates = np.empty((rows, steps, 4 * units), x.dtype)
        for step in range(steps):
            sums = given[:, step] + times(state, w["recurrent"].T, each)
            gates[:, step, : 3 * units] = sigmoid(sums[:, : 3 * units])
            gates[:, step, 3 * units :] = np.tanh(sums[:, 3 * units :])
            take, show, keep, new = np.split(gates[:, step], 4, axis=1)
            cell = keep * cell + take * new
            state = show * np.tanh(cell)
            states[:, step + 1], cells[:, step + 1] = state, cell
        return self._result(states[:, 1:]), (x, states, cells, gates)

    def backward(self, d: Array, kept: Any, w: Weights, each: bool) -> tuple[Array, dict[str, Array]]:
        x, states, cells, gates = kept
        whole = self._each_step(d)
        change = np.empty_like(gates)
        later = np.zeros_like(states[:, 0])
        later_cell = np.zeros_like(later)
        for step in reversed(range(x.shape[1])):
            take, show, keep, new = np.split(gates[:, step], 4, axis=1)
            bent = np.tanh(cells[:, step + 1])
            d_state = whole[:, step] + later
            d_cell = later_cell + d_state * show * (1 - bent * bent)
            change[:, step] = np.concatenate(
                [
                    d_cell * new * take * (1 - take),
                    d_state * bent * show * (1 - show),
                    d_cell * cells[:, step] * keep * (1 - keep),
                    d_cell * take * (1 - new * new),
                ],
                axis=1,
            )
            later = times(change[:, step], w["recurrent"], each)
            later_cell = d_cell * keep
        grads = {
            "kernel": outer(change, x, each),
            "recurrent": outer(change, states[:, :-1], each),
            "bias": added(change, each),
        }
        return times(change, w["kernel"], each), grads

    def write(self, graph: Graph, name: str, given: str, w: Mapping[str, str]) -> str:
        nothing = graph.constant(f"{name}.zeros", np.zeros(4 * self.spec["units"], np.float32))
        both = graph.node("Concat", [w["bias"], nothing], f"{name}.biases", axis=0)
        bias = graph.node("Unsqueeze", [both, graph.axis(0)], f"{name}.B")
        return self._write(graph, name, given, w, bias)


class Gru(_Recurrent):
    """A gated recurrent unit (Cho et al. 2014), gates in the order update, reset, hidden.

    The reset gate acts on the product with the state (linear_before_reset = 1), whose hidden part has a bias of its
    own, `inner`.
    """

    gates = 3

    def fit(self) -> None:
        super().fit()
        self.weights["inner"] = (self.spec["units"],)

    def forward(
        self, x: Array, w: Weights, random: np.random.Generator | None, each: bool
    ) -> tuple[Array, Any]:
        rows, steps, _ = x.shape
        units = self.spec["units"]
        given = times(x, w["kernel"].T, each) + w["bias"]
        state = np.zeros((rows, units), x.dtype)
        states = np.zeros((rows, steps + 1, units), x.dtype)
        gates = np.empty((rows, steps, 3 * units), x.dtype)
        inners = np.empty((rows, steps, units), x.dtype)
        for step in range(steps):
            product = times(state, w["recurrent"].T, each)
            both = sigmoid(given[:, step, : 2 * units] + product[:, : 2 * units])
            inner = product[:, 2 * units :] + w["inner"]
            new = np.tanh(given[:, step, 2 * units :] + both[:, units:] * inner)
            keep = both[:, :units]
            state = (1 - keep) * new + keep * state
            gates[:, step, : 2 * units], gates[:, step, 2 * units :] = both, new
            states[:, step + 1], inners[:, step] = state, inner
        return self._result(states[:, 1:]), (x, states, gates, inners)

    def backward(self, d: Array, kept: Any, w: Weights, each: bool) -> tuple[Array, dict[str, Array]]:
        x, states, gates, inners = kept
        units = self.spec["units"]
        whole = self._each_step(d)
        change = np.empty_like(gates)
        # As `change`, but of what comes from the state: its hidden part goes through the reset gate.
        inside = np.empty_like(gates)
        later = np.zeros_like(states[:, 0])
        for step in reversed(range(x.shape[1])):
            keep, reset, new = np.split(gates[:, step], 3, axis=1)
            d_state = whole[:, step] + later
            d_new = d_state * (1 - keep) * (1 - new * new)
            d_keep = d_state * (states[:, step] - new) * keep * (1 - keep)
            d_reset = d_new * inners[:, step] * reset * (1 - reset)
            change[:, step] = np.concatenate([d_keep, d_reset, d_new], axis=1)
            inside[:, step] = np.concatenate([d_keep, d_reset, d_new * reset], axis=1)
            later = d_state * keep + times(inside[:, step], w["recurrent"], each)
        grads = {
            "kernel": outer(change, x, each),
            "recurrent": outer(inside, states[:, :-1], each),
            "bias": added(change, each),
            "inner": added(inside[:, :, 2 * units :], each),
        }
        return times(change, w["kernel"], each), grads

    def write(self, graph: Graph, name: str, given: str, w: Mapping[str, str]) -> str:
        nothing = graph.constant(f"{name}.zeros", np.zeros(2 * self.spec["units"], np.float32))
        both = graph.node("Concat", [w["bias"], nothing, w["inner"]], f"{name}.biases", axis=0)
        bias = graph.node("Unsqueeze", [both, graph.axis(0)], f"{name}.B")
        return self._write(graph, name, given, w, bias, linear_before_reset=1)


__all__ = ["Gru", "Lstm"]
