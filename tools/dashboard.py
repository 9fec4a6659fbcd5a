"""Draws the dashboard from what its panels showed: python -m tools.dashboard out/cluster/panels.json PICTURE.png

Every panel of helm/cuelight/files/dashboard.json stands where Grafana puts it, with the series that a Prometheus gave
for its own expressions while the simulated cluster ran. Knows what panels are, and nothing of what is measured.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot: nobody looks at a screen
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

COLUMNS, UNIT_IN = 24, 0.52
INK, PALE, PAPER = "#202226", "#8a8f98", "#f4f5f7"
_UNITS = {"percentunit": "%", "s": "s", "cps": "per s"}
LEGENDS_MOST = 8


def legend(pattern: str, labels: Mapping[str, str]) -> str:
    """A series' name: the pattern with its labels filled in."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), pattern)


def _values(series: Mapping[str, Any], panel: Mapping[str, Any], since_s: float) -> tuple[list[float], list[float]]:
    scale = 100.0 if panel["unit"] == "percentunit" else 1.0
    pairs = [(float(at) - since_s, float(value) * scale) for at, value in series["values"]]
    return [at / 60 for at, _ in pairs], [value for _, value in pairs]


def _draw_number(axes: Axes, panel: Mapping[str, Any], since_s: float) -> None:
    """A stat: the newest value of its series, and its course as a faint line."""
    axes.set_axis_off()
    found = [series for target in panel["targets"] for series in target["series"]]
    unit = _UNITS.get(panel["unit"], "")
    said = "no data"
    if found:
        at, values = _values(found[0], panel, since_s)
        known = [value for value in values if value == value]  # without NaN
        said = f"{known[-1]:.4g} {unit}".strip() if known else "no data"
        below = axes.inset_axes((0.02, 0.0, 0.96, 0.35))
        below.set_axis_off()
        below.plot(at, values, color="#3b6ea8", linewidth=0.8)
    axes.text(0.5, 0.66, said, ha="center", va="center", fontsize=16, color=INK, transform=axes.transAxes)


def _draw_course(axes: Axes, panel: Mapping[str, Any], since_s: float, until_s: float) -> None:
    """A timeseries: every series of every target, by its legend."""
    lines, names = [], []
    for target in panel["targets"]:
        for series in target["series"]:
            at, values = _values(series, panel, since_s)
            lines += axes.plot(at, values, linewidth=1.1)
            names.append(legend(target["legend"], series["metric"]))
    if lines:
        shown = lines[:LEGENDS_MOST], names[:LEGENDS_MOST]
        axes.legend(*shown, fontsize=5.5, loc="upper left", frameon=False, ncols=2, labelcolor=INK)
    else:
        axes.text(0.5, 0.5, "no data", ha="center", va="center", color=PALE, transform=axes.transAxes)
    axes.set_xlim(0, (until_s - since_s) / 60)
    axes.margins(y=0.25)  # room for the legend
    axes.set_ylabel(_UNITS.get(panel["unit"], ""), fontsize=6, color=PALE)
    axes.tick_params(labelsize=6, colors=PALE, length=2)
    axes.grid(visible=True, color="#e3e5e9", linewidth=0.5)
    for side in axes.spines.values():
        side.set_visible(False)


def draw(shown: Mapping[str, Any], picture: Path) -> None:
    """Draw all panels into one picture; minutes go to the right."""
    panels = shown["panels"]
    height = max(panel["at"]["y"] + panel["at"]["h"] for panel in panels)
    figure = plt.figure(figsize=(COLUMNS * UNIT_IN, height * UNIT_IN * 0.62), facecolor=PAPER)
    for panel in panels:
        at = panel["at"]
        x, y = at["x"] / COLUMNS, 1 - (at["y"] + at["h"]) / height
        width, tall = at["w"] / COLUMNS, at["h"] / height
        axes = figure.add_axes((x + 0.030, y + 0.016, width - 0.036, tall - 0.030), facecolor="white")
        axes.set_title(panel["title"], fontsize=8, color=INK, loc="left", pad=3)
        if panel["type"] == "stat":
            _draw_number(axes, panel, shown["since_s"])
        else:
            _draw_course(axes, panel, shown["since_s"], shown["until_s"])
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Draw one file's panels."""
    parser = argparse.ArgumentParser(prog="dashboard", description=__doc__.partition("\n")[0])
    parser.add_argument("panels", type=Path)
    parser.add_argument("picture", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        shown = json.loads(chosen.panels.read_text())
    except (OSError, ValueError) as fault:
        parser.error(f"{chosen.panels} cannot be read: {fault}; make cluster-sim writes it")
    draw(shown, chosen.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
