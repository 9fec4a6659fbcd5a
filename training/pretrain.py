"""Pretraining beyond the laptop: `python -m training.pretrain --recipe training/recipes/stage-5b.yaml --stage speech`.

Stage `speech` is the paper's pretraining 1 (conditioner on sound), `joint` its pretraining 2 (conditioner and DiT on
sound and picture, StreamChar §5.1), each over as many processes as `accelerate launch` or `torchrun` start. Run again
with the same recipe, it goes on from its last checkpoint, also with another number of processes. docs/training.md.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from dit_worker.model.dit import DiTConfig
from orchestrator_llm.model.conditioner import ConditionerConfig
from services.bundle import Manifest, load_manifest
from services.errors import BundleInvalid
from services.prompts import PromptWords
from training.corpora.clip_format import ClipInvalid, read_manifest
from training.distributed.batches import Drawn, Groups
from training.distributed.recipe import Pretraining, Recipe, RecipeInvalid, load_recipe
from training.distributed.tokens import tokens_of
from training.distributed.trainer import Trainer


def main() -> None:
    """Command line."""
    command(__doc__, lambda recipe, name: train(recipe, recipe.stage(name)))


def command(description: str | None, run: Callable[[Recipe, str], None]) -> None:
    """Runs a stage of a recipe by its name. Exit code 2, and a sentence, for what cannot be used."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--stage", required=True, help="which of the recipe's stages")
    options = parser.parse_args()
    # nothing here is changed in place, which is what this warns of
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    try:
        run(load_recipe(options.recipe), options.stage)
    except (ValueError, ImportError, BundleInvalid) as fault:
        parser.exit(2, f"{fault}\n")
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def train(recipe: Recipe, stage: Pretraining) -> None:
    """Runs one stage to its end."""
    bundle = load_manifest(recipe.bundle)
    corpus = read_manifest(stage.corpus)
    if corpus.header.kind != "latents":
        raise ClipInvalid(f"{stage.corpus} holds media: make latents of it with training.encode_clips")
    groups = groups_of(bundle, recipe, Drawn(stage.corpus, stage.objective, stage.micro_batch, stage.first_share))
    config = json.loads(bundle.model_dump_json(include={"conditioner", "dit", "prompt"}))
    Trainer(recipe, stage, config).run(corpus, groups)


def groups_of(bundle: Manifest, recipe: Recipe, drawn: Drawn) -> Groups:
    """How batches are drawn for a bundle: its tokens, its words, its rate of latents."""
    g = bundle.geometry
    folder = recipe.bundle if recipe.bundle.is_dir() else recipe.bundle.parent
    words = PromptWords(bundle.prompt.words) if bundle.prompt is not None and bundle.prompt.words else None
    try:
        conditioner, dit = ConditionerConfig(**bundle.conditioner), DiTConfig(**bundle.dit)
    except TypeError as fault:
        raise RecipeInvalid(f"{recipe.bundle} has an option this version does not know: {fault}") from fault
    return Groups(
        drawn,
        conditioner,
        tokens_of(bundle.text, folder),
        words,
        dit.prompt_source_width or dit.prompt_width,
        g.video_shape,
        g.sample_rate / g.samples_per_audio_latent,
    )


if __name__ == "__main__":
    main()
