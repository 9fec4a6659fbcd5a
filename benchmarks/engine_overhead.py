"""What does the engine add to a bare denoising loop of the same model, and what do its caches and batches save?

Three loops take turns in this process, chunk after chunk, on the same weights, conditions and shapes:

    bare      a hand-written loop: the model's own cached step, the sampler, the motion's keys and values; nothing else
    engine    one session through `Engine`: scheduling, slots, requests and latents that cross its border as arrays
    uncached  diffusers' `WanTransformer3DModel` of equal width, depth and heads, random weights, as many tokens as the
              chunk with all that it attends to, which it computes anew at every step

    python benchmarks/engine_overhead.py --out out/benchmarks [--bundle bundles/pocket] [--chunks 24] [--device cpu]

Figures are medians; ratios are medians of the ratios of neighbours in time. On a CPU a second is one of processor time,
so that other work on the machine does not count; on an accelerator it is one of the clock. `rebuild` brings a session's
keys and values back from its latents, `batches` are seconds of one call by the number of steps in it, as the worker
measures them at its start. Writes engine_overhead-BUNDLE.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from diffusers import WanTransformer3DModel

from dit_worker.engine.engine import Engine, EngineLimits, Standing
from dit_worker.engine.loader import Models, load_models
from dit_worker.engine.performance import ChunkLatents
from dit_worker.model.dit import Memory
from dit_worker.model.sampler import timesteps
from evaluation.report import provenance
from services.bundle import load_bundle

NAME = "overhead"
WARM_CHUNKS = 2
MOST_BATCHED = 8
REBUILDS = 9


class Bare:
    """What the engine does for a session that is under way, written down as plainly as can be."""

    def __init__(self, models: Models, prompt: str) -> None:
        self.models, self.dit = models, models.dit
        self.times = timesteps(models.manifest.sampler.steps, models.sampling.shift)
        with models.computing():
            self.condition = torch.zeros(1, *models.condition_shape)
            c = self.dit.config
            portrait = torch.zeros(1, c.video_channels, 1, c.video_height, c.video_width)
            chunk = torch.randn(1, *models.sampling.video_shape)
            reference = self.dit.encode_condition("reference", portrait)
            self.before = Memory.join([reference, self.dit.encode_condition("sink", chunk, reference)])
            self.motion = self.dit.encode_condition("motion", chunk, self.before)
            self.audio_motion = torch.zeros(1, c.audio_motion, c.audio_channels)
            self.audio_mask = torch.ones(1, c.audio_motion)
            self.prompt = None
            if models.prompts is not None:
                states = models.prompts(prompt)[None]
                self.prompt = self.dit.encode_prompt(states, torch.ones(states.shape[:2], dtype=torch.bool))

    def noise(self, shape: tuple[int, ...], scale: float) -> torch.Tensor:
        """Scaled noise, wherever the model is."""
        return torch.randn(1, *shape) * scale

    def draw_video(self) -> torch.Tensor:
        """Fresh noise for the picture."""
        return self.noise(self.models.sampling.video_shape, self.models.sampling.video_noise_scale)

    def draw_audio(self) -> torch.Tensor:
        """Fresh noise for the sound."""
        return self.noise(self.models.sampling.audio_shape, self.models.sampling.audio_noise_scale)

    def chunk(self) -> None:
        """One chunk, and what the next one follows."""
        sampling = self.models.sampling
        with self.models.computing():
            memory = Memory.join([self.before, self.motion])
            video, audio = self.draw_video(), self.draw_audio()
            for now, then in pairwise(self.times):
                v = self.dit.velocity(
                    memory, video, audio, audio.new_tensor([now]), self.condition, self.audio_motion, self.audio_mask,
                    self.prompt,
                )  # fmt: skip
                video = sampling.advance(video, v.video, now, then, self.draw_video)
                audio = sampling.advance(audio, v.audio, now, then, self.draw_audio)
            self.motion = self.dit.encode_condition("motion", video, self.before)
            if self.dit.config.audio_motion:
                self.audio_motion = audio[:, -self.dit.config.audio_motion :]
            video.cpu(), audio.cpu()


class Performed:
    """The same session through the engine."""

    def __init__(self, models: Models, prompt: str, clock: Callable[[], float]) -> None:
        self.models, self.prompt = models, prompt
        self.engine = Engine(models, clock, limits=EngineLimits(batch=MOST_BATCHED))
        self.condition = np.zeros(models.condition_shape, np.float32)
        geometry = models.manifest.geometry
        self.engine.open(NAME, 1, np.zeros((geometry.height, geometry.width, 3), np.uint8), Standing())
        self.index = 0

    def chunk(self) -> None:
        """Begin, supply and step, commit."""
        request = self.engine.begin(NAME, self.index, self.models.manifest.sampler.steps, 0.0, self.prompt)
        self.engine.supply(NAME, request.step, self.condition)
        while True:
            [outcome] = self.engine.step()
            if outcome.error is not None:
                raise outcome.error
            if isinstance(outcome.result, ChunkLatents):
                break
            if outcome.result is not None:
                self.engine.supply(NAME, outcome.result.step, self.condition)
        self.engine.commit(NAME)
        self.index += 1

    def rebuild(self) -> None:
        """Everything of the session's on the device, from its latents alone."""
        self.engine.evict(NAME)
        while self.engine.step():
            pass

    def batches(self) -> dict[int, float]:
        """Seconds of one call by its number of steps."""
        self.engine.begin(NAME, self.index, self.models.manifest.sampler.steps, 0.0, self.prompt)
        self.engine.supply(NAME, 0, self.condition)
        self.engine.time_batches(NAME)
        self.engine.abort(NAME)
        return self.engine.batches.call_s


