"""A stranger's picture made into the portrait a session performs with.

Size and format are read from the header before a pixel is decoded, so that a small file cannot unfold into gigabytes.
It knows nothing of faces: the picture is cropped at its centre.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dit_worker.engine.arrays import Pixels
from dit_worker.engine.errors import BadPortrait
from services.pictures import MOST_SCANS, has_too_many_scans

MAX_BYTES = 4 * 1024 * 1024
MAX_SIDE = 4096
FORMATS = ("PNG", "JPEG", "WEBP")


def read_portrait(data: bytes, width: int, height: int) -> Pixels:
    """PNG, JPEG or WebP bytes to 8-bit RGB (height, width, 3), centre-cropped. Raises BadPortrait."""
    if len(data) > MAX_BYTES:
        raise BadPortrait(f"the picture has {len(data)} bytes, more than {MAX_BYTES}")
    if has_too_many_scans(data):
        raise BadPortrait(f"the picture is a JPEG of more than {MOST_SCANS} scans")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(image)
                return _fit(image, width, height)
        except Image.DecompressionBombError as error:
            raise BadPortrait(f"the picture is wider or higher than {MAX_SIDE} pixels") from error
        except BadPortrait:
            raise
        except Exception as error:  # Pillow's readers raise whatever they stumble over
            raise BadPortrait("the bytes are not a whole PNG, JPEG or WebP picture") from error


def load_portrait(path: Path, width: int, height: int) -> Pixels:
    """The same for a file of the bundle."""
    return read_portrait(path.read_bytes(), width, height)


def _check_size(image: Image.Image) -> None:
    if max(image.size) > MAX_SIDE:
        raise BadPortrait(f"the picture is {image.width}x{image.height} pixels; at most {MAX_SIDE} a side are taken")
    if min(image.size) < 8:
        raise BadPortrait(f"the picture is {image.width}x{image.height} pixels; at least 8 a side are needed")


def _fit(image: Image.Image, width: int, height: int) -> Pixels:
    upright = _upright(image)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, (128, 128, 128, 255)), upright)
    fitted = ImageOps.fit(upright.convert("RGB"), (width, height), Image.Resampling.LANCZOS)
    return np.asarray(fitted, dtype=np.uint8).copy()


def _upright(image: Image.Image) -> Image.Image:
    """As its camera was held; as it is where what the camera wrote down cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001  # Pillow's reader of EXIF raises whatever it stumbles over
        return image
