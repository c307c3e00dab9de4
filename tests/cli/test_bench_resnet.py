"""The bench of ResNet-50: what it holds its rows to, what it runs, and that it runs."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from mesatee._core import memfd
from mesatee.cli import bench
from mesatee.cli.bench import resnet
from mesatee.cli.bench.resnet_graph import CLASSES, resnet50
from mesatee.inference import check


def test_the_interval_is_that_of_the_ratio_of_medians() -> None:
    peer = [100.0 + number for number in range(30)]
    assert resnet.interval([1.05 * value for value in peer], peer) == pytest.approx((1.05, 1.05), rel=0.02)
    low, high = resnet.interval([*peer[:15], *(2 * value for value in peer[15:])], peer)
    assert low < 1.2 < 1.6 < high


@pytest.mark.parametrize(
    ("factor", "spoiled", "met"),
    [(1.02, 0, True), (1.04, 0, False), (0.9, 0, True), (1.0, 14, False)],
)
def test_both_bounds_are_held(factor: float, spoiled: int, met: bool) -> None:
    """The last case has a median that is well within, and an interval that is not."""
    peer = [100.0 + number / 100 for number in range(30)]
    ours = [value * (1.5 if number < spoiled else factor) for number, value in enumerate(peer)]
    row = resnet.judged("m", ours, peer, "n")
    assert row.met is met
    assert row.note.startswith("95 % interval of the ratio ")


def test_the_net_is_resnet_50_and_always_the_same() -> None:
    made = resnet50()
    found = check(made)
    # 25,557,032 weights, and two statistics for each of 26,560 channels that are normalised.
    assert found.parameters == 25_557_032 + 2 * 26_560
    assert (found.operators["Conv"], found.operators["Add"], found.operators["Gemm"]) == (53, 16, 1)
    assert found.inputs[0].shape == ("images", 3, 224, 224)
    assert found.outputs[0].shape == ("images", CLASSES)
    assert resnet50() == made


def test_what_is_sealed_is_opened_as_a_worker_opens_it() -> None:
    data = np.random.default_rng(3).bytes(300_000)
    target = memfd("input")
    try:
        resnet.open_sealed(resnet.seal(data), target)
        assert os.pread(target, len(data) + 1, 0) == data
    finally:
        os.close(target)


@pytest.mark.slow
def test_resnet(capsys: pytest.CaptureFixture[str]) -> None:
    bench.run("resnet", True, True)
    rows = {row["metric"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    for batch in (1, 8):
        for threads in ("1 thread", "2 threads"):
            row = rows[f"latency batch {batch}, {threads}"]
            assert row["peer_name"] == "onnxruntime in process"
            assert row["n"] == resnet.QUICK_PAIRS
            assert row["met"] in (True, False)
    assert rows["loading ahead"]["ours"] > 0
    assert rows["latency batch 1, 1 thread, cold"]["n"] == resnet.QUICK_COLD
