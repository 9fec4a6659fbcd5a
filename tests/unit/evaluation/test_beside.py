"""Targets that rest on other measurements: which file says what, and by how much it falls short."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluation.beside import FILES, judge_beside, read_beside

ROW = {"row": "as shipped", "steps": 4, "word_error_rate": [4.7, 4.0, 5.4], "words": 3539}


def test_files_that_are_there_are_judged_and_others_are_not_told_of(tmp_path: Path) -> None:
    """A decoder that costs 1.2 points misses its target by 0.2; nothing is said of the rest."""
    rates = {"true speech": {"word_error_rate": 0.02}, "learned decoder": {"word_error_rate": 0.032}}
    (tmp_path / FILES["audio_vae"]).write_text(json.dumps({"mean": rates, "voices": {}}))
    found = read_beside(tmp_path)
    assert found == {"audio_vae": {"mean": rates}}
    (verdict,) = judge_beside(found)
    assert not verdict.is_reached
    assert (verdict.found[:4], verdict.margin) == ("1.20", "0.20 above")


@pytest.mark.parametrize(("more", "words", "is_reached"), [(6.3, 3539, True), (-0.8, 3539, False), (6.3, 900, None)])
def test_four_steps_are_held_against_fifty(more: float, words: int, is_reached: bool | None) -> None:
    """Fifty that make fewer errors by 0.8 points make four miss; too few words do not tell."""
    other = ROW | {"row": "teacher", "steps": 50, "more_word_errors": [more, more - 1, more + 1], "words": words}
    (verdict,) = judge_beside({"steps": {"rows": [ROW, ROW | {"more_word_errors": [0, 0, 0]}, other]}})
    assert verdict.is_reached is is_reached


def test_pictures_and_speed_have_their_limits() -> None:
    """The mouth is judged by itself, a chunk by its 95th percentile."""
    rows = {"plain": {"psnr": 33.2, "psnr_mouth": 26.0}, "in states": {"psnr": 30.5, "psnr_mouth": 25.0}}
    speed = {"figures": {"rtf_per_chunk": {"p95": 0.31}}, "bundle": {"version": "9"}, "commit": "c"}
    verdicts = judge_beside({"video_vae": {"psnr_db": rows}, "speed": speed})
    assert [v.is_reached for v in verdicts] == [True, False, True]
    assert "25.0 dB in states" in verdicts[1].found


def test_a_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    """In a sentence."""
    (tmp_path / FILES["steps"]).write_text("{")
    with pytest.raises(ValueError, match="few_steps.json is not JSON"):
        read_beside(tmp_path)
