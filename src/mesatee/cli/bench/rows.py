"""What a bench prints: rows with medians of interleaved rounds, and the machine they were measured on
(design, 8).

Ours and the peer's take turns within one run, because a shared machine drifts by more than what is
measured: only such ratios mean something.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from ...errors import InputError

Say = Callable[[str], None]
"""Told of progress; the command line writes it to standard error."""

DIGITS: Final = 4
"""Significant digits of a printed figure: more would be noise."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measured figure. `ratio` is ours over the peer's, whatever the metric; `spread` is the
    interquartile range of ours over its median, `n` the number of samples of ours behind it. `met` is None
    where there is no goal, or no peer to hold it against.
    """

    metric: str
    unit: str
    ours: float | None
    peer: float | None = None
    peer_name: str | None = None
    ratio: float | None = None
    n: int = 0
    spread: float | None = None
    goal: str | None = None
    met: bool | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Goal:
    """What a row is held to: bounds on ours in the row's unit, and on the ratio."""

    text: str
    ours_at_most: float | None = None
    ratio_at_most: float | None = None
    ratio_at_least: float | None = None

    def met(self, ours: float, ratio: float | None) -> bool | None:
        """Whether all bounds hold; None when one of them cannot be judged."""
        holds: list[bool] = []
        if self.ours_at_most is not None:
            holds.append(ours <= self.ours_at_most)
        if self.ratio_at_most is not None or self.ratio_at_least is not None:
            if ratio is None:
                return False if False in holds else None
            holds.append(self.ratio_at_most is None or ratio <= self.ratio_at_most)
            holds.append(self.ratio_at_least is None or ratio >= self.ratio_at_least)
        return all(holds) if holds else None


def spread(samples: Sequence[float]) -> float | None:
    """Interquartile range over median; None for fewer than four samples, or a median of 0."""
    middle = statistics.median(samples) if samples else 0.0
    if len(samples) < 4 or middle == 0:
        return None
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return abs((high - low) / middle)


def compare(
    metric: str,
    unit: str,
    ours: Sequence[float],
    peer: Sequence[float] = (),
    *,
    peer_name: str | None = None,
    goal: Goal | None = None,
    note: str = "",
    n: int | None = None,
) -> Row:
    """A row from the samples of both, in the row's unit. Raises `InputError` without a sample of ours."""
    if not ours:
        raise InputError(f"nothing was measured for {metric}")
    mine = statistics.median(ours)
    theirs = statistics.median(peer) if peer else None
    ratio = mine / theirs if theirs else None
    return Row(
        metric,
        unit,
        mine,
        theirs,
        peer_name,
        ratio,
        len(ours) if n is None else n,
        spread(ours),
        goal.text if goal else None,
        goal.met(mine, ratio) if goal else None,
        note,
    )


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    model, features = "", set[str]()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and not model:
            model = value.strip()
        elif key.strip() == "flags" and not features:
            features = set(value.split())
    system = os.uname()
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "features": sorted(features & {"aes", "vaes", "sha_ni", "avx2", "avx512f", "avx512ifma"}),
        "system": f"{system.sysname} {system.release}",
        "architecture": system.machine,
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def report(name: str, rows: Sequence[Row], facts: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """The JSON form. `facts` are added to the machine's."""
    return {
        "name": name,
        "version": metadata.version("mesatee"),
        "machine": {**machine(), **facts},
        "rows": [{key: _short(value) for key, value in asdict(row).items()} for row in rows],
    }


def _short(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def table(rows: Sequence[Row]) -> str:
    """The rows for people."""
    lines = []
    for row in rows:
        ours = "-" if row.ours is None else f"{row.ours:.4g} {row.unit}"
        line = f"{row.metric}: {ours}"
        if row.peer is not None and row.ratio is not None:
            line += f"; {row.peer_name}: {row.peer:.4g} {row.unit}; ratio {row.ratio:.3g}"
        elif row.peer_name:
            line += f"; {row.peer_name}: not measured"
        if row.goal:
            said = {True: "met", False: "NOT met", None: "cannot be judged"}[row.met]
            line += f"; goal {row.goal}: {said}"
        lines.append(line + (f"\n    {row.note}" if row.note else ""))
    return "\n".join(lines)


__all__ = ["DIGITS", "Goal", "Row", "Say", "compare", "machine", "report", "spread", "table"]
