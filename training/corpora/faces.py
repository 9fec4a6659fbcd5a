"""Procedural portraits that speak: the pictures of the synthetic corpus.

A face is an `Identity` (colours and proportions) and a `Pose` per frame; the mouth follows the phones that are spoken
and how loud they are, blinks and sway are random. Only the corpus and the gallery use it; serving never imports it.
Lengths are shares of the picture's side; colours are RGB, 0 to 255.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import cv2
import numpy as np

Colour = tuple[int, int, int]

VISEMES: dict[str, tuple[float, float, float]] = {
    phone: shape
    for phones, shape in (
        ("aa ao ae ah ay aw", (1.0, 0.75, 0.2)),
        ("eh ey ax", (0.65, 0.85, 0.3)),
        ("ih iy y", (0.35, 1.0, 0.7)),
        ("ow oy uh uw w", (0.55, 0.35, 0.0)),
        ("er r", (0.4, 0.5, 0.2)),
        ("p b m", (0.0, 0.7, 0.0)),
        ("f v", (0.15, 0.75, 1.0)),
        ("th dh t d n l s z k g ng hh", (0.3, 0.8, 0.7)),
        ("sh ch jh zh", (0.35, 0.45, 0.9)),
        ("pau", (0.0, 0.7, 0.0)),
    )
    for phone in phones.split()
}
"""How open, how wide and how toothy the mouth is for each phone."""


@dataclass(frozen=True)
class Identity:
    """What stays the same about a face."""

    skin: Colour
    hair: Colour
    eyes: Colour
    shirt: Colour
    wall_top: Colour
    wall_bottom: Colour
    lips: Colour
    face_width: float = 0.21
    face_height: float = 0.27
    eye_size: float = 0.035
    eye_gap: float = 0.085
    mouth_width: float = 0.095
    mouth_height: float = 0.065
    hair_height: float = 0.05
    hair_length: float = 0.0
    brow: float = 0.012
    glasses: bool = False


class Pose(NamedTuple):
    """What changes by frame: open, wide, teeth, lids shut, brows raised in [0, 1]; head shift; roll (degrees)."""

    open: float
    wide: float
    teeth: float
    shut: float
    brows: float
    x: float
    y: float
    roll: float


GALLERY: dict[str, tuple[str, str, Identity]] = {
    "ada": (
        "A calm lecturer in front of a green wall.",
        "slt",
        Identity(
            (233, 190, 160),
            (92, 52, 30),
            (60, 90, 50),
            (40, 90, 110),
            (196, 214, 196),
            (150, 178, 158),
            (190, 84, 84),
            hair_height=0.06,
            hair_length=0.30,
        ),
    ),
    "bruno": (
        "A cheerful storyteller with round glasses.",
        "kal16",
        Identity(
            (214, 160, 122),
            (40, 30, 26),
            (70, 46, 28),
            (170, 60, 50),
            (236, 216, 180),
            (214, 184, 140),
            (168, 86, 76),
            face_width=0.225,
            mouth_width=0.105,
            glasses=True,
        ),
    ),
    "chiara": (
        "A lively guide with copper hair.",
        "slt",
        Identity(
            (246, 210, 188),
            (176, 84, 40),
            (50, 110, 140),
            (90, 60, 120),
            (190, 206, 232),
            (148, 168, 206),
            (206, 90, 92),
            eye_size=0.040,
            hair_length=0.22,
            hair_height=0.07,
        ),
    ),
    "dario": (
        "A night-time news reader in a dark suit.",
        "kal16",
        Identity(
            (150, 104, 76),
            (24, 20, 22),
            (50, 34, 24),
            (44, 48, 64),
            (92, 104, 134),
            (52, 60, 86),
            (140, 70, 68),
            face_height=0.28,
            brow=0.016,
        ),
    ),
    "emi": (
        "A museum voice with short black hair.",
        "slt",
        Identity(
            (240, 204, 168),
            (34, 32, 44),
            (44, 36, 36),
            (226, 226, 220),
            (232, 200, 204),
            (206, 164, 172),
            (200, 88, 96),
            face_width=0.2,
            eye_gap=0.08,
            hair_length=0.12,
            hair_height=0.055,
        ),
    ),
    "felix": (
        "A silver-haired teacher.",
        "kal16",
        Identity(
            (226, 184, 158),
            (188, 188, 192),
            (70, 100, 130),
            (70, 100, 80),
            (206, 200, 188),
            (168, 160, 146),
            (176, 92, 86),
            face_width=0.215,
            face_height=0.285,
            hair_height=0.035,
            glasses=True,
        ),
    ),
}
"""The named characters: description, voice, face."""


def random_identity(rng: random.Random) -> Identity:
    """A face nobody has seen."""

    def colour(low: int, high: int) -> Colour:
        return rng.randint(low, high), rng.randint(low, high), rng.randint(low, high)

    tone = rng.uniform(0.35, 1.0)
    skin = (int(215 * tone + 30), int(175 * tone + 28), int(140 * tone + 32))
    top = colour(80, 240)
    bottom = (int(top[0] * 0.8), int(top[1] * 0.8), int(top[2] * 0.8))
    return Identity(
        skin,
        colour(15, 190),
        colour(20, 140),
        colour(30, 230),
        top,
        bottom,
        (int(skin[0] * 0.85), int(skin[1] * 0.48), int(skin[2] * 0.52)),
        rng.uniform(0.19, 0.235),
        rng.uniform(0.25, 0.29),
        rng.uniform(0.03, 0.042),
        rng.uniform(0.075, 0.095),
        rng.uniform(0.08, 0.11),
        rng.uniform(0.055, 0.075),
        rng.uniform(0.03, 0.075),
        rng.choice((0.0, 0.0, 0.12, 0.22, 0.3)),
        rng.uniform(0.009, 0.017),
        rng.random() < 0.25,
    )


def blend(a: Identity, b: Identity, share: float) -> Identity:
    """An identity between two: used to give the gallery near neighbours in training."""

    def mix(x: object, y: object) -> object:
        if isinstance(x, bool) or not isinstance(x, (int, float, tuple)):
            return x
        if isinstance(x, tuple) and isinstance(y, tuple):
            return tuple(round(p * (1 - share) + q * share) for p, q in zip(x, y, strict=True))
        return x * (1 - share) + y * share  # type: ignore[operator]

    return Identity(*(mix(getattr(a, f.name), getattr(b, f.name)) for f in fields(Identity)))  # type: ignore[arg-type]


def poses(
    phones: Sequence[str],
    edges: np.ndarray,
    loudness: np.ndarray,
    frames: int,
    rng: random.Random,
    frames_per_second: float = 24.0,
) -> list[Pose]:
    """The poses of `frames` frames.

    edges: P + 1 seconds where phones begin and end; loudness: (frames,) in [0, 1]. Coarticulation is a low pass over
    about 110 ms; after the last phone the mouth is closed.
    """
    fine = 4
    times = (np.arange(frames * fine) + 0.5) / (frames_per_second * fine)
    index = np.clip(np.searchsorted(edges, times) - 1, 0, len(phones) - 1)
    shapes = np.array([VISEMES.get(name, VISEMES["pau"]) for name in phones] or [VISEMES["pau"]])[index]
    shapes[times > edges[-1]] = VISEMES["pau"]
    kernel = np.hanning(13)[1:-1]
    kernel /= kernel.sum()
    smooth = np.stack([np.convolve(np.pad(shapes[:, i], 5, mode="edge"), kernel, "valid") for i in range(3)], 1)[
        fine // 2 :: fine
    ]
    smooth[:, 0] *= 0.6 + 0.4 * np.clip(loudness[:frames], 0, 1)
    seconds = np.arange(frames) / frames_per_second
    shut, brows = blinks(frames, frames_per_second, rng), 0.5 + 0.5 * sway(seconds, rng)
    x, y, roll = 0.011 * sway(seconds, rng), 0.009 * sway(seconds, rng), 2.4 * sway(seconds, rng)
    return [Pose(*map(float, row)) for row in np.column_stack([smooth[:frames], shut, brows, x, y, roll])]


def sway(seconds: np.ndarray, rng: random.Random) -> np.ndarray:
    """Slow irregular movement in about [-1, 1]."""
    slow, fast = (rng.uniform(*band) * seconds + rng.random() for band in ((0.08, 0.25), (0.25, 0.5)))
    return np.sin(2 * math.pi * slow) * 0.7 + np.sin(2 * math.pi * fast) * 0.3


def blinks(frames: int, frames_per_second: float, rng: random.Random) -> np.ndarray:
    """How shut the lids are: a blink of about 0.2 s every few seconds."""
    shut, moment = np.zeros(frames + 8), rng.uniform(0.3, 3)
    while moment < frames / frames_per_second:
        begin = int(moment * frames_per_second)
        shut[begin : begin + 5] = (0.5, 1, 1, 0.7, 0.3)
        moment += rng.uniform(1.8, 4.5)
    return shut[:frames]


class Canvas:
    """Draws antialiased shapes in shares of the side, in the head's own frame."""

    def __init__(self, size: int, identity: Identity, pose: Pose) -> None:
        self.size, self.pose = size, pose
        rows = np.linspace(0, 1, size)[:, None, None]
        wall = (1 - rows) * np.array(identity.wall_top) + rows * np.array(identity.wall_bottom)
        self.image = np.ascontiguousarray(np.broadcast_to(wall, (size, size, 3)).astype(np.uint8))

    def place(self, x: float, y: float) -> tuple[float, float]:
        """A point of the head, after shift and roll about the neck."""
        angle = math.radians(self.pose.roll)
        down = y - 0.3
        return (
            0.5 + self.pose.x + x * math.cos(angle) - down * math.sin(angle),
            0.82 + self.pose.y + x * math.sin(angle) + down * math.cos(angle),
        )

    def ellipse(
        self,
        x: float,
        y: float,
        a: float,
        b: float,
        colour: Sequence[int],
        in_head: bool = True,
        arc: tuple[float, float] = (0, 360),
        thickness: float = 0.0,
    ) -> None:
        """A filled ellipse, or its outline when `thickness` is given."""
        centre = self.place(x, y) if in_head else (x, y)
        unit = self.size * 16

        def units(value: float) -> int:
            return max(1, round(value * unit))

        cv2.ellipse(
            self.image,
            (units(centre[0]), units(centre[1])),
            (units(a), units(b)),
            self.pose.roll if in_head else 0.0,
            *arc,
            tuple(map(int, colour)),
            max(1, round(thickness * self.size)) if thickness else -1,
            cv2.LINE_AA,
            4,
        )


