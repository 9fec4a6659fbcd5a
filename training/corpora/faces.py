"""Procedural portraits that speak: the pictures of the synthetic corpus.

A face is an `Identity` (colours and proportions), a `Pose` per frame and a `Look` per frame (what a prompt asked for);
the mouth follows the phones that are spoken and how loud they are, blinks and sway are random. The look decides how
mouth, brows, eyes, head, wall and light differ from the portrait; speech still opens the mouth. Only the corpus and the
gallery use it; serving never imports it.
Lengths are shares of the picture's side; colours are RGB, 0 to 255.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from training.corpora.identities import GALLERY, Colour, Identity, blend, random_identity
from training.corpora.states import PLAIN, Look

__all__ = ["GALLERY", "VISEMES", "Identity", "Pose", "blend", "draw", "poses", "random_identity", "render"]

YAW = 0.28
"""How far a turned head is turned, in radians."""

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

    def __init__(self, size: int, identity: Identity, pose: Pose, look: Look) -> None:
        self.size, self.pose = size, pose
        self.yaw, self.radius = YAW * look.turn, identity.face_width * 1.15
        rows = np.linspace(0, 1, size)[:, None, None]
        top, bottom = np.array(identity.wall_top, float), np.array(identity.wall_bottom, float)
        if look.wall_share:
            colour = np.array([look.wall_red, look.wall_green, look.wall_blue])
            top, bottom = ((1 - look.wall_share) * end + part * colour for end, part in ((top, 1.0), (bottom, 0.84)))
        wall = (1 - rows) * top + rows * bottom
        self.image = np.ascontiguousarray(np.broadcast_to(wall, (size, size, 3)).astype(np.uint8))

    def place(self, x: float, y: float) -> tuple[float, float]:
        """A point of the head, after shift and roll about the neck."""
        angle = math.radians(self.pose.roll)
        down = y - 0.3
        return (
            0.5 + self.pose.x + x * math.cos(angle) - down * math.sin(angle),
            0.82 + self.pose.y + x * math.sin(angle) + down * math.cos(angle),
        )

    def turned(self, x: float, a: float) -> tuple[float, float]:
        """Where something at `x` on the front of a turned head appears, and how wide its half width `a` is there."""
        if not self.yaw:
            return x, a
        angle = math.asin(max(-0.95, min(0.95, x / self.radius)))
        return self.radius * math.sin(angle + self.yaw), a * max(0.3, math.cos(angle + self.yaw) / math.cos(angle))

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
        slant: float = 0.0,
    ) -> None:
        """A filled ellipse, slanted by some degrees, or its outline when `thickness` is given."""
        centre = self.place(x, y) if in_head else (x, y)
        unit = self.size * 16

        def units(value: float) -> int:
            return max(1, round(value * unit))

        cv2.ellipse(
            self.image,
            (units(centre[0]), units(centre[1])),
            (units(a), units(b)),
            self.pose.roll + slant if in_head else 0.0,
            *arc,
            tuple(map(int, colour)),
            max(1, round(thickness * self.size)) if thickness else -1,
            cv2.LINE_AA,
            4,
        )

    def feature(
        self, x: float, y: float, a: float, b: float, colour: Sequence[int], thickness: float = 0.0, slant: float = 0.0
    ) -> None:
        """An ellipse on the front of the head, which moves and narrows as the head turns."""
        x, a = self.turned(x, a)
        self.ellipse(x, y, a, b, colour, thickness=thickness, slant=slant)

    def bow(self, y: float, a: float, b: float, bend: float, colour: Sequence[int]) -> None:
        """An ellipse in the middle of the face whose ends are bent up by `bend` against its middle."""
        if not bend:
            self.feature(0, y, a, b, colour)
            return
        x, a = self.turned(0, a)
        turns = np.linspace(0, 2 * math.pi, 28, endpoint=False)
        across, down = a * np.cos(turns), b * np.sin(turns) + bend * (0.4 - np.cos(turns) ** 2)
        points = [self.place(x + right, y + low) for right, low in zip(across, down, strict=True)]
        corners = np.round(np.array(points) * self.size * 16).astype(np.int32)
        cv2.fillPoly(self.image, [corners], tuple(map(int, colour)), cv2.LINE_AA, 4)


def shade(colour: Colour, factor: float) -> Colour:
    """A darker or lighter colour."""
    return tuple(int(min(255, max(0, c * factor))) for c in colour)  # type: ignore[return-value]


def express(pose: Pose, look: Look) -> Pose:
    """The pose as the look changes it: speech opens the mouth from where the expression holds it."""
    return pose._replace(
        open=look.part + (1 - look.part) * pose.open,
        wide=pose.wide + look.wide,
        shut=1 - (1 - pose.shut) * (1 - look.squint),
        roll=pose.roll + look.tilt,
    )


def draw(identity: Identity, pose: Pose, size: int, oversampling: int = 2, look: Look = PLAIN) -> np.ndarray:
    """One frame: uint8 (size, size, 3) RGB."""
    i, pose = identity, pose if look == PLAIN else express(pose, look)
    canvas = Canvas(size * oversampling, identity, pose, look)
    top, turn = -i.face_height * 0.62, look.turn
    if i.hair_length:
        canvas.ellipse(
            -0.02 * turn,
            i.hair_length * 0.35,
            i.face_width + 0.045,
            i.face_height * 0.8 + i.hair_length * 0.5,
            shade(i.hair, 0.8),
        )
    canvas.ellipse(0.5, 1.10, 0.36, 0.25, i.shirt, in_head=False)
    canvas.ellipse(0.5, 1.10, 0.16, 0.20, shade(i.shirt, 0.85), in_head=False)
    canvas.ellipse(0, 0.25, 0.075, 0.14, shade(i.skin, 0.82))
    for side in (-1, 1):
        # The far ear goes behind the head, the near one comes forward.
        canvas.ellipse(
            side * i.face_width - 0.03 * turn * (side * turn > 0) - 0.006 * turn, 0.01, 0.028, 0.048, shade(i.skin, 0.9)
        )
    skull, fringe = -0.012 * turn, canvas.turned(0, i.face_width * 0.9)[0] * 0.14
    canvas.ellipse(
        skull,
        top * 0.32 - i.hair_height * 0.4,
        i.face_width + 0.022,
        i.face_height * 0.88 + i.hair_height * 0.3,
        i.hair,
    )
    canvas.ellipse(0.014 * turn, 0.02, i.face_width, i.face_height - 0.01, i.skin)
    canvas.feature(-i.face_width * 0.5, 0.09, 0.05, 0.04, shade(i.skin, 0.965))
    canvas.feature(i.face_width * 0.5, 0.09, 0.05, 0.04, shade(i.skin, 0.965))
    canvas.ellipse(
        fringe, top - i.hair_height * 0.1, i.face_width * 0.9, i.face_height * 0.3 + i.hair_height * 0.4, i.hair
    )
    draw_eyes(canvas, identity, pose, look)
    nose = 0.02 * turn
    canvas.feature(nose, 0.075, 0.02, 0.032, shade(i.skin, 0.86))
    canvas.feature(nose, 0.066, 0.016, 0.032, i.skin)
    draw_mouth(canvas, identity, pose, look)
    return light(cv2.resize(canvas.image, (size, size), interpolation=cv2.INTER_AREA), look)


def draw_eyes(canvas: Canvas, identity: Identity, pose: Pose, look: Look) -> None:
    """Whites, iris, pupil, lids that shut, brows that rise and slant, glasses."""
    i, size = identity, identity.eye_size * (1 + look.stare)
    opening, hair = max(0.12, 1 - pose.shut), shade(i.hair, 1 - 0.5 * look.ink) if look.ink else i.hair
    for side in (-1, 1):
        x, gaze_x, gaze_y = side * i.eye_gap, 0.46 * size * look.gaze_x, 0.3 * size * look.gaze_y
        canvas.feature(x, -0.02, size * 1.12, size * 0.9, shade(i.skin, 0.88))
        if pose.shut < 0.85:
            canvas.feature(x, -0.018, size, size * 0.72 * opening, (250, 250, 248))
            canvas.feature(x + gaze_x, -0.018 + gaze_y * opening, size * 0.5, size * 0.55 * opening, i.eyes)
            canvas.feature(x + gaze_x, -0.018 + gaze_y * opening, size * 0.24, size * 0.28 * opening, (16, 14, 18))
        else:
            canvas.feature(x, -0.008, size, size * 0.12, shade(i.skin, 0.6))
        # A slanted brow turns about its middle: its inner end goes down when the slant is positive.
        canvas.feature(
            x, -0.085 - 0.012 * pose.brows - look.lift, 0.045, i.brow + 0.002 * look.ink, hair, slant=-side * look.slant
        )
        if i.glasses:
            canvas.feature(x, -0.018, identity.eye_size * 1.5, identity.eye_size * 1.35, (40, 38, 44), thickness=0.009)
    if i.glasses:
        canvas.feature(0, -0.018, max(0.012, i.eye_gap - identity.eye_size * 1.5), 0.006, (40, 38, 44))


def draw_mouth(canvas: Canvas, identity: Identity, pose: Pose, look: Look) -> None:
    """Lips, the dark inside, teeth and tongue; the corners go up or down with the expression."""
    i, bend = identity, look.bend
    wide, tall = i.mouth_width * (0.5 + 0.5 * pose.wide), i.mouth_height * pose.open
    canvas.bow(0.16, wide, tall + 0.016, bend, i.lips)
    if tall < 0.004:
        canvas.bow(0.16, wide * 0.9, 0.003, bend * 0.9, shade(i.lips, 0.6))
        return
    canvas.bow(0.16, wide * 0.84, tall, bend * 0.8, (62, 20, 26))
    if pose.teeth > 0.25 and tall > 0.008:
        canvas.bow(0.16 - tall * 0.55, wide * 0.62, tall * 0.34, bend * 0.5, (244, 242, 238))
    if pose.open > 0.5:
        canvas.bow(0.16 + tall * 0.55, wide * 0.5, tall * 0.35, bend * 0.3, (186, 84, 88))


def light(image: np.ndarray, look: Look) -> np.ndarray:
    """The picture under the look's light: a gain per colour, a slope from left to right, a glow over everything."""
    if not (look.red or look.green or look.blue or look.slope or look.glow):
        return image
    side = 1 + look.slope * np.linspace(-1, 1, image.shape[1], dtype=np.float32)[:, None]
    gain = side * (1 + np.array([look.red, look.green, look.blue], np.float32))
    lit: np.ndarray = np.clip(image * gain + look.glow, 0, 255).astype(np.uint8)
    return lit


def render(identity: Identity, track: Sequence[Pose], size: int, looks: Sequence[Look] | None = None) -> np.ndarray:
    """Frames uint8 (N, size, size, 3) RGB; one look a frame, or the portrait's own throughout."""
    cv2.setNumThreads(1)
    looks = looks or [PLAIN] * len(track)
    return np.stack([draw(identity, pose, size, look=look) for pose, look in zip(track, looks, strict=True)])
