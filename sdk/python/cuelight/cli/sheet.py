"""A contact sheet: pictures of an MP4 with what is said under each. Needs PyAV, and Pillow, which the server brings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageFont

from cuelight.events import Word

COLUMNS, ROWS = 4, 3
_SCALE, _CAPTION_HEIGHT, _MARGIN = 2, 44, 8
_INK, _PAPER, _LIT = (235, 235, 235), (24, 24, 28), (255, 200, 60)


def write_sheet(video: Path, words: Sequence[Word], path: Path) -> None:
    """Writes ``path`` (PNG): twelve pictures of ``video``, evenly spread, each with its time and words."""
    frames = _frames(video, COLUMNS * ROWS)
    width, height = frames[0][1].width * _SCALE, frames[0][1].height * _SCALE
    cell = (width + _MARGIN, height + _CAPTION_HEIGHT + _MARGIN)
    sheet = Image.new("RGB", (COLUMNS * cell[0] + _MARGIN, ROWS * cell[1] + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    step_s = frames[1][0] - frames[0][0] if len(frames) > 1 else 1.0
    for index, (time_s, frame) in enumerate(frames):
        left, top = (index % COLUMNS) * cell[0] + _MARGIN, (index // COLUMNS) * cell[1] + _MARGIN
        sheet.paste(frame.resize((width, height), Image.Resampling.LANCZOS), (left, top))
        said = " ".join(word.text for word in words if time_s <= word.start_s < time_s + step_s)
        _caption(draw, (left, top + height + 4), f"{time_s:4.1f} s", said, width)
    sheet.save(path)


def _frames(video: Path, count: int) -> list[tuple[float, Image.Image]]:
    """``count`` pictures with their times, evenly spread over the film."""
    with av.open(str(video)) as source:
        total = source.streams.video[0].frames or sum(1 for _ in source.demux(source.streams.video[0])) - 1
        wanted = {round(index * (total - 1) / max(1, count - 1)) for index in range(min(count, total))}
        source.seek(0)
        decoded = enumerate(source.decode(video=0))
        return [
            (float(frame.time or 0.0), Image.fromarray(frame.to_ndarray(format="rgb24")))
            for number, frame in decoded
            if number in wanted
        ]


def _caption(draw: ImageDraw.ImageDraw, at: tuple[int, int], time: str, said: str, width: int) -> None:
    small = ImageFont.load_default(12)
    draw.text(at, time, fill=_LIT, font=small)
    lines, line = [], ""
    for word in said.split():
        joined = f"{line} {word}".strip()
        if draw.textlength(joined, font=small) > width and line:
            lines.append(line)
            line = word
        else:
            line = joined
    lines.append(line)
    offset = int(draw.textlength(f"{time}  ", font=small))
    draw.text((at[0] + offset, at[1]), lines[0], fill=_INK, font=small)
    if len(lines) > 1:
        draw.text((at[0], at[1] + 17), lines[1], fill=_INK, font=small)
