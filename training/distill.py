"""Distillation beyond the laptop: `python -m training.distill --recipe training/recipes/stage-5b.yaml --stage rollout`.

Stage `step-reduction` makes a few-step student of the joint stage's weights, `rollout` teaches it on chunks of its own
(StreamChar §4.2), over as many processes as `accelerate launch` or `torchrun` start. Run again with the same recipe, it
goes on from its last checkpoint. `training.export` makes a bundle of one. docs/training.md.
"""

from __future__ import annotations

import json
from typing import Literal

from services.bundle import load_manifest
from training.corpora.clip_format import ClipInvalid, read_manifest
from training.distill_rollout import TOKENS_PER_CHUNK
from training.distillation import Sampling
from training.distributed.batches import Drawn
from training.distributed.distiller import Distiller
from training.distributed.recipe import Recipe
from training.pretrain import command, groups_of


def main() -> None:
    """Command line."""
    command(__doc__, distil)


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
