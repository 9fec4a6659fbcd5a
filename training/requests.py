"""What prompts ask of a batch in training, in fresh words, and how much plainer a guide makes one thing of it.

A teacher shows walls as soon as they are asked for, and expressions hardly ever: what makes these plain burns those. So
each thing that can be asked for, a slot, has a scale of its own, and a guide goes away from the same prompt without it.
Some chunks are asked for what the corpus did not ask there, as a user does while the picture is another. It knows no
models. B chunks, S words.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor, tensor

from services.prompts import PromptWords
from training.actors import Context
from training.corpora.captions import phrase, read
from training.corpora.states import VALUES
from training.scenes import word_ids

FRESH = 0.6
"""Share of the chunks that are asked for one thing more, or another."""
JOIN = ", "

Scales = Mapping[str, float]
"""Slot -> scale of its guide; 1, or not there, is none."""


class Request(NamedTuple):
    """What one chunk is asked for, the same without what is guided, and the scale of that."""

    text: str
    rest: str
    scale: float


def parse_scales(text: str) -> dict[str, float]:
    """ "expression=5,gaze=3" as slots and scales. Raises argparse.ArgumentTypeError."""
    try:
        scales = {slot: float(scale) for slot, _, scale in (part.partition("=") for part in text.split(",") if part)}
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"scales are written slot=number,slot=number: {error}") from error
    if unknown := scales.keys() - VALUES.keys():
        raise argparse.ArgumentTypeError(f"no slot {', '.join(sorted(unknown))}: there are {', '.join(VALUES)}")
    return scales


def make_request(rng: random.Random, asked: Mapping[str, str], scales: Scales) -> Request:
    """What is asked for, slot -> value, in fresh words and any order, or with one slot of the scales' asked anew.

    Of several slots the one with the highest scale is guided.
    """
    asked = dict(asked)
    if scales and rng.random() < FRESH:
        slot = rng.choice(sorted(scales))
        asked[slot] = rng.choice(VALUES[slot])
    if not asked:
        return Request("", "", 1.0)
    said = [(slot, phrase(rng, slot, value)) for slot, value in asked.items()]
    rng.shuffle(said)
    guided = max(asked, key=lambda slot: scales.get(slot, 1.0))
    rest = JOIN.join(words for slot, words in said if slot != guided)
    return Request(JOIN.join(words for _, words in said), rest, scales.get(guided, 1.0))


def ask(rng: random.Random, context: Context, words: PromptWords, scales: Scales) -> tuple[Context, Tensor]:
    """The batch with new prompts, what is left of each without its guided slot, and the guides' scales (B,)."""
    if context.words is None or context.words_mask is None:
        raise ValueError("the batch has no prompts to begin from")
    texts = [words.text(ids[mask].tolist()) for ids, mask in zip(context.words, context.words_mask, strict=True)]
    requests = [make_request(rng, read(text), scales) for text in texts]
    (asked, mask), (rest, rest_mask) = (word_ids(words, column) for column in columns(requests))
    context = replace(context, words=asked, words_mask=mask, rest=rest, rest_mask=rest_mask)
    return context, tensor([request.scale for request in requests])


def columns(requests: Sequence[Request]) -> tuple[list[str], list[str]]:
    """Whole prompts, and what is left of them."""
    return [request.text for request in requests], [request.rest for request in requests]
