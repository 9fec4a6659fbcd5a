"""The first judge hears what it is given, at any level; the second knows its words; training cuts where it should."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from dit_worker.model.codec import AudioCodec, AudioCodecConfig
from evaluation.judge import Heard, Judge, JudgeConfig, at_level, listen, load_judge, save_config
from evaluation.sphinx import Sphinx, write_unigram
from evaluation.train_judge import cut, roughen
from training.corpora.shards import Passage

PHONES = ("aa", "b", "pau", "t")


@pytest.fixture
def judge() -> Judge:
    """A small judge that has learned nothing."""
    torch.manual_seed(0)
    return Judge(JudgeConfig(PHONES, width=16, layers=1)).eval()


def test_heard_phones_leave_out_pauses_and_keep_their_times(judge: Judge) -> None:
    """Phones come without pauses, timed phones with them, each at its first moment."""
    scores = np.full((8, 5), -9.0)
    scores[np.arange(8), [0, 3, 3, 1, 0, 1, 4, 4]] = -0.1
    heard = Heard(judge, scores, 0.02)
    assert heard.phones == [1, 1, 4]
    assert heard.timed == [("pau", 0.02), ("aa", 0.06), ("aa", pytest.approx(0.10)), ("t", pytest.approx(0.12))]


def test_level_does_not_matter(judge: Judge) -> None:
    """The same sound, ten times softer, is heard the same."""
    samples = np.random.default_rng(0).standard_normal(640 * 12).astype(np.float32) * 0.05
    codec = AudioCodec(AudioCodecConfig())
    loud, soft = (listen(judge, codec, s).scores for s in (samples, samples * 0.1))
    assert np.allclose(loud, soft, atol=1e-2)


def test_a_breath_of_sound_can_be_judged(judge: Judge) -> None:
    """Less than one latent is padded, not refused."""
    assert listen(judge, AudioCodec(AudioCodecConfig()), np.zeros(100, np.float32)).scores.shape[1] == len(PHONES) + 1


def test_silence_stays_silence() -> None:
    """Nothing is blown up to the common level."""
    assert np.abs(at_level(np.zeros(100, np.float32))).max() == 0


def test_a_judge_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    """The error names the command."""
    with pytest.raises(FileNotFoundError, match=r"evaluation\.train_judge"):
        load_judge(tmp_path)


def test_a_judge_is_read_as_it_was_written(judge: Judge, tmp_path: Path) -> None:
    """Sizes and weights survive."""
    from safetensors.torch import save_file

    save_config(judge.config, tmp_path)
    save_file(judge.state_dict(), tmp_path / "model.safetensors")
    log_mel = torch.randn(1, 40, 80)
    assert torch.equal(load_judge(tmp_path)(log_mel), judge(log_mel))


def test_stretches_are_cut_at_phone_borders() -> None:
    """Sound and phones of a stretch belong together: each phone's frames carry its number here."""
    ends = np.cumsum([0.1, 0.2, 0.15, 0.25, 0.3, 0.2]).astype(np.float32)
    owner = np.searchsorted(ends, (np.arange(int(ends[-1] * 96)) + 0.5) / 96)
    passage = Passage("", "v", np.repeat(owner[:, None], 80, 1).astype(np.float16), tuple("abcdef"), ends)
    rng = random.Random(0)
    for _ in range(50):
        log_mel, phones = cut(passage, rng, rng.uniform(0.2, 1.0))
        middle = [list("abcdef")[int(n)] for n in np.unique(log_mel[2:-2, 0])]
        assert set(middle) <= set(phones)
        assert len(phones) <= len(set(middle)) + 2


def test_roughening_keeps_the_shape() -> None:
    """Noise and gain change values only, and never make them infinite."""
    rough = roughen(np.full((50, 80), -6.9, np.float32), random.Random(1))
    assert rough.shape == (50, 80) and bool(torch.isfinite(rough).all())


def test_every_word_of_the_unigram_is_as_likely(tmp_path: Path) -> None:
    """Each word and the end share the probability."""
    write_unigram(["sea", "river", "boat"], tmp_path / "words.arpa")
    entries = (tmp_path / "words.arpa").read_text().splitlines()
    assert "ngram 1=5" in entries
    assert {line.split()[0] for line in entries if line.endswith(("sea", "river", "boat", "</s>"))} == {"-0.6021"}


def test_the_second_judge_knows_the_words_of_its_texts_alone() -> None:
    """Whatever it hears, it answers with words of its closed vocabulary."""
    sphinx = Sphinx(["the sea"], {"the": [("dh", "ah")], "sea": [("s", "iy")]})
    noise = 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    assert set(sphinx.recognise(noise, 16_000)) <= {"the", "sea"}
