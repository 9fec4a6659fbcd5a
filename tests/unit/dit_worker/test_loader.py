"""Bundles that fit, and bundles that do not."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dit_worker.engine.compute import Compute
from dit_worker.engine.errors import BadBundle, BadDevice
from dit_worker.engine.loader import load_models
from dit_worker.model.attention import plain_attention
from services.bundle import Bundle, load_bundle
from tests.fixtures.tiny_bundle import build_tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A whole bundle with random weights, free to be broken."""
    return load_bundle(build_tiny_bundle(tmp_path / "tiny"))


def test_a_whole_bundle_loads(bundle: Bundle) -> None:
    """Every weight is there, nothing learns any more, and the sampler is the manifest's."""
    models = load_models(bundle)
    geometry = bundle.manifest.geometry
    assert models.sampling.video_shape == geometry.video_shape
    assert models.sampling.audio_noise_scale == bundle.manifest.sampler.noise_scale_audio
    assert models.reference_frames == bundle.manifest.conditioner["reference_frames"]
    assert models.condition_shape == (geometry.audio_latents_per_chunk, bundle.manifest.dit["condition_width"])
    for module in (models.dit, models.video_vae, models.audio_codec):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_a_light_decoder_makes_frames_of_the_same_latents(tmp_path: Path) -> None:
    """As many, of the same size, and other ones; a bundle without it has none, and one that does not fit is refused."""
    path = build_tiny_bundle(tmp_path / "light", has_light=True)
    models = load_models(load_bundle(path))
    latents = torch.randn(1, *models.sampling.video_shape)
    assert models.light_video is not None
    light, full = models.light_video.decode(latents), models.video_vae.decode(latents)
    assert light.shape == full.shape and not torch.equal(light, full)
    manifest = json.loads((path / "manifest.json").read_text())
    for change, word in (({"frames_per_latent": 2}, "light_video_decoder.safetensors"), ({"depth": 2}, "option")):
        changed = manifest["light_video_decoder"] | change
        (path / "manifest.json").write_text(json.dumps(manifest | {"light_video_decoder": changed}))
        with pytest.raises(BadBundle, match=word):
            load_models(load_bundle(path))
    del manifest["light_video_decoder"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert load_models(load_bundle(path)).light_video is None


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_weights_that_do_not_fit_are_refused(bundle: Bundle, change: str) -> None:
    """A tensor too few, too many or of another shape is named, never guessed."""
    path = bundle.path / "dit.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    if change == "missing":
        del tensors[name]
    elif change == "extra":
        tensors["surplus"] = tensors[name].clone()
    else:
        tensors[name] = tensors[name].flatten()[:1].clone()
    save_file(tensors, path)
    with pytest.raises(BadBundle, match=r"dit\.safetensors"):
        load_models(bundle)


def test_a_file_that_is_no_file_of_weights_is_refused(bundle: Bundle) -> None:
    """Bytes that are not safetensors, or no file at all, are named."""
    (bundle.path / "video_vae.safetensors").write_bytes(b"not tensors")
    with pytest.raises(BadBundle, match=r"video_vae\.safetensors"):
        load_models(bundle)
    (bundle.path / "video_vae.safetensors").unlink()
    with pytest.raises(BadBundle, match=r"video_vae\.safetensors"):
        load_models(bundle)


class _Burglar:
    """What a pickle can be: loading it makes a file."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self._mark,)


def test_a_pickle_in_the_clothes_of_weights_runs_nothing(bundle: Bundle, tmp_path: Path) -> None:
    """A pickle under the name of a file of weights is refused, and what it wanted to do is not done."""
    mark = tmp_path / "was-here"
    for raw in (pickle.dumps(_Burglar(mark)), pickle.dumps({"w": _Burglar(mark)}, protocol=0)):
        (bundle.path / "dit.safetensors").write_bytes(raw)
        with pytest.raises(BadBundle, match=r"dit\.safetensors"):
            load_models(bundle)
    assert not mark.exists()
    pickle.loads(raw)
    assert mark.exists(), "the pickle does nothing, so the test shows nothing"


def test_a_device_that_is_not_there_is_refused(bundle: Bundle) -> None:
    """A setting that cannot be followed stops the start and names itself."""
    with pytest.raises(BadDevice, match="abacus"):
        load_models(bundle, "abacus")


def test_an_unknown_option_is_refused(bundle: Bundle) -> None:
    """A manifest for another version of the model is not half understood."""
    path = bundle.path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["dit"]["flux_capacitor"] = True
    path.write_text(json.dumps(manifest))
    with pytest.raises(BadBundle, match="section dit"):
        load_models(load_bundle(bundle.path))


def test_a_character_that_cannot_speak_is_refused(bundle: Bundle) -> None:
    """That is found at the start, not by the first session, and the character is named."""
    (bundle.path / "characters" / "ben" / "voice.wav").write_bytes(b"silence")
    with pytest.raises(BadBundle, match="ben"):
        load_models(bundle)


def test_a_manifest_must_say_how_long_a_reference_is(bundle: Bundle) -> None:
    """The conditioner takes so many latents and no others."""
    path = bundle.path / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["conditioner"]["reference_frames"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(BadBundle, match="reference_frames"):
        load_models(load_bundle(bundle.path))


def test_a_bundle_that_reads_prompts_loads_with_its_encoder(tmp_path: Path) -> None:
    """Words of the list become states as wide as the transformer reads; others have none, and nothing is trained on."""
    models = load_models(load_bundle(build_tiny_bundle(tmp_path / "tiny", reads_prompts=True)))
    assert models.prompts is not None
    assert models.prompts("Smiles, the WALL is blue and mauve").shape == (5, models.dit.config.prompt_width)
    assert models.prompts("").shape == (0, models.dit.config.prompt_width)
    assert models.prompts("left " * 60).shape[0] == 48


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.pop("prompt"), "no section prompt"),
        (lambda m: m["prompt"]["encoder"].update(width=24), r"prompt\.safetensors"),
        (lambda m: m["prompt"].update(words=["smiles"]), r"prompt\.safetensors"),
        (lambda m: m["prompt"].update(encoder={"transformers": "Crystal"}), "another class"),
        (lambda m: m["prompt"].update(encoder={"transformers": "UMT5EncoderModel", "folder": "../x"}), "a folder of"),
        (lambda m: m["dit"].update(prompt_source_width=24), r"dit\.safetensors"),
        (lambda m: m["dit"].update(prompt_width=0), r"dit\.safetensors"),
    ],
)
def test_a_prompt_encoder_that_does_not_fit_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    """Words, widths and files of prompts must be of one training."""
    path = build_tiny_bundle(tmp_path / "tiny", reads_prompts=True) / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(BadBundle, match=said):
        load_models(load_bundle(path.parent))


def test_a_transformer_may_lie_in_several_files(bundle: Bundle) -> None:
    """All of them together are the weights; one that is in two files is refused."""
    whole = bundle.path / "dit.safetensors"
    expected, tensors = load_models(bundle).dit.state_dict(), load_file(whole)
    whole.unlink()
    names = sorted(tensors)
    for index, part in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name] for name in part}, bundle.path / f"dit-0000{index}-of-00002.safetensors")
    found = load_models(bundle).dit.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    save_file({names[0]: tensors[names[0]]}, bundle.path / "dit-00001-of-00002.safetensors")
    with pytest.raises(BadBundle, match="a second time"):
        load_models(bundle)


def test_a_backend_of_attention_that_cannot_compute_is_refused(bundle: Bundle) -> None:
    """A setting that cannot be followed stops the start with the reason."""
    with pytest.raises(BadDevice, match=r"flash.*CUDA devices"):
        load_models(bundle, compute=Compute(attention="flash"))
    assert load_models(bundle, compute=Compute(attention="plain")).dit.blocks[0].attention is plain_attention


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda m: m.update(video_vae={"diffusers": "AutoencoderKLWan", "folder": "vae"}),
            "vae holds no AutoencoderKL",
        ),
        (lambda m: m.update(video_vae={"diffusers": "Palantir", "folder": "vae"}), "'Palantir' of diffusers"),
        (lambda m: m.update(video_vae={"diffusers": "AutoencoderKLWan", "folder": "../x"}), "a folder of the bundle"),
        (
            lambda m: m.update(audio_codec={"diffusers": "AutoencoderOobleck", "folder": "a"}),
            "a holds no AutoencoderOob",
        ),
    ],
)
def test_vaes_that_are_not_there_are_refused(
    bundle: Bundle, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    """Class and folder are named; nothing is looked for outside the bundle or downloaded."""
    path = bundle.path / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(BadBundle, match=said):
        load_models(load_bundle(bundle.path))


@torch.inference_mode()
def test_the_pockets_pictures_are_decoded_in_half_precision_where_products_are(bundle: Bundle) -> None:
    """Frames come out in float32, a level or two of 255 apart."""
    exact, half = load_models(bundle), load_models(bundle, compute=Compute(precision="bfloat16"))
    latents = torch.randn(1, *bundle.manifest.geometry.video_shape, generator=torch.Generator().manual_seed(0))
    frames, rounded = (models.video_vae.decode(latents) for models in (exact, half))
    assert half.video_vae.mean.dtype == rounded.dtype == torch.float32
    assert 0 < (rounded - frames).abs().mean() < 2 / 127.5
    again = half.video_vae.encode(frames)
    assert again.dtype == torch.float32 and (again - exact.video_vae.encode(frames)).abs().mean() < 0.05
