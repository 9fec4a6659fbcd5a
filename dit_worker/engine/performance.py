"""One chunk while it is performed: its noise, its steps, its latents.

Each step needs a condition for the noisy audio as it stands, so a performance alternates between a request and a step.
It knows neither who answers the request nor when its turn comes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dit_worker.engine.arrays import Floats, to_array, to_tensor
from dit_worker.engine.cache import Conditions, Latents
from dit_worker.engine.noise import Modality, draw_noise
from dit_worker.model.dit import JointDiT
from dit_worker.model.sampler import euler, timesteps


@dataclass(frozen=True, slots=True)
class ChunkAddress:
    """What decides a chunk besides its conditions: which noise it is made from, and in how many steps."""

    seed: int
    chunk_index: int
    steps: int


@dataclass(frozen=True, slots=True)
class Sampling:
    """How chunks are sampled: the time shift, and per modality the shape and scale of the first noise."""

    shift: float
    video_shape: tuple[int, ...]
    audio_shape: tuple[int, ...]
    video_noise_scale: float
    audio_noise_scale: float


@dataclass(frozen=True, slots=True)
class StepRequest:
    """What the condition of one step depends on: flow time (1 noise, 0 clean) and the noisy audio latents (A, D)."""

    chunk_index: int
    step: int
    timestep: float
    noisy: Floats


@dataclass(frozen=True, slots=True)
class ChunkLatents:
    """A finished chunk: video (C, T, H, W), audio (A, D), float32."""

    chunk_index: int
    video: Floats
    audio: Floats


class Performance:
    """The steps of one chunk, in order."""

    def __init__(self, dit: JointDiT, sampling: Sampling, address: ChunkAddress) -> None:
        self._dit = dit
        self._times = timesteps(address.steps, sampling.shift)
        self.chunk_index = address.chunk_index
        self._step = 0
        self._video = _first_noise(address, Modality.VIDEO, sampling.video_shape, sampling.video_noise_scale)
        self._audio = _first_noise(address, Modality.AUDIO, sampling.audio_shape, sampling.audio_noise_scale)

    @property
    def is_finished(self) -> bool:
        """Whether every step has been run."""
        return self._step == len(self._times) - 1

    @property
    def step_index(self) -> int:
        """Number of the step that comes next."""
        return self._step

    def request(self) -> StepRequest:
        """What the next step must be conditioned on."""
        return StepRequest(self.chunk_index, self._step, self._times[self._step], to_array(self._audio))

    def step(self, conditions: Conditions, condition: Tensor) -> None:
        """Velocity, then one Euler step, for both modalities together. condition: (1, A, width)."""
        now, then = self._times[self._step : self._step + 2]
        v_video, v_audio = self._dit.velocity(
            conditions.memory,
            self._video,
            self._audio,
            self._audio.new_tensor([now]),
            condition,
            conditions.audio_motion,
            conditions.audio_motion_mask,
        )
        self._video = euler(self._video, v_video, now, then)
        self._audio = euler(self._audio, v_audio, now, then)
        self._step += 1

    def latents(self) -> Latents:
        """The clean latents, once finished."""
        assert self.is_finished, "steps are left"
        return Latents(self._video, self._audio)


def _first_noise(address: ChunkAddress, modality: Modality, shape: tuple[int, ...], scale: float) -> Tensor:
    return to_tensor(draw_noise(address.seed, address.chunk_index, 0, modality, shape)) * scale
