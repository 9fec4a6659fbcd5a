"""Does a prompt show? A small network names the state of a picture, given the portrait it belongs to.

`python -m evaluation.prompt_probe --train` teaches it on renders (half an hour of one core), and without `--train` it
is measured on faces it never saw, as drawn and after the video VAE. It knows pictures only: no captions, no models.
N pictures.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import random
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from dit_worker.model.vae import VideoVAE
from training.corpora.faces import VISEMES, Pose, draw
from training.corpora.identities import Identity, random_identity
from training.corpora.states import VALUES, any_state, look_of
from training.loop import Budget, Loop, Losses
from training.train_vae import SIZE, any_identity, load_vae

WEIGHTS = Path("data/checkpoints/prompt_probe/model.safetensors")
NEUTRAL = Pose(0, 0.7, 0, 0, 0.5, 0, 0, 0)
STATES_OF_A_FACE = 4
SLOT_COUNTS = (0, 1, 1, 2, 2, 3, 4)
"""How many slots of a picture are off their default, drawn evenly."""


class Example(NamedTuple):
    """A picture and its portrait, uint8 (..., SIZE, SIZE, 3), and the state's values by number (..., slots)."""

    picture: np.ndarray
    portrait: np.ndarray
    values: np.ndarray


class PromptProbe(nn.Module):
    """Strided convolutions over the picture and its portrait; one answer per slot."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        widths = (24, width, 2 * width, 3 * width)
        layers: list[nn.Module] = [nn.PixelUnshuffle(2)]
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.GELU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * (SIZE // 16) ** 2, 160), nn.GELU())
        self.heads = nn.Linear(160, sum(map(len, VALUES.values())))

    def forward(self, pictures: Tensor, portraits: Tensor) -> tuple[Tensor, ...]:
        """Pictures and portraits (N, 3, SIZE, SIZE) in [-1, 1] -> logits (N, values) of each slot."""
        both = torch.cat([pictures, pictures - portraits], 1)
        logits: Tensor = self.heads(self.body(both))
        return torch.split(logits, [len(values) for values in VALUES.values()], 1)


def to_input(pictures: np.ndarray) -> Tensor:
    """uint8 (N, H, W, 3) to (N, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def any_pose(rng: random.Random) -> Pose:
    """A moment of speech or silence, in between two visemes."""
    a, b = (VISEMES[rng.choice(("pau", rng.choice(list(VISEMES))))] for _ in range(2))
    share, shut = rng.random(), rng.choice((0.0,) * 12 + (0.5, 1.0))
    opened, wide, teeth = (p * share + q * (1 - share) for p, q in zip(a, b, strict=True))
    x, y, roll = rng.uniform(-0.012, 0.012), rng.uniform(-0.01, 0.01), rng.uniform(-2.5, 2.5)
    return Pose(opened, wide, teeth, shut, rng.random(), x, y, roll)


def example(rng: random.Random, identity: Identity, portrait: np.ndarray) -> Example:
    """A face in a random state beside its portrait, uint8 (SIZE, SIZE, 3)."""
    state = any_state(rng, rng.choice(SLOT_COUNTS))
    values = [names.index(getattr(state, slot)) for slot, names in VALUES.items()]
    picture = draw(identity, any_pose(rng), SIZE, look=look_of(state))
    return Example(picture, portrait, np.array(values))


def batch_of(examples: list[Example]) -> Example:
    """Many examples stacked."""
    return Example(*map(np.stack, zip(*examples, strict=True)))


def roughen(pictures: Tensor) -> Tensor:
    """As blurred and as noisy as generated pictures are at worst."""
    if torch.rand(()) < 0.5:
        side = int(torch.randint(SIZE // 2, SIZE, ()))
        small = F.interpolate(pictures, size=(side, side), mode="area")
        pictures = F.interpolate(small, size=pictures.shape[-2:], mode="bilinear")
    level = torch.rand(len(pictures), 1, 1, 1)
    tint = 0.04 * torch.randn(len(pictures), 3, 1, 1)
    return pictures + level * (0.08 * torch.randn_like(pictures[0]) + tint)


def losses(net: PromptProbe, examples: Example) -> Losses:
    """Cross-entropy of each slot."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(roughen(to_input(examples.picture)), to_input(examples.portrait))
    truth = torch.from_numpy(examples.values)
    return {
        slot: F.cross_entropy(guess.float(), truth[:, i])
        for i, (slot, guess) in enumerate(zip(VALUES, logits, strict=True))
    }


def through(vae: VideoVAE, pictures: np.ndarray) -> np.ndarray:
    """Stills there and back through the video VAE."""
    with torch.inference_mode():
        frames = to_input(pictures)[:, :, None]
        made = torch.cat([vae.decode(vae.encode(part))[:, :, 0] for part in frames.split(16)])
    return ((made + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


@torch.inference_mode()
def accuracy(net: PromptProbe, examples: Example) -> dict[str, float]:
    """How many of the values are named rightly, by slot."""
    logits = net(to_input(examples.picture), to_input(examples.portrait))
    hits = [guess.argmax(1).numpy() == examples.values[:, i] for i, guess in enumerate(logits)]
    return {slot: float(hit.mean()) for slot, hit in zip(VALUES, hits, strict=True)}


@functools.cache
def load_probe(path: Path = WEIGHTS) -> PromptProbe:
    """The trained network. Raises FileNotFoundError when it has not been trained."""
    if not path.exists():
        raise FileNotFoundError(f"no {path}: run `python -m evaluation.prompt_probe --train` first")
    net = PromptProbe()
    net.load_state_dict(load_file(path))
    return net.eval()


@torch.inference_mode()
def probe(frames: np.ndarray, portrait: np.ndarray, net: PromptProbe | None = None) -> dict[str, str]:
    """The state that some frames show together: uint8 (N, 128, 128, 3) and the portrait (128, 128, 3) -> slot -> value.

    Give it frames of one state: after a border the first eight are on the way from one to the next.
    """
    net = net or load_probe()
    portraits = to_input(portrait[None]).expand(len(frames), -1, -1, -1)
    logits = net(to_input(frames), portraits)
    chosen = [int(guess.log_softmax(1).mean(0).argmax()) for guess in logits]
    return {slot: values[k] for (slot, values), k in zip(VALUES.items(), chosen, strict=True)}


def held_out(count: int) -> Example:
    """Examples of faces that no training sees."""
    rng = random.Random("held out")
    faces = [random_identity(rng) for _ in range(count)]
    return batch_of([example(rng, face, draw(face, NEUTRAL, SIZE)) for face in faces])


def new_examples(rng: random.Random, count: int) -> Iterator[Example]:
    """`count` examples, a few of each face."""
    for _ in range(count // STATES_OF_A_FACE):
        identity = any_identity(rng)
        portrait = draw(identity, NEUTRAL, SIZE)
        for _ in range(STATES_OF_A_FACE):
            yield example(rng, identity, portrait)


def train(folder: Path, samples: int, batch: int = 48) -> None:
    """Teaches the probe on renders, a third of each batch new and the rest drawn from the last few thousand."""
    rng, net, unseen = random.Random(0), PromptProbe(), held_out(400)
    pool: deque[Example] = deque(new_examples(rng, 2_000), maxlen=4_000)

    def draw_losses() -> Losses:
        pool.extend(new_examples(rng, batch // 3))
        return losses(net, batch_of([pool[rng.randrange(len(pool))] for _ in range(batch)]))

    budget = Budget(samples, 600, batch, rate=2e-3, warmup_steps=50, hold=0.3, checkpoint_minutes=1.0)
    loop = Loop(net, folder, budget, lambda _: False)
    loop.resume()
    loop.run(draw_losses, lambda: {f"val_{slot}": share for slot, share in accuracy(net, unseen).items()})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", action="store_true", help="teach it first")
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--vae", type=Path, default=Path("data/checkpoints/vae/model.safetensors"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if options.train:
        train(options.weights.parent, options.samples)
    net, examples = load_probe(options.weights), held_out(1000)
    measured = {"as drawn": examples}
    if options.vae.exists():
        measured["after the VAE"] = examples._replace(picture=through(load_vae(options.vae), examples.picture))
    for name, pictures in measured.items():
        figures = "  ".join(f"{slot} {share:.1%}" for slot, share in accuracy(net, pictures).items())
        print(f"{name}: {figures}")


if __name__ == "__main__":
    main()
