"""Identity: does the character keep their colours and proportions, and does the picture run on over chunk borders?

Measured in the pictures alone, in places where the corpus's portraits have skin, hair, wall, eyes and mouth (shares of
the side). It knows no models.
N pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluation.sync import region

COLOUR_PLACES = {
    "skin": (slice(0.555, 0.615), slice(0.37, 0.63)),
    "hair": (slice(0.27, 0.36), slice(0.42, 0.58)),
    "wall": (slice(0.02, 0.14), slice(0.02, 0.16)),
    "shirt": (slice(0.93, 1.0), slice(0.30, 0.38)),
}
LEFT_EYE = (slice(0.462, 0.55), slice(0.35, 0.48))
RIGHT_EYE = (slice(0.462, 0.55), slice(0.52, 0.65))
MOUTH = (slice(0.61, 0.77), slice(0.36, 0.64))


@dataclass(frozen=True)
class Likeness:
    """Mean colours by place (RGB, 0 to 255), and distances in shares of the picture's side."""

    colours: dict[str, tuple[float, float, float]]
    eye_gap: float
    eye_to_mouth: float


@dataclass(frozen=True)
class Drift:
    """How far one likeness is from another."""

    colours: dict[str, float]
    """Distance of mean colours by place, in levels of 0 to 255."""
    eye_gap: float
    """Relative change."""
    eye_to_mouth: float

    @property
    def worst_colour(self) -> float:
        """The largest of the colour distances."""
        return max(self.colours.values())


def centre_of_dark(frames: np.ndarray, place: tuple[slice, slice], skin: float) -> np.ndarray:
    """Where what is darker than the skin has its middle: (N, 2) row and column in shares of the side.

    The middle of the place where nothing is dark.
    """
    part = region(frames, place).mean(-1)
    weight = np.square(np.clip(1 - part / max(skin, 1.0), 0, 1)) + 1e-9
    rows, columns = (
        np.linspace(p.start, p.stop, n, endpoint=False) + (p.stop - p.start) / (2 * n)
        for p, n in zip(place, part.shape[1:], strict=True)
    )
    mass = weight.sum((1, 2))
    return np.stack([(weight.sum(2) @ rows) / mass, (weight.sum(1) @ columns) / mass], 1)


def describe(frames: np.ndarray) -> Likeness:
    """The likeness of some pictures together, uint8 (N, H, W, 3). Distances are medians, so blinks do not count."""
    colours = {}
    for name, place in COLOUR_PLACES.items():
        red, green, blue = region(frames, place).mean((0, 1, 2)).tolist()
        colours[name] = (red, green, blue)
    skin = float(np.mean(colours["skin"]))
    left, right, mouth = (centre_of_dark(frames, place, skin) for place in (LEFT_EYE, RIGHT_EYE, MOUTH))
    gap = np.linalg.norm(left - right, axis=1)
    down = np.linalg.norm(mouth - (left + right) / 2, axis=1)
    return Likeness(colours, float(np.median(gap)), float(np.median(down)))


def drift(then: Likeness, now: Likeness) -> Drift:
    """What has changed."""
    colours = {
        name: round(float(np.linalg.norm(np.subtract(now.colours[name], then.colours[name]))), 2)
        for name in then.colours
    }
    return Drift(colours, round(now.eye_gap / then.eye_gap - 1, 4), round(now.eye_to_mouth / then.eye_to_mouth - 1, 4))


def border_jump(frames: np.ndarray, frames_per_chunk: int) -> float:
    """Mean change of the picture over chunk borders, over that inside chunks; 1 where no border can be seen."""
    steps = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean((1, 2, 3))
    is_border = (np.arange(1, len(frames)) % frames_per_chunk) == 0
    return float(steps[is_border].mean() / steps[~is_border].mean())
