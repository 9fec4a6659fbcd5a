"""Performing through the engines: deterministic, resumable, and parts can be taken away. On random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from evaluation.protocol import PROMPT_CHUNK, Clip
from evaluation.runs import Run, make_take, perform, true_run
from evaluation.stage import House, in_words, read
from evaluation.takes import SpokenWord, Take, decode_frames, decode_sound, has_take, load_sound, load_take, save_take
from evaluation.truth import words_before
from evaluation.variants import CODEC, Variant, assemble, fingerprint, load_variants
from services.bundle import load_bundle
from tests.fixtures.corpus_tools import need_corpus_tools
from tests.fixtures.tiny_bundle import PROMPT_SLOTS, build_tiny_bundle

TEXT = "hello there my friend this is a small character that speaks the words"
CLIP = Clip("clip", TEXT, "slt", "ada", seconds=5.0)


@pytest.fixture(scope="module")
def performed(tiny_bundle: Path) -> Callable[..., Take]:
    """Performs CLIP in some variant, on a made-up voice and portrait."""

    def run(clip: Clip = CLIP, **options: object) -> Take:
        variant = Variant(name="tried", bundle=tiny_bundle, **options)  # type: ignore[arg-type]
        house = House(load_bundle(tiny_bundle), variant)
        frames, channels = house.backend.geometry.reference_frames, house.backend.geometry.channels
        reference = np.random.default_rng(0).normal(size=(frames, channels)).astype(np.float32)
        return house.perform(clip, reference, np.full((128, 128, 3), 120, np.uint8))

    return run


def test_a_clip_performs_the_same_every_time(performed: Callable[..., Take]) -> None:
    """Latents, pointers and word times follow from the clip alone; another name is other noise."""
    first, again = performed(), performed()
    assert (first.audio == again.audio).all() and (first.video == again.video).all()
    assert first.pointers == again.pointers and first.words == again.words
    assert len(first.audio) == 4 and first.video.shape[0] == 4
    other = performed(Clip("other", TEXT, "slt", "ada", seconds=5.0))
    assert np.abs(other.audio[0] - first.audio[0]).max() > 0.1


def test_taking_memory_away_changes_what_follows_the_first_chunk(performed: Callable[..., Take]) -> None:
    """Sink and motion act from the second chunk on, each for itself; the first chunk has neither."""
    usual, sinkless, still = performed(), performed(without_sink=True), performed(without_motion=True)
    assert (usual.video[0] == sinkless.video[0]).all() and (usual.video[0] == still.video[0]).all()
    for changed in (sinkless, still):
        assert np.abs(usual.video[1] - changed.video[1]).max() > 1e-4
    assert np.abs(sinkless.video[1] - still.video[1]).max() > 1e-4


def test_without_the_pointer_every_chunk_moves_by_the_same_words(performed: Callable[..., Take]) -> None:
    """Whatever is heard, the place is the pace's, up to the end."""
    take = performed(words_per_chunk=4)
    assert [round(p) for p in take.pointers[:3]] == [4, 8, 12]
    assert take.pointers[-1] == len(TEXT.split())


def test_places_are_told_in_words(tiny_bundle: Path) -> None:
    """The beginning is 0, the end is all words, between them they rise."""
    house = House(load_bundle(tiny_bundle), Variant(name="tried", bundle=tiny_bundle))
    words = read(house.backend.front_end, TEXT)
    places = [in_words(words, token) for token in np.linspace(0, words[-1].end, 40)]
    assert places[0] == 0.0 and places[-1] == len(TEXT.split())
    assert places == sorted(places)


def test_takes_are_kept_and_not_made_again(tiny_bundle: Path, tmp_path: Path) -> None:
    """A take that is there is left alone; one of another text under the same name is not taken for it."""
    run = Run.open(Variant(name="tried", bundle=tiny_bundle), tmp_path)
    latents = np.random.default_rng(0).normal(size=(2, 33, 24)).astype(np.float32)
    video = np.moveaxis(
        np.random.default_rng(1).normal(size=(2, 9, 8, 8, 16)), -1, 1
    )  # not in C order, as VAEs give it
    take = Take(CLIP, latents, video, [3.0, 7.5], is_finished=False)
    save_take(run.folder, take, decode_sound(run.house.models, take), 15_360)
    assert perform(run, [CLIP]) == 0
    assert not has_take(run.folder, Clip("clip", "other words", "slt", "ada"))
    found = load_take(run.folder, CLIP)
    assert (found.audio == latents).all() and np.abs(found.video - video).max() < 0.01
    assert found.pointers == [3.0, 7.5] and found.words_due == 8
    assert load_sound(run.folder, CLIP)[1].shape == (2 * 33 * 640,)
    assert [f.shape for f in decode_frames(run.house.models, found)] == [(33, 128, 128, 3)] * 2


def test_another_sampler_is_another_bundle_and_another_folder(tiny_bundle: Path, tmp_path: Path) -> None:
    """What decides a take decides where it is kept; the bundle itself stays as it was."""
    before = (tiny_bundle / "manifest.json").read_text()
    usual, slow = Variant(name="tried", bundle=tiny_bundle), Variant(name="tried", bundle=tiny_bundle, steps=7)
    bundle = assemble(slow, tmp_path)
    assert bundle.manifest.sampler.steps == 7 and bundle.path != tiny_bundle
    bundle.verify()
    marks = {
        fingerprint(v, assemble(v, tmp_path)) for v in (usual, slow, usual.model_copy(update={"without_sink": True}))
    }
    assert len(marks) == 3
    assert (tiny_bundle / "manifest.json").read_text() == before


