"""What does a chunk of the full size cost on this device, stage by stage, and how many sessions are that?

Weights are random, shapes are those of `bundles/stage-5b`. Each stage is timed by itself: median seconds, TFLOP/s (its
products, counted on the `meta` device) and the share of what this device's matrix products reach, measured first. Then
the chunk is added up, with and without the cache of condition keys and values, CUDA graphs and `torch.compile`, and
performed through the engine.

    python benchmarks/stage_5b.py --out out/benchmarks                                      # one GPU of 80 GB or more
    python benchmarks/stage_5b.py --heads 1 --layers 2 --side 64 --vae-width 4 --repeats 2  # anywhere, says nothing

Sessions are those that admission would take: sum(C) / P + q / P <= 0.92. Writes stage_5b.json. To be beaten: 0.96 s for
LLM and DiT, 1.34 s in all, per chunk of 1.375 s on one H100 with one session (StreamChar, table of latencies).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dit_worker.engine.compute import Compute, check_device, compile_blocks
from dit_worker.engine.cuda_graphs import GraphedDiT
from dit_worker.engine.encode import H264Encoder, OpusEncoder, Upsampler
from dit_worker.engine.engine import Engine, EngineLimits, Standing
from dit_worker.engine.errors import BadDevice
from dit_worker.engine.loader import Models, sampling_of
from dit_worker.model.attention import Attention, plain_attention
from dit_worker.model.audio_vae import CONTEXT_LATENTS, LATE_LATENTS
from dit_worker.model.diffusers_vae import OobleckAudioVAE, WanVideoVAE
from dit_worker.model.dit import DiTConfig, JointDiT, Kind, Memory
from evaluation.report import provenance
from orchestrator_llm.model.conditioner import Conditioner, ConditionerConfig
from services.bundle import Manifest, load_manifest

HEAD = 128
"""Width of a head, of the transformer and of the body."""
BOUND = 0.92
BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "stage-5b"
WARM_RUNS = 2
ENGINE_CHUNKS = 4


@dataclass(frozen=True)
class Cost:
    """Median seconds of a stage, its products in TFLOP, and the share of the device's peak that they reached."""

    seconds: float
    tflop: float = 0.0
    share: float = 0.0


