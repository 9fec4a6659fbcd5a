"""The torch backend on the tiny bundle: caches against the plain forward, and sessions that share it."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator_llm.engine.backend_torch import TorchBackend, TorchOptions
from orchestrator_llm.engine.director import Director
from orchestrator_llm.engine.errors import ModelFault
from orchestrator_llm.engine.planner import RulePlanner
from orchestrator_llm.engine.voice import decode_voice
from orchestrator_llm.engine.warmup import warm_up
from orchestrator_llm.model.reference import ReferenceEncoder
from services.bundle import Bundle, load_bundle
from services.errors import BundleInvalid
from services.session import Action, ChunkProgress, HistoryChunk, Latents, Snapshot

STEPS = (1.0, 0.75, 0.5, 0.25)
TEXT = "hello there my friend this is a small character that speaks the words you give it and idles when none is left"
EMPTY = Snapshot((), 0.0, 0, ())


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    """The tiny bundle."""
    return load_bundle(tiny_bundle)


@pytest.fixture(scope="module")
def backend(bundle: Bundle) -> TorchBackend:
    """Its models."""
    return TorchBackend(bundle, TorchOptions(cached_voices=2))


def latents(*key: int) -> Latents:
    """Random latents that depend on the key alone."""
    return np.random.Generator(np.random.Philox(key=list(key) + [0] * (2 - len(key)))).standard_normal(
        (33, 24), dtype=np.float32
    )


def directed(backend: TorchBackend, snapshot: Snapshot = EMPTY) -> Director:
    """A director of an open session."""
    director = Director(backend, RulePlanner(backend.vowels))
    director.open(snapshot)
    return director


def perform(
    director: Director, index: int, say: tuple[str, ...] = (), seed: int = 1
) -> tuple[Action, list[Latents], ChunkProgress]:
    """One chunk on random latents."""
    action = director.begin(index, say)
    conditions = [director.denoise(index, t, latents(seed, 10 * index + n)) for n, t in enumerate(STEPS)]
    return action, conditions, director.end(index, latents(seed, 10 * index + 9))


def assert_same(one: list[Latents], other: list[Latents]) -> None:
    """Bit for bit."""
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_cached_tail_is_the_uncached_forward(backend: TorchBackend, bundle: Bundle) -> None:
    """Conditions, positions and end from reference and prefix caches are those of one causal pass without any."""
    manifest = bundle.manifest
    wav = bundle.file(manifest.character("ben").voice).read_bytes()
    samples = torch.from_numpy(decode_voice(wav, manifest.geometry.sample_rate))
    reference = ReferenceEncoder.load(bundle.path, manifest.audio_codec).encode(samples)[None]
    tokens, pointer = backend.front_end.tokenize(TEXT).tokens, 9.3
    past = [HistoryChunk(2.0, latents(5), is_silent=False)]
    cached = backend.voice(b"", "ben").prefix(tokens, pointer, past)
    window = backend.conditioner.window(tokens, pointer)
    for timestep in (*STEPS, 0.0):
        noisy = latents(7)
        with torch.inference_mode():
            plain = backend.conditioner(
                reference, window.ids, torch.from_numpy(latents(5))[None], torch.ones(1, 33),
                torch.from_numpy(noisy)[None], torch.tensor([timestep]), window.start.float(),
            )  # fmt: skip
        assert np.allclose(cached.condition(timestep, noisy), plain.condition[0], atol=2e-5)
        if timestep == 0.0:
            pointed = cached.point(noisy)
            assert np.allclose(pointed.positions, window.origin + plain.positions[0].numpy(), atol=1e-4)
            assert math.isclose(pointed.end, window.origin + backend.conditioner.point(plain).item(), abs_tol=1e-4)


def test_two_sessions_in_turn_get_what_each_gets_alone(backend: TorchBackend) -> None:
    """Interleaved step by step, two sessions with different words answer bit for bit as each does alone."""
    texts = ("hello there my friend", "this is a small character that speaks")
    alone = [[perform(director, k, (text,) if k == 0 else (), seed) for k in range(3)]
             for seed, text in enumerate(texts) for director in (directed(backend),)]  # fmt: skip
    together = [directed(backend) for _ in texts]
    for k in range(3):
        for seed, director in enumerate(together):
            assert director.begin(k, (texts[seed],) if k == 0 else ()) == alone[seed][k][0]
        for n, timestep in enumerate(STEPS):
            for seed, director in enumerate(together):
                condition = director.denoise(k, timestep, latents(seed, 10 * k + n))
                assert np.array_equal(condition, alone[seed][k][1][n])
        for seed, director in enumerate(together):
            assert director.end(k, latents(seed, 10 * k + 9)) == alone[seed][k][2]


@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_a_replica_opened_from_the_snapshot_answers_bit_for_bit(bundle: Bundle, chunks: int) -> None:
    """Failover: another process's models and the committed state give the same conditions and the same pointer."""
    first = directed(TorchBackend(bundle))
    pieces = (TEXT, "and 42 words more, 😀 to say.")
    before = 0.0
    for k in range(chunks):
        before = first.pointer
        progress = perform(first, k, pieces if k == 0 else ())[2]
    history = (HistoryChunk(before, latents(1, 10 * chunks - 1), is_silent=False),)
    snapshot = Snapshot(pieces, progress.pointer_token, progress.pointer_word, history)
    second = directed(TorchBackend(bundle), snapshot)
    for k in range(chunks, chunks + 3):
        ours, theirs = perform(first, k), perform(second, k)
        assert ours[0] == theirs[0]
        assert_same(ours[1], theirs[1])
        assert ours[2] == theirs[2]


