"""Steps recorded once and replayed: a transformer of 30 layers launches thousands of kernels, a graph launches one.

    inputs ─copy─▶ static buffers ─▶ recorded step ─▶ static outputs ─copy─▶ velocity

A recording holds for one set of shapes: the first chunk's (reference alone) and all later ones' (reference, sink,
motion), each for prompts of up to so many words. Buffers are shared by all recordings, since steps follow one another.
What a recording is comes from outside, so that all but the capture itself runs on any device. It knows no sessions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dit_worker.model.attention import Attention, fused_attention
from dit_worker.model.dit import DiTConfig, JointDiT, Memory, PromptMemory, Velocity

Run = Callable[[], Velocity]
KEPT = 16
"""Recordings at most; steps of other shapes run as they are."""
WORDS_AT_ONCE = 128
"""Prompts are padded under their mask to a multiple of this many tokens, so that few lengths are recorded."""
_WARM_UPS = 2


class Recording(NamedTuple):
    """A step that reads static buffers: `replay` runs it and writes `outputs`, which hold nothing before."""

    replay: Callable[[], object]
    outputs: Velocity


Recorder = Callable[[Run], Recording]


class CudaRecorder:
    """Captures on the current CUDA device; all graphs draw on one pool of memory."""

    def __init__(self) -> None:
        self._graphs: list[torch.cuda.CUDAGraph] = []

    def __call__(self, run: Run) -> Recording:
        """Run a few times, so that what libraries do once is done, then capture."""
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):
                run()
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Another thread may be decoding: only this one's calls are bound by what a capture forbids.
        pool = self._graphs[0].pool() if self._graphs else None
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            outputs = run()
        self._graphs.append(graph)
        return Recording(graph.replay, outputs)


class Buffers(NamedTuple):
    """The inputs of a step of one shape, always at the same addresses.

    step: video, audio, t, condition and, where the model reads it, audio motion with its mask.
    """

    step: tuple[Tensor, ...]
    memory: Memory
    prompt: PromptMemory | None

    def fill(self, inputs: Buffers) -> None:
        """Copy a step's inputs; what a prompt leaves of its room nobody looks at."""
        targets = [*self.step, *self.memory.keys, *self.memory.values]
        sources = [*inputs.step, *inputs.memory.keys, *inputs.memory.values]
        if self.prompt is not None and inputs.prompt is not None:
            said = inputs.prompt.mask.shape[-1]
            targets += [room[:, :, :said] for room in (*self.prompt.keys, *self.prompt.values)]
            sources += [*inputs.prompt.keys, *inputs.prompt.values]
            self.prompt.mask.fill_(False)
            self.prompt.mask[..., :said].copy_(inputs.prompt.mask)
        for dtype in {x.dtype for x in targets}:  # one launch for each
            pairs = [(a, b) for a, b in zip(targets, sources, strict=True) if a.dtype == dtype]
            torch._foreach_copy_([a for a, _ in pairs], [b for _, b in pairs])


class GraphedDiT(JointDiT):
    """The transformer whose steps are recorded at their first call of each shape and replayed at the others."""

    def __init__(
        self, config: DiTConfig, attention: Attention = fused_attention, recorder: Recorder | None = None
    ) -> None:
        super().__init__(config, attention)
        self._record = recorder or CudaRecorder()
        self._recorded: dict[tuple[torch.Size, ...], tuple[Buffers, Recording]] = {}
        self._rooms: dict[tuple[str, torch.Size], Tensor] = {}
        self.plain_steps = 0
        """Steps that were run as they are, because enough shapes are recorded."""

    @property
    def recordings(self) -> int:
        """Recordings there are."""
        return len(self._recorded)

    def velocity(
        self,
        memory: Memory,
        noisy_video: Tensor,
        noisy_audio: Tensor,
        t: Tensor,
        condition: Tensor,
        audio_motion: Tensor | None = None,
        audio_motion_mask: Tensor | None = None,
        prompt: PromptMemory | None = None,
    ) -> Velocity:
        """As `JointDiT.velocity`, the same numbers but for rounding; only for inference."""
        step: tuple[Tensor, ...] = (noisy_video, noisy_audio, t, condition)
        if self.config.audio_motion and audio_motion is not None and audio_motion_mask is not None:
            step = (*step, audio_motion, audio_motion_mask)
        inputs = Buffers(step, memory, prompt)
        words = () if prompt is None else (_roomy(prompt.mask, 3),)
        shapes = (*(x.shape for x in step), memory.keys[0].shape, *words)
        if shapes not in self._recorded:
            if len(self._recorded) >= KEPT:
                self.plain_steps += 1
                return self._run(inputs)
            buffers = self._make_room(inputs)
            buffers.fill(inputs)
            self._recorded[shapes] = buffers, self._record(lambda: self._run(buffers))
        buffers, recording = self._recorded[shapes]
        buffers.fill(inputs)
        recording.replay()
        return Velocity(*(x.clone() for x in recording.outputs))

    def _run(self, inputs: Buffers) -> Velocity:
        video, audio, t, condition, *motion = inputs.step
        known, mask = motion or (None, None)
        return super().velocity(inputs.memory, video, audio, t, condition, known, mask, inputs.prompt)

    def _make_room(self, inputs: Buffers) -> Buffers:
        """Buffers for inputs of these shapes; those of one shape in one place are made once."""

        def room(place: str, like: Tensor, shape: torch.Size) -> Tensor:
            key = (place, shape)
            if key not in self._rooms:  # zeros, since what is masked is multiplied by zero and must be finite
                self._rooms[key] = torch.zeros(shape, dtype=like.dtype, device=like.device)
            return self._rooms[key]

        def rooms(place: str, tensors: tuple[Tensor, ...], is_spoken: bool = False) -> tuple[Tensor, ...]:
            return tuple(room(f"{place} {i}", x, _roomy(x, 2) if is_spoken else x.shape) for i, x in enumerate(tensors))

        prompt = inputs.prompt
        if prompt is not None:
            keys, values = (rooms(name, getattr(prompt, name), is_spoken=True) for name in ("keys", "values"))
            prompt = PromptMemory(keys, values, room("mask", prompt.mask, _roomy(prompt.mask, 3)))
        memory = Memory(rooms("memory keys", inputs.memory.keys), rooms("memory values", inputs.memory.values))
        return Buffers(rooms("step", inputs.step), memory, prompt)


def _roomy(x: Tensor, axis: int) -> torch.Size:
    """The shape of x with the words along `axis` up to the next multiple of WORDS_AT_ONCE."""
    shape = list(x.shape)
    shape[axis] = -(-shape[axis] // WORDS_AT_ONCE) * WORDS_AT_ONCE
    return torch.Size(shape)
