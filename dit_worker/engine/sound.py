"""Audio latents to samples, chunk after chunk: three decoders behind one interface.

Both publish the sound `LATE_LATENTS` late, because a chunk's last samples cannot be told before the next chunk, and
both are given `CONTEXT_LATENTS` of what came before. Griffin-Lim, of bundles without a learned decoder, also takes the
samples that were made of those, holds them fixed and joins to them; the learned decoder is a function of latents alone,
so that any worker makes the same samples of them. The full size's looks further ahead than the sound is late, and fades
from what it guessed to what it knows. It knows no session and no encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dit_worker.engine.arrays import Floats, to_array, to_tensor
from dit_worker.model.audio_vae import CONTEXT_LATENTS, LATE_LATENTS, AudioVAE
from dit_worker.model.codec import AudioCodec
from dit_worker.model.diffusers_vae import OobleckAudioVAE


@dataclass(frozen=True, slots=True)
class SoundContext:
    """The sound just before a chunk.

    latents: (CONTEXT_LATENTS + LATE_LATENTS, D), the last not yet heard. samples: those of the others, as heard.
    guess: those of the last as they would go on if silence came, from a decoder that can use it, else none.
    """

    latents: Floats
    samples: Floats
    guess: Floats


class SoundDecoder(Protocol):
    """Makes samples of latents. Not told where a session begins: silence came before."""

    def __call__(self, audio: Floats, context: SoundContext) -> tuple[Floats, Floats]:
        """(A, D) after its context -> (A * samples per latent,), LATE_LATENTS late; and the next context's guess."""
        ...


class GriffinLim:
    """Phases by iteration."""

    def __init__(self, codec: AudioCodec) -> None:
        self._codec = codec

    def __call__(self, audio: Floats, context: SoundContext) -> tuple[Floats, Floats]:
        before = (to_tensor(part) for part in (context.latents, context.samples, context.guess))
        decoded = to_array(self._codec.decode(to_tensor(audio), *before))
        samples, guess = np.split(decoded, [len(audio) * self._codec.samples_per_latent])
        return samples, guess


class Autoencoder:
    """The full size's VAE, whose convolutions see some nine latents on either side.

    What it makes of a chunk's last latents without those that follow fades, over the latent by which the sound is late,
    into what it makes of them with those: no click, and a function of latents alone.
    """

    def __init__(self, vae: OobleckAudioVAE, decoding: Callable[[], AbstractContextManager[None]]) -> None:
        """decoding: the mode in which the VAE runs, on its device."""
        self._vae, self._decoding = vae, decoding

    def __call__(self, audio: Floats, context: SoundContext) -> tuple[Floats, Floats]:
        with self._decoding():
            decoded = to_array(self._vae.decode(to_tensor(np.concatenate([context.latents, audio]))))
        per = self._vae.samples_per_latent
        _, samples, guess = np.split(decoded, [CONTEXT_LATENTS * per, (CONTEXT_LATENTS + len(audio)) * per])
        late = len(guess)
        share = np.linspace(0, 1, late, endpoint=False, dtype=np.float32)
        samples[:late] = (1 - share) * context.guess + share * samples[:late]
        return samples, guess


class Vocoder:
    """The audio VAE's learned decoder. A chunk is one of its periods, so that pulses run on from chunk to chunk."""

    def __init__(self, vae: AudioVAE) -> None:
        self._vae = vae

    def __call__(self, audio: Floats, context: SoundContext) -> tuple[Floats, Floats]:
        samples = to_array(self._vae.decode(to_tensor(np.concatenate([context.latents, audio]))))
        return samples, np.zeros(0, np.float32)


def silent_context(silence: Tensor, samples_per_latent: int) -> SoundContext:
    """What came before a chunk that follows nothing that was heard. silence: (D,)."""
    samples = np.zeros((CONTEXT_LATENTS + LATE_LATENTS) * samples_per_latent, np.float32)
    return SoundContext(
        to_array(silence.expand(1, CONTEXT_LATENTS + LATE_LATENTS, -1)),
        *np.split(samples, [CONTEXT_LATENTS * samples_per_latent]),
    )


@torch.inference_mode()
def continue_sound(
    decoder: SoundDecoder, audio: Floats, context: SoundContext, samples_per_latent: int
) -> tuple[Floats, SoundContext]:
    """(A, D) -> (A * samples per latent,), LATE_LATENTS late, joined to its context; and the next context."""
    samples, guess = decoder(audio, context)
    latents = np.concatenate([context.latents, audio])[-CONTEXT_LATENTS - LATE_LATENTS :]
    known = np.concatenate([context.samples, samples])[-CONTEXT_LATENTS * samples_per_latent :]
    return samples, SoundContext(latents, known, guess)
