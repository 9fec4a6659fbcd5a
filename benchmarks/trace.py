"""Where does the time of one chunk go, across the three processes?

    python benchmarks/trace.py [--out out/benchmarks] [--picture docs/images/trace.png]

Starts a stack whose processes send their traces to a collector in this one, has a sentence said, and writes the spans
of the chunk that answered it: a picture with a row for each, and their times as JSON. One chunk is no median.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: nobody looks at a screen
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.transforms import ScaledTranslation, Transform

import cuelight
from cuelight.cli.stack import Stack, StackOptions
from cuelight.events import Media, ResponseEnded
from cuelight.session import Session
from evaluation.collector import Collector, Span, collecting

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "pocket"
COLOURS = {"cuelight-gateway": "#3b6ea8", "cuelight-worker": "#b6542c", "cuelight-orchestrator": "#3f8f5b"}
SENTENCE = "Good evening, and welcome to the house."
ROW_IN = 0.17
LEAST_MS = 3.0
"""What takes less is drawn so wide, to be seen."""


async def performed(bundle: Path, collector: Collector) -> list[Span]:
    """The spans of the first chunk of a session that has warmed up: of its second sentence."""
    with tempfile.TemporaryDirectory(prefix="cuelight-") as folder:
        settings = {"CUELIGHT_TRACES_ADDRESS": collector.address, "CUELIGHT_UTILISATION_BOUND": "100"}
        options = StackOptions(bundle=bundle, state_file=Path(folder) / "stack.json", environment=settings)
        async with (
            Stack(options, on_line=_ignore, on_ready=_ignore) as stack,
            cuelight.connect(stack.address) as client,
            client.create_session(regime="scripted") as session,
        ):
            await session.say(SENTENCE)
            await _watched(session)
            await session.say(SENTENCE)
            await _watched(session)
    whole = [spans for spans in collector.traces().values() if {"cue", "carry"} <= {span.name for span in spans}]
    return max(whole, key=lambda spans: min(span.began_ns for span in spans))


def _ignore(*_: object) -> None:
    """What the processes print is nobody's business here."""


async def _watched(session: Session) -> None:
    """Follow the session until its answer has ended."""
    async for event in session:
        if isinstance(event, Media):
            session.report_playhead(event.position * event.duration / event.timescale)
        if isinstance(event, ResponseEnded):
            return


def rows(spans: list[Span]) -> list[tuple[int, Span]]:
    """Spans with their depth, each below what it hangs under, in the order of their beginnings."""
    known = {span.span_id for span in spans}

    def under(parent: bytes, depth: int) -> list[tuple[int, Span]]:
        children = [span for span in spans if (span.parent_id if span.parent_id in known else b"") == parent]
        found: list[tuple[int, Span]] = []
        for child in sorted(children, key=lambda span: span.began_ns):
            found += [(depth, child), *under(child.span_id, depth + 1)]
        return found

    return under(b"", 0)


def draw(spans: list[Span], picture: Path) -> None:
    """A row for each span, milliseconds to the right."""
    found, began_ns = rows(spans), min(span.began_ns for span in spans)
    figure, axes = plt.subplots(figsize=(9, ROW_IN * len(found) + 0.8))
    for row, (depth, span) in enumerate(found):
        left, width = (span.began_ns - began_ns) / 1e6, span.took_ms
        axes.barh(row, max(width, LEAST_MS), left=left, height=0.7, color=COLOURS[span.process])
        step = f" {span.attributes['step']}" if "step" in span.attributes else ""
        axes.text(left + max(width, LEAST_MS) + 2, row, f"{width:.1f} ms", va="center", fontsize=6, color="#555")
        axes.text(
            -0.01, row, "  " * depth + span.name + step, va="center", ha="left", fontsize=7, transform=_side(axes)
        )
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_yticks([])
    axes.set_xlabel("milliseconds since the cue reached the gateway", fontsize=7)
    axes.tick_params(labelsize=7)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    names = [name.removeprefix("cuelight-") for name in COLOURS]
    handles = [Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS.values()]
    axes.legend(handles, names, fontsize=7, frameon=False, loc="lower left")
    figure.subplots_adjust(left=0.17, right=0.98, top=0.99, bottom=0.09)
    figure.savefig(picture, dpi=130)
    plt.close(figure)


def _side(axes: Axes) -> Transform:
    """Left of the axes, at the height of a row."""
    return axes.get_yaxis_transform() + ScaledTranslation(-1.45, 0, axes.figure.dpi_scale_trans)


def main() -> None:
    """Trace one chunk."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    parser.add_argument("--picture", type=Path)
    chosen = parser.parse_args()
    with collecting() as collector:
        spans = asyncio.run(performed(chosen.bundle, collector))
    chosen.out.mkdir(parents=True, exist_ok=True)
    found = rows(spans)
    told = [{"process": each.process, "name": each.name, "depth": depth, "ms": each.took_ms} for depth, each in found]
    (chosen.out / "trace.json").write_text(json.dumps(told, indent=1))
    draw(spans, chosen.picture or chosen.out / "trace.png")
    for depth, each in found:
        print(f"{'  ' * depth}{each.name} ({each.process.removeprefix('cuelight-')}): {each.took_ms:.1f} ms")


if __name__ == "__main__":
    main()
