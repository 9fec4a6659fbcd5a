"""Public checkpoints to the weights of the models that are trained, for `training.init`.

Wan2.2-TI2V-5B (its own files or diffusers' `transformer` folder) becomes the DiT, each FFN replicated as audio expert;
Qwen2.5-3B becomes the conditioner's body. One tensor at a time is in memory; weights are written in bfloat16. What the
checkpoints lack, as audio encoder and decoder, pointer and projections, is listed or begun as the models begin.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dit_worker.model.dit import DiTConfig, JointDiT
from orchestrator_llm.model.conditioner import Conditioner, ConditionerConfig
from training.converters.files import ConversionFailed, StreamedFile, read_tensors
from training.converters.layout import empty_prompt, qwen_move, wan_move, wan_name

EMPTY_PROMPT = ("text_embedding.0.bias", "text_embedding.2.weight", "text_embedding.2.bias")
LAYER = re.compile(r"\b(blocks|layers)\.\d+\.")


class Converted(NamedTuple):
    """A written file's digest, and the names of the weights that no checkpoint had."""

    sha256: str
    begun: list[str]


def convert_dit(source: Path | None, config: DiTConfig, out: Path, is_random: bool) -> Converted:
    """Writes `dit.safetensors` from Wan's transformer, or from nothing. Raises ConversionFailed."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in JointDiT(config).state_dict().items()}
    kept: dict[str, Tensor] = {}
    with StreamedFile(out / "dit.safetensors", shapes) as file:
        for name, tensor in tensors_of(source, "transformer"):
            plain = wan_name(name)
            move = wan_move(plain, config)
            if move is None:
                raise ConversionFailed(f"{source}: {name} has no place here: is it Wan2.2-TI2V-5B's transformer?")
            changed = move.change(tensor)
            for place in move.places:
                file.put(place, changed)
            if plain in EMPTY_PROMPT:
                kept[plain] = tensor
        if len(kept) == len(EMPTY_PROMPT):
            file.put("no_prompt", empty_prompt(*(kept[name] for name in EMPTY_PROMPT)))
        return fill_missing(file, partial(JointDiT, replace(config, layers=1)), is_random)


def convert_conditioner(source: Path | None, config: ConditionerConfig, out: Path, is_random: bool) -> Converted:
    """Writes `conditioner.safetensors` from Qwen2's body, or from nothing. Raises ConversionFailed."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in Conditioner(config).state_dict().items()}
    shallow = replace(config, body=config.body | {"num_hidden_layers": 1})
    with StreamedFile(out / "conditioner.safetensors", shapes) as file:
        for name, tensor in tensors_of(source, ""):
            move = qwen_move(name)
            if move is not None:
                file.put(move.places[0], move.change(tensor))
        return fill_missing(file, partial(Conditioner, shallow), is_random)


def tensors_of(source: Path | None, inner: str) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a checkpoint, or of its folder `inner` where it has one; none without a checkpoint."""
    if source is not None:
        folder = source / inner if (source / inner).is_dir() else source
        yield from tqdm(read_tensors(folder), desc=str(folder), unit="tensor")


def fill_missing(file: StreamedFile, shallow: Callable[[], nn.Module], is_random: bool) -> Converted:
    """Begins what is missing as a model of one layer begins, and closes the file.

    Raises ConversionFailed for missing weights unless `is_random`.
    """
    missing = sorted(file.missing)
    if missing and not is_random:
        listed = "\n  ".join(missing)
        raise ConversionFailed(
            f"{len(missing)} weights are in no checkpoint; --random-missing begins them:\n  {listed}"
        )
    if missing:
        torch.manual_seed(0)
        fresh = shallow().state_dict()
        for name in missing:
            file.put(name, fresh[LAYER.sub(r"\1.0.", name)])
    return Converted(file.close(), missing)
