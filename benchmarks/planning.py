"""What do plans cost the sessions on the same engine, and how long does a plan take beside them?

One vLLM engine hosts a conditioner of BUNDLE's shape that is also a language model: a vocabulary of byte pairs learned
from this project's pages, random weights. Sessions perform chunks in real time, each of a prefix of about 300 rows,
four conditions and the pointer; meanwhile none, one or two planners ask for campaigns of four actions, held to the
schema and ended after PLAN_TOKENS tokens, about what a model writes that has something to say.

    python benchmarks/planning.py --out out/benchmarks [--bundle bundles/pocket] [--seconds 12]

`step` is what a session waits for a condition, `plan` a whole campaign, `first` its first piece, by the clock; `cpu_s`
is this process's processor time for all of it, one thread. Runs itself in .venv-vllm. Writes planning.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from evaluation.report import provenance
from orchestrator_llm.conformance.cases import campaigns
from orchestrator_llm.engine.backend_vllm import VllmBackend
from orchestrator_llm.engine.backend_vllm_engine import VllmOptions
from orchestrator_llm.engine.brief import question
from orchestrator_llm.model.conditioner import Conditioner, ConditionerConfig
from orchestrator_llm.model.text import FIRST_PHONE
from services.bundle import Bundle, load_bundle
from services.session import HistoryChunk

ROOT = Path(__file__).resolve().parents[1]
OWN_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
FOLDER = "language_model"
VOCABULARY = 4096
PLAN_TOKENS = 240
STEPS = (1.0, 0.75, 0.5, 0.25)
HISTORY_CHUNKS = 4
LOADS = ((0, 1), (1, 0), (1, 1), (4, 0), (4, 1), (8, 0), (8, 1), (8, 2))
"""Sessions and planners at the same time."""


@dataclass
class Seen:
    """Seconds that were waited."""

    steps: list[float] = field(default_factory=list)
    plans: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    chunks: int = 0
    late_chunks: int = 0


def prepared(source: Bundle, folder: Path) -> Bundle:
    """The bundle with a conditioner that can write."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY - 1, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train([str(path) for path in sorted((ROOT / "docs").glob("*.md"))], trainer)
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")  # type: ignore[no-untyped-call]
    whole.save_pretrained(folder / FOLDER)
    manifest = json.loads((source.path / "manifest.json").read_text())
    manifest["conditioner"] |= {"reference_frames": 68, "text_per_chunk": 17, "history_frames": 33 * HISTORY_CHUNKS}
    manifest["conditioner"] |= {"vocabulary": FIRST_PHONE + len(whole)}
    manifest["text"] = {"tokenizer": f"{FOLDER}/tokenizer.json", "language_model": FOLDER}
    torch.manual_seed(0)
    conditioner = Conditioner(ConditionerConfig(**manifest["conditioner"]))
    save_file({k: v.contiguous() for k, v in conditioner.state_dict().items()}, folder / "conditioner.safetensors")
    manifest["files"] = {str(path.relative_to(folder)): "" for path in folder.rglob("*") if path.is_file()}
    manifest["characters"], manifest["prompt"], manifest["name"] = [], None, "benchmark"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return load_bundle(folder)


def drawn(*key: int, frames: int = 33, channels: int = 32) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Random latents of a key."""
    return np.random.default_rng(key).standard_normal((frames, channels)).astype(np.float32)


def perform(backend: VllmBackend, session: int, offset_s: float, end_at: float, seen: Seen) -> None:
    """One session in real time."""
    period_s, frames = backend.geometry.chunk_seconds, backend.geometry.reference_frames
    reference = drawn(session, frames=frames)
    due = time.perf_counter() + offset_s
    for turn in range(10_000):
        time.sleep(max(0.0, due - time.perf_counter()))
        if time.perf_counter() > end_at:
            return
        history = tuple(HistoryChunk(9.0 * k, drawn(session, turn, k)) for k in range(HISTORY_CHUNKS))
        tokens = [int(token) for token in np.random.default_rng([session, turn]).integers(3, VOCABULARY, 400)]
        prefix = backend.voice(reference).prefix(tokens, 9.0 * HISTORY_CHUNKS, history)
        for step, timestep in enumerate(STEPS):
            began = time.perf_counter()
            prefix.condition(timestep, drawn(session, turn, step, 1))
            seen.steps.append(time.perf_counter() - began)
        prefix.point(drawn(session, turn, 9, 1))
        due += period_s
        seen.chunks += 1
        seen.late_chunks += time.perf_counter() > due


def plan(backend: VllmBackend, end_at: float, seen: Seen, *, at_least: int = 1) -> None:
    """One planner: campaign after campaign."""
    assert backend.writer is not None
    cases = campaigns(8)
    for number in range(10_000):
        if time.perf_counter() > end_at and number >= at_least:
            return
        asked = replace(question(cases[number % len(cases)].brief), max_tokens=PLAN_TOKENS)
        began = time.perf_counter()
        pieces: list[float] = []
        backend.writer.finish(backend.writer.begin(asked, lambda _: pieces.append(time.perf_counter())))  # noqa: B023
        seen.firsts.append(pieces[0] - began)
        seen.plans.append(time.perf_counter() - began)


def load(backend: VllmBackend, sessions: int, planners: int, seconds: float) -> dict[str, Any]:
    """What is seen under one load."""
    seen, end_at = Seen(), time.perf_counter() + seconds
    spacing_s = backend.geometry.chunk_seconds / max(1, sessions)
    threads = [
        threading.Thread(target=perform, args=(backend, number, number * spacing_s, end_at, seen))
        for number in range(sessions)
    ] + [threading.Thread(target=plan, args=(backend, end_at, seen)) for _ in range(planners)]
    cpu = time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    row: dict[str, Any] = {"sessions": sessions, "planners": planners, "late_chunks": seen.late_chunks}
    row |= {"chunks": seen.chunks, "cpu_s": round(time.process_time() - cpu, 3)}
    if seen.steps:
        row["step_ms"] = quantiles(seen.steps, 1e3)
    if seen.plans:
        row |= {"plan_s": quantiles(seen.plans), "first_s": quantiles(seen.firsts), "plans": len(seen.plans)}
        row["tokens_per_s"] = round(PLAN_TOKENS * len(seen.plans) / sum(seen.plans), 1)
    print(json.dumps(row), flush=True)
    return row


def quantiles(values: list[float], scale: float = 1.0) -> dict[str, float]:
    """Median, 95th percentile and largest."""
    found = {"p50": np.percentile(values, 50), "p95": np.percentile(values, 95), "max": max(values)}
    return {name: round(float(value) * scale, 3) for name, value in found.items()}


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"), help="folder for the JSON file")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/pocket"))
    parser.add_argument("--seconds", type=float, default=12.0, help="of each load")
    options = parser.parse_args()
    if importlib.util.find_spec("vllm") is None:
        if not OWN_PYTHON.is_file():
            raise SystemExit("vllm is not installed here; run `make vllm-env`")
        raise SystemExit(subprocess.run([str(OWN_PYTHON), *sys.argv], check=False).returncode)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        backend = VllmBackend(prepared(load_bundle(options.bundle), Path(folder)), VllmOptions(sessions=16))
        load(backend, 1, 1, 2.0)  # grammar and kernels are made with the first ones
        rows = [load(backend, sessions, planners, options.seconds) for sessions, planners in LOADS]
        period_s = backend.geometry.chunk_seconds
        backend.close()
    result = {**provenance(), "threads": 1, "plan_tokens": PLAN_TOKENS, "chunk_s": period_s, "loads": rows}
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "planning.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
