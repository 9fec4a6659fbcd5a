"""One chunk while it is performed: its noise, its steps, its latents.

Each step needs a condition for the noisy audio as it stands, so a performance alternates between a request and a step.
It knows neither who answers the request nor when its turn comes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from dit_worker.engine.arrays import Floats, to_array, to_tensor
from dit_worker.engine.cache import Conditions, Latents
from dit_worker.engine.noise import Modality, draw_noise
from dit_worker.model.dit import JointDiT, Memory, PromptMemory, Velocity
from dit_worker.model.sampler import Advance, Draw, euler, timesteps


@dataclass(frozen=True, slots=True)
class ChunkAddress:
    """What decides a chunk besides its conditions: which noise it is made from, and in how many steps."""

    seed: int
    chunk_index: int
    steps: int


@dataclass(frozen=True, slots=True)
class Sampling:
    """How chunks are sampled: the time shift, per modality the shape of the latents and the scale of all noise drawn
    for them, and what carries them from one time to the next."""

    shift: float
    video_shape: tuple[int, ...]
    audio_shape: tuple[int, ...]
    video_noise_scale: float
    audio_noise_scale: float
    advance: Advance = euler


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


class StepInputs(NamedTuple):
    """One step as `JointDiT.velocity` takes it, of one session or of B together."""

    memory: Memory
    video: Tensor
    audio: Tensor
    t: Tensor
    condition: Tensor
    audio_motion: Tensor
    audio_motion_mask: Tensor
    prompt: PromptMemory | None


class Performance:
    """The steps of one chunk, in order."""

    def __init__(self, dit: JointDiT, sampling: Sampling, address: ChunkAddress) -> None:
        self._dit, self._sampling, self._address = dit, sampling, address
        self._times = timesteps(address.steps, sampling.shift)
        self.chunk_index = address.chunk_index
        self._step = 0
        self._video, self._audio = self._draw(Modality.VIDEO)(), self._draw(Modality.AUDIO)()

    @property
    def is_finished(self) -> bool:
        """Whether every step has been run."""
        return self._step == len(self._times) - 1

    @property
    def steps_left(self) -> int:
        """Steps that are still to be run."""
        return len(self._times) - 1 - self._step

    @property
    def step_index(self) -> int:
        """Number of the step that comes next."""
        return self._step

    def request(self) -> StepRequest:
        """What the next step must be conditioned on."""
        return StepRequest(self.chunk_index, self._step, self._times[self._step], to_array(self._audio))

    def step(self, conditions: Conditions, condition: Tensor) -> None:
        """Velocity, then one step of the sampler, for both modalities together. condition: (1, A, width)."""
        self.advance(self.velocity(self.inputs(conditions, condition)))

    def velocity(self, inputs: StepInputs) -> Velocity:
        """The velocity of one step, alone."""
        return self._dit.velocity(*inputs)

    def inputs(self, conditions: Conditions, condition: Tensor) -> StepInputs:
        """What the velocity of the next step depends on."""
        return StepInputs(
            conditions.memory,
            self._video,
            self._audio,
            self._audio.new_tensor([self._times[self._step]]),
            condition,
            conditions.audio_motion,
            conditions.audio_motion_mask,
            conditions.prompt,
        )

    def advance(self, velocity: Velocity) -> None:
        """One step of the sampler along the velocity, wherever that was computed."""
        now, then = self._times[self._step : self._step + 2]
        self._step += 1  # what is drawn from here on belongs to the step that comes next
        advance = self._sampling.advance
        self._video = advance(self._video, velocity.video, now, then, self._draw(Modality.VIDEO))
        self._audio = advance(self._audio, velocity.audio, now, then, self._draw(Modality.AUDIO))

    def latents(self) -> Latents:
        """The clean latents, once finished."""
        assert self.is_finished, "steps are left"
        return Latents(self._video, self._audio)

    def _draw(self, modality: Modality) -> Draw:
        """Draws the noise of one modality that the next step starts from."""
        sampling, address, step = self._sampling, self._address, self._step
        shape, scale = {
            Modality.VIDEO: (sampling.video_shape, sampling.video_noise_scale),
            Modality.AUDIO: (sampling.audio_shape, sampling.audio_noise_scale),
        }[modality]
        return lambda: to_tensor(draw_noise(address.seed, address.chunk_index, step, modality, shape)) * scale
