"""Distillation beyond the laptop: `python -m training.distill --recipe training/recipes/stage-5b.yaml --stage rollout`.

Stage `step-reduction` makes a few-step student of the joint stage's weights, `rollout` teaches it on chunks of its own
(StreamChar §4.2), over as many processes as `accelerate launch` or `torchrun` start. Run again with the same recipe, it
goes on from its last checkpoint. `training.export` makes a bundle of one. docs/training.md.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Literal

import torch

from services.bundle import load_manifest
from services.errors import BundleInvalid
from training.corpora.clip_format import ClipInvalid, read_manifest
from training.distill_rollout import TOKENS_PER_CHUNK
from training.distillation import Sampling
from training.distributed.batches import Drawn
from training.distributed.distiller import Distiller
from training.distributed.recipe import Recipe, load_recipe
from training.pretrain import groups_of


def main() -> None:
    """Command line. Exit code 2, and a sentence, for a recipe or a corpus that cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--stage", required=True, help="step-reduction or rollout")
    options = parser.parse_args()
    # nothing here is changed in place, which is what this warns of
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    try:
        distil(load_recipe(options.recipe), options.stage)
    except (ValueError, ImportError, BundleInvalid) as fault:
        parser.exit(2, f"{fault}\n")
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def distil(recipe: Recipe, name: str) -> None:
    """Runs one stage to its end."""
    known, stage = recipe.distilling(name)
    bundle, corpus = load_manifest(recipe.bundle), read_manifest(stage.corpus)
    if corpus.header.kind != "latents":
        raise ClipInvalid(f"{stage.corpus} holds media: make latents of it with training.encode_clips")
    objective: Literal["joint", "rollout"] = "rollout" if known == "rollout" else "joint"
    drawn = Drawn(stage.corpus, objective, stage.micro_batch, stage.first_share, TOKENS_PER_CHUNK * stage.chunks)
    config = json.loads(bundle.model_dump_json(include={"conditioner", "dit", "prompt"}))
    sampling = Sampling(**bundle.sampler.model_dump())
    Distiller(recipe, stage, config, sampling).run(corpus, groups_of(bundle, recipe, drawn))


if __name__ == "__main__":
    main()
