"""`mesatee bench NAME`: measures one part beside its peers, in one run, and says whether the goal is met.

>>> sorted(BENCHES)
['attestation', 'channel', 'gateway', 'gbdt', 'invoke', 'log', 'psi', 'resnet', 'seal', 'spawn', 'task', 'wasm']

Progress goes to standard error, the result to standard output: one JSON object with ``--json``, else lines
for people. A peer that cannot be had is a row without its figure and with the reason, never left out.
"""

from __future__ import annotations

import importlib
import json
import sys
from types import MappingProxyType
from typing import Final

from ...errors import NotFound
from .rows import Goal, Row, Say, report, table

BENCHES: Final = MappingProxyType(
    {
        "attestation": "verdicts on captured evidence of each TEE, against dcap-qvl for SGX and TDX",
        "channel": "connecting with mutual attestation, against TCP and Python's mutual TLS",
        "gateway": "authorised and logged requests a second, against the same app behind plain TLS",
        "gbdt": "predictions of trees, alone and through the platform, against XGBoost",
        "invoke": "a run by executor, and handing 100 MB to a child, against a pipe",
        "log": "starting on a stored log of a million records, and proofs from it",
        "psi": "set intersection from CSV to CSV, against SPU, openmined-psi and polars",
        "resnet": "ResNet-50 on sealed images by a child that waits with the model, against onnxruntime in process",
        "seal": "sealing and opening a file, against pyrage and the age crate",
        "spawn": "an isolated child with numpy loaded, against bubblewrap",
        "task": "from invoking a task to its verified result",
        "wasm": "a run in a warm child, and compiled code against native code",
    }
)
"""Every bench, and what it measures."""


def run(name: str, as_json: bool, quick: bool) -> None:
    """Run one bench and print its result; `quick` takes fewer samples. Raises `NotFound` for an unknown
    name."""
    if name not in BENCHES:
        raise NotFound(
            f"there is no bench {name[:64]!r}",
            hint="; ".join(f"{key}: {text}" for key, text in BENCHES.items()),
        )

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    rows = measure(name, quick, say)
    if as_json:
        print(json.dumps(report(name, rows, {"quick": quick})), flush=True)
    else:
        print(table(rows), flush=True)


def measure(name: str, quick: bool, say: Say) -> tuple[Row, ...]:
    """The rows of one bench; each is a module that is imported only when it is asked for."""
    module = importlib.import_module(f"{__name__}.{name}")
    return tuple(module.measure(quick, say))


__all__ = ["BENCHES", "Goal", "Row", "Say", "measure", "report", "run", "table"]