class Device:
    """Where stages run, and what it can do at best."""

    def __init__(self, name: str, compute: Compute, repeats: int) -> None:
        check_device(name, compute)
        self.name, self.compute, self.repeats = name, compute, repeats
        self.is_cuda = torch.device(name).type == "cuda"
        self.dtype = compute.dtype(name)
        self.peak = self._peak()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Inference, with new tensors here."""
        with torch.inference_mode(), torch.device(self.name):
            yield

    def seconds(self, run: Callable[[], object]) -> float:
        """Median of several runs after a few that warm up."""
        took = []
        for index in range(WARM_RUNS + self.repeats):
            began = time.perf_counter()
            with self.computing():
                run()
                if self.is_cuda:
                    torch.cuda.synchronize(self.name)
            if index >= WARM_RUNS:
                took.append(time.perf_counter() - began)
        return median(took)

    def cost(self, run: Callable[[], object], tflop: float = 0.0) -> Cost:
        """What a stage costs. tflop: of its products."""
        seconds = self.seconds(run)
        return Cost(seconds, tflop, tflop / seconds / self.peak)

    def _peak(self) -> float:
        """TFLOP/s of the best of three shapes of matrix products in the precision of the weights."""
        best = 0.0
        for side in (8192, 6144, 4096) if self.is_cuda else (512, 384, 256):
            with self.computing():
                a, b = (torch.randn(side, side, dtype=self.dtype) for _ in range(2))
            best = max(best, 2e-12 * side**3 / self.seconds(partial(torch.matmul, a, b)))
        return best


def resized(manifest: Manifest, options: argparse.Namespace) -> Manifest:
    """The manifest with fewer heads, layers and pixels, where asked for; widths and counts follow."""
    fields: dict[str, Any] = json.loads(manifest.model_dump_json())
    dit, body, geometry = fields["dit"], fields["conditioner"]["body"], fields["geometry"]
    share = options.heads / dit["heads"]
    body_heads = max(1, round(body["num_attention_heads"] * share))
    body |= {
        "hidden_size": HEAD * body_heads,
        "num_attention_heads": body_heads,
        "num_hidden_layers": max(1, round(options.layers * 1.2)),
    }
    body |= {"num_key_value_heads": min(2, body_heads), "intermediate_size": round(body["intermediate_size"] * share)}
    if share < 1:
        fields["conditioner"]["vocabulary"] = 1000
    fields["conditioner"]["condition_width"] = dit["condition_width"] = body["hidden_size"]
    dit |= {"heads": options.heads, "width": HEAD * options.heads, "layers": options.layers}
    dit |= {"prompt_width": HEAD * options.heads, "ffn": round(dit["ffn"] * share)}
    latents = options.side // 16
    dit |= {"video_height": latents, "video_width": latents}
    geometry |= {"width": options.side, "height": options.side}
    geometry |= {"video_latent_height": latents, "video_latent_width": latents}
    if options.vae_width:
        fields["video_vae"]["config"] |= {"base_dim": options.vae_width, "decoder_base_dim": options.vae_width}
        width = {"encoder_hidden_size": options.vae_width, "decoder_channels": options.vae_width}
        fields["audio_codec"]["config"] |= width | {"channel_multiples": [1] * 5}
    return Manifest.model_validate(fields)


class Parts(NamedTuple):
    """The models of a manifest."""

    dit: JointDiT
    conditioner: Conditioner
    video_vae: WanVideoVAE
    audio_vae: OobleckAudioVAE


def build(manifest: Manifest, attention: Attention) -> Parts:
    """All models on `meta`: shapes without memory. attention: the transformer's."""
    import diffusers

    wan: Any = diffusers.AutoencoderKLWan
    oobleck: Any = diffusers.AutoencoderOobleck
    channels = manifest.geometry.video_latent_channels
    known = {"latents_mean": [0.0] * channels, "latents_std": [1.0] * channels}
    with torch.device("meta"):
        return Parts(
            JointDiT(DiTConfig(**manifest.dit), attention),
            Conditioner(ConditionerConfig(**manifest.conditioner)),
            WanVideoVAE(wan(**manifest.video_vae["config"], **known)),
            OobleckAudioVAE(oobleck(**manifest.audio_codec["config"])),
        )


def begin(module: nn.Module, device: str, precision: Callable[[str], torch.dtype]) -> None:
    """Random weights in memory of their own: numbers that are not zero cost what trained ones do."""
    draw = torch.Generator(device).manual_seed(0)
    for name, old in [*module.named_parameters(), *module.named_buffers()]:
        new = torch.empty(old.shape, dtype=precision(name), device=device)
        new.normal_(1.0 if "norm" in name or name == "deviation" else 0.0, 0.02, generator=draw)
        owner = module.get_submodule(name.rpartition(".")[0])
        leaf = name.rpartition(".")[2]
        if isinstance(old, nn.Parameter):
            setattr(owner, leaf, nn.Parameter(new, requires_grad=False))
        else:
            owner.register_buffer(leaf, new, persistent=False)
    module.eval()


def precision_of(name: str, products: torch.dtype) -> torch.dtype:
    """What normalises latents is float32, as in the loader."""
    return torch.float32 if name in ("mean", "deviation") else products


