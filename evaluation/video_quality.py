"""What the video VAE keeps of faces that no training saw: `python -m evaluation.video_quality`.

Peak signal-to-noise ratios of a bundle's own weights, over whole pictures and over the mouth alone, of faces as they
are and of faces whose expression, gaze, wall and light change. It is the most that models of its latents can show.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from dit_worker.engine.loader import load_models
from dit_worker.model.vae import VideoVAE
from evaluation.report import provenance, write_json
from services.bundle import load_bundle
from services.errors import CuelightError
from training.train_vae import held_out, quality

STATES = {"plain": False, "in states": True}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/pocket"))
    parser.add_argument("--out", type=Path, help="JSON to write")
    options = parser.parse_args()
    try:
        bundle = load_bundle(options.bundle)
        vae, about = load_models(bundle).video_vae, bundle.manifest
    except CuelightError as error:
        print(f"video_quality: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    if not isinstance(vae, VideoVAE):
        print(f"video_quality: {about.name} has a VAE of other pictures than the corpus's", file=sys.stderr)
        raise SystemExit(2)
    figures = {name: quality(vae, held_out(has_states)) for name, has_states in STATES.items()}
    told = {name: {kind: round(value, 2) for kind, value in row.items()} for name, row in figures.items()}
    print(json.dumps(told, indent=1))
    if options.out is not None:
        version = {"name": about.name, "version": about.version, "digest": about.digest}
        write_json(provenance() | {"bundle": version, "faces": 24, "psnr_db": told}, options.out)


if __name__ == "__main__":
    main()
