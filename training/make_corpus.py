"""Stage 0: makes the synthetic speech corpus. `python -m training.make_corpus --help`.

Resumable: a shard that is there is not made again.
"""

from __future__ import annotations

import argparse
import functools
import random
from multiprocessing import Pool
from pathlib import Path

import torch
from tqdm import tqdm

from dit_worker.model.codec import AudioCodec, AudioCodecConfig
from training.corpora.shards import Passage, write_shard
from training.corpora.speech import speak
from training.corpora.text import TextSource, collect

HELD_OUT = Path(__file__).parent.parent / "evaluation" / "sentences.txt"
PASSAGES_PER_SHARD = 200
VOICES = ",".join(
    ["kal16:20", "slt:14", "rms:14", "awb:14"]
    + [f"{voice}@{percent}:2" for voice in ("kal16", "slt", "rms", "awb") for percent in (86, 94, 108, 116)]
)
"""The four voices, and each at four other pitches; 90, 104 and 112 percent are kept for the test of voice following."""


@functools.cache
def _source() -> TextSource:
    return collect(HELD_OUT.read_text().splitlines())


def make_passage(text: str, voice: str, codec: AudioCodec) -> Passage:
    """Speaks a text and measures it."""
    spoken = speak(text, voice, codec.config.sample_rate)
    whole = len(spoken.samples) // codec.samples_per_latent * codec.samples_per_latent
    log_mel = codec.log_mel(torch.from_numpy(spoken.samples[:whole])[None])[0]
    return Passage(text, voice, log_mel.half().numpy(), spoken.phones, spoken.ends)


def make_shard(job: tuple[str, int, Path]) -> Path:
    """Makes one shard of one voice."""
    voice, index, folder = job
    path = folder / f"{voice}-{index:04d}.npz"
    if not path.exists():
        torch.set_num_threads(1)
        rng = random.Random(f"{voice}-{index}")
        codec = AudioCodec(AudioCodecConfig())
        write_shard(path, [make_passage(_source().passage(rng), voice, codec) for _ in range(PASSAGES_PER_SHARD)])
    return path


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/corpus"), help="folder of the shards")
    parser.add_argument(
        "--voices", default=VOICES, help="speakers, voice or voice@percent, and how many shards of each"
    )
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    wanted = [(name, int(count)) for name, count in (item.split(":") for item in options.voices.split(","))]
    jobs = [(name, i, options.out) for name, count in wanted for i in range(count)]
    jobs.sort(key=lambda job: job[1])
    with Pool(options.processes) as pool:
        list(tqdm(pool.imap(make_shard, jobs), total=len(jobs), unit="shard"))


if __name__ == "__main__":
    main()
