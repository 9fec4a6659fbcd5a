"""What is performed: clips of the short and the long protocol, and those of the test of voice following.

The paper's protocols (StreamChar §5.2) on material nobody has learned from: 150 clips of some 10 s, and streams of five
minutes from scripts of more than 300 words. Everything follows from a clip's number: its words, voice, face and noise.
It knows no models.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

from evaluation.texts import held_out_scripts, held_out_sentences, sentences_of, written

VOICES = ("kal16", "slt", "rms", "awb")
UNHEARD_VOICES = ("rms@90", "slt@112", "kal16@104", "awb@90", "kal16+slt", "rms+awb")
"""Voices nothing was trained on: moved in pitch, and mixtures of two."""
SHORT_CLIPS = 150
SHORT_WORDS = 26
"""A short clip has at least so many words, which is about 10 s of this speech."""
LONG_SECONDS = 300.0
WORDS_PER_SECOND = 3.4
"""No voice speaks faster, pauses counted: enough words for a long stream to end in."""
FOLLOW_WORDS = 14
PROMPT_CHUNK = 2
PROMPT_SECONDS = 5.5
"""Of a clip with a prompt: two chunks before it acts, two from then on."""
PROMPT_WORDS = 22
"""Words that last well beyond the chunk from which a prompt acts."""
PROMPTED = {
    "expression": ("smile", "sad", "surprised", "angry"),
    "wall": ("blue", "red", "green", "black"),
    "gaze": ("left", "right", "up", "down"),
    "head": ("turned left", "turned right", "tilted left", "tilted right"),
    "light": ("dark", "bright", "warm", "cool"),
}
"""Values of each slot that are asked for."""
SECOND_ROUND_SHIFT = 3
"""Sentences skipped before the held-out texts are used again: some are then grouped otherwise."""


@dataclass(frozen=True)
class Clip:
    """One performance: what is said, with which voice, by which face, and for how long; its noise follows its name."""

    name: str
    text: str
    voice: str
    face: str
    seconds: float | None = None
    """None: until everything is said."""
    prompt: str = ""
    """What is asked of the picture from chunk PROMPT_CHUNK on."""
    slot: str = ""
    value: str = ""
    """What the prompt should change, and to what."""

    @property
    def seed(self) -> int:
        """Seed of the noise."""
        return crc32(self.name.encode())


def _grouped(sentences: Sequence[str], words: int) -> list[str]:
    """Texts of consecutive sentences of at least `words` words; what is left over at the end is dropped."""
    texts: list[str] = []
    group: list[str] = []
    for sentence in sentences:
        group.append(sentence)
        if sum(len(s.split()) for s in group) >= words:
            texts.append(" ".join(group))
            group = []
    return texts


def short_clips(count: int = SHORT_CLIPS, voices: Sequence[str] = VOICES) -> list[Clip]:
    """The first `count` clips of the short protocol; each has a face of its own, voices take turns.

    Texts that come again, as they do after all have been said once, are said by the next voice.
    """
    prose = [sentence for script in held_out_scripts() for sentence in sentences_of(script)]
    plain = [*prose, *(written(s) for s in held_out_sentences())]
    texts = _grouped(plain, SHORT_WORDS)
    once, shift = len(texts), SECOND_ROUND_SHIFT
    while len(texts) < count:
        texts += _grouped(plain[shift:], SHORT_WORDS)
        shift += SECOND_ROUND_SHIFT
    return [
        Clip(f"short-{i:03d}", texts[i], voices[(i + i // once) % len(voices)], f"unseen-{i}")
        for i in range(min(count, len(texts)))
    ]


def long_clips(count: int = 2, seconds: float = LONG_SECONDS, voices: Sequence[str] = VOICES) -> list[Clip]:
    """Streams of `seconds`, each from another script on, and on into the following ones."""
    scripts, clips = held_out_scripts(), []
    for i in range(count):
        text, following = "", i
        while len(text.split()) < seconds * WORDS_PER_SECOND:
            text = f"{text} {scripts[following % len(scripts)]}".strip()
            following += 1
        words = text.split()[: round(seconds * WORDS_PER_SECOND)]
        clips.append(Clip(f"long-{i:02d}", " ".join(words), voices[i % len(voices)], f"stream-{i}", seconds))
    return clips


def follow_clips(per_voice: int = 4, voices: Sequence[str] = UNHEARD_VOICES) -> list[Clip]:
    """Voices nobody has learned from say some sentences."""
    texts = _grouped([written(s) for s in held_out_sentences()], FOLLOW_WORDS)
    return [
        Clip(f"follow-{voice}-{i}", texts[i % len(texts)], voice, f"unseen-{n}")
        for n, voice in enumerate(voices)
        for i in range(per_voice)
    ]


def prompt_clips(faces: int = 4, voices: Sequence[str] = VOICES) -> list[Clip]:
    """Clips in which something is asked of the picture, in the captions' words: four values of each slot, each of so
    many faces and in other words every time. They end a little after what is asked should show.
    """
    from training.corpora.captions import phrase

    texts = _grouped([s for script in held_out_scripts() for s in sentences_of(script)], PROMPT_WORDS)
    asked = [(slot, value) for slot, values in PROMPTED.items() for value in values] * faces
    names = [f"prompt-{slot}-{value.replace(' ', '-')}-{i}" for i, (slot, value) in enumerate(asked)]
    return [
        Clip(
            name,
            texts[-1 - i % len(texts)],
            voices[i % len(voices)],
            f"unseen-{i}",
            PROMPT_SECONDS,
            prompt=phrase(random.Random(name), slot, value),
            slot=slot,
            value=value,
        )
        for i, (name, (slot, value)) in enumerate(zip(names, asked, strict=True))
    ]
