"""Draw the picture of `mesatee bench psi`: ``python docs/draw.py``, of what the bench printed with ``--json``.

Reads ``docs/pictures/psi.json`` and writes ``docs/pictures/psi.svg``: seconds over rows a side, both on logarithmic
axes, one line for each contender. Every point is a value of a row; nothing is fitted or left out.
"""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

TARGET: Final = Path(__file__).resolve().parent / "pictures" / "psi.svg"
WIDTH, HEIGHT = 820, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 590, 50, 400
"""Where the axes lie."""
OBLIVIOUS: Final = "MesaTEE, oblivious"
LINES: Final = {
    OBLIVIOUS: "#1b6e3c",
    "MesaTEE, oblivious, whole platform": "#7cb342",
    "MesaTEE, access-pattern": "#9e9e9e",
    "SPU RR22": "#c62828",
    "openmined-psi": "#8e24aa",
    "polars": "#1565c0",
}


def points(rows: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Contender -> power of two of the rows a side, and seconds."""
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in LINES}
    ours = {
        "oblivious": OBLIVIOUS,
        "platform oblivious": "MesaTEE, oblivious, whole platform",
        "access-pattern": "MesaTEE, access-pattern",
    }
    for row in rows:
        said = re.fullmatch(
            r"(oblivious|platform oblivious|access-pattern) 2\^(\d+)(, against .*)?", row["metric"]
        )
        if said is None:
            continue
        power = int(said[2])
        if said[3] is None:
            found[ours[said[1]]].append((power, row["ours"]))
        # The platform's row has the same peer as the child's.
        if row["peer"] is not None and said[1] == "oblivious":
            found[row["peer_name"]].append((power, row["peer"]))
    return {name: sorted(line) for name, line in found.items() if line}


def drawn(rows: list[dict[str, Any]], machine: str) -> str:
    """The picture as SVG. Raises `ValueError` for rows of another bench."""
    lines = points(rows)
    if OBLIVIOUS not in lines:
        raise ValueError("these are not the rows of `mesatee bench psi`")
    powers = sorted({power for line in lines.values() for power, _ in line})
    seconds = [value for line in lines.values() for _, value in line]
    low, high = math.floor(math.log10(min(seconds))), math.ceil(math.log10(max(seconds)))

    def x(power: int) -> float:
        return LEFT + (power - powers[0]) * (RIGHT - LEFT) / max(1, powers[-1] - powers[0])

    def y(value: float) -> float:
        return BOTTOM - (math.log10(value) - low) * (BOTTOM - TOP) / (high - low)

    title = "Private set intersection: seconds over rows a side"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="Helvetica, Arial, \'DejaVu Sans\', sans-serif" font-size="12" role="img" '
        'aria-labelledby="title desc">',
        f'<title id="title">{title}</title>',
        '<desc id="desc">From CSV to CSV, as `mesatee bench psi` printed it; both axes are logarithmic.</desc>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="24" font-size="14" font-weight="bold">{title}</text>',
        f'<text x="{LEFT}" y="40" fill="#555">{escape(machine)}</text>',
    ]
    for exponent in range(low, high + 1):
        at = y(10.0**exponent)
        parts.append(f'<line x1="{LEFT}" x2="{RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{10.0**exponent:g} s</text>')
    for power in powers:
        at = x(power)
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{BOTTOM}" stroke="#eee"/>')
        parts.append(f'<text x="{at:.1f}" y="{BOTTOM + 20}" text-anchor="middle">2^{power}</text>')
    # Names beside the ends of their lines, moved apart where they would touch.
    ends = sorted((y(line[-1][1]), name) for name, line in lines.items())
    below = 0.0
    for at, name in ends:
        line, colour = lines[name], LINES[name]
        path = " ".join(f"{x(power):.1f},{y(value):.1f}" for power, value in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for power, value in line:
            parts.append(
                f'<circle cx="{x(power):.1f}" cy="{y(value):.1f}" r="3.5" fill="{colour}">'
                f"<title>{escape(name)}, 2^{power}: {value:.3g} s</title></circle>"
            )
        below = max(below + 15, at + 4)
        # A line that ends early has its name there.
        beside = x(line[-1][0]) + 10
        parts.append(f'<text x="{beside:.1f}" y="{below:.1f}" fill="{colour}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def described(report: dict[str, Any]) -> str:
    """The machine and the version, for below the title."""
    machine = report["machine"]
    cores, load = machine["cores"], machine["load"]
    return f"{machine['cpu']}, {cores} cores, load {load} at its end; MesaTEE {report['version']}"


def main() -> int:
    """Draw what was printed."""
    report = json.loads(TARGET.with_suffix(".json").read_text("utf-8"))
    TARGET.write_text(drawn(report["rows"], described(report)), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
