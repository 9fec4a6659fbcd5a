"""What a prompt can ask of a picture: expression, gaze, head pose, wall and light, and how each looks.

A `State` names one value per slot; a `Look` holds what the drawing does about it, as numbers that can be mixed, so that
a change eases in. States change at chunk borders. Knows nothing of words (`captions`) or of drawing (`faces`).
Left and right are the viewer's, in the picture. The default state asks for nothing: its look is all zeros.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np

CHUNK_FRAMES = 33
EASE_FRAMES = 8

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (196, 44, 46),
    "orange": (240, 138, 40),
    "yellow": (244, 214, 66),
    "green": (58, 158, 76),
    "blue": (52, 96, 204),
    "purple": (126, 66, 170),
    "pink": (248, 150, 188),
    "white": (246, 246, 244),
    "grey": (134, 136, 140),
    "black": (26, 26, 30),
    "brown": (122, 78, 44),
}

VALUES: dict[str, tuple[str, ...]] = {
    "expression": ("neutral", "smile", "sad", "surprised", "angry"),
    "gaze": ("camera", "left", "right", "up", "down"),
    "head": ("straight", "turned left", "turned right", "tilted left", "tilted right"),
    "wall": ("portrait", *COLOURS),
    "light": ("portrait", "dark", "bright", "warm", "cool", "left", "right"),
}
"""Every value of every slot; the first one is the default."""


@dataclass(frozen=True)
class State:
    """One value per slot. Raises ValueError for a value that the slot does not have."""

    expression: str = "neutral"
    gaze: str = "camera"
    head: str = "straight"
    wall: str = "portrait"
    light: str = "portrait"

    def __post_init__(self) -> None:
        for slot, values in VALUES.items():
            if getattr(self, slot) not in values:
                raise ValueError(f"{slot} is one of {', '.join(values)}, not {getattr(self, slot)!r}")

    def asked(self) -> dict[str, str]:
        """The slots that are not at their default, in the order of the slots."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}


class Look(NamedTuple):
    """What the drawing does about a state; zero everywhere draws the portrait as it is.

    Lengths are shares of the picture's side, angles degrees, `turn` and gaze -1 to 1 (left or up is negative), the
    wall's colour is premultiplied by its share, the light's red, green and blue are gains less one.
    """

    bend: float = 0.0
    wide: float = 0.0
    part: float = 0.0
    lift: float = 0.0
    slant: float = 0.0
    ink: float = 0.0
    squint: float = 0.0
    stare: float = 0.0
    gaze_x: float = 0.0
    gaze_y: float = 0.0
    turn: float = 0.0
    tilt: float = 0.0
    wall_share: float = 0.0
    wall_red: float = 0.0
    wall_green: float = 0.0
    wall_blue: float = 0.0
    red: float = 0.0
    green: float = 0.0
    blue: float = 0.0
    slope: float = 0.0
    glow: float = 0.0


PLAIN = Look()

LOOKS: dict[tuple[str, str], Look] = {
    ("expression", "smile"): Look(bend=0.036, wide=0.2, lift=0.008, ink=0.6, squint=0.2),
    ("expression", "sad"): Look(bend=-0.034, wide=-0.1, lift=0.004, slant=-24, ink=1, squint=0.3),
    ("expression", "surprised"): Look(wide=-0.42, part=0.62, lift=0.036, ink=1, stare=0.42),
    ("expression", "angry"): Look(bend=-0.018, wide=0.05, lift=-0.022, slant=25, ink=1, squint=0.35),
    ("gaze", "left"): Look(gaze_x=-1, stare=0.12, turn=-0.1),
    ("gaze", "right"): Look(gaze_x=1, stare=0.12, turn=0.1),
    ("gaze", "up"): Look(gaze_y=-1, stare=0.2, lift=0.008),
    ("gaze", "down"): Look(gaze_y=1.3, squint=0.25, lift=-0.004),
    ("head", "turned left"): Look(turn=-1),
    ("head", "turned right"): Look(turn=1),
    ("head", "tilted left"): Look(tilt=-15),
    ("head", "tilted right"): Look(tilt=15),
    ("light", "dark"): Look(red=-0.56, green=-0.54, blue=-0.48),
    ("light", "bright"): Look(red=-0.05, green=-0.05, blue=-0.05, glow=42),
    ("light", "warm"): Look(red=0.1, green=-0.06, blue=-0.34),
    ("light", "cool"): Look(red=-0.3, green=-0.06, blue=0.16),
    ("light", "left"): Look(slope=-0.56, red=-0.14, green=-0.14, blue=-0.14),
    ("light", "right"): Look(slope=0.56, red=-0.14, green=-0.14, blue=-0.14),
    **{
        ("wall", name): Look(wall_share=1, wall_red=red, wall_green=green, wall_blue=blue)
        for name, (red, green, blue) in COLOURS.items()
    },
}


def look_of(state: State) -> Look:
    """The look of a state: the sum over its slots."""
    parts = [LOOKS[slot, value] for slot, value in state.asked().items()]
    return Look(*map(sum, zip(*parts, strict=True))) if parts else PLAIN


def looks(states: Sequence[State], chunk_frames: int = CHUNK_FRAMES, ease_frames: int = EASE_FRAMES) -> list[Look]:
    """The looks of the frames of some chunks, one state each; a new state eases in after the border."""
    share = np.clip((np.arange(chunk_frames) + 1) / ease_frames, 0, 1)
    smooth = (share * share * (3 - 2 * share))[:, None]
    track: list[Look] = []
    before = look_of(states[0]) if states else PLAIN
    for state in states:
        now = look_of(state)
        if now == before:
            track += [now] * chunk_frames
        else:
            track += [Look(*map(float, row)) for row in (1 - smooth) * np.array(before) + smooth * np.array(now)]
        before = now
    return track


def any_state(rng: random.Random, slots: int) -> State:
    """A state with so many slots off their default."""
    names = rng.sample(list(VALUES), slots)
    return State(**{slot: rng.choice(VALUES[slot][1:]) for slot in names})


def change(rng: random.Random, state: State, slots: int) -> State:
    """The state with so many slots changed; what is off its default goes back to it one time in three."""
    new = state
    for slot in rng.sample(list(VALUES), slots):
        default, *others = VALUES[slot]
        now = getattr(state, slot)
        others = [value for value in others if value != now]
        new = replace(new, **{slot: default if now != default and rng.random() < 1 / 3 else rng.choice(others)})
    return new


PLAIN_SHARE = 0.4
"""Passages that nothing is asked of."""
BASE_SLOTS = (0, 1, 1, 1, 2, 2, 3)
"""How many slots a prompted passage begins with off their default, drawn evenly."""


def plan(rng: random.Random, chunks: int) -> list[State]:
    """The state of each chunk of a passage.

    Two passages in five ask for nothing; half of the others change one or two slots at one or two borders, the rest
    keep the state they begin with.
    """
    if rng.random() < PLAIN_SHARE:
        return [State()] * chunks
    if chunks < 2 or rng.random() < 0.5:
        return [any_state(rng, rng.choice(BASE_SLOTS[1:]))] * chunks
    state, states = any_state(rng, rng.choice(BASE_SLOTS)), []
    borders = set(rng.sample(range(1, chunks), min(chunks - 1, rng.choice((1, 1, 2)))))
    for k in range(chunks):
        if k in borders:
            state = change(rng, state, rng.choice((1, 1, 2)))
        states.append(state)
    return states
