"""A prompt of the conditioner as vLLM takes it: items of latents and words, each under a key.

vLLM's prefix cache compares keys, not contents. An item whose key is made of its content may be shared by everybody;
one whose key is used once is computed by whoever brings it. Placeholders are token id 0, which no item shows.
n frames or tokens of an item, C channels of a latent. It knows no model and no engine.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature
from vllm.inputs.engine import MultiModalInput, mm_input
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems, PlaceholderRange

LATENTS, WORDS = "latents", "words"
"""The two modalities."""
PLACEHOLDER = 0
FIELDS = {
    "frames": MultiModalFieldConfig.batched(LATENTS),
    "role": MultiModalFieldConfig.batched(LATENTS),
    "time": MultiModalFieldConfig.batched(LATENTS),
    "ids": MultiModalFieldConfig.batched(WORDS),
}

_once = itertools.count()


class Role(IntEnum):
    """What latents are to the conditioner, which embeds each kind in its own way."""

    REFERENCE = 0
    NO_HISTORY = 1
    OLDER = 2
    NEWEST = 3
    NOISY = 4


@dataclass(frozen=True, slots=True)
class Item:
    """One item: latents (n, C) with their role and flow time, or token ids (n,)."""

    key: str
    values: Tensor
    role: Role | None = None
    """None for words."""
    time: float = 0.0

    def __len__(self) -> int:
        return len(self.values)


def latents(frames: Tensor, role: Role) -> Item:
    """Latents (n, C) that everybody may share: the key says what they are."""
    digest = sha256(frames.contiguous().numpy().tobytes()).hexdigest()
    return Item(f"{role.name}:{digest}", frames, role)


def noisy(frames: Tensor, time: float) -> Item:
    """The noisy latents (n, C) of one step, computed anew whatever has come before."""
    return Item(f"{Role.NOISY.name}:{next(_once)}", frames, Role.NOISY, time)


def words(ids: Tensor) -> Item:
    """Token ids (n,) of one chunk's text, computed by the first request that brings this item and by no other."""
    return Item(f"{WORDS}:{next(_once)}", ids)


def prompt(items: Sequence[Item]) -> MultiModalInput:
    """The items one after the other, as an input that needs no tokenizer and no processor."""
    of: dict[str, list[Item]] = {LATENTS: [], WORDS: []}
    places: dict[str, list[PlaceholderRange]] = {LATENTS: [], WORDS: []}
    length = 0
    for item in items:
        modality = WORDS if item.role is None else LATENTS
        of[modality].append(item)
        places[modality].append(PlaceholderRange(length, len(item)))
        length += len(item)
    features: dict[str, Any] = {
        "frames": [item.values for item in of[LATENTS]],
        "role": torch.tensor([int(item.role or 0) for item in of[LATENTS]]),
        "time": torch.tensor([item.time for item in of[LATENTS]]),
        "ids": [item.values for item in of[WORDS]],
    }
    return mm_input(
        prompt_token_ids=[PLACEHOLDER] * length,
        mm_kwargs=MultiModalKwargsItems.from_hf_inputs(BatchFeature(features), FIELDS),
        mm_hashes={name: [item.key for item in found] for name, found in of.items()},
        mm_placeholders=places,
    )
