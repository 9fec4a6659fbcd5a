"""What does each stage of a chunk cost on this machine, with nothing else in its way?

Runs the engines of worker and orchestrator in this process, one stage after the other, on a text that is really spoken,
and times every piece. On a CPU a second is one of processor time, so that other work on the machine does not count; on
an accelerator it is one of the clock. Then the whole stack performs for one simulated viewer: what its processes take
beyond those pieces is what messages, store, gateway and client take, here called exchange and delivery.

    python benchmarks/stage_costs.py --out out/benchmarks [--bundle bundles/pocket] [--chunks 48] [--processors 2]

Writes profile-BUNDLE.json, which `benchmarks/capacity.py` and `cuelight capacity` read.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

import numpy as np
import torch

from dit_worker.capacity.audience import Audience
from dit_worker.capacity.profile import Profile
from dit_worker.capacity.theatre import Policy
from dit_worker.engine.arrays import Floats
from dit_worker.engine.engine import Engine, Standing
from dit_worker.engine.loader import Models, load_models
from dit_worker.engine.media import MediaWriter
from dit_worker.engine.performance import ChunkLatents, StepRequest
from dit_worker.engine.portrait import load_portrait
from dit_worker.engine.voice import read_voice
from evaluation.audience.crowd import Crowd
from evaluation.audience.house import WORKER, House, settings_of
from evaluation.audience.observation import Geometry, observe
from evaluation.audience.reference import reference
from evaluation.report import provenance
from orchestrator_llm.engine.backend_torch import TorchBackend, TorchOptions
from orchestrator_llm.engine.director import Director
from orchestrator_llm.engine.planner import PlannerOptions, RulePlanner
from services.bundle import Bundle, load_bundle
from services.session import (
    Action,
    ChunkCommit,
    ChunkInputs,
    ChunkPolicy,
    ChunkProgress,
    Regime,
    SessionConfig,
    Snapshot,
)
from services.settings import WorkerSettings
from services.state import EmbeddedRedis, SessionStore

TEXT = "Good evening, and welcome to the theatre. Every word you hear was made a moment ago, and every face with it. "
WARM_CHUNKS = 2
WARM_S = 8.0
NAME = "costs"
Times = defaultdict[str, list[float]]


class Rehearsal:
    """One session performed by hand, timed piece by piece."""

    def __init__(self, bundle: Bundle, device: str) -> None:
        self.models: Models = load_models(bundle, device)
        self.manifest = bundle.manifest
        backend = TorchBackend(bundle, TorchOptions(device=device))
        self.director = Director(
            backend, RulePlanner(backend.vowels, PlannerOptions(6.0, 2 * self.manifest.chunk_seconds))
        )
        self.engine = Engine(self.models, time.monotonic)
        self.writer = MediaWriter(self.models)
        self.writer.start(0, None)
        self.lightly = MediaWriter(self.models)
        self.lightly.start(0, None)
        self.times: Times = defaultdict(list)
        self._before: Floats | None = None
        """Audio latents of the chunk before."""
        self._clock: Callable[[], float] = time.process_time if device == "cpu" else time.perf_counter
        character = self.manifest.characters[0]
        portrait = load_portrait(
            bundle.file(character.portrait), self.manifest.geometry.width, self.manifest.geometry.height
        )
        voice = read_voice(bundle.file(character.voice).read_bytes(), self.manifest.geometry.sample_rate)
        self.engine.open(NAME, 1, portrait, Standing())
        self.director.open(Snapshot((), 0.0, 0, ()), self.engine.voice(voice))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one piece."""
        began = self._clock()
        yield
        self.times[name].append(self._clock() - began)

    def perform(self, chunk: int) -> ChunkLatents:
        """One chunk from its plan to its media."""
        with self.stage("plan"):
            action = self.director.begin(chunk, (TEXT,) if chunk % 5 == 0 else ())
        assert not action.is_idle or chunk, "the text is long enough to be spoken all the time"
        request = self.engine.begin(NAME, chunk, self.manifest.sampler.steps, 0.0)
        while True:
            with self.stage("condition"):
                condition = self.director.denoise(chunk, request.timestep, request.noisy)
            self.engine.supply(NAME, request.step, condition)
            result = self.run()
            if isinstance(result, ChunkLatents):
                break
            request = result
        with self.stage("end"):
            self.director.end(chunk, result.audio)
        self.engine.commit(NAME)
        self.media(chunk, result)
        return result

    def run(self) -> StepRequest | ChunkLatents:
        """The quanta until a step has come to something."""
        while True:
            began = self._clock()
            [outcome] = self.engine.step()
            took = self._clock() - began
            assert outcome.error is None, "a supplied step can run"
            self.times["motion" if outcome.result is None else "step"].append(took)
            if outcome.result is not None:
                return outcome.result

    def media(self, position: int, latents: ChunkLatents) -> None:
        """Decode, then encode, each time as after a cut."""
        if self._before is not None:
            with self.stage("stand"):
                self.writer.restart(self.writer.stand(position, self._before))
        self._before = latents.audio
        with self.stage("decode"):
            decoded = self.writer.decode(position, latents.video, latents.audio)
        with self.stage("encode"):
            self.writer.encode(decoded)
        if self.models.light_video is not None:
            with self.stage("light_decode"):
                self.lightly.decode(position, latents.video, latents.audio, is_light=True)