def test_a_checkpoint_takes_the_place_of_the_bundles_weights(tiny_bundle: Path, tmp_path: Path) -> None:
    """Conditioner and DiT are the checkpoint's, everything else the bundle's."""
    run = tmp_path / "run"
    run.mkdir()
    weights = {f"dit.{n}": v * 2 for n, v in load_file(tiny_bundle / "dit.safetensors").items()}
    save_file(weights, run / "model.safetensors")
    (run / "config.json").write_text(json.dumps({"dit": load_bundle(tiny_bundle).manifest.dit}))
    bundle = assemble(Variant(name="trained", bundle=tiny_bundle, weights=run), tmp_path / "made")
    bundle.verify()
    name, value = next(iter(load_file(tiny_bundle / "dit.safetensors").items()))
    assert (load_file(bundle.file("dit.safetensors"))[name] == 2 * value).all()
    assert bundle.file("conditioner.safetensors").read_bytes() == (tiny_bundle / "conditioner.safetensors").read_bytes()
    with pytest.raises(ValueError, match="no checkpoint"):
        assemble(Variant(name="lost", bundle=tiny_bundle, weights=tmp_path / "nowhere"), tmp_path / "made")


def test_a_checkpoint_keeps_the_words_its_prompts_are_of(tmp_path: Path) -> None:
    """A checkpoint's prompt encoder takes the bundle's place; words and slots stay the bundle's."""
    base, run = build_tiny_bundle(tmp_path / "base", reads_prompts=True), tmp_path / "run"
    run.mkdir()
    save_file({f"prompt.{n}": v for n, v in load_file(base / "prompt.safetensors").items()}, run / "model.safetensors")
    reads = load_bundle(base).manifest.prompt
    assert reads is not None
    (run / "config.json").write_text(json.dumps({"prompt": reads.encoder}))
    made = assemble(Variant(name="trained", bundle=base, weights=run), tmp_path / "made")
    made.verify()
    assert made.manifest.prompt == reads


def test_a_bad_list_of_variants_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """Unknown options, twice the same name, names that are taken, no JSON, no file."""
    path = tmp_path / "variants.json"
    for text, reason in (
        ('[{"name": "a", "stepz": 4}]', "stepz"),
        ('[{"name": "a"}, {"name": "a"}]', "must differ"),
        ('[{"name": "truth"}]', "taken"),
        ("[]", "no variant"),
        ("{", "not a JSON list"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=reason):
            load_variants(path)
    with pytest.raises(ValueError, match="cannot read"):
        load_variants(tmp_path / "none.json")
    path.write_text('[{"name": "base", "says": "50 steps", "steps": 50, "without_sink": true}]')
    assert load_variants(path)[0].title == "50 steps"


def test_true_takes_need_no_model_of_ours(tiny_bundle: Path, tmp_path: Path) -> None:
    """With flite and the renderer at hand, a true take goes through both VAEs and comes back as long."""
    need_corpus_tools()
    run = Run.open(Variant(name="tried", bundle=tiny_bundle), tmp_path)
    clip = Clip("true", "Hello there my friend.", "slt", "ada")
    codec = true_run(run, tmp_path, CODEC)
    make_take(codec, clip)
    take = load_take(codec.folder, clip)
    assert take.audio.shape[1:] == (33, 24) and len(take.audio) == len(take.video) >= 1
    assert codec.folder != run.folder


def test_a_true_stream_that_is_cut_owes_the_words_before_the_cut() -> None:
    """The word that had begun when time was up is not asked for; of a whole text all words are."""
    words = [SpokenWord(i, 0.5 * i, 0.5 * i + 0.4) for i in range(4)]
    clip = Clip("cut", "one two three four", "slt", "ada")
    assert words_before(words, 1.2, clip) == 2
    assert words_before(words, 9.0, clip) == 4


def test_a_prompt_acts_from_its_chunk_on(tmp_path: Path) -> None:
    """The chunks before it are as without it, the picture from it on is another; speech goes on being made."""
    bundle = build_tiny_bundle(tmp_path / "reads", reads_prompts=True)
    house = House(load_bundle(bundle), Variant(name="tried", bundle=bundle))
    geometry = house.backend.geometry
    reference = np.random.default_rng(0).normal(size=(geometry.reference_frames, geometry.channels)).astype(np.float32)
    portrait = np.full((128, 128, 3), 120, np.uint8)
    plain, asked = (house.perform(replace(CLIP, prompt=p), reference, portrait) for p in ("", next(iter(PROMPT_SLOTS))))
    assert (plain.video[:PROMPT_CHUNK] == asked.video[:PROMPT_CHUNK]).all()
    assert np.abs(plain.video[PROMPT_CHUNK] - asked.video[PROMPT_CHUNK]).max() > 1e-5
    assert len(plain.audio) == len(asked.audio)