class Stages:
    """The inputs of every stage, and the stages as calls; on `meta` the same calls are counted."""

    def __init__(self, manifest: Manifest, parts: Parts, device: str) -> None:
        self.manifest, self.parts, self.device = manifest, parts, device
        self.steps = manifest.sampler.steps
        g, c = manifest.geometry, ConditionerConfig(**manifest.conditioner)
        with torch.inference_mode(), torch.device(device):
            self.video, self.audio = torch.randn(1, *g.video_shape), torch.randn(1, *g.audio_shape)
            self.t, self.start = torch.full((1,), 0.7), torch.zeros(1)
            self.condition = torch.randn(1, g.audio_latents_per_chunk, c.condition_width)
            words = manifest.prompt.max_words if manifest.prompt is not None else 0
            states = torch.randn(1, words, DiTConfig(**manifest.dit).prompt_source_width)
            self.prompt = parts.dit.encode_prompt(states, torch.ones(1, words, dtype=torch.bool))
            self.reference = self.encode("reference", None)
            self.earlier = Memory.join([self.reference, self.encode("sink", self.reference)])
            self.memory = Memory.join([self.earlier, self.encode("motion", self.earlier)])
            slots = c.earlier_slots(c.history_chunks) + c.text_slots
            self.ids = torch.zeros(1, slots, dtype=torch.long)
            self.history = torch.randn(1, c.chunk_frames * c.history_chunks, c.latent_channels)
            self.voice = torch.randn(1, c.reference_frames, c.latent_channels)
            self.sounding = torch.randn(
                1, CONTEXT_LATENTS + LATE_LATENTS + g.audio_latents_per_chunk, self.audio.shape[2]
            )
            with self.half():
                self.spoken = parts.conditioner.reference_cache(self.voice)
                self.prefix = parts.conditioner.prefix(self.spoken, self.ids, self.history, self.history[..., 0])

    def half(self) -> torch.autocast:
        """The orchestrator's way to half precision."""
        kind = torch.device(self.device).type
        is_half = next(self.parts.conditioner.parameters()).dtype != torch.float32
        return torch.autocast(kind if kind != "meta" else "cpu", torch.bfloat16, enabled=is_half)

    def encode(self, kind: Kind, earlier: Memory | None) -> Memory:
        """One block of condition tokens."""
        return self.parts.dit.encode_condition(
            kind, self.video[:, :, :1] if kind == "reference" else self.video, earlier
        )

    def step(self, memory: Memory, dit: JointDiT | None = None) -> object:
        """One cached step."""
        dit = dit or self.parts.dit
        return dit.velocity(memory, self.video, self.audio, self.t, self.condition, prompt=self.prompt)

    def step_anew(self) -> object:
        """A step that first computes all it attends to, as without a cache."""
        reference = self.encode("reference", None)
        earlier = Memory.join([reference, self.encode("sink", reference)])
        return self.step(Memory.join([earlier, self.encode("motion", earlier)]))

    def tail(self, sessions: int) -> object:
        """The orchestrator's part of a step, for several sessions at once."""
        with self.half():
            rows = (x.expand(sessions, *x.shape[1:]) for x in (self.audio, self.t, self.start))
            return self.parts.conditioner.tail(self.prefix.repeat(sessions), *rows)

    def fill(self) -> object:
        """The orchestrator's part of a chunk before its steps."""
        with self.half():
            return self.parts.conditioner.prefix(self.spoken, self.ids, self.history, self.history[..., 0])

    def calls(self) -> dict[str, Callable[[], object]]:
        """Every stage on the device, by name."""
        return {
            "condition prefill: reference": lambda: self.encode("reference", None),
            "condition prefill: sink": lambda: self.encode("sink", self.reference),
            "condition prefill: motion": lambda: self.encode("motion", self.earlier),
            "step: first chunk": lambda: self.step(self.reference),
            "step": lambda: self.step(self.memory),
            "step: no cache": self.step_anew,
            "orchestrator: prefix": self.fill,
            "orchestrator: tail": lambda: self.tail(1),
            "orchestrator: tail, 4 sessions": lambda: self.tail(4),
            "decode: video": lambda: self.parts.video_vae.decode(self.video),
            "decode: audio": lambda: self.parts.audio_vae.decode(self.sounding),
        }


def products(manifest: Manifest) -> dict[str, float]:
    """TFLOP of each stage's products, counted without computing any."""
    stages, counted = Stages(manifest, build(manifest, plain_attention), "meta"), {}
    for name, call in stages.calls().items():
        with FlopCounterMode(display=False) as counter, torch.inference_mode(), torch.device("meta"):
            call()
        counted[name] = counter.get_total_flops() / 1e12
    return counted


def media_cost(manifest: Manifest, repeats: int) -> Cost:
    """H.264 and Opus of one chunk, on a processor of this machine."""
    g = manifest.geometry
    ramp = np.linspace(0, 255, g.width + g.frames_per_chunk)
    rows = [np.broadcast_to(ramp[i : i + g.width], (g.height, g.width)) for i in range(g.frames_per_chunk)]
    frames = np.stack(rows).astype(np.uint8)[..., None].repeat(3, -1)
    samples = np.sin(np.arange(g.samples_per_chunk, dtype=np.float32) / 40).astype(np.float32)
    h264, upsampler, took = H264Encoder(g.width, g.height, g.frames_per_second), Upsampler(g.sample_rate), []
    for _ in range(repeats):
        began, opus = time.process_time(), OpusEncoder()
        h264.encode(frames)
        opus.start(0, round(g.samples_per_chunk * 48_000 / g.sample_rate), upsampler(samples[:0], samples[:0]))
        opus.encode(upsampler(samples[:0], samples))
        took.append(time.process_time() - began)
    return Cost(median(took))


