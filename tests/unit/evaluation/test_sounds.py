"""Distances of sounds, and the page that lets one hear them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dit_worker.model.codec import AudioCodec, AudioCodecConfig
from evaluation.listening import Example, write_page
from evaluation.sounds import compare_sounds

RATE = 15_360


def voice(hz: float, breath: float = 0.01) -> np.ndarray:
    """Two seconds of overtones of one pitch, and hiss."""
    t = np.arange(48 * 640) / RATE
    overtones = sum(np.cos(2 * np.pi * n * hz * t + n * n) for n in range(1, int(7000 / hz)))
    hiss = np.random.default_rng(2).standard_normal(len(t)) * breath
    return (0.02 * overtones + hiss).astype(np.float32)


@pytest.fixture(scope="module")
def codec() -> AudioCodec:
    """Only its spectra are used."""
    return AudioCodec(AudioCodecConfig())


def test_a_copy_that_is_the_same_is_no_distance_away(codec: AudioCodec) -> None:
    """Every distance of a sound from itself is nothing."""
    samples = voice(150)
    assert all(value == pytest.approx(0.0, abs=1e-6) for value in compare_sounds(codec, samples, samples))


def test_distances_say_what_is_wrong(codec: AudioCodec) -> None:
    """Twice the amplitude is 6 dB, a semitone 5.9 % of pitch, less breath is buzz and more of it hoarseness."""
    samples = voice(150)
    assert compare_sounds(codec, samples, 2 * samples).spectral_db == pytest.approx(6.02, abs=0.3)
    assert compare_sounds(codec, samples, voice(150 * 2 ** (1 / 12))).pitch_percent == pytest.approx(5.8, abs=0.6)
    assert compare_sounds(codec, samples, voice(150, breath=0.002)).depth_db > 5
    assert compare_sounds(codec, samples, voice(150, breath=0.05)).depth_db < -5


def test_the_page_holds_its_sounds_and_pictures(codec: AudioCodec, tmp_path: Path) -> None:
    """One file, nothing to fetch, small; what is said of a voice is escaped."""
    examples = [Example("rms", way, "wax & <wane>", voice(120)) for way in ("true speech", "learned decoder")]
    figures = {
        "sentences": 1,
        "mean": {"true speech": {"word_error_rate": 0.012}, "learned decoder": {"word_error_rate": 0.02, "mel": 0.2}},
    }
    path = tmp_path / "page.html"
    write_page(path, codec, examples, figures)
    page = path.read_text()
    assert page.count("data:audio/ogg;base64,") == page.count("data:image/png;base64,") == 2
    assert "http" not in page
    assert "wax &amp; &lt;wane&gt;" in page
    assert "1.2 %" in page
    assert path.stat().st_size < 100_000
