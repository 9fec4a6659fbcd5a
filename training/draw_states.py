"""One face in every state a prompt can ask for: `python -m training.draw_states` writes docs/images/states.png."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from training.corpora.faces import Pose, draw
from training.corpora.identities import GALLERY
from training.corpora.states import VALUES, State, look_of

SIZE = 128
CAPTION = 18
COLUMNS = 8
NEUTRAL = Pose(0, 0.7, 0, 0, 0.5, 0, 0, 0)


def tile(picture: np.ndarray, text: str) -> np.ndarray:
    """A picture above its name: uint8 (SIZE + CAPTION, SIZE, 3)."""
    label = np.full((CAPTION, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(label, text, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (40, 40, 40), 1, cv2.LINE_AA)
    return np.concatenate([picture, label])


def sheet(name: str) -> np.ndarray:
    """A named character in every state: uint8 (H, W, 3) RGB."""
    _, _, identity = GALLERY[name]
    tiles = [tile(draw(identity, NEUTRAL, SIZE), "portrait")]
    for slot, values in VALUES.items():
        for value in values[1:]:
            picture = draw(identity, NEUTRAL, SIZE, look=look_of(State(**{slot: value})))
            tiles.append(tile(picture, value if slot in ("expression", "head") else f"{slot} {value}"))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % COLUMNS)
    return np.concatenate([np.concatenate(tiles[k : k + COLUMNS], 1) for k in range(0, len(tiles), COLUMNS)])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--character", choices=sorted(GALLERY), default="chiara")
    parser.add_argument("--out", type=Path, default=Path("docs/images/states.png"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(options.out), sheet(options.character)[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    main()