def faster_steps(
    stages: Stages, device: Device, tflop: float, options: argparse.Namespace
) -> Iterator[tuple[str, Cost]]:
    """A later chunk's step as CUDA graph, compiled, and both, as far as they are asked for and can be had."""
    plain, config, attention = stages.parts.dit, stages.parts.dit.config, device.compute.choose_attention(device.name)

    def graphed() -> JointDiT:
        with torch.device("meta"):
            dit = GraphedDiT(config, attention)
        dit.load_state_dict(plain.state_dict(), assign=True)  # the same weights, not a copy
        return dit.eval()

    if device.is_cuda:
        replayed = graphed()
        yield "step: CUDA graph", device.cost(lambda: stages.step(stages.memory, replayed), tflop)
        del replayed
    if options.compile:
        compile_blocks(plain)
        yield "step: compiled", device.cost(lambda: stages.step(stages.memory), tflop)
        if device.is_cuda:
            both = graphed()
            compile_blocks(both)
            yield "step: compiled, CUDA graph", device.cost(lambda: stages.step(stages.memory, both), tflop)


def engine_chunk(manifest: Manifest, parts: Parts, device: Device) -> float:
    """Median seconds of a later chunk through the engine: scheduling, caches, noise, latents across its border.

    It reads no prompt here.
    """
    shape = (manifest.geometry.audio_latents_per_chunk, parts.dit.config.condition_width)
    models = Models(
        manifest, parts.dit, parts.video_vae, parts.audio_vae, sampling_of(manifest), shape, 1, device=device.name
    )
    engine, side, took = Engine(models, time.perf_counter, limits=EngineLimits(slots=1)), manifest.geometry.width, []
    engine.open("s", 0, np.zeros((side, side, 3), np.uint8), Standing())
    for index in range(ENGINE_CHUNKS):
        began, step = time.perf_counter(), 0
        engine.begin("s", index, manifest.sampler.steps, 0.0)
        while step < manifest.sampler.steps:
            engine.supply("s", step, np.zeros(shape, np.float32))
            step += 1
            while True:
                [outcome] = engine.step()
                if outcome.error is not None:
                    raise outcome.error
                if outcome.result is not None:
                    break
        engine.commit("s")
        took.append(time.perf_counter() - began)
    return median(took[2:])


def chunks(costs: dict[str, Cost], manifest: Manifest) -> dict[str, dict[str, float]]:
    """Seconds of a chunk, in all and without the media, and sessions a device keeps, by how steps are computed."""
    steps, length = manifest.sampler.steps, manifest.chunk_seconds
    llm = costs["orchestrator: prefix"].seconds + (steps + 1) * costs["orchestrator: tail"].seconds
    decode = costs["decode: video"].seconds + costs["decode: audio"].seconds
    found = {}
    for name in (n for n in costs if n.startswith("step") and n != "step: first chunk"):
        step = costs[name].seconds
        motion = 0.0 if name == "step: no cache" else costs["condition prefill: motion"].seconds
        made = llm + motion + steps * step
        whole, quantum = made + decode, max(step, motion)
        found[name] = {
            "llm_and_dit_s": made,
            "chunk_s": whole,
            "share_of_playback": whole / length,
            "sessions": max(0, int((BOUND * length - quantum) / whole)),
            "sessions_decoded_elsewhere": max(0, int((BOUND * length - quantum) / made)),
        }
    return found


