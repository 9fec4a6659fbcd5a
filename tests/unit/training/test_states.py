"""Pictures that a prompt changes: each value shows where it should, and the default shows nothing new."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.corpora.faces import Pose, draw, poses, render
from training.corpora.identities import GALLERY, random_identity
from training.corpora.states import COLOURS, EASE_FRAMES, PLAIN, VALUES, State, look_of, looks, plan

REST = Pose(0, 0.7, 0, 0, 0.5, 0, 0, 0)
SIZE = 128
CORNERS = np.s_[4:24, [*range(4, 20), *range(108, 124)]]
EYES, MOUTH = np.s_[50:76, 38:90], np.s_[72:100, 40:88]
ASKED = [(slot, value) for slot, values in VALUES.items() for value in values[1:]]


def picture(pose: Pose = REST, **state: str) -> np.ndarray:
    """Ada in a state: int (SIZE, SIZE, 3)."""
    return draw(GALLERY["ada"][2], pose, SIZE, look=look_of(State(**state))).astype(int)


def test_the_default_state_draws_the_portraits_of_the_bundle() -> None:
    """A prompt that asks for nothing leaves the gallery as it was shipped, to the last bit."""
    for name, (_, _, identity) in GALLERY.items():
        shipped = cv2.imread(str(Path("bundles/pocket/characters") / name / "portrait.png"))[..., ::-1]
        assert np.array_equal(draw(identity, REST, len(shipped)), shipped)


def test_the_default_state_draws_speech_as_before_there_were_states() -> None:
    """Frames of four speaking faces have the digest they had when faces knew no states."""
    phones = "pau hh ax l ow m ae n ih s f ey pau".split()
    track = poses(phones, np.linspace(0, 1.3, 14), np.full(33, 0.8), 33, random.Random(3))[::6]
    faces = [GALLERY[name][2] for name in ("ada", "bruno", "dario")] + [random_identity(random.Random(5))]
    drawn = b"".join(render(face, track, SIZE, [PLAIN] * len(track)).tobytes() for face in faces)
    assert hashlib.sha256(drawn).hexdigest() == "05f576ef3556684d0abe9203703ad3948c5cf1d3e6b1d91429bd5ec1d617c512"


@pytest.mark.parametrize(("slot", "value"), ASKED)
def test_every_value_shows(slot: str, value: str) -> None:
    """At 128 pixels a side each value moves its place by more than a viewer could miss."""
    place = {"expression": MOUTH, "gaze": EYES, "head": EYES, "wall": CORNERS, "light": EYES}[slot]
    changed = np.abs(picture(**{slot: value}) - picture())[place]
    assert changed.max() > 40
    assert changed.mean() > 1.5


@pytest.mark.parametrize(("slot", "value"), [pair for pair in ASKED if pair[0] in ("expression", "gaze", "wall")])
def test_a_value_leaves_the_rest_alone(slot: str, value: str) -> None:
    """A face does not repaint the wall, and the wall not the face."""
    changed = np.abs(picture(**{slot: value}) - picture()).max(-1)
    rest = EYES if slot == "wall" else CORNERS
    assert not changed[rest].any()


def test_left_is_the_viewers_left() -> None:
    """Left in the picture: dark pupils, the lips, a leaning head and the lit side lie at smaller columns."""

    def middle(amount: np.ndarray) -> float:
        columns = np.clip(amount, 0, None).sum(0)
        return float((columns * np.arange(len(columns))).sum() / columns.sum())

    def column(image: np.ndarray, place: tuple[slice, slice]) -> float:
        return middle(140 - image[place].mean(-1))

    def lips(image: np.ndarray) -> float:
        return middle(image[MOUTH][..., 0] - image[MOUTH][..., 1] - 70)

    irises = np.s_[60:70, 44:84]
    assert column(picture(gaze="left"), irises) < column(picture(gaze="right"), irises) - 1
    assert lips(picture(head="turned left")) < lips(picture(head="turned right")) - 8
    crown = np.s_[24:44, 20:108]
    assert column(picture(head="tilted left"), crown) < column(picture(head="tilted right"), crown) - 8
    lit = picture(light="left").mean((0, 2))
    assert lit[:40].mean() > 1.5 * lit[88:].mean()


def test_speech_still_opens_the_mouth_in_every_expression() -> None:
    """The mouth is darker while a vowel is spoken, whatever the face feels."""
    for expression in VALUES["expression"]:
        shut, wide = picture(expression=expression), picture(REST._replace(open=1.0), expression=expression)
        assert (wide[MOUTH].mean(-1) < 60).sum() > (shut[MOUTH].mean(-1) < 60).sum() + 20, expression


def test_walls_have_their_colour() -> None:
    """The upper corners are of the named colour."""
    for name, colour in COLOURS.items():
        assert np.abs(picture(wall=name)[CORNERS].mean((0, 1)) - colour).max() < 10


def test_a_change_eases_in_after_the_border() -> None:
    """Before the border nothing moves; after it the look reaches the new state within the easing, without a jump."""
    track = looks([State(), State(wall="blue", expression="smile")])
    assert len(track) == 66 and set(track[:33]) == {PLAIN}
    assert track[33] != PLAIN
    shares = [look.wall_share for look in track[33:]]
    assert shares == sorted(shares) and max(np.diff(shares)) < 0.25
    assert track[33 + EASE_FRAMES - 1] == track[-1] == look_of(State(wall="blue", expression="smile"))


def test_an_unknown_value_is_refused_by_name() -> None:
    """A typing error is told, with what there is to choose from."""
    with pytest.raises(ValueError, match="wall is one of portrait, red"):
        State(wall="mauve")


def test_plans_ask_for_nothing_in_two_passages_of_five_and_change_in_some() -> None:
    """Shares of a thousand plans, and changes only at chunk borders that a passage has."""
    rng = random.Random(0)
    plans = [plan(rng, 6) for _ in range(1000)]
    plain = sum(all(state == State() for state in states) for states in plans)
    changing = sum(len(set(states)) > 1 for states in plans)
    assert 350 < plain < 450 and 240 < changing < 360
    assert all(len(states) == 6 for states in plans)
