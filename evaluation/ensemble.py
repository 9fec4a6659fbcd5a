"""Many clips performed at once, straight on the models of a training run, with the VAEs and the front end of a bundle.

What the engines do a session at a time is done here for a batch, by the same rules: history, sink and motion are what
was made before, and the pointer says where the next chunk begins. Texts are those of the short protocol, which no
training and no corpus has seen. It compares runs that are not bundles yet, and judges nothing.
B clips of a batch, K chunks, A audio latents of a chunk, C audio channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dit_worker.engine.loader import Models, load_models
from dit_worker.engine.voice import encode_voice
from evaluation.hearing import Reading
from evaluation.protocol import Clip, short_clips
from evaluation.stage import read
from evaluation.takes import Take
from evaluation.voices import SAMPLE, portrait_of, true_sound
from orchestrator_llm.engine.backend_torch import TorchBackend, TorchOptions
from orchestrator_llm.model.text import FIRST_PHONE
from services.bundle import load_bundle
from services.prompts import PromptWords
from training.actors import prepare
from training.distillation import Sampling, generate, read_end
from training.scenes import word_ids
from training.sessions import Rules, Script, Sessions
from training.train_audio import AudioModel

SLOWEST_TOKENS = 8
"""Tokens a chunk moves on by at the least; sessions that are slower are cut off."""


@dataclass(frozen=True)
class Part:
    """A clip, ready to perform: what is said, by whom, before which portrait, and how it is read."""

    clip: Clip
    script: Script
    reading: Reading


class House:
    """What every run performs with: VAEs, front end, voices and portraits of a bundle."""

    def __init__(self, bundle: Path, threads: int = 1) -> None:
        """Raises BundleInvalid when the bundle will not do."""
        loaded = load_bundle(bundle)
        self.models: Models = load_models(loaded)
        self.front_end = TorchBackend(loaded, TorchOptions(threads=threads)).front_end
        self._reference_frames = self.models.reference_frames
        self._side = loaded.manifest.geometry.width

    @property
    def phones(self) -> Sequence[str]:
        """The phones that runs must know by the same numbers."""
        return self.front_end.phones

    def parts(self, clips: int, *, speech_alone: bool = False) -> list[Part]:
        """The first clips of the short protocol, each in one of the four voices and before a face of its own."""
        return [self._part(clip, speech_alone) for clip in tqdm(short_clips(clips), desc="clips", unit="clip")]

    @torch.inference_mode()
    def _part(self, clip: Clip, speech_alone: bool) -> Part:
        words = read(self.front_end, clip.text)
        tokens = self.front_end.tokenize(clip.text).tokens
        spoken = torch.from_numpy(true_sound(self.models.audio_codec, SAMPLE, clip.voice).astype(np.float32))
        voice = encode_voice(self.models.audio_codec, spoken, self._reference_frames)
        portrait = None if speech_alone else self._portrait(clip.face)
        reading = Reading.of([[self.phones[t - FIRST_PHONE] for t in word.ids] for word in words])
        return Part(clip, Script(tokens, voice, portrait), reading)

    def _portrait(self, face: str) -> Tensor:
        frame = torch.from_numpy(portrait_of(face, self._side).astype(np.float32)).permute(2, 0, 1) / 127.5 - 1
        return self.models.video_vae.encode_image(frame[None])[0]


@torch.inference_mode()
def roll_out(model: AudioModel, scripts: Sequence[Script], sampling: Sampling, seed: int, rules: Rules) -> Sessions:
    """Performs all scripts to their ends; those that end early go on in silence."""
    torch.manual_seed(seed)
    sessions = Sessions(model.conditioner, partial(word_ids, PromptWords([])), scripts, rules)
    longest = max(len(s.tokens) for s in scripts)
    for chunk in count():
        if chunk * SLOWEST_TOKENS > longest or all(
            pointer >= len(s.tokens) for pointer, s in zip(sessions.pointers[-1], scripts, strict=True)
        ):
            return sessions
        context = sessions.context()
        prepared = prepare(model, context)
        made = generate(model, prepared, context, sampling, sampling.steps - 1).final
        sessions.follow(made, read_end(model, prepared, made.audio), context.start)
    raise AssertionError("count never ends")


def perform(
    model: AudioModel, parts: Sequence[Part], sampling: Sampling, rules: Rules, *, seed: int = 0, batch: int = 20
) -> list[Take]:
    """A take of every part, in their order; clips of like length are performed together. Without word times."""
    takes: dict[str, Take] = {}
    order = sorted(parts, key=lambda part: len(part.script.tokens))
    with tqdm(total=len(parts), desc=f"{sampling.steps} steps", unit="clip") as bar:
        for first in range(0, len(order), batch):
            some = order[first : first + batch]
            sessions = roll_out(model, [p.script for p in some], sampling, seed + first, rules)
            takes |= {part.clip.name: take_of(sessions, part, i) for i, part in enumerate(some)}
            bar.update(len(some))
    return [takes[part.clip.name] for part in parts]


def take_of(sessions: Sessions, part: Part, row: int) -> Take:
    """What one session of a batch made until its text was said."""
    last = len(part.script.tokens)
    ends = [k for k, pointers in enumerate(sessions.pointers) if k and pointers[row] >= last]
    chunks = ends[0] if ends else len(sessions.audio)
    audio = np.stack([made[row].numpy() for made in sessions.audio[:chunks]])
    video = np.stack([made[row].numpy() for made in sessions.video[:chunks]]) if sessions.video else np.zeros(0)
    return Take(part.clip, audio, video, is_finished=bool(ends))
