"""Who is drawn: the named characters of the gallery and faces nobody has seen.

An `Identity` holds colours (RGB, 0 to 255) and proportions (shares of the picture's side); it knows nothing of poses,
moods or drawing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields

Colour = tuple[int, int, int]


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
        "slt@108",
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
        "rms",
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
        "slt@94",
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
        "awb",
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