def shade(colour: Colour, factor: float) -> Colour:
    """A darker or lighter colour."""
    return tuple(int(min(255, max(0, c * factor))) for c in colour)  # type: ignore[return-value]


def draw(identity: Identity, pose: Pose, size: int, oversampling: int = 2) -> np.ndarray:
    """One frame: uint8 (size, size, 3) RGB."""
    canvas, i = Canvas(size * oversampling, identity, pose), identity
    top = -i.face_height * 0.62
    if i.hair_length:
        canvas.ellipse(
            0, i.hair_length * 0.35, i.face_width + 0.045, i.face_height * 0.8 + i.hair_length * 0.5, shade(i.hair, 0.8)
        )
    canvas.ellipse(0.5, 1.10, 0.36, 0.25, i.shirt, in_head=False)
    canvas.ellipse(0.5, 1.10, 0.16, 0.20, shade(i.shirt, 0.85), in_head=False)
    canvas.ellipse(0, 0.25, 0.075, 0.14, shade(i.skin, 0.82))
    for side in (-1, 1):
        canvas.ellipse(side * i.face_width, 0.01, 0.028, 0.048, shade(i.skin, 0.9))
    canvas.ellipse(
        0, top * 0.32 - i.hair_height * 0.4, i.face_width + 0.022, i.face_height * 0.88 + i.hair_height * 0.3, i.hair
    )
    canvas.ellipse(0, 0.02, i.face_width, i.face_height - 0.01, i.skin)
    canvas.ellipse(-i.face_width * 0.5, 0.09, 0.05, 0.04, shade(i.skin, 0.965))
    canvas.ellipse(i.face_width * 0.5, 0.09, 0.05, 0.04, shade(i.skin, 0.965))
    canvas.ellipse(0, top - i.hair_height * 0.1, i.face_width * 0.9, i.face_height * 0.3 + i.hair_height * 0.4, i.hair)
    draw_eyes(canvas, identity, pose)
    canvas.ellipse(0, 0.075, 0.02, 0.032, shade(i.skin, 0.86))
    canvas.ellipse(0, 0.066, 0.016, 0.032, i.skin)
    draw_mouth(canvas, identity, pose)
    return cv2.resize(canvas.image, (size, size), interpolation=cv2.INTER_AREA)