class Uncached:
    """Diffusers' Wan with as many layers, as wide, on as many tokens."""

    def __init__(self, models: Models, words: int) -> None:
        c = models.dit.config
        self.models = models
        self.tokens = c.patches * (1 + 3 * c.video_latents) + c.audio_latents
        self.latents = round(self.tokens / c.patches)
        self.text_width = c.prompt_source_width or c.prompt_width or c.width
        with torch.device(models.device):
            kind: Any = WanTransformer3DModel
            wan = kind(
                patch_size=(1, c.patch, c.patch), num_attention_heads=c.heads, attention_head_dim=c.width // c.heads,
                in_channels=c.video_channels, out_channels=c.video_channels, text_dim=self.text_width,
                freq_dim=c.time_width, ffn_dim=c.ffn, num_layers=c.layers,
            )  # fmt: skip
        self.dtype = next(models.dit.blocks.parameters()).dtype
        self.wan = wan.to(self.dtype).eval().requires_grad_(requires_grad=False)
        self.words = words

    def step(self) -> None:
        """One forward pass over everything."""
        c, dtype = self.models.dit.config, self.dtype
        with self.models.computing():
            self.wan(
                hidden_states=torch.zeros(
                    1, c.video_channels, self.latents, c.video_height, c.video_width, dtype=dtype
                ),
                timestep=torch.full((1,), 500.0),
                encoder_hidden_states=torch.zeros(1, self.words, self.text_width, dtype=dtype),
                return_dict=False,
            )[0].cpu()


def timed(run: Callable[[], None], clock: Callable[[], float]) -> float:
    """Seconds it takes."""
    began_at = clock()
    run()
    return clock() - began_at


def measure(models: Models, prompt: str, chunks: int, clock: Callable[[], float]) -> dict[str, object]:
    """All figures."""
    bare, performed = Bare(models, prompt), Performed(models, prompt, clock)
    words = 1 if bare.prompt is None else bare.prompt.mask.shape[-1]
    uncached, steps = Uncached(models, words), models.manifest.sampler.steps
    loops = {"bare": bare.chunk, "engine": performed.chunk, "uncached_step": uncached.step}
    took: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(WARM_CHUNKS + chunks):
        order = list(loops) if turn % 2 else list(loops)[::-1]
        for name in order:
            seconds = timed(loops[name], clock)
            if turn >= WARM_CHUNKS:
                took[name].append(seconds)
    overhead = median(e / b for e, b in zip(took["engine"], took["bare"], strict=True)) - 1
    saved = median(steps * u / e for u, e in zip(took["uncached_step"], took["engine"], strict=True))
    rebuilds = [timed(performed.rebuild, clock) for _ in range(1 + REBUILDS)][1:]
    call_s = performed.batches()
    figures = performed.engine.figures
    return {
        "steps": steps,
        "shapes": {
            "tokens_attended_to": uncached.tokens - models.dit.config.audio_latents - models.dit.config.patches
            * models.dit.config.video_latents,
            "tokens": uncached.tokens, "tokens_uncached": uncached.latents * models.dit.config.patches,
            "words": words, "width": models.dit.config.width, "layers": models.dit.config.layers,
        },
        "median_s": {
            "bare_chunk": round(median(took["bare"]), 5),
            "engine_chunk": round(median(took["engine"]), 5),
            "rebuild": round(median(rebuilds), 5),
            "uncached_chunk": round(steps * median(took["uncached_step"]), 5),
        },
        "engine_overhead": round(overhead, 4),
        "uncached_over_engine": round(saved, 3),
        "batches": {
            str(n): {"call_s": round(s, 5), "per_step_over_alone": round(s / n / call_s[1], 4)}
            for n, s in call_s.items()
        },
        "batches_that_pay": performed.engine.batches.sizes,
        "cache_bytes_per_session": figures.bytes_per_session,
        "seconds": {name: [round(value, 5) for value in values] for name, values in took.items()},
    }  # fmt: skip


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"), help="folder for the JSON file")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/pocket"))
    parser.add_argument("--chunks", type=int, default=24, help="chunks to time in each loop")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads on a CPU")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    models = load_models(load_bundle(options.bundle), options.device)
    clock = time.process_time if options.device == "cpu" else time.perf_counter
    manifest = models.manifest
    result = {
        **provenance(),
        "bundle": {"name": manifest.name, "version": manifest.version, "digest": manifest.digest},
        "device": options.device,
        "threads": options.threads,
        **measure(models, "smiles" if models.prompts is not None else "", options.chunks, clock),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"engine_overhead-{manifest.name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name != "seconds"}, indent=1), path, sep="\n")


if __name__ == "__main__":
    main()
