"""The orchestrator's engine on the trained bundle of the repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dit_worker.engine.loader import load_models
from dit_worker.engine.voice import encode_voice, read_voice
from orchestrator_llm.engine.backend_torch import TorchBackend
from orchestrator_llm.engine.director import Director
from orchestrator_llm.engine.planner import RulePlanner
from services.bundle import load_bundle
from services.session import HistoryChunk, Latents, Snapshot
from tests.integration.orchestrator_llm.conftest import STEPS

TEXT = "The lamps along the quiet river were lit, one by one, until 42 of them shone."


@pytest.fixture(scope="module")
def backend(pocket_bundle: Path) -> TorchBackend:
    """The trained models."""
    return TorchBackend(load_bundle(pocket_bundle))


@pytest.fixture(scope="module")
def references(pocket_bundle: Path) -> dict[str, Latents]:
    """Reference latents of every character, as the worker makes them."""
    bundle = load_bundle(pocket_bundle)
    models, rate = load_models(bundle), bundle.manifest.geometry.sample_rate
    recordings = {c.name: bundle.file(c.voice).read_bytes() for c in bundle.manifest.characters}
    return {
        name: encode_voice(
            models.audio_codec, torch.from_numpy(read_voice(recording, rate)), models.reference_frames
        ).numpy()
        for name, recording in recordings.items()
    }


def latents(*key: int) -> Latents:
    """One chunk of repeatable noise as wide as the bundle's audio latents."""
    return np.random.default_rng(key).standard_normal((33, 32)).astype(np.float32)


def test_plain_english_has_sounds_and_no_notices(backend: TorchBackend) -> None:
    """Every word of a common sentence has phones, at a sane rate, and ends with a pause."""
    utterance = backend.front_end.tokenize(TEXT)
    assert utterance.notices == []
    assert all(1 <= word.end - word.begin <= 12 for word in utterance.words)
    assert utterance.tokens[-1] == backend.front_end.pause_id
    assert backend.vowels


def test_every_character_of_the_gallery_has_a_voice_of_its_own(
    backend: TorchBackend, references: dict[str, Latents]
) -> None:
    """Each recording is within the bounds that clients are held to, and gives a condition."""
    tokens = backend.front_end.tokenize(TEXT).tokens
    assert len(references) >= 6
    for reference in references.values():
        condition = backend.voice(reference).prefix(tokens, 0.0, ()).condition(1.0, latents(0, 0))
        assert condition.shape[0] == backend.geometry.frames


@pytest.mark.parametrize("pointer", [0.0, 7.25, 60.5])
def test_caches_change_nothing_with_trained_weights(
    backend: TorchBackend, references: dict[str, Latents], pointer: float
) -> None:
    """Conditions from cached prefixes are those of one causal pass."""
    tokens = backend.front_end.tokenize(TEXT).tokens
    said = [HistoryChunk(max(0.0, pointer - 15 * (3 - k)), latents(0, 1, k)) for k in range(3)]
    reference = next(iter(references.values()))
    voice = backend.voice(reference)
    window = backend.conditioner.window(tokens, pointer, 3, said[0].pointer_before)
    history, mask = backend.history(said)
    for timestep in STEPS:
        cached = voice.prefix(tokens, pointer, said).condition(timestep, latents(0, 2))
        with torch.inference_mode():
            plain = backend.conditioner(
                torch.from_numpy(reference)[None], window.ids, history, mask, torch.from_numpy(latents(0, 2))[None],
                torch.tensor([timestep]), window.start,
            ).condition[0].numpy()  # fmt: skip
        assert np.allclose(cached, plain, atol=1e-3 * np.abs(plain).max())


def test_a_snapshot_of_the_trained_bundle_goes_on_bit_for_bit(
    backend: TorchBackend, references: dict[str, Latents]
) -> None:
    """Failover with trained weights."""
    reference = next(iter(references.values()))
    first = Director(backend, RulePlanner(backend.vowels))
    first.open(Snapshot((), 0.0, 0, ()), reference)
    first.begin(0, [TEXT])
    progress = first.end(0, latents(0, 3))
    second = Director(backend, RulePlanner(backend.vowels))
    history = (HistoryChunk(0.0, latents(0, 3)),)
    second.open(Snapshot((TEXT,), progress.pointer_token, progress.pointer_word, history), reference)
    assert first.begin(1, ()) == second.begin(1, ())
    for timestep in STEPS:
        ours, theirs = (director.denoise(1, timestep, latents(0, 4)) for director in (first, second))
        assert np.array_equal(ours, theirs)
