"""Stage 3: renders a face for each of some passages and encodes it: `python -m training.make_video`.

Resumable by shard; the voices come in turns, so that every one is there early. A passage is cut into chunks from its
first word on; what follows its last word is silence with a closed mouth. Some passages are silence throughout, so that
idling is learned. Each has a plan of states; beside a shard stand the captions of its chunks, as NAME.json: a list over
passages of a list over chunks, "" where nothing is asked.
"""

from __future__ import annotations

import argparse
import json
import random
from multiprocessing import Pool
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from training.corpora.captions import captions
from training.corpora.faces import Pose, draw, poses, render
from training.corpora.identities import GALLERY, Identity
from training.corpora.shards import Passage, read_shard
from training.corpora.states import State, looks, plan
from training.train_vae import SIZE, any_identity, load_vae

FRAMES = 33
RATE = 24.0
MEL_RATE = 96
SILENT_SHARE = 0.08
LONGEST = 8
"""Chunks of a passage that are rendered at most."""


def loudness(log_mel: np.ndarray, frames: int) -> np.ndarray:
    """How loud each video frame is, 0 to 1: (F, M) log-mel to (frames,)."""
    per_frame = MEL_RATE // int(RATE)
    energy = log_mel.astype(np.float32)[: len(log_mel) // per_frame * per_frame].mean(1).reshape(-1, per_frame).mean(1)
    scaled = np.clip((energy + 6.5) / 4.0, 0, 1)
    return np.concatenate([scaled, np.zeros(max(0, frames - len(scaled)))])[:frames]


def to_frames(pictures: np.ndarray) -> Tensor:
    """uint8 (K, N, H, W, 3) to (K, 3, N, H, W) in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 4, 1, 2, 3).float().div(127.5).sub(1)


class Performance(NamedTuple):
    """A rendered passage: uint8 (K, FRAMES, SIZE, SIZE, 3), and the state in force in each chunk."""

    pictures: np.ndarray
    states: list[State]


def perform(passage: Passage, identity: Identity, rng: random.Random) -> Performance:
    """A passage from its first word, a whole number of chunks."""
    begins_with_pause = passage.phones[0] == "pau"
    cut = int(passage.ends[0] * RATE) if begins_with_pause else 0
    phones = passage.phones[1:] if begins_with_pause else passage.phones
    edges = passage.ends if begins_with_pause else np.concatenate([[0], passage.ends])
    if rng.random() < SILENT_SHARE:
        phones, edges = ("pau",), np.array([0.0, 0.1])
    chunks = min(LONGEST, -(-(int(passage.ends[-1] * RATE) - cut) // FRAMES))
    frames = chunks * FRAMES
    loud = loudness(passage.log_mel[cut * MEL_RATE // int(RATE) :], frames)
    track = poses(phones, np.maximum(edges - cut / RATE, 0), loud, frames, rng)
    states = plan(rng, chunks)
    pictures = render(identity, track, SIZE, looks(states, FRAMES))
    return Performance(pictures.reshape(chunks, FRAMES, SIZE, SIZE, 3), states)


@torch.no_grad()
def encode_shard(job: tuple[Path, Path, Path, int]) -> None:
    """Renders and encodes the first passages of one speech shard.

    Writes per passage i: `video.i` float16 (K, C, L, h, w) chunks, `reference.i` float16 (C, 1, h, w), and `silent.i`.
    """
    shard, out, weights, count = job
    if out.exists():
        return
    torch.set_num_threads(1)
    vae = load_vae(weights)
    rng = random.Random(shard.stem)
    named = [identity for _, _, identity in GALLERY.values()]
    tensors, said = {}, []
    for i, passage in zip(range(count), read_shard(shard), strict=False):
        identity = rng.choice(named) if rng.random() < 0.3 else any_identity(rng)
        silent = random.Random(f"{shard.stem}-{i}").random() < SILENT_SHARE
        performance = perform(passage, identity, random.Random(f"{shard.stem}-{i}"))
        with torch.autocast("cpu", torch.bfloat16):
            chunks = torch.cat([vae.encode(part) for part in to_frames(performance.pictures).split(4)])
            shift = rng.uniform(-0.005, 0.005), rng.uniform(-0.005, 0.005)
            pose = Pose(0, 0.7, 0, 0, 0.5, *shift, rng.uniform(-0.5, 0.5))
            reference = vae.encode(to_frames(draw(identity, pose, SIZE)[None, None]))[0]
        tensors[f"video.{i}"] = chunks.half().contiguous()
        tensors[f"reference.{i}"] = reference.half().contiguous()
        tensors[f"silent.{i}"] = torch.tensor(silent)
        said.append(captions(performance.states, rng))
    out.with_suffix(".json").write_text(json.dumps(said))
    partial = out.with_suffix(".partial")
    save_file(tensors, partial)
    partial.rename(out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--vae", type=Path, default=Path("data/checkpoints/vae/model.safetensors"))
    parser.add_argument("--out", type=Path, default=Path("data/video"))
    parser.add_argument("--voices", default="kal16,slt,rms,awb", help="speakers whose shards get pictures")
    parser.add_argument("--passages", type=int, default=50, help="passages of each speech shard")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    voices = options.voices.split(",")
    found = [shard for shard in options.corpus.glob("*-[0-9]*[0-9].npz") if shard.stem.rsplit("-", 1)[0] in voices]
    shards = sorted(found, key=lambda shard: shard.stem.rsplit("-", 1)[::-1])
    jobs = [(shard, options.out / f"{shard.stem}.safetensors", options.vae, options.passages) for shard in shards]
    if options.processes == 1:
        for job in tqdm(jobs, unit="shard"):
            encode_shard(job)
        return
    with Pool(options.processes) as pool:
        list(tqdm(pool.imap_unordered(encode_shard, jobs), total=len(jobs), unit="shard"))


if __name__ == "__main__":
    main()
