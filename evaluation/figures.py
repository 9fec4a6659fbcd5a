"""Pictures of an evaluation: contact sheet, words, lip sync, drift. It draws figures and measures nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from evaluation.suite import DRIFT_SECONDS, FRAME_RATE, Suite
from evaluation.sync import MOST_FRAMES, lag_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = 256
"""Colours of the contact sheet's palette."""
LABEL_HEIGHT = 14
SHOWN_SECONDS = 4


def draw_all(suite: Suite, results: Mapping[str, Any], folder: Path) -> list[str]:
    """Draws what there is to draw; returns the names of the pictures."""
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, is_drawn in (
        ("contact.png", contact_sheet(suite, folder / "contact.png")),
        ("words.png", words(results, folder / "words.png")),
        ("sync.png", lips(suite, folder / "sync.png")),
        ("drift.png", drift(suite, folder / "drift.png")),
    ):
        if is_drawn:
            drawn.append(name)
    return drawn


def contact_sheet(suite: Suite, path: Path) -> bool:
    """One row a character: the portrait, then moments of its minute."""
    rows = {key.removeprefix("sheet "): frames for key, frames in suite.kept.items() if key.startswith("sheet ")}
    if not rows:
        return False
    side, across = next(iter(rows.values()))[0].shape[0], max(len(frames) for frames in rows.values())
    sheet = Image.new("RGB", (across * side, len(rows) * (side + LABEL_HEIGHT)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (name, frames) in enumerate(rows.items()):
        top = row * (side + LABEL_HEIGHT)
        pen.text((4, top + 1), f"{name}: portrait, then moments of a minute", fill="black")
        for column, frame in enumerate(frames):
            sheet.paste(Image.fromarray(frame), (column * side, top + LABEL_HEIGHT))
    sheet.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    return True


def _save(figure: Figure, path: Path) -> bool:
    from matplotlib import pyplot

    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
    return True


def words(results: Mapping[str, Any], path: Path) -> bool:
    """Word error rates by kind of speech, and of the trials."""
    from matplotlib import pyplot

    bars = {
        f"{kind} {voice}".replace("_", " "): f
        for voice, kinds in results.get("truth", {}).items()
        if isinstance(kinds, dict)
        for kind, f in kinds.items()
    }
    bars |= {f"generated {name}": f for name, f in results.get("speech", {}).items()}
    trials = results.get("options", {}).get("trials", {})
    if not bars and not trials:
        return False
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 4))
    for axis, entries, title in ((axes[0], bars, "held-out sentences"), (axes[1], trials, "options, one voice")):
        places = np.arange(len(entries))
        axis.barh(places - 0.2, [100 * f["word_error_rate"] for f in entries.values()], 0.4, label="first judge")
        second = [100 * f.get("sphinx_word_error_rate", 0) for f in entries.values()]
        if any(second):
            axis.barh(places + 0.2, second, 0.4, label="pocketsphinx")
        axis.set_yticks(places, list(entries))
        axis.invert_yaxis()
        axis.set_xlabel("word error rate, %")
        axis.set_title(title)
        if entries:
            axis.legend()
    return _save(figure, path)


def lips(suite: Suite, path: Path) -> bool:
    """A few seconds of mouth and sound, and correlation by offset."""
    from matplotlib import pyplot

    tracks = {key[len("mouth ") :]: pairs for key, pairs in suite.kept.items() if key.startswith("mouth ")}
    if not tracks:
        return False
    figure, axes = pyplot.subplots(1, len(tracks) + 1, figsize=(5 * (len(tracks) + 1), 3.4))
    for axis, (name, pairs) in zip(axes, tracks.items(), strict=False):
        opening, loud = (track[: SHOWN_SECONDS * FRAME_RATE] for track in pairs[0])
        seconds = np.arange(len(opening)) / FRAME_RATE
        axis.plot(seconds, (opening - opening.min()) / (np.ptp(opening) + 1e-6), label="mouth")
        axis.plot(seconds, loud, label="loudness", alpha=0.6)
        for _, truth in suite.kept[f"drawn {name}"][:1]:
            axis.plot(seconds, truth[: len(seconds)], label="renderer", alpha=0.6)
        axis.set_title(f"{name}, first sentence")
        axis.set_xlabel("s")
        axis.legend(fontsize=7)
    for kind in ("mouth", "drawn"):
        for name in tracks:
            curves = [lag_curve(a, b) for a, b in suite.kept[f"{kind} {name}"]]
            if curves:
                against = "loudness" if kind == "mouth" else "renderer"
                axes[-1].plot(np.arange(-MOST_FRAMES, MOST_FRAMES + 1), np.mean(curves, 0), label=f"{name}, {against}")
    axes[-1].set_xlabel("frames the picture is late")
    axes[-1].set_title("correlation of the mouth")
    axes[-1].legend(fontsize=7)
    return _save(figure, path)


def drift(suite: Suite, path: Path) -> bool:
    """How far colours and proportions go from those of the first seconds."""
    from matplotlib import pyplot

    tracks = {key[len("along ") :]: d for key, d in suite.kept.items() if key.startswith("along ")}
    if not tracks:
        return False
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 3.6))
    for name, drifts in tracks.items():
        seconds, style = np.arange(len(drifts)) * DRIFT_SECONDS, "--" if "without" in name else "-"
        axes[0].plot(seconds, [d.worst_colour for d in drifts], style, label=name)
        axes[1].plot(seconds, [100 * d.eye_to_mouth for d in drifts], style, label=name)
    for axis, title in zip(axes, ("largest colour distance, levels", "eyes to mouth, change in %"), strict=True):
        axis.set_title(title)
        axis.set_xlabel("s")
    axes[0].legend(fontsize=7)
    return _save(figure, path)
