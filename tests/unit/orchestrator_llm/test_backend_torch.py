"""The torch backend on the tiny bundle: caches against the plain forward, and sessions that share it."""

from __future__ import annotations

import json
import math
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator_llm.engine.backend_torch import TorchBackend, TorchOptions, TorchPrefix
from orchestrator_llm.engine.director import Director
from orchestrator_llm.engine.errors import ModelFault
from orchestrator_llm.engine.planner import RulePlanner
from orchestrator_llm.engine.warmup import warm_up
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


REFERENCE = latents(100)[:24]


def directed(backend: TorchBackend, snapshot: Snapshot = EMPTY) -> Director:
    """A director of an open session."""
    director = Director(backend, RulePlanner(backend.vowels))
    director.open(snapshot, REFERENCE)
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


def test_the_cached_tail_is_the_uncached_forward(backend: TorchBackend) -> None:
    """Conditions, positions and end from reference and prefix caches are those of one causal pass without any."""
    tokens, pointer = backend.front_end.tokenize(TEXT).tokens, 9.3
    past = [HistoryChunk(2.0, latents(5))]
    cached = backend.voice(REFERENCE).prefix(tokens, pointer, past)
    window = backend.conditioner.window(tokens, pointer)
    for timestep in (*STEPS, 0.0):
        noisy = latents(7)
        with torch.inference_mode():
            plain = backend.conditioner(
                torch.from_numpy(REFERENCE)[None], window.ids, torch.from_numpy(latents(5))[None], torch.ones(1, 33),
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
    history = (HistoryChunk(before, latents(1, 10 * chunks - 1)),)
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


def test_the_newest_history_is_shown_and_what_is_not_there_is_masked(backend: TorchBackend) -> None:
    """A session that has said nothing yet has no history, which is not the same as silence."""
    chunks = [HistoryChunk(0.0, latents(seed)) for seed in (3, 4)]
    frames, mask = backend.history(chunks)
    assert np.array_equal(frames[0], latents(4))
    assert mask.all()
    assert backend.history([])[1].sum() == 0


def test_voices_are_made_ready_once_and_let_go_when_many(bundle: Bundle) -> None:
    """The same voice is the same keys and values; the table keeps the last used."""
    backend = TorchBackend(bundle, TorchOptions(cached_voices=1))
    first = backend.voice(REFERENCE)
    assert backend.voice(REFERENCE.copy()) is first
    assert backend.voice(-REFERENCE) is not first
    assert backend.voice(REFERENCE) is not first


def test_tails_computed_together_are_those_computed_alone(bundle: Bundle, backend: TorchBackend) -> None:
    """Four sessions with prefixes of several lengths, in one pass: equal to 2e-5. One at a time: bit for bit."""
    tokens, together = backend.front_end.tokenize(TEXT).tokens, TorchBackend(bundle, TorchOptions(tail_batch=4))
    alone = TorchBackend(bundle, TorchOptions(tail_batch=1))
    cases = [(3.0, []), (9.3, [HistoryChunk(2.0, latents(5))]), (20.6, [HistoryChunk(9.0, latents(6))]), (30.0, [])]
    widths: list[int] = []
    compute = together._compute
    together._compute = lambda steps: widths.append(len(steps)) or compute(steps)  # type: ignore[method-assign]

    def prefixes(kind: TorchBackend) -> list[TorchPrefix]:
        return [kind.voice(REFERENCE).prefix(tokens, pointer, history) for pointer, history in cases]

    expected = [prefix.condition(0.5, latents(case)) for case, prefix in enumerate(prefixes(backend))]
    assert_same([prefix.condition(0.5, latents(case)) for case, prefix in enumerate(prefixes(alone))], expected)
    ready = prefixes(together)
    with ThreadPoolExecutor(len(cases)) as threads:
        with together.tails.turn:  # nobody computes before all have come
            calls = [threads.submit(prefix.condition, 0.5, latents(case)) for case, prefix in enumerate(ready)]
            while len(together.tails._arrived) < len(cases):
                time.sleep(0.001)
        answers = [call.result(60) for call in calls]
    assert widths == [4]
    assert max(np.abs(a - b).max() for a, b in zip(answers, expected, strict=True)) < 2e-5


def test_the_voice_decides_the_condition(backend: TorchBackend) -> None:
    """Two voices condition the same words differently."""
    tokens = backend.front_end.tokenize(TEXT).tokens
    ours, theirs = (
        backend.voice(r).prefix(tokens, 3.0, []).condition(0.5, latents(2)) for r in (REFERENCE, -REFERENCE)
    )
    assert np.abs(ours - theirs).max() > 1e-4


def test_warming_up_needs_no_voice_of_the_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    """The orchestrator reads no recordings and no codec: those are the worker's."""
    copy = tmp_path / "copy"
    shutil.copytree(tiny_bundle, copy)
    (copy / "audio_codec.safetensors").unlink()
    shutil.rmtree(copy / "characters")
    warm_up(TorchBackend(load_bundle(copy)))


def test_autocast_stays_near(bundle: Bundle, backend: TorchBackend) -> None:
    """The fast number format gives the same conditions within its precision."""
    fast = TorchBackend(bundle, TorchOptions(autocast=True))
    tokens = backend.front_end.tokenize(TEXT).tokens
    ours, theirs = (b.voice(REFERENCE).prefix(tokens, 3.0, []).condition(0.5, latents(2)) for b in (backend, fast))
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
