"""Strangers' pictures."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dit_worker.engine.errors import BadPortrait
from dit_worker.engine.portrait import MAX_BYTES, read_portrait


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """An image as a file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is very large and holds next to nothing."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(b"\0" * 64)) + part(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_three_formats_are_cropped_at_the_centre(kind: str) -> None:
    """A wide picture keeps its middle; the result has the bundle's size."""
    image = Image.new("RGB", (300, 100), (255, 0, 0))
    image.paste((0, 255, 0), (100, 0, 200, 100))
    pixels = read_portrait(encoded(image, kind), 64, 48)
    assert pixels.shape == (48, 64, 3)
    assert pixels.dtype == np.uint8
    assert pixels[24, 32, 1] > 200
    assert pixels[24, 32, 0] < 60


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16", "CMYK"])
def test_every_colour_mode_becomes_rgb(mode: str) -> None:
    """Grey, palette, print colours and transparency are all turned into plain RGB."""
    image = Image.new("RGB", (32, 32), (10, 200, 30)).convert(mode) if mode != "I;16" else Image.new(mode, (32, 32))
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert read_portrait(encoded(image, kind), 16, 16).shape == (16, 16, 3)


def test_a_turned_photograph_is_set_upright() -> None:
    """The orientation a camera wrote down is followed."""
    image = Image.new("RGB", (64, 32), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = read_portrait(encoded(image, "PNG", exif=exif), 32, 64)
    assert pixels[8, 16].mean() > 200
    assert pixels[56, 16].mean() < 50


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a whole"),
        (b"hello, this is no picture", "not a whole"),
        (encoded(Image.new("RGB", (64, 64)), "PNG")[:60], "not a whole"),
        (encoded(Image.new("RGB", (64, 64)), "GIF"), "not a whole"),
        (encoded(Image.new("RGB", (64, 64)), "BMP"), "not a whole"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * MAX_BYTES, "more than"),
        (png_header(40_000, 40_000), "4096"),
        (png_header(40_000, 10), "4096"),
        (png_header(4, 4), "at least"),
        (png_header(512, 512), "not a whole"),
    ],
)
def test_what_is_no_picture_of_ours_is_refused(data: bytes, words: str) -> None:
    """Empty, foreign, cut off, too heavy, too large, too small: each is refused in words, before it is unfolded."""
    with pytest.raises(BadPortrait, match=words):
        read_portrait(data, 128, 128)


def test_a_picture_that_is_gone_over_again_and_again_is_refused() -> None:
    """A progressive JPEG is taken; with more than 64 scans, each over all its pixels, it is not decoded."""
    whole = encoded(Image.new("RGB", (64, 64), "tan"), "JPEG", progressive=True)
    assert read_portrait(whole, 16, 16).shape == (16, 16, 3)
    last = whole[:-2].rsplit(b"\xff\xda", 1)[1]
    with pytest.raises(BadPortrait, match="more than 64 scans"):
        read_portrait(whole[:-2] + 64 * (b"\xff\xda" + last) + b"\xff\xd9", 16, 16)
