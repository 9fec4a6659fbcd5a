"""Does one session that goes on and on stay as it began: memory, time of a chunk, quality of the picture?

Starts orchestrator, worker, gateway and Redis as `cuelight up` does and lets one character read sentence after
sentence, as fast as they come. Of every chunk it keeps what it took (the worker's own time, and processor seconds of
all processes together) and what a fixed piece of work takes beside it, of every tenth the private memory of each
process, of every picture what the eye makes of it.

    python benchmarks/soak.py --out out/benchmarks [--chunks 2000] [--eye data/checkpoints/eye]
    python benchmarks/soak.py --out benchmarks/results --rows out/benchmarks/soak.jsonl --images docs/images

Rows go to soak.jsonl as they come, so that a run that was cut short can be told of (--rows) as far as it came.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import av
import matplotlib
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from scipy.stats import t as student

import cuelight
from cuelight.client import Client
from cuelight.events import Media, Track
from cuelight.session import Session
from evaluation.audience.house import House
from evaluation.drift import WINDOW_S, along, quality_drift, segment_differences
from evaluation.eye import Eye, load_eye, look
from evaluation.report import provenance
from services.bundle import Manifest, load_manifest

matplotlib.use("Agg")
from matplotlib import pyplot

ROOT = Path(__file__).resolve().parents[1]
AHEAD_WORDS = 150
"""Words that wait to be said, so that the character never has to stop."""
MEMORY_EVERY = 10
"""Chunks."""
WARM_CHUNKS = 100
"""Left out of slopes and of the beginning: rings, history and allocators fill."""
COMPARED_CHUNKS = 200
"""At the beginning and at the end."""
BLOCK_CHUNKS = 20
"""Chunks that are drawn together, and memory that is averaged: what follows each other is alike."""
BLOCKS = 20
DRAWS = 4000

Row = Mapping[str, Any]


class Estimate(NamedTuple):
    """A value and the interval that covers 95 %."""

    value: float
    low: float
    high: float


def sentences(seed: int) -> Iterator[str]:
    """The sentences of the evaluation over and over, in another order each time."""
    lines = (ROOT / "evaluation" / "sentences.txt").read_text().split("\n")
    draw = random.Random(seed)
    while True:
        for line in draw.sample(lines, len(lines)):
            if line.strip():
                yield f"{line.strip()}."


class Yardstick:
    """Work that is always the same: its processor time tells what others on the machine do to that of all processes."""

    def __init__(self) -> None:
        self._waves = np.random.default_rng(0).standard_normal((256, 4096))  # 8 MiB: more than a core has for itself

    def measure(self) -> float:
        """Seconds of processor time that it takes now."""
        began_s = time.thread_time()
        for _ in range(4):
            np.fft.rfft(self._waves).sum()
        return time.thread_time() - began_s


class Watcher:
    """Looks at the pictures of a session."""

    def __init__(self, eye: Eye | None) -> None:
        self._eye = eye
        self._init = b""

    def attach(self, tracks: Sequence[cuelight.TrackInfo]) -> None:
        """Take what a decoder needs first."""
        self._init = next(track.init_data for track in tracks if track.track is Track.VIDEO)

    def look(self, media: Media) -> list[float]:
        """Quality of each picture of a chunk; empty without an eye."""
        if self._eye is None:
            return []
        decoder = av.CodecContext.create("h264", "r")
        decoder.open()
        units = [self._init + media.units[0], *media.units[1:]]
        packets = [av.Packet(unit) for unit in units]
        frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
        return [round(float(quality), 5) for quality in look(self._eye, pictures).quality]


class Soak:
    """One session, read to its last chunk."""

    def __init__(self, house: House, watcher: Watcher, rows: TextIO, chunks: int, seed: int) -> None:
        self._house, self._watcher, self._rows = house, watcher, rows
        self._chunks, self._seed = chunks, seed
        self._script = sentences(seed)
        self._words_given = 0
        self._quality: deque[list[float]] = deque()
        self._yardstick = Yardstick()
        self._began = time.monotonic()

    async def run(self, client: Client, progress: Progress) -> None:
        """Perform so many chunks."""
        task = progress.add_task("chunks", total=self._chunks)
        creating = client.create_session(regime="scripted", seed=self._seed, queue_timeout_s=30)
        async with creating as session:
            self._watcher.attach(session.tracks)
            await self._give(session, 0)
            async for event in session:
                if isinstance(event, Media) and event.track is Track.VIDEO:
                    self._quality.append(await asyncio.to_thread(self._watcher.look, event))
                elif isinstance(event, cuelight.Progress):
                    await self._give(session, event.words_spoken)
                    self._write(event)
                    progress.update(task, completed=event.chunk_index + 1)
                    if event.chunk_index + 1 >= self._chunks:
                        return

    async def _give(self, session: Session, words_spoken: int) -> None:
        while self._words_given < words_spoken + AHEAD_WORDS:
            sentence = next(self._script)
            self._words_given += len(sentence.split())
            await session.say(sentence)

    def _write(self, event: cuelight.Progress) -> None:
        row: dict[str, Any] = {
            "chunk": event.chunk_index,
            "at_s": round(time.monotonic() - self._began, 3),
            "compute_s": round(event.compute_s, 4),
            "cpu_s": {name: round(seconds, 2) for name, seconds in self._house.cpu_s().items()},
            "yardstick_s": round(self._yardstick.measure(), 6),
            "words": [word.index for word in event.words],
        }
        if event.chunk_index % MEMORY_EVERY == 0:
            row["memory_mib"] = {name: private_mib(pid) for name, pid in self._house.pids().items()}
        if self._quality:
            row["quality"] = self._quality.popleft()
        self._rows.write(json.dumps(row) + "\n")
        self._rows.flush()


def private_mib(pid: int) -> float:
    """Memory in MiB that a process has written and shares with nobody: what others start and end does not change it."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kib = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
    return round(kib["Private_Dirty"] / 1024, 2)


