"""Pictures of an evaluation as small PNGs: rates with intervals, drift over time, sync by offset, spectrograms.

Each takes the figures of the report and gives PNG bytes. It measures nothing.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.drift import SEGMENT_S, WINDOW_S
from evaluation.takes import SpokenWord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Figures = Mapping[str, Any]
INK = "#222222"
COLOURS = ("#1f4e79", "#c55a11", "#548235", "#7f6000", "#7030a0", "#a6192e", "#008b8b", "#555555", "#b8860b", "#2f5597")
TRUE_COLOURS = {"truth": "#000000", "codec": "#999999"}
DPI = 96


def _canvas(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context():
        pyplot.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
        figure, axes = pyplot.subplots(1, columns, figsize=(width, height), dpi=DPI, squeeze=False)
    return figure, axes[0]


def _png(figure: Figure) -> bytes:
    from matplotlib import pyplot
    from PIL import Image

    raw, target = io.BytesIO(), io.BytesIO()
    figure.tight_layout()
    figure.savefig(raw, format="png")
    pyplot.close(figure)
    Image.open(raw).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(target, "PNG", optimize=True)
    return target.getvalue()


def rows_of(results: Figures) -> dict[str, Figures]:
    """Truth, codec and the variants by name."""
    return {"truth": results["truth"], "codec": results["codec"], **results["variants"]}


def colour_of(name: str, number: int) -> str:
    """A line's colour."""
    return TRUE_COLOURS.get(name, COLOURS[(number - len(TRUE_COLOURS)) % len(COLOURS)])


def word_rates(results: Figures) -> bytes | None:
    """Word error rates of the short protocol by both judges, with 95 % intervals."""
    rows = {name: f for name, f in rows_of(results).items() if "short" in f}
    if not rows:
        return None
    figure, (axis,) = _canvas(7.2, 0.7 + 0.42 * len(rows))
    for place, (name, f) in enumerate(rows.items()):
        for shift, judge, marker in ((-0.12, "wer", "o"), (0.12, "wer_sphinx", "s")):
            if judge not in f["short"]:
                continue
            value, low, high = (100 * v for v in f["short"][judge])
            spread = [[max(0, value - low)], [max(0, high - value)]]
            face = colour_of(name, place) if judge == "wer" else "white"
            axis.errorbar(
                value, place + shift, xerr=spread, fmt=marker, color=colour_of(name, place), mfc=face, ms=5, capsize=3
            )
    axis.set_yticks(range(len(rows)), [f["title"] for f in rows.values()])
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.set_xlabel("word error rate, %; filled: corpus judge, open: pocketsphinx; bars: 95 %")
    axis.grid(axis="x", alpha=0.3)
    return _png(figure)


def drift_curves(results: Figures) -> bytes | None:
    """Quality, sharpness and likeness over the long streams."""
    rows = {name: f for name, f in rows_of(results).items() if "long" in f}
    if not rows:
        return None
    figure, axes = _canvas(10.5, 3.2, 3)
    kinds: tuple[tuple[str, Callable[[Figures], Sequence[float]]], ...] = (
        ("quality, learned score", lambda f: f["drift"]["quality"]["curve"]),
        ("sharpness, levels", lambda f: f["drift"]["sharpness"]["curve"]),
        ("likeness to the portrait", lambda f: f["drift"]["likeness_curve"]),
    )
    for axis, (title, pick) in zip(axes, kinds, strict=True):
        for place, (name, f) in enumerate(rows.items()):
            curve = pick(f["long"])
            seconds = WINDOW_S * (np.arange(len(curve)) + 1)
            axis.plot(seconds, curve, color=colour_of(name, place), lw=1.4, label=f["title"])
        for border in np.arange(SEGMENT_S, seconds[-1] + 1, SEGMENT_S):
            axis.axvline(border, color="#dddddd", lw=0.6, zorder=0)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("s")
    axes[0].legend(fontsize=7, frameon=False)
    return _png(figure)


def sync_curves(results: Figures) -> bytes | None:
    """Correlation with the renderer's mouth, and distance of the sync net, by offset."""
    rows = {name: f for name, f in rows_of(results).items() if "short" in f}
    if not rows:
        return None
    figure, axes = _canvas(8.4, 3.0, 2)
    for axis, kind, title in (
        (axes[0], "renderer", "correlation with the renderer's mouth"),
        (axes[1], "syncnet", "distance of mouth and sound, sync net"),
    ):
        for place, (name, f) in enumerate(rows.items()):
            curve = f["short"]["sync"][kind]["curve"]
            most = len(curve) // 2
            axis.plot(np.arange(-most, most + 1), curve, color=colour_of(name, place), lw=1.4, label=f["title"])
        axis.axvline(0, color="#dddddd", lw=0.8, zorder=0)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("frames the picture comes after the sound")
    axes[0].legend(fontsize=7, frameon=False)
    return _png(figure)


def spectrogram(
    log_mel: np.ndarray, words: Sequence[SpokenWord], text: Sequence[str], seconds: float, frames_per_second: float
) -> bytes:
    """Log-mel (F, M) of the first seconds, with the told beginning of each word."""
    figure, (axis,) = _canvas(10.5, 2.6)
    shown = log_mel[: round(seconds * frames_per_second)]
    axis.imshow(
        shown.T,
        origin="lower",
        aspect="auto",
        cmap="magma",
        extent=(0, len(shown) / frames_per_second, 0, log_mel.shape[1]),
    )
    for number, word in enumerate(w for w in words if w.start_s < seconds):
        axis.axvline(word.start_s, color="white", lw=0.7, alpha=0.8)
        height = log_mel.shape[1] * (0.9 if number % 2 else 0.8)
        axis.text(word.start_s + 0.02, height, text[word.index], color="white", fontsize=7, rotation=0)
    axis.set_xlabel("s; lines: the told beginning of each word")
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    return _png(figure)
