"""Prompts asked anew in training, and what of them is guided."""

from __future__ import annotations

import argparse
import random
from dataclasses import replace

import pytest

from services.prompts import PromptWords
from tests.unit.training.test_distillation import context
from training.corpora.captions import WORDS, read
from training.requests import ask, make_request, parse_scales
from training.scenes import word_ids

SCALES = {"expression": 5.0, "gaze": 3.0}


def test_what_is_guided_is_the_slot_with_the_highest_scale_and_the_rest_asks_for_all_others() -> None:
    """So a smile before a red wall is made plainer, and the wall is as red with the guide as without."""
    rng = random.Random(0)
    for _ in range(200):
        request = make_request(rng, {"wall": "red", "gaze": "left"}, SCALES)
        asked, rest = read(request.text), read(request.rest)
        guided = "expression" if "expression" in asked else "gaze"
        assert request.scale == SCALES[guided]
        assert rest == {slot: value for slot, value in asked.items() if slot != guided}
        assert asked["wall"] == "red"


def test_chunks_that_ask_for_nothing_are_asked_for_something_at_times() -> None:
    """And only for what has a scale."""
    rng = random.Random(1)
    requests = [make_request(rng, {}, SCALES) for _ in range(300)]
    fresh = [request for request in requests if request.text]
    assert 120 < len(fresh) < 240
    assert {slot for request in fresh for slot in read(request.text)} == set(SCALES)
    assert all(request == ("", "", 1.0) for request in requests if not request.text)


def test_a_batch_is_asked_in_words_of_the_list() -> None:
    """What the corpus asked stays asked, in other words, one row a request."""
    words = PromptWords(WORDS)
    ids, mask = word_ids(words, ["she smiles and looks left", ""])
    batch = replace(context(), words=ids, words_mask=mask)
    asked, scales = ask(random.Random(3), batch, words, {"wall": 1.0})
    assert asked.words is not None and asked.words_mask is not None
    assert asked.rest is not None and asked.rest_mask is not None
    told = read(words.text(asked.words[0][asked.words_mask[0]].tolist()))
    assert (told["expression"], told["gaze"]) == ("smile", "left")
    assert scales.tolist() == [1.0, 1.0]
    assert asked.rest_mask[0].sum() < asked.words_mask[0].sum()
    with pytest.raises(ValueError, match="no prompts"):
        ask(random.Random(0), replace(batch, words=None), words, SCALES)


def test_scales_are_read_or_refused_in_a_sentence() -> None:
    """A slot that is not there, and what is no number."""
    assert parse_scales("expression=5,gaze=3") == SCALES
    with pytest.raises(argparse.ArgumentTypeError, match="no slot hat"):
        parse_scales("hat=2")
    with pytest.raises(argparse.ArgumentTypeError, match="slot=number"):
        parse_scales("gaze=much")