async def store_costs(latents: ChunkLatents, chunk_s: float, chunks: int) -> Times:
    """What it takes this process to write down inputs, latents and commit of a chunk, and to take an idle one back."""
    redis, times = EmbeddedRedis(), Times(list)
    await asyncio.to_thread(redis.start)
    try:
        async with SessionStore.connect(redis.url, call_timeout_s=5.0) as store:
            await store.create_session(SessionConfig(regime=Regime.CONVERSATION), session_id=NAME)
            lease = await store.acquire_lease(NAME, "costs", ChunkPolicy(chunk_s, 10, 2))
            assert lease is not None
            for index in range(chunks):
                stands = await store.load_snapshot(NAME)
                parent = None if stands.parent is None else stands.parent.chunk_index
                place = (index, parent, stands.next_position, stands.generation)
                began = time.process_time()
                await store.write_inputs(lease, ChunkInputs(*place, 0, (), Action(is_idle=True), 4))
                await store.put_latents(lease, index, latents.video, latents.audio)
                progress = ChunkProgress(index, 0.0, 0, (), 0, is_finished=True)
                await store.commit(lease, ChunkCommit(*place, progress, True, 0, ()))
                times["commit"].append(time.process_time() - began)
                if index % 4 == 3:
                    began = time.process_time()
                    cut = await store.discard_idle(lease, (stands.next_position - 0.5) * chunk_s)
                    assert cut is not None and cut.chunk_indices == (index,), "the last chunk was not played yet"
                    await store.load_snapshot(NAME)
                    times["cut"].append(time.process_time() - began)
    finally:
        await asyncio.to_thread(redis.stop)
    return times


async def stack_costs(bundle: Path, geometry: Geometry, seconds: float) -> tuple[dict[str, float], float]:
    """Processor seconds of each process of a stack with one viewer for a chunk that is made, and cuts a chunk."""
    policy = Policy(fidelity_floor_steps=None)
    async with Crowd() as crowd, House(bundle, settings_of(policy, geometry.steps)) as house:
        for run_s in (WARM_S, seconds):
            row = await observe(house, crowd, policy, Audience(sessions=1, run_s=run_s), geometry, seed=0)
    made: float = row["agreement"]["chunks"][1]  # also those that were taken back before they came
    costs = {name: round(cpu_s * row["chunks"] / made, 5) for name, cpu_s in row["cpu_s_a_chunk"].items()}
    return costs, (row["agreement"]["chunks"][0] - row["chunks"]) / made


def beyond_stages(stack: dict[str, float], cuts: float, means: dict[str, float], steps: int) -> dict[str, list[float]]:
    """What the stack takes a chunk besides its stages: around each question to the orchestrator, and all the rest.

    cuts: how often a chunk an answer took idle ones back.
    """
    questions = means["plan"] + steps * means["condition"] + means["end"]
    worker = sum(means[name] for name in ("motion", "commit", "decode", "encode")) + steps * means["step"]
    worker += cuts * (means["cut"] + means["stand"])
    exchange = max(0.0, stack[WORKER] - worker) + max(0.0, stack["orchestrator"] - questions)
    delivery = sum(stack[name] for name in ("redis", "gateway", "viewers"))
    return {"exchange": [exchange / (steps + 2)], "delivery": [delivery]}


def places(device: str, processors: float) -> dict[str, object]:
    """Where stages are done: on a CPU all on its processors, else steps and decoding on the accelerator.

    As many pieces at a time as a worker is shipped to do.
    """
    on_cpu, settings = device == "cpu", WorkerSettings()
    computing = {"pool": "processors" if on_cpu else "accelerator"}
    return {
        "pools": {"processors": processors} if on_cpu else {"accelerator": 1, "processors": processors},
        "places": {
            "device": computing,
            "decode": {**computing, "threads": settings.decode_threads},
            "encode": {"pool": "processors", "threads": settings.encode_threads},
            "orchestrator": computing,
            "store": {"threads": 64},
            "gateway": {"threads": 64, "pool": "processors"},
        },
    }


def main() -> None:
    """Measures and writes the profile."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"), help="folder for the JSON file")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/pocket"))
    parser.add_argument("--chunks", type=int, default=48, help="chunks to time")
    parser.add_argument(
        "--processors", type=float, default=float(os.cpu_count() or 1), help="of the machine to plan for"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--stack-s", type=float, default=60.0, help="seconds that the whole stack is watched; 0 leaves that out"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    before = reference()
    rehearsal = Rehearsal(load_bundle(options.bundle), options.device)
    for chunk in range(WARM_CHUNKS):
        rehearsal.perform(chunk)
    rehearsal.times.clear()
    for chunk in range(WARM_CHUNKS, WARM_CHUNKS + options.chunks):
        latents = rehearsal.perform(chunk)
    manifest, times = rehearsal.manifest, dict(rehearsal.times)
    times |= asyncio.run(store_costs(latents, manifest.chunk_seconds, options.chunks))
    means, stack = {name: fmean(values) for name, values in times.items()}, dict[str, float]()
    if options.stack_s:
        geometry = Geometry(manifest.chunk_seconds, manifest.sampler.steps)
        stack, cuts = asyncio.run(stack_costs(options.bundle, geometry, options.stack_s))
        times |= beyond_stages(stack, cuts, means, geometry.steps)
    result = {
        **provenance(),
        "bundle": {"name": manifest.name, "version": manifest.version, "digest": manifest.digest},
        "device": options.device,
        "chunk_s": manifest.chunk_seconds,
        "steps": manifest.sampler.steps,
        "reference": {"before": before, "after": reference()},
        "stack_cpu_s_a_chunk": stack,
        "means": {name: round(fmean(values), 5) for name, values in times.items()},
        "p95": {name: round(float(np.percentile(values, 95)), 5) for name, values in times.items()},
        **places(options.device, options.processors),
        "seconds": {name: [round(value, 5) for value in values] for name, values in times.items()},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"profile-{manifest.name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    profile = Profile.read(path)
    print(
        json.dumps(result["means"]), f"{profile.chunk_work_s():.3f} s a chunk of {profile.chunk_s:g} s", path, sep="\n"
    )


if __name__ == "__main__":
    main()
