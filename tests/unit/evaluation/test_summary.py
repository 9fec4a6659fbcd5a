"""Pooling what single takes gave, on constructed measurements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evaluation.measure import Measured
from evaluation.protocol import Clip
from evaluation.summary import (
    border_jump,
    drift_figures,
    judge_delay,
    picture_figures,
    time_figures,
    wer_difference,
    words_figures,
)
from evaluation.watching import Watched


def heard(errors: int, lost: int = 0, **more: object) -> dict[str, Any]:
    """Figures of a clip of 20 words and 10 s."""
    counts = (20, errors - lost, lost, 0, 0)
    return {"words": counts, "sphinx": counts, "phones": counts, "lost": list(range(lost)), "repeated": [],
            "lost_by_both": [], "repeated_by_both": [], "pointer_errors": [], "word_time_errors": [], "words_due": 20,
            "seconds": 10.0, "seconds_taken": 2.0, "is_finished": True, "nudges": 0} | more  # fmt: skip


def seen(quality: np.ndarray, seed: int = 0, flow: float = 0.2, border: float = 1.0) -> Watched:
    """Pictures with a known quality, movement and jump at every 33rd."""
    count, rng = len(quality), np.random.default_rng(seed)
    change = np.ones(count - 1, np.float32)
    change[32::33] = border
    return Watched(
        opening=np.zeros(count), lips=np.zeros((count, 2, 2)), quality=quality, likeness=np.ones(count),
        features=rng.normal(size=(count // 2, 8)), sharpness=np.full(count, 5.0), colourfulness=np.full(count, 30.0),
        colours=np.zeros((count, 4, 3)), change=change, flow=np.full(9, flow), stills=np.zeros((1, 2, 2, 3)),
    )  # fmt: skip


def measured(count: int, pictures: Watched | None = None, voice: str = "slt", **more: int) -> list[Measured]:
    """Some clips, alike but for their names."""
    return [Measured(Clip(f"c{i}", "t", voice, "f"), heard(**more), pictures) for i in range(count)]  # type: ignore[arg-type]


def test_word_errors_are_pooled_and_told_by_voice() -> None:
    """Two voices with one and three errors of twenty make one in ten."""
    figures = words_figures([*measured(5, errors=1), *measured(5, voice="rms", errors=3, lost=2)])
    assert figures["wer"][0] == pytest.approx(0.1) and figures["words"] == 200 and figures["lost"] == 10
    assert figures["wer_by_voice"] == {"slt": pytest.approx(0.05), "rms": pytest.approx(0.15)}


def test_a_difference_is_of_the_clips_both_have() -> None:
    """Clips of one variant alone are left out."""
    told = wer_difference(measured(8, errors=2), measured(5, errors=1))
    assert told["difference"][0] == pytest.approx(0.05) and told["words"] == 100 and told["is_told"]


def test_the_judges_delay_is_taken_off() -> None:
    """40 ms late on true speech: at two words a second that is 0.08 word of the pointer's error."""
    true = [Measured(Clip("t", "t", "slt", "f"), heard(0, word_time_errors=[-0.05, -0.04, -0.03]), None)]
    delay = judge_delay(true)
    made = [Measured(Clip("c", "t", "slt", "f"), heard(0, pointer_errors=[0.08], word_time_errors=[-0.04]), None)]
    figures = time_figures(made, delay)
    assert delay == pytest.approx(0.04)
    assert figures["pointer_words"]["mean"] == 0.0 and figures["word_time_s"]["mean"] == 0.0
    assert figures["rtf"] == 0.2


def test_pictures_are_compared_with_the_true_ones() -> None:
    """At no distance from themselves; one that hardly moves is not dynamic; a jump at borders is seen."""
    true = measured(3, seen(np.ones(330)), errors=0)
    same = picture_figures(true, true, 33)
    assert same["frechet_image"] == pytest.approx(0.0, abs=1e-3) and same["dynamic_degree"] == 1.0
    still = picture_figures(measured(3, seen(np.ones(330), 1, flow=0.05), errors=0), true, 33)
    assert still["dynamic_degree"] == 0.0
    assert border_jump([seen(np.ones(330), border=2.5)], 33) == 2.5


def test_drift_is_the_mean_over_streams() -> None:
    """One stream that fades by 0.2 and one that stays drift by 0.1; the worst is told beside."""
    fading = np.where(np.arange(1440) < 720, 0.9, 0.7)
    streams = [*measured(1, seen(fading), errors=0), *measured(1, seen(np.full(1440, 0.9)), errors=0)]
    for m in streams:
        m.heard["seconds"] = 60.0
    figures = drift_figures(streams)
    assert figures["quality"]["drift"] == pytest.approx(0.1) and figures["quality"]["worst"] == pytest.approx(0.2)
    assert figures["quality"]["by_segment"] == pytest.approx([0.0, 0.1]) and len(figures["quality"]["curve"]) == 12
