"""The picture of a bench shows what the bench printed, and nothing else."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def draw(root: Path) -> ModuleType:
    found = importlib.util.spec_from_file_location("draw", root / "docs" / "draw.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def row(metric, ours, peer=None, peer_name=None):
    return {"metric": metric, "ours": ours, "peer": peer, "peer_name": peer_name}


ROWS = [
    row("oblivious 2^16", 0.03, 0.5, "SPU RR22"),
    row("oblivious 2^16, against polars", 0.03, 0.01, "polars"),
    row("oblivious 2^18", 0.1, None, "SPU RR22"),
    row("oblivious 2^18, against polars", 0.1, 0.05, "polars"),
    row("platform oblivious 2^16", 0.2, 0.5, "SPU RR22"),
    row("peak memory 2^16", 200, 700, "SPU RR22"),
    row("exponent against n log^2 n", 0.8),
]


def test_points_are_the_values_of_rows(draw: ModuleType):
    assert draw.points(ROWS) == {
        "MesaTEE, oblivious": [(16, 0.03), (18, 0.1)],
        "MesaTEE, oblivious, whole platform": [(16, 0.2)],
        "SPU RR22": [(16, 0.5)],
        "polars": [(16, 0.01), (18, 0.05)],
    }
    shown = re.findall(r"2\^(\d+): (\S+) s<", draw.drawn(ROWS, "a machine"))
    assert sorted(shown) == sorted(
        [("16", "0.03"), ("18", "0.1"), ("16", "0.2"), ("16", "0.5"), ("16", "0.01"), ("18", "0.05")]
    )


def test_slower_is_higher(draw: ModuleType):
    found = re.findall(r'cy="([0-9.]+)".*?: ([0-9.]+) s<', draw.drawn(ROWS, ""), re.S)
    by_height = sorted(found, key=lambda item: -float(item[0]))
    assert [float(value) for _, value in by_height] == sorted(float(value) for _, value in found)


def test_rows_of_another_bench_are_refused(draw: ModuleType):
    with pytest.raises(ValueError, match="bench psi"):
        draw.drawn([row("seal 1 MiB", 1.0)], "")


def test_the_picture_is_drawn_from_the_file_beside_it(draw: ModuleType, root: Path):
    picture = root / "docs" / "pictures" / "psi.svg"
    report = json.loads(picture.with_suffix(".json").read_text("utf-8"))
    assert picture.read_text("utf-8") == draw.drawn(report["rows"], draw.described(report))
