"""Words, times and voices on constructed cases."""

from __future__ import annotations

import numpy as np
import pytest

from dit_worker.model.codec import AudioCodec, AudioCodecConfig
from evaluation.hearing import Reading, Timing, mean_spectrum, median_pitch, renderer_mouth
from evaluation.takes import SpokenWord
from evaluation.words import mistakes

RATE = 15_360
WORDS = [("dh", "ax"), ("r", "ih", "v", "er"), ("pau",), ("s", "iy")]


def spoken(delay: float = 0.0) -> list[tuple[str, float]]:
    """The phones of WORDS, one every tenth of a second."""
    phones = [p for word in WORDS for p in word if p != "pau"]
    return [(phone, delay + 0.1 * i) for i, phone in enumerate(phones)]


def test_a_lost_word_and_a_repeated_one_are_found_where_they_are() -> None:
    """Losing `b` and saying `f` twice: one each, at their places."""
    lost, repeated = mistakes("a b c d e f g".split(), "a c d e f f g".split())
    assert lost == {1} and len(repeated) == 1 and repeated <= {5, 6}
    assert mistakes(["a", "b"], ["a", "x"]) == (set(), set())


def test_a_swapped_word_is_neither_lost_nor_repeated() -> None:
    """Another word in a word's place is a substitution."""
    lost, repeated = mistakes("one two three".split(), "one six three".split())
    assert not lost and not repeated


def test_the_pointer_is_right_where_it_says_what_is_heard() -> None:
    """At 0.4 s the second phone of `river`'s four has just ended: word 1.5; pauses do not count."""
    timing = Timing.of(Reading.of(WORDS), spoken())
    assert timing.pointer_errors([1.5], 0.4) == [pytest.approx(0.0, abs=1e-6)]
    assert timing.pointer_errors([2.0], 0.4) == [pytest.approx(0.5)]
    assert timing.pointer_errors([0.0, 4.0], 5.0) == []


def test_word_times_are_compared_with_first_phones() -> None:
    """Told 50 ms late, found 50 ms late; a word without phones has no time."""
    timing = Timing.of(Reading.of(WORDS), spoken())
    told = [SpokenWord(0, 0.05, 0.2), SpokenWord(1, 0.25, 0.6), SpokenWord(2, 0.6, 0.6), SpokenWord(3, 0.65, 0.8)]
    assert timing.word_errors(told) == pytest.approx([0.05, 0.05, 0.05])


def test_a_phone_that_was_misheard_gives_no_time() -> None:
    """What does not agree is left out of the alignment."""
    heard = [("dh", 0.0), ("uw", 0.1), *spoken()[2:]]
    assert 0.5 not in Timing.of(Reading.of(WORDS), heard).places


def test_a_reading_can_end_early() -> None:
    """A stream that was stopped is judged by what was due."""
    assert Reading.of(WORDS).until(2).phones == ("dh", "ax", "r", "ih", "v", "er")


@pytest.mark.parametrize("hertz", [90.0, 130.0, 215.0])
def test_the_pitch_of_a_voice_is_found(hertz: float) -> None:
    """A buzz with harmonics, between silences, within 3 %."""
    seconds = np.arange(RATE) / RATE
    buzz = sum(np.sin(2 * np.pi * hertz * n * seconds) / n for n in range(1, 9))
    samples = np.concatenate([np.zeros(RATE // 2), 0.1 * buzz, np.zeros(RATE // 2)])
    assert median_pitch(samples, RATE) == pytest.approx(hertz, rel=0.03)
    assert median_pitch(np.zeros(RATE), RATE) == 0.0


def test_a_voice_spectrum_knows_colour_and_no_level() -> None:
    """Twice as loud is the same; low notes are not high ones."""
    codec, rng = AudioCodec(AudioCodecConfig()), np.random.default_rng(0)
    noise = rng.normal(size=RATE).astype(np.float32)
    low = np.convolve(noise, np.ones(12) / 12, "same").astype(np.float32) * 0.1
    spectrum = mean_spectrum(codec, low)
    assert np.abs(mean_spectrum(codec, 2 * low) - spectrum).max() < 0.05
    assert np.abs(mean_spectrum(codec, 0.1 * noise) - spectrum).max() > 0.5


def test_the_renderers_mouth_follows_what_is_heard() -> None:
    """Open at a vowel, shut at an m and in the pause after it, at the moments the judge hears them."""
    pytest.importorskip("cv2")
    heard = [("m", 0.1), ("aa", 0.5), ("m", 0.9), ("pau", 1.2)]
    opening = renderer_mouth(heard, np.ones(48))
    assert opening[12] > 0.8
    assert opening[2] < 0.2 and opening[22] < 0.2 and opening[40] < 0.05
