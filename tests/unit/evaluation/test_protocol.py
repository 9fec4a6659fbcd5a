"""The protocols: enough unseen words, the paper's sizes, and the same clips every time."""

from __future__ import annotations

from evaluation.protocol import LONG_SECONDS, VOICES, follow_clips, long_clips, prompt_clips, short_clips
from evaluation.texts import held_out_scripts, held_out_texts


def test_the_short_protocol_has_150_clips_of_more_than_3000_words_in_all_voices() -> None:
    """Differences of word error rates rest on enough words, and every voice has its share of them."""
    clips = short_clips()
    assert len(clips) == 150 == len({c.name for c in clips}) == len({c.face for c in clips})
    assert sum(len(c.text.split()) for c in clips) >= 3000
    assert len({c.text for c in clips}) >= 100
    assert {c.voice for c in clips} == set(VOICES)


def test_a_clip_is_the_same_whatever_is_made_beside_it() -> None:
    """Clips of a quick run are the first ones of the full one, noise and all."""
    assert short_clips(8) == short_clips()[:8]
    assert [c.seed for c in short_clips(8)] == [c.seed for c in short_clips()[:8]]
    assert len({c.seed for c in short_clips()}) == 150


def test_long_scripts_have_more_than_300_words_and_differ() -> None:
    """Each stream speaks for five minutes from its own script on."""
    assert all(len(script.split()) > 300 for script in held_out_scripts())
    clips = long_clips(3)
    assert all(c.seconds == LONG_SECONDS and len(c.text.split()) > 900 for c in clips)
    assert len({c.text for c in clips}) == 3


def test_every_unheard_voice_and_every_slot_has_its_clips() -> None:
    """Voice following and prompts are asked for evenly."""
    assert len(follow_clips(2)) == 12
    prompted = prompt_clips(2)
    assert len(prompted) == 40 == 2 * len({(c.slot, c.value) for c in prompted}) == len({c.face for c in prompted})
    assert all(c.prompt for c in prompted) and len({c.prompt for c in prompted}) > 15


def test_all_held_out_texts_are_different() -> None:
    """No sentence stands twice in the held-out files."""
    texts = held_out_texts()
    assert len(texts) == len(set(texts)) > 200