def test_the_tiny_bundle_speaks_to_the_end_at_the_pace_of_speech(backend: TorchBackend) -> None:
    """Each word is told once, in order, at about twelve tokens a second, and then the character idles."""
    director = directed(backend)
    told: list[str] = []
    for k in range(20):
        _, _, progress = perform(director, k, (TEXT,) if k == 0 else ())
        told += [word.text for word in progress.words]
        if progress.is_finished:
            break
    assert 4 <= k <= 8
    assert told == TEXT.split()
    assert director.nudges == 0
    assert perform(director, k + 1)[0].is_idle


def test_unheard_sound_is_silence_to_the_model(backend: TorchBackend) -> None:
    """What an interrupt left unheard is not remembered as said."""
    said = HistoryChunk(0.0, latents(3), is_silent=False)
    frames, mask = backend.history([said])
    assert np.array_equal(frames[0], latents(3))
    assert mask.all()
    silent, _ = backend.history([replace(said, is_silent=True)])
    half, _ = backend.history([replace(said, heard_s=0.6875)])
    unheard, _ = backend.history([replace(said, heard_s=-0.5)])
    assert torch.equal(silent, unheard)
    assert torch.equal(half[0, :16], frames[0, :16])
    assert torch.equal(half[0, 16:], silent[0, 16:])
    assert backend.history([])[1].sum() == 0


def test_voices_are_made_ready_once_and_let_go_when_many(bundle: Bundle) -> None:
    """The same voice is the same keys and values; the table keeps the last used."""
    backend = TorchBackend(bundle, TorchOptions(cached_voices=1))
    first = backend.voice(b"", "ada")
    wav = bundle.file(bundle.manifest.character("ada").voice).read_bytes()
    assert backend.voice(b"", "") is first
    assert backend.voice(wav, "ben") is first
    assert backend.voice(b"", "ben") is not first
    assert backend.voice(b"", "ada") is not first


def test_an_unknown_character_and_a_bad_voice_are_refused(backend: TorchBackend) -> None:
    """Both are the caller's error."""
    with pytest.raises(ValueError, match="no character 'zoe'"):
        backend.voice(b"", "zoe")
    with pytest.raises(ValueError, match="WAV"):
        backend.voice(b"not a voice", "")


def test_autocast_stays_near(bundle: Bundle, backend: TorchBackend) -> None:
    """The fast number format gives the same conditions within its precision."""
    fast = TorchBackend(bundle, TorchOptions(autocast=True))
    tokens = backend.front_end.tokenize(TEXT).tokens
    ours, theirs = (b.voice(b"", "").prefix(tokens, 3.0, []).condition(0.5, latents(2)) for b in (backend, fast))
    assert theirs.dtype == np.float32
    assert np.abs(ours - theirs).max() < 0.1 * np.abs(ours).max()


def test_answers_that_are_not_finite_are_a_fault(bundle: Bundle) -> None:
    """Broken weights end a session with a reason instead of poisoning it."""
    broken = TorchBackend(bundle)
    with torch.no_grad():
        broken.conditioner.condition_out.bias.fill_(float("nan"))
    with pytest.raises(ModelFault):
        perform(directed(broken), 0, ("hello",))


@pytest.mark.parametrize(
    ("part", "key", "value", "reason"),
    [
        ("conditioner", "condition_width", 31, "conditioner.safetensors"),
        ("conditioner", "wheels", 4, "wheels"),
        ("conditioner", "chunk_frames", 32, "conditioner"),
        ("files", "conditioner.safetensors", None, "lists no"),
        ("text", "phones", None, "front-end"),
        ("text", "lexicon", "nowhere.gz", "front-end"),
        ("audio_codec", "window", None, "codec"),
    ],
)
def test_a_manifest_that_does_not_fit_its_weights_is_refused(
    tiny_bundle: Path, tmp_path: Path, part: str, key: str, value: object, reason: str
) -> None:
    """A bundle is taken whole or not at all, and the message says what does not fit."""
    copy = tmp_path / "copy"
    shutil.copytree(tiny_bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    if value is None:
        del manifest[part][key]
    else:
        manifest[part][key] = value
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleInvalid, match=reason):
        TorchBackend(load_bundle(copy))


def test_a_bundle_whose_first_character_cannot_speak_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    """That is found at the start, not by the first session."""
    copy = tmp_path / "copy"
    shutil.copytree(tiny_bundle, copy)
    (copy / "characters" / "ada" / "voice.wav").write_bytes(b"silence")
    with pytest.raises(BundleInvalid, match="cannot speak"):
        warm_up(TorchBackend(load_bundle(copy)))