def report(costs: dict[str, Cost], sums: dict[str, dict[str, float]], device: Device, engine_s: float) -> str:
    """What was measured, as two tables."""
    lines = [f"device {device.name}, {device.dtype}, matrix products {device.peak:.3g} TFLOP/s", ""]
    lines += [f"{'stage':32} {'ms':>10} {'TFLOP':>9} {'TFLOP/s':>9} {'of peak':>8}"]
    for name, cost in costs.items():
        rate = f"{cost.tflop:9.3g} {cost.tflop / cost.seconds:9.3g} {cost.share:8.0%}" if cost.tflop else ""
        lines.append(f"{name:32} {1000 * cost.seconds:10.2f} {rate}")
    lines += ["", f"{'chunk':32} {'LLM+DiT s':>10} {'in all s':>9} {'sessions':>9} {'decoded elsewhere':>18}"]
    for name, row in sums.items():
        lines.append(
            f"{name:32} {row['llm_and_dit_s']:10.3f} {row['chunk_s']:9.3f} {row['sessions']:9.0f} "
            f"{row['sessions_decoded_elsewhere']:18.0f}"
        )
    lines += ["", f"DiT of a chunk through the engine: {engine_s:.3f} s"]
    return "\n".join(lines)


def measure(manifest: Manifest, device: Device, options: argparse.Namespace) -> Iterator[tuple[dict[str, Cost], float]]:
    """The cost of every stage, and of a chunk through the engine; then again with each faster way to make a step.

    What is quick comes first, so that a limit on time ends compilations and nothing else.
    """
    tflop = products(manifest)
    parts = build(manifest, device.compute.choose_attention(device.name))
    begin(parts.dit, device.name, lambda name: JointDiT.precision_of(name, device.dtype))
    sound = torch.float32 if device.dtype == torch.float32 else torch.float16
    for part, dtype in ((parts.conditioner, device.dtype), (parts.video_vae, device.dtype), (parts.audio_vae, sound)):
        begin(part, device.name, partial(precision_of, products=dtype))
    stages = Stages(manifest, parts, device.name)
    costs = {name: device.cost(call, tflop[name]) for name, call in stages.calls().items()}
    costs["encode: H.264 and Opus"] = media_cost(manifest, options.repeats)
    engine_s = engine_chunk(manifest.model_copy(update={"prompt": None}), parts, device)
    yield costs, engine_s
    for name, cost in faster_steps(stages, device, tflop["step"], options):
        costs[name] = cost
        yield costs, engine_s


def parser() -> argparse.ArgumentParser:
    """The command line; without options the full size is measured."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, default=Path("out/benchmarks"), help="folder for the JSON file")
    made.add_argument("--device", default="", help="left out: the CUDA device; without one nothing is measured")
    made.add_argument(
        "--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="auto: as a worker's"
    )
    made.add_argument("--attention", choices=("auto", "sdpa", "flash", "plain"), default="auto")
    made.add_argument("--compile", action="store_true", help="measure torch.compile too; takes minutes")
    made.add_argument("--repeats", type=int, default=10)
    made.add_argument("--heads", type=int, default=24, help="heads of the transformer; all widths follow")
    made.add_argument("--layers", type=int, default=30, help="its layers; the body has a fifth more")
    made.add_argument("--side", type=int, default=512, help="pixels, a multiple of 32")
    made.add_argument("--vae-width", type=int, default=0, help="of both VAEs; 0 leaves them as they are")
    return made


def main() -> None:
    """Measures, prints two tables and writes the figures. Exit code 2, and a sentence, without the device."""
    began, options = time.perf_counter(), parser().parse_args()
    if not options.device:
        if not torch.cuda.is_available():
            print("stage_5b: there is no CUDA device, so nothing is measured; --device cpu takes any size, see --help")
            return
        options.device = "cuda"
    try:
        compute = Compute(options.precision, attention=options.attention, is_compiled=options.compile)
        device = Device(options.device, compute, options.repeats)
    except BadDevice as fault:
        parser().exit(2, f"{fault}\n")
    manifest = resized(load_manifest(BUNDLE), options)
    options.out.mkdir(parents=True, exist_ok=True)
    for costs, engine_s in measure(manifest, device, options):  # written each time: what is measured is never lost
        sums = chunks(costs, manifest)
        result = {
            **provenance(),
            "accelerator": torch.cuda.get_device_name(options.device) if device.is_cuda else "",
            "options": {name: str(value) for name, value in vars(options).items()},
            "peak_tflop_s": device.peak,
            "stages": {name: asdict(cost) for name, cost in costs.items()},
            "chunks": sums,
            "engine_chunk_s": engine_s,
            "took_s": round(time.perf_counter() - began, 1),
        }
        (options.out / "stage_5b.json").write_text(json.dumps(result, indent=1) + "\n")
    print(report(costs, sums, device, engine_s))


if __name__ == "__main__":
    main()