async def perform(options: argparse.Namespace) -> Path:
    """Starts the stack, performs, stops it; gives the file of rows."""
    options.out.mkdir(parents=True, exist_ok=True)
    path: Path = options.out / "soak.jsonl"
    watcher = Watcher(load_eye(options.eye) if options.eye else None)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with path.open("w") as rows, Progress(*columns, TimeRemainingColumn()) as progress:
        async with House(options.bundle, {"OMP_NUM_THREADS": "1"}) as house, cuelight.connect(house.address) as client:
            rows.write(
                json.dumps({**provenance(), "startup_s": house.startup_s, "memory": "written by it alone"}) + "\n"
            )
            await Soak(house, watcher, rows, options.chunks, options.seed).run(client, progress)
    return path


# what the rows say ----------------------------------------------------------------------------------------------------


def slope(at: np.ndarray, values: np.ndarray) -> Estimate:
    """Rise of values for each unit of `at`, by least squares over the means of blocks in a row."""
    blocks = np.array_split(np.arange(len(at)), min(BLOCKS, max(3, len(at) // 2)))
    x = np.array([at[block].mean() for block in blocks])
    y = np.array([values[block].mean() for block in blocks])
    spread = ((x - x.mean()) ** 2).sum()
    rise = float(((x - x.mean()) * (y - y.mean())).sum() / spread)
    left = y - y.mean() - rise * (x - x.mean())
    error = float(np.sqrt((left**2).sum() / (len(x) - 2) / spread)) * float(student.ppf(0.975, len(x) - 2))
    return Estimate(rise, rise - error, rise + error)


def by_yardstick(cpu_s: np.ndarray, yardstick_s: np.ndarray) -> np.ndarray:
    """Processor time of chunks in yardsticks, each chunk by the mean of those taken around it."""
    window = np.ones(BLOCK_CHUNKS)
    around = np.convolve(yardstick_s, window, "same") / np.convolve(np.ones_like(yardstick_s), window, "same")
    return np.asarray(cpu_s / around)


def growth(values: np.ndarray) -> Estimate:
    """Rise from the first to the last, warming up left out, as a share of the mean."""
    warm = values[WARM_CHUNKS:]
    return slope(np.linspace(0, 1, len(warm)), warm / warm.mean())


def ratio_of_means(last: np.ndarray, first: np.ndarray, seed: int = 0) -> Estimate:
    """Mean of `last` over that of `first`; drawn in blocks, because what follows each other is alike."""
    draw = np.random.default_rng(seed)
    ratios = np.sort(_block_means(last, draw) / _block_means(first, draw))
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Estimate(float(last.mean() / first.mean()), float(low), float(high))


def _block_means(values: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    blocks = values[: len(values) // BLOCK_CHUNKS * BLOCK_CHUNKS].reshape(-1, BLOCK_CHUNKS).mean(1)
    return np.asarray(blocks[draw.integers(0, len(blocks), (DRAWS, len(blocks)))].mean(1))


def summarise(rows: Sequence[Row], manifest: Manifest) -> dict[str, Any]:
    """Figures of a run. Raises ValueError when it was too short for any."""
    if len(rows) < WARM_CHUNKS + 2 * COMPARED_CHUNKS:
        raise ValueError(f"{len(rows)} chunks are too few: {WARM_CHUNKS + 2 * COMPARED_CHUNKS} are needed")
    words = list(itertools.chain.from_iterable(row["words"] for row in rows))
    quality = np.array(list(itertools.chain.from_iterable(row.get("quality", ()) for row in rows)))
    warm = slice(WARM_CHUNKS, WARM_CHUNKS + COMPARED_CHUNKS)
    cpu_s, yardstick_s = _cpu_per_chunk(rows), np.array([row["yardstick_s"] for row in rows])
    times = {
        "compute_s": np.array([row["compute_s"] for row in rows]),
        "cpu_s": cpu_s,
        "yardstick_s": yardstick_s,
        "cpu_in_yardsticks": by_yardstick(cpu_s, yardstick_s),
    }
    return {
        "chunks": len(rows),
        "media_s": round(len(rows) * manifest.chunk_seconds, 3),
        "wall_s": rows[-1]["at_s"],
        "words": {"told": len(words), "are_each_once_in_order": words == list(range(len(words)))},
        "chunk_time": {name: _times(values, warm) for name, values in times.items()},
        "growth_in_yardsticks": _told(growth(times["cpu_in_yardsticks"]), 4),
        "memory": {name: _memory(rows, name) for name in rows[0]["memory_mib"]},
        "drift": _drift(quality, manifest.geometry.frames_per_second) if len(quality) else None,
    }


def _cpu_per_chunk(rows: Sequence[Row]) -> np.ndarray:
    total = np.array([sum(row["cpu_s"].values()) for row in rows])
    return np.diff(total, prepend=total[0])


def _times(values: np.ndarray, warm: slice) -> dict[str, Any]:
    first, last = values[warm], values[-COMPARED_CHUNKS:]
    return {
        "first_mean": round(float(first.mean()), 4),
        "last_mean": round(float(last.mean()), 4),
        "p50": round(float(np.median(values)), 4),
        "p95": round(float(np.quantile(values, 0.95)), 4),
        "ratio_last_to_first": _told(ratio_of_means(last, first), 4),
    }


def _memory(rows: Sequence[Row], name: str) -> dict[str, Any]:
    kept = [row for row in rows if "memory_mib" in row and row["chunk"] >= WARM_CHUNKS]
    at = np.array([row["chunk"] for row in kept], dtype=float)
    mib = np.array([row["memory_mib"][name] for row in kept])
    rise = slope(at, 1024 * mib)
    return {"first_mib": float(mib[0]), "last_mib": float(mib[-1]), "kib_per_chunk": _told(rise, 4)}


def _drift(quality: np.ndarray, frames_per_second: float) -> dict[str, Any]:
    every = segment_differences(quality, frames_per_second)
    return {
        "first_5_s": round(float(along(quality, frames_per_second)[0]), 5),
        "last_5_s": round(float(along(quality, frames_per_second)[-1]), 5),
        "drift": round(quality_drift(quality, frames_per_second), 5),
        "drift_of_first_5_min": round(float(every[:10].max()), 5),
        "by_segment": [round(float(value), 5) for value in every],
    }


def _told(estimate: Estimate, digits: int) -> dict[str, float]:
    return {name: round(value, digits) for name, value in estimate._asdict().items()}


def draw(rows: Sequence[Row], manifest: Manifest, path: Path) -> None:
    """Memory, time of a chunk and quality along the session, one above the other."""
    figure, axes = pyplot.subplots(3, 1, figsize=(8, 8), sharex=True)
    minutes = np.array([row["chunk"] for row in rows]) * manifest.chunk_seconds / 60
    kept = [index for index, row in enumerate(rows) if "memory_mib" in row]
    for name in rows[0]["memory_mib"]:
        axes[0].plot(minutes[kept], [rows[index]["memory_mib"][name] for index in kept], label=name)
    axes[0].set_ylabel("memory (MiB)")
    axes[0].legend(ncols=5, fontsize=8, frameon=False, loc="center right", bbox_to_anchor=(1, 0.75))
    cpu = _cpu_per_chunk(rows)
    axes[1].plot(minutes, cpu, ".", markersize=1.5, color="0.7")
    blocks = len(rows) // BLOCK_CHUNKS
    mean = cpu[: blocks * BLOCK_CHUNKS].reshape(blocks, -1).mean(1)
    starts = minutes[: blocks * BLOCK_CHUNKS : BLOCK_CHUNKS]
    axes[1].plot(starts, mean, color="tab:blue", label=f"mean of {BLOCK_CHUNKS}")
    axes[1].set_ylabel("processor time of a chunk (s)")
    axes[1].set_ylim(0, 2 * float(np.median(cpu)))
    axes[1].legend(fontsize=8, frameon=False)
    quality = np.array(list(itertools.chain.from_iterable(row.get("quality", ()) for row in rows)))
    if len(quality):
        curve = along(quality, manifest.geometry.frames_per_second)
        axes[2].plot(np.arange(len(curve)) * WINDOW_S / 60, curve, color="tab:green")
        axes[2].set_ylim(0, 1.02)
    axes[2].set_ylabel("quality of the picture")
    axes[2].set_xlabel("minutes of media")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Performs, or reads what was performed, and writes soak.json and soak.png."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"), help="folder for the JSON files")
    parser.add_argument("--images", type=Path, help="folder for the picture; that of --out unless given")
    parser.add_argument("--rows", type=Path, help="rows of an earlier run: nothing is performed")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/pocket"))
    parser.add_argument("--eye", type=Path, help="folder of a trained eye (evaluation.train_eye); without, no drift")
    parser.add_argument("--chunks", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    path = options.rows or asyncio.run(perform(options))
    about, *rows = (json.loads(line) for line in path.read_text().splitlines())
    manifest = load_manifest(options.bundle)
    try:
        figures = summarise(rows, manifest)
    except ValueError as error:
        parser.error(str(error))
    bundle = {"name": manifest.name, "version": manifest.version, "digest": manifest.digest}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "soak.json").write_text(json.dumps({**about, "bundle": bundle, "figures": figures}, indent=1) + "\n")
    draw(rows, manifest, (options.images or options.out) / "soak.png")
    print(json.dumps({name: value for name, value in figures.items() if name != "drift"}, indent=1))
    if figures["drift"]:
        print({name: value for name, value in figures["drift"].items() if name != "by_segment"})


if __name__ == "__main__":
    main()
