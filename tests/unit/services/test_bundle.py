"""The bundle's manifest."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from services.bundle import MOST_VOCABULARY_BYTES, Manifest, load_bundle, load_manifest
from services.errors import BundleInvalid


def _manifest(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "name": "tiny",
        "version": "1",
        "recipe": "streamchar",
        "geometry": {
            "width": 128,
            "height": 128,
            "frames_per_second": 24,
            "frames_per_chunk": 33,
            "video_latents_per_chunk": 9,
            "video_latent_channels": 16,
            "video_latent_height": 8,
            "video_latent_width": 8,
            "sample_rate": 15360,
            "samples_per_audio_latent": 640,
            "audio_latents_per_chunk": 33,
            "audio_latent_channels": 24,
        },
        "text": {},
        "conditioner": {"history_frames": 33},
        "dit": {},
        "video_vae": {},
        "audio_codec": {},
        "sampler": {"steps": 4, "noise_scale_audio": 1.0, "noise_scale_video": 1.0, "shift": 1.0},
        "files": {"ada.png": sha256(b"picture").hexdigest(), "ada.wav": sha256(b"voice").hexdigest()},
        "characters": [{"name": "ada", "description": "", "portrait": "ada.png", "voice": "ada.wav"}],
    }
    return plain | changes


def _write(path: Path, manifest: dict[str, Any]) -> Path:
    (path / "manifest.json").write_text(json.dumps(manifest))
    (path / "ada.png").write_bytes(b"picture")
    (path / "ada.wav").write_bytes(b"voice")
    return path


def test_manifest_gives_the_geometry(tmp_path: Path) -> None:
    """All sizes of a chunk come from the manifest."""
    manifest = load_manifest(_write(tmp_path, _manifest()))
    assert manifest.chunk_seconds == 1.375
    assert manifest.geometry.samples_per_chunk == 21_120
    assert manifest.geometry.video_shape == (16, 9, 8, 8)
    assert manifest.geometry.audio_shape == (33, 24)
    assert manifest.character("").name == "ada"
    with pytest.raises(KeyError):
        manifest.character("nobody")


def test_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    """Two manifests have the same digest exactly when they are the same file."""
    path = _write(tmp_path, _manifest())
    assert load_manifest(path).digest == sha256((path / "manifest.json").read_bytes()).hexdigest()


def test_verify_finds_altered_and_missing_files(tmp_path: Path) -> None:
    """A file that is not the one described is named."""
    bundle = load_bundle(_write(tmp_path, _manifest()))
    bundle.verify()
    assert bundle.file("ada.png") == tmp_path / "ada.png"
    with pytest.raises(KeyError):
        bundle.file("manifest.json")
    (tmp_path / "ada.wav").write_bytes(b"noise")
    with pytest.raises(BundleInvalid, match=r"ada\.wav is not"):
        bundle.verify()
    (tmp_path / "ada.wav").unlink()
    with pytest.raises(BundleInvalid, match=r"ada\.wav cannot be read"):
        bundle.verify()


def _geometry(**changes: int) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["geometry"].update(changes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.update(extra=1), "extra"),
        (lambda m: m.pop("sampler"), "sampler"),
        (lambda m: m["geometry"].update(width=0), r"geometry\.width"),
        (_geometry(frames_per_chunk=34), "s of audio"),
        (lambda m: m["files"].update({"../escape": "0"}), "leads out of the bundle"),
        (lambda m: m["files"].update({"/etc/passwd": "0"}), "leads out of the bundle"),
        (lambda m: m["files"].update({"dit.PT": "0"}), "may hold code"),
        (lambda m: m["files"].update({"text/pytorch_model.bin": "0"}), "may hold code"),
        (lambda m: m["characters"][0].update(portrait="other.png"), "no digest"),
        (lambda m: m.update(characters=m["characters"] * 2), "same name"),
        (lambda m: m.update(name="Not A Name"), "name"),
    ],
)
def test_bad_manifests_are_refused(tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str) -> None:
    """What is wrong with a manifest is named."""
    manifest = _manifest()
    change(manifest)
    with pytest.raises(BundleInvalid, match=said):
        load_manifest(_write(tmp_path, manifest))


def test_absent_and_broken_manifests_are_refused(tmp_path: Path) -> None:
    """No file, no JSON and no object are each said to be what they are."""
    with pytest.raises(BundleInvalid, match="cannot read"):
        load_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(BundleInvalid, match="not JSON"):
        load_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(BundleInvalid, match="not JSON"):
        load_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(BundleInvalid):
        load_manifest(tmp_path)


def test_parse_keeps_the_digest() -> None:
    """A manifest parsed from bytes has the digest of these bytes."""
    raw = json.dumps(_manifest()).encode()
    assert Manifest.parse(raw).digest == sha256(raw).hexdigest()


def test_words_of_prompts_may_stand_in_a_file_of_their_own(tmp_path: Path) -> None:
    """A manifest reads words and slots from the file it names, and refuses one that is not the one it describes."""
    raw = json.dumps({"words": ["smiles", "left"], "slots": {"smiles": "expression"}}).encode()
    (tmp_path / "prompts.json").write_bytes(raw)
    manifest = _manifest() | {"prompt": {"encoder": {}, "vocabulary": "prompts.json"}}
    manifest["files"]["prompts.json"] = sha256(raw).hexdigest()
    found = load_manifest(_write(tmp_path, manifest)).prompt
    assert found is not None
    assert (found.words, found.slots) == (("smiles", "left"), {"smiles": "expression"})
    (tmp_path / "prompts.json").write_bytes(raw + b" ")
    with pytest.raises(BundleInvalid, match="prompts.json is not the one its manifest describes"):
        load_manifest(tmp_path)
    (tmp_path / "prompts.json").unlink()
    with pytest.raises(BundleInvalid, match="cannot read .*prompts.json"):
        load_manifest(tmp_path)


@pytest.mark.parametrize(
    ("raw", "name", "said"),
    [
        (b'{"words": []}', "prompts.json", "must hold words and slots"),
        (b"[]", "prompts.json", "must hold words and slots"),
        (b"{}", "../prompts.json", "is not a file of the bundle"),
        (b"{}", "others.json", "is not a file of the bundle"),
        (b" " * (MOST_VOCABULARY_BYTES + 1), "prompts.json", "larger than"),
    ],
)
def test_bad_vocabularies_are_refused(tmp_path: Path, raw: bytes, name: str, said: str) -> None:
    """A vocabulary that is too long, elsewhere or something else is named."""
    (tmp_path / "prompts.json").write_bytes(raw)
    manifest = _manifest() | {"prompt": {"encoder": {}, "vocabulary": name}}
    manifest["files"]["prompts.json"] = sha256(raw).hexdigest()
    with pytest.raises(BundleInvalid, match=said):
        load_manifest(_write(tmp_path, manifest))


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ({"encoder": {}, "words": ["smiles", "Left"]}, "'Left' is not written in lower-case words"),
        ({"encoder": {}, "words": ["smiles", "smiles"]}, "a word twice"),
        ({"encoder": {}, "words": ["looks left"]}, "several as one"),
        ({"encoder": {}, "slots": {"": "gaze"}}, "'' is not written"),
        ({"words": ["smiles"]}, "prompt.encoder"),
    ],
)
def test_bad_word_lists_are_refused(tmp_path: Path, prompt: dict[str, Any], said: str) -> None:
    """A word that no prompt can hold, or that has two ids, is found when the bundle is loaded."""
    (tmp_path / "manifest.json").write_text(json.dumps(_manifest(prompt=prompt)))
    with pytest.raises(BundleInvalid, match=said):
        load_manifest(tmp_path)
