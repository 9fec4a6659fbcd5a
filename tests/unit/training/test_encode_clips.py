"""Clips to latents: by the pocket's codecs from the command line, and by the full size's VAEs as diffusers has them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, load_file, save_file

from dit_worker.model.codec import AudioCodec, AudioCodecConfig
from dit_worker.model.diffusers_vae import OobleckAudioVAE, WanVideoVAE
from dit_worker.model.vae import VideoVAE, VideoVAEConfig
from orchestrator_llm.model.conditioner import ConditionerConfig
from tests.fixtures.public_checkpoints import audio_vae, video_vae
from tests.unit.training.test_clips import record
from tests.unit.training.test_pretrain import manifest
from training import encode_clips
from training.corpora.clip_format import Clip, Header, read_manifest
from training.corpora.clip_media import to_mp4, to_wav
from training.corpora.clip_shards import Packed, read_shard, write_shards
from training.distributed.batches import SILENCE, caption_at, read_clip
from training.distributed.tokens import PhoneTokens, SubwordTokens


def small_pocket(folder: Path) -> None:
    """A bundle with the pocket's kind of codecs, random, at 32 x 32 pixels."""
    fields = manifest()
    fields["geometry"] |= {"width": 32, "height": 32, "sample_rate": 15360, "samples_per_audio_latent": 640}
    fields |= {"audio_codec": {"channels": 4}, "video_vae": {"channels": 2, "width": 8, "group": 8}, "prompt": None}
    (folder / "manifest.json").write_text(json.dumps(fields))
    codec, vae = AudioCodec(AudioCodecConfig(channels=4)), VideoVAE(VideoVAEConfig(**fields["video_vae"]))
    codec.basis.normal_()
    save_file(codec.state_dict(), folder / "audio_codec.safetensors")
    save_file({n: v.contiguous() for n, v in vae.state_dict().items()}, folder / "video_vae.safetensors")


def clip(index: int) -> Packed:
    """Three seconds with a picture, phones and a caption."""
    phones = [{"text": "aa", "begin": 0.1 * i, "end": 0.1 * i + 0.1} for i in range(30)]
    captions = [{"text": "smiles", "begin": 1.3, "end": 3.0}]
    fields = record() | {"seconds": 3.0, "phones": phones, "captions": captions}
    samples = np.sin(np.arange(48000) * 0.2).astype(np.float32) * 0.3
    picture = [np.full((32, 32, 3), index * 90 + n % 90, np.uint8) for n in range(72)]
    return Packed(
        f"k{index}", Clip.model_validate(fields), {"wav": to_wav(samples, 16_000), "mp4": to_mp4(picture, 24, (32, 32))}
    )


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The command's exit code."""
    monkeypatch.setattr(sys, "argv", ["encode_clips", *arguments])
    try:
        encode_clips.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_parts_of_a_corpus_are_encoded_by_themselves_and_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last part writes the manifest; a clip has 24 latents a second, whole chunks of pictures, and its words."""
    small_pocket(tmp_path)
    write_shards(tmp_path / "clips", Header(kind="media"), "part", (clip(i) for i in range(2)), 1)
    arguments = [str(tmp_path / "clips"), str(tmp_path / "latents"), "--bundle", str(tmp_path), "--device", "cpu"]
    assert run(monkeypatch, *arguments, "--part", "1/2") == 0
    assert "other parts are not there yet" in capsys.readouterr().out
    assert run(monkeypatch, *arguments, "--part", "0/2") == 0
    found = read_manifest(tmp_path / "latents")
    assert found.clips == 2 and set(found.header.encoding) == {"audio_codec.safetensors", "video_vae.safetensors"}
    assert load_file(tmp_path / "latents" / SILENCE)["silence"].shape == (4,)
    _, raw = next(read_shard(tmp_path / "latents" / found.shards[0].name))
    tensors = load(raw.members["safetensors"])
    assert tensors["audio"].shape == (72, 4) and tensors["video"].shape == (2, 2, 9, 2, 2)
    assert tensors["reference"].shape == (2, 1, 2, 2)
    encoded = read_clip(raw, PhoneTokens(["aa"]), ConditionerConfig(4, latent_channels=4), 24.0)
    assert encoded.captions == ("", "smiles") and np.allclose(encoded.track.edges[:3], [0, 2.4, 4.8])
    assert run(monkeypatch, str(tmp_path / "latents"), str(tmp_path / "twice"), "--bundle", str(tmp_path)) == 2
    assert "holds no media" in capsys.readouterr().err


def test_a_caption_counts_where_it_holds_for_half_a_chunk() -> None:
    """The longest one wins; what is there for less asks for nothing."""
    made = clip(0).record.captions
    assert caption_at(made, 0.0, 1.375) == "" and caption_at(made, 1.375, 2.75) == "smiles"
    assert caption_at(made, 2.75, 4.125) == ""


def test_a_language_models_tokens_get_the_times_of_their_letters(tmp_path: Path) -> None:
    """A word of two tokens is shared by letters; ids begin after the special tokens."""
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {"on": 0, "e": 1, "two": 2}
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="two", continuing_subword_prefix=""))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    timed = SubwordTokens(tmp_path / "tokenizer.json").of(Clip.model_validate(record()))
    assert timed.ids.tolist() == [3, 4, 5]
    assert np.allclose(timed.edges, [0.0, 0.2 * 2 / 3, 0.3, 0.5])


@torch.no_grad()
def test_wans_vae_has_the_pockets_methods(tmp_path: Path) -> None:
    """33 frames are 9 latents, normalised by the checkpoint's own figures, and come back as 33 frames."""
    theirs = video_vae(tmp_path)
    vae = WanVideoVAE.load(tmp_path)
    frames = torch.rand(1, 3, 33, 32, 32) * 2 - 1
    latents = vae.encode(frames)
    assert latents.shape == (1, 2, 9, 2, 2) and vae.encode_image(frames[:, :, 0]).shape == (1, 2, 1, 2, 2)
    raw = theirs.encode(frames).latent_dist.mode()
    torch.testing.assert_close(latents[:, 1], (raw[:, 1] + 0.5) / 0.5)
    torch.testing.assert_close(vae.decode(latents), theirs.decode(raw).sample, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="32 frames are not 1"):
        vae.encode(frames[:, :, :32])


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # diffusers' own
@torch.no_grad()
def test_oobleck_has_the_pockets_methods(tmp_path: Path) -> None:
    """2048 samples are a latent, one channel goes in and comes out."""
    audio_vae(tmp_path)
    vae = OobleckAudioVAE.load(tmp_path)
    latents = vae.encode(torch.randn(1, 2048 * 3 + 5))
    assert (vae.samples_per_latent, vae.sample_rate) == (2048, 49_152)
    assert latents.shape == (1, 3, 4) and vae.decode(latents).shape == (1, 2048 * 3)
    with pytest.raises(ValueError, match="needs at least 2048 samples"):
        vae.encode(torch.zeros(1, 100))
