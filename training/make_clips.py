"""Packs clips into shards: `python -m training.make_clips --from synthetic|FOLDER --out data/clips`.

A folder holds NAME.json beside NAME.mp4 and/or NAME.wav (docs/corpora.md). `synthetic` speaks and draws as many clips
as asked for, with flite; it needs the packages the synthetic corpus needs.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from orchestrator_llm.model.text import TextFrontEnd
from services.bundle import load_manifest
from services.errors import BundleInvalid
from training.corpora.clip_format import ClipInvalid, Header
from training.corpora.clip_shards import Packed, write_shards
from training.corpora.clip_sources import folder_clips, refuse, synthetic_clips
from training.corpora.text import collect
from training.make_corpus import HELD_OUT


def main() -> None:
    """Command line. Exit code 2, and a sentence, for what cannot be packed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="source", required=True, help="`synthetic`, or a folder of media with sidecars")
    parser.add_argument("--out", type=Path, default=Path("data/clips"), help="folder of the shards and their manifest")
    parser.add_argument("--name", default="clips", help="what the shards' names begin with")
    parser.add_argument("--clips-per-shard", type=int, default=256, help="a run has at most one reader a shard")
    parser.add_argument("--note", default="", help="a line about the corpus, for its manifest")
    parser.add_argument("--skip-bad", action="store_true", help="name the bad clips of a folder and leave them out")
    parser.add_argument("--count", type=int, default=100, help="synthetic clips")
    parser.add_argument("--voices", default="kal16,slt,rms,awb", help="synthetic voices, in turn")
    parser.add_argument("--seed", type=int, default=0, help="of the synthetic clips")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/pocket"), help="whose lexicon tells words apart")
    options = parser.parse_args()
    if options.clips_per_shard < 1 or options.count < 1:
        parser.error("--clips-per-shard and --count are at least 1")
    try:
        shards = write_shards(
            options.out, Header(kind="media", note=options.note), options.name, clips(options), options.clips_per_shard
        )
    except (ValueError, OSError, RuntimeError, BundleInvalid) as fault:
        parser.exit(2, f"{fault}\n")
    seconds = sum(shard.seconds for shard in shards)
    print(f"{sum(s.clips for s in shards)} clips, {seconds / 60:.1f} minutes, in {len(shards)} shards in {options.out}")


def clips(options: argparse.Namespace) -> Iterator[Packed]:
    """The clips that were asked for, under a progress bar."""
    if options.source != "synthetic":
        bad = _report if options.skip_bad else refuse
        yield from tqdm(folder_clips(Path(options.source), bad), unit="clip")
        return
    texts, rng = collect(HELD_OUT.read_text().splitlines()), random.Random(options.seed)
    said = (texts.passage(rng) for _ in itertools.repeat(None, options.count))
    front_end = TextFrontEnd.load(options.bundle, load_manifest(options.bundle).text)
    yield from tqdm(
        synthetic_clips(said, options.voices.split(","), front_end, options.seed), total=options.count, unit="clip"
    )


def _report(fault: ClipInvalid) -> None:
    print(f"left out: {fault}", file=sys.stderr)


if __name__ == "__main__":
    main()
