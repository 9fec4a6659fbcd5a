"""A bundle begun from public checkpoints is complete, says what it comes from, and performs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dit_worker.engine.compute import Compute
from dit_worker.engine.engine import Engine, Standing
from dit_worker.engine.loader import Models, load_models
from dit_worker.engine.media import Decoder, EncodedChunk, MediaWriter
from dit_worker.engine.performance import ChunkLatents
from dit_worker.engine.portrait import load_portrait
from dit_worker.engine.voice import read_voice
from dit_worker.model.audio_vae import CONTEXT_LATENTS, LATE_LATENTS
from orchestrator_llm.engine.backend_torch import TorchBackend
from orchestrator_llm.engine.loading import language_model
from services.bundle import Bundle, load_bundle
from services.session import HistoryChunk
from tests.fixtures import public_checkpoints as public
from tests.fixtures.tiny_bundle import build_tiny_bundle
from training import init

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # diffusers' own


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All checkpoints that a bundle is begun from, a gallery, and a manifest of tiny sizes."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "manifest.json").write_text(json.dumps(public.sizes()))
    public.wan(folder / "wan")
    public.video_vae(folder / "wan" / "vae")
    public.text_encoder(folder / "wan")
    (folder / "wan" / "text_encoder" / "pytorch_model.bin").write_bytes(b"a pickle that nobody opens")
    public.qwen(folder / "qwen")
    public.audio_vae(folder / "audio_vae")
    build_tiny_bundle(folder / "gallery")
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The command's exit code."""
    monkeypatch.setattr(sys, "argv", ["init", *arguments])
    try:
        init.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def options(published: Path, out: Path) -> list[str]:
    """The command's usual arguments."""
    names = {"--wan": "wan", "--qwen": "qwen", "--audio-vae": "audio_vae", "--characters": "gallery", "--bundle": ""}
    return [*(x for option, name in names.items() for x in (option, str(published / name))), "--out", str(out)]


@pytest.fixture(scope="module")
def begun(published: Path) -> Bundle:
    """The bundle begun from all of them."""
    sources = init.Sources(
        published / "wan",
        published / "qwen",
        audio_vae=published / "audio_vae",
        characters=load_bundle(published / "gallery"),
    )
    init.init(load_bundle(published).manifest, sources, published / "out", is_random=True)
    return load_bundle(published / "out")


def test_a_begun_bundle_is_whole(begun: Bundle) -> None:
    """Every file has its digest, nothing that could be unpickled is taken along, and what is untrained is listed."""
    begun.verify()
    on_disk = {str(p.relative_to(begun.path)) for p in begun.path.rglob("*") if p.is_file()}
    assert on_disk == {*begun.manifest.files, "manifest.json"}
    assert {"vae/config.json", "text_encoder/tokenizer.json", "audio_vae/config.json", "tokenizer.json"} <= on_disk
    assert not [name for name in on_disk if name.endswith((".bin", ".pth", ".pt"))]
    assert [character.name for character in begun.manifest.characters] == ["ada", "ben"]
    untrained = begun.manifest.training["untrained"]
    assert "audio_in.weight" in untrained["dit"] and not untrained["audio_vae"]


def test_the_body_of_a_begun_bundle_can_also_write(begun: Bundle) -> None:
    """The language model's tokenizer and its head come along; a manifest that names no folder for them gets none."""
    kept, width = language_model(begun), begun.manifest.conditioner["body"]["hidden_size"]
    assert kept is not None and kept.has_head
    assert {"tokenizer.json", "head.safetensors"} <= {path.name for path in kept.files}
    assert load_file(kept.folder / "head.safetensors")["lm_head.weight"].shape == (public.TOKENS, width)


def perform(bundle: Bundle, models: Models, chunks: int) -> tuple[list[ChunkLatents], list[EncodedChunk]]:
    """A session's first chunks, conditioned by the orchestrator's own backend, as latents and as media."""
    geometry, character = bundle.manifest.geometry, bundle.manifest.character("")
    engine, writer = Engine(models, lambda: 0.0), MediaWriter(models)
    voice = engine.voice(read_voice(bundle.file(character.voice).read_bytes(), geometry.sample_rate))
    backend = TorchBackend(bundle)
    tokens = backend.front_end.tokenize("good evening and welcome", 0).tokens
    speaker, said = backend.voice(voice), list[HistoryChunk]()
    engine.open("s", 3, load_portrait(bundle.file(character.portrait), geometry.width, geometry.height), Standing())
    made: list[ChunkLatents] = []
    media: list[EncodedChunk] = []
    for index in range(chunks):
        prefix, request = speaker.prefix(tokens, 0.0, said), engine.begin("s", index, 2, 0.0, "smiles blue")
        while len(made) == index:
            engine.supply("s", request.step, prefix.condition(request.timestep, request.noisy))
            result = None
            while result is None:
                [outcome] = engine.step()
                assert outcome.error is None, outcome.error
                result = outcome.result
            if isinstance(result, ChunkLatents):
                made.append(result)
            else:
                request = result
        engine.commit("s")
        said.append(HistoryChunk(0.0, made[-1].audio))
        media.append(writer.write(index, made[-1].video, made[-1].audio))
    return made, media


