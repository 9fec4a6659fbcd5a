"""Evaluates a bundle: `python -m evaluation --bundle bundles/pocket --out benchmarks/results/quality.json`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from evaluation import suite as measure
from evaluation.figures import draw_all
from evaluation.panel import Panel, held_out_sentences
from evaluation.performers import load_company, read_lexicon
from evaluation.report import TITLES, kept_parts, provenance, write_json, write_page
from evaluation.suite import Suite
from services.bundle import load_manifest

VOICES = ("kal16", "slt")
PARTS: dict[str, Callable[[Suite], Any]] = {
    "truth": lambda s: measure.measure_truth(s, VOICES),
    "speech": measure.measure_speech,
    "sync": measure.measure_sync,
    "true_sync": lambda s: measure.measure_true_sync(s, VOICES[0]),
    "pointer": lambda s: measure.measure_pointer(s, VOICES),
    "options": measure.compare_options,
    "identity": measure.measure_identity,
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/pocket"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/quality.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/quality"), help="folder of the page with its pictures")
    parser.add_argument("--judge", type=Path, default=Path("data/checkpoints/judge"))
    parser.add_argument(
        "--corpus", type=Path, default=Path("data/corpus"), help="read only where the judge is not tuned yet"
    )
    parser.add_argument("--sentences", type=int, default=48, help="how many of the held-out sentences")
    parser.add_argument("--part-sentences", type=int, default=24, help="how many of them where options are compared")
    parser.add_argument("--minute", type=float, default=60.0, help="seconds of the long performances")
    parser.add_argument(
        "--only", default=",".join(PARTS), help="parts to measure; others are kept as they were, of " + ", ".join(PARTS)
    )
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Measures, writes, draws."""
    options = arguments()
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(PARTS):
        raise SystemExit(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    torch.set_num_threads(options.threads)
    manifest, company = load_manifest(options.bundle), load_company(options.bundle)
    lexicon = read_lexicon(options.bundle / str(manifest.text["lexicon"]))
    panel = Panel.convene(options.judge, company.models.codec, lexicon, options.corpus)
    suite = Suite(company, panel, held_out_sentences()[: options.sentences], options.part_sentences, options.minute)
    results: dict[str, Any] = provenance() | {
        "written_to": str(options.out),
        "sentences": len(suite.sentences),
        "bundle": {
            "name": manifest.name,
            "version": manifest.version,
            "digest": manifest.digest,
            "sampler": manifest.sampler.model_dump(),
        },
        "judge": {"words": len(panel.loop.classes), "penalty": panel.loop.penalty},
    }
    results = kept_parts(options.out, results) | results
    for part in [p for p in PARTS if p in wanted]:
        began = time.monotonic()
        results[part] = PARTS[part](suite)
        results.setdefault("seconds", {})[part] = round(time.monotonic() - began, 1)
        write_json(results, options.out)
    drawn = draw_all(suite, results, options.page)
    write_page(results, options.page, [name for name in TITLES if name in drawn or (options.page / name).exists()])
    print(f"wrote {options.out} and {options.page / 'README.md'}")


if __name__ == "__main__":
    main()