def draw_eyes(canvas: Canvas, identity: Identity, pose: Pose) -> None:
    """Whites, iris, pupil, lids that shut, brows that rise, glasses."""
    i, size = identity, identity.eye_size
    opening = max(0.12, 1 - pose.shut)
    for side in (-1, 1):
        x = side * i.eye_gap
        canvas.ellipse(x, -0.02, size * 1.12, size * 0.9, shade(i.skin, 0.88))
        if pose.shut < 0.85:
            canvas.ellipse(x, -0.018, size, size * 0.72 * opening, (250, 250, 248))
            canvas.ellipse(x, -0.018, size * 0.5, size * 0.55 * opening, i.eyes)
            canvas.ellipse(x, -0.018, size * 0.24, size * 0.28 * opening, (16, 14, 18))
        else:
            canvas.ellipse(x, -0.008, size, size * 0.12, shade(i.skin, 0.6))
        canvas.ellipse(x, -0.085 - 0.012 * pose.brows, 0.045, i.brow, i.hair)
        if i.glasses:
            canvas.ellipse(x, -0.018, size * 1.5, size * 1.35, (40, 38, 44), thickness=0.009)
    if i.glasses:
        canvas.ellipse(0, -0.018, max(0.012, i.eye_gap - size * 1.5), 0.006, (40, 38, 44))


def draw_mouth(canvas: Canvas, identity: Identity, pose: Pose) -> None:
    """Lips, the dark inside, teeth and tongue."""
    i = identity
    wide, tall = i.mouth_width * (0.5 + 0.5 * pose.wide), i.mouth_height * pose.open
    canvas.ellipse(0, 0.16, wide, tall + 0.016, i.lips)
    if tall < 0.004:
        canvas.ellipse(0, 0.16, wide * 0.9, 0.003, shade(i.lips, 0.6))
        return
    canvas.ellipse(0, 0.16, wide * 0.84, tall, (62, 20, 26))
    if pose.teeth > 0.25 and tall > 0.008:
        canvas.ellipse(0, 0.16 - tall * 0.55, wide * 0.62, tall * 0.34, (244, 242, 238))
    if pose.open > 0.5:
        canvas.ellipse(0, 0.16 + tall * 0.55, wide * 0.5, tall * 0.35, (186, 84, 88))


def render(identity: Identity, track: Sequence[Pose], size: int) -> np.ndarray:
    """Frames uint8 (N, size, size, 3) RGB."""
    cv2.setNumThreads(1)
    return np.stack([draw(identity, pose, size) for pose in track])