@pytest.fixture(scope="module")
def performed(begun: Bundle) -> tuple[list[ChunkLatents], list[EncodedChunk]]:
    """Two chunks in float32."""
    return perform(begun, load_models(begun), 2)


def test_a_begun_bundle_performs(begun: Bundle, performed: tuple[list[ChunkLatents], list[EncodedChunk]]) -> None:
    """Voice, portrait and prompt go in through the full size's encoders; two chunks come out as encoded media."""
    (made, media), geometry = performed, begun.manifest.geometry
    assert [x.video.shape for x in made] == [geometry.video_shape] * 2
    assert [x.audio.shape for x in made] == [geometry.audio_shape] * 2
    assert not np.array_equal(made[0].video, made[1].video)
    assert [len(chunk.video.units) for chunk in media] == [33, 33]
    assert all(chunk.audio.units for chunk in media)


def test_a_begun_bundle_performs_in_half_precision(
    begun: Bundle, performed: tuple[list[ChunkLatents], list[EncodedChunk]]
) -> None:
    """Weights of transformer, VAEs and text encoder in half the bytes, the same performance but for rounding."""
    models = load_models(begun, compute=Compute(precision="bfloat16"))
    assert models.dit.video_in.weight.dtype == next(models.video_vae.parameters()).dtype == torch.bfloat16
    assert next(models.sound_encoder.parameters()).dtype == torch.float16
    [rounded], _ = perform(begun, models, 1)
    exact = performed[0][0]
    assert 0 < np.linalg.norm(rounded.video - exact.video) / np.linalg.norm(exact.video) < 0.05


@torch.inference_mode()
def test_sound_goes_on_where_it_was_left(begun: Bundle) -> None:
    """A chunk begins at the very sample that the one before would have gone on with, and soon is what one long decode
    of all latents makes of it."""
    models = load_models(begun)
    vae, decoder = models.sound_encoder, Decoder(models)
    per, before = vae.samples_per_latent, decoder.silence()
    latents = np.random.default_rng(0).standard_normal((66, 4)).astype(np.float32)
    first, between = decoder.samples(latents[:33], before)
    second, _ = decoder.samples(latents[33:], between)
    long = np.concatenate([before.latents, latents])
    whole = vae.decode(torch.from_numpy(long)[None])[0].numpy()[CONTEXT_LATENTS * per :]
    assert len(first) == len(second) == 33 * per and len(between.guess) == LATE_LATENTS * per
    assert second[0] == between.guess[0]
    assert np.abs(second[: per // 2] - whole[33 * per :][: per // 2]).max() > 1e-4, "it is not known yet what follows"
    assert first[0] == 0, "silence came before"
    np.testing.assert_allclose(first[per : 20 * per], whole[per : 20 * per], atol=1e-5)
    np.testing.assert_allclose(second[4 * per : 20 * per], whole[37 * per : 53 * per], atol=1e-5)


def test_without_an_audio_vae_one_is_begun(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the geometry of the manifest, and its weights are listed as untrained."""
    sizes = public.sizes()
    small = {"encoder_hidden_size": 8, "channel_multiples": [1, 1, 1, 1, 1], "decoder_channels": 4, "audio_channels": 1}
    sizes["audio_codec"]["config"] = small
    (tmp_path / "manifest.json").write_text(json.dumps(sizes))
    arguments = [
        x for x in options(published, tmp_path / "out") if x not in ("--audio-vae", str(published / "audio_vae"))
    ]
    arguments[arguments.index("--bundle") + 1] = str(tmp_path)
    assert run(monkeypatch, *arguments, "--random-missing") == 0
    bundle = load_bundle(tmp_path / "out")
    assert len(bundle.manifest.training["untrained"]["audio_vae"]) > 100
    assert load_models(bundle).sound_encoder.samples_per_latent == 2048


def test_what_is_missing_is_said(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and a sentence, before anything is written."""
    arguments = options(published, tmp_path / "out")
    without_sound = [x for x in arguments if x not in ("--audio-vae", str(published / "audio_vae"))]
    public.audio_vae(tmp_path / "slow", sampling_rate=44_100)
    (tmp_path / "empty").mkdir()
    for changed, said in (
        (without_sound, "--audio-vae must name a folder with the AutoencoderOobleck"),
        ([*arguments, "--audio-vae", str(tmp_path / "slow")], "rate (4, 2048, 44100)"),
        ([*arguments, "--vae", str(tmp_path / "empty")], "holds no AutoencoderKLWan"),
        ([*arguments, "--text-encoder", str(tmp_path / "empty")], "holds no UMT5 encoder"),
        ([*arguments, "--wan", "nowhere"], "neither a folder nor a repository"),
        ([*arguments, "--out", str(published)], "is not empty"),
    ):
        assert run(monkeypatch, *changed) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
