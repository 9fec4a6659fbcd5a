"""A bundle with a gallery and no weights: what a gateway needs of one.

Pictures are plain colours, voices are tones; the manifest has the geometry of `pocket`.
"""

from __future__ import annotations

import io
import json
import math
import struct
import wave
from hashlib import sha256
from pathlib import Path

from PIL import Image, ImageDraw

from services.bundle import MANIFEST_NAME, Bundle, load_bundle

GEOMETRY = {
    "width": 128,
    "height": 128,
    "frames_per_second": 24,
    "frames_per_chunk": 33,
    "video_latents_per_chunk": 9,
    "video_latent_channels": 16,
    "video_latent_height": 8,
    "video_latent_width": 8,
    "sample_rate": 15_360,
    "samples_per_audio_latent": 640,
    "audio_latents_per_chunk": 33,
    "audio_latent_channels": 24,
}
CAST = {"ada": "#c98b6b", "bo": "#7fa3a8", "cleo": "#a88fb5"}


def write_bundle(directory: Path, *, reads_prompts: bool = False) -> Bundle:
    """Write the bundle into `directory` and load it."""
    files: dict[str, str] = {}
    for name, colour in CAST.items():
        for path, data in ((f"characters/{name}.png", portrait(colour)), (f"characters/{name}.wav", voice())):
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_bytes(data)
            files[path] = sha256(data).hexdigest()
    characters = [
        {
            "name": name,
            "description": f"A {colour} circle that speaks",
            "portrait": f"characters/{name}.png",
            "voice": f"characters/{name}.wav",
        }
        for name, colour in CAST.items()
    ]
    manifest = {
        "name": "fake",
        "version": "1",
        "recipe": "streamchar",
        "geometry": GEOMETRY,
        "text": {},
        "conditioner": {},
        "dit": {},
        "video_vae": {},
        "audio_codec": {},
        "sampler": {"steps": 4, "noise_scale_audio": 1.0, "noise_scale_video": 1.0, "shift": 1.0},
        "files": files,
        "characters": characters,
        "prompt": {"encoder": {}} if reads_prompts else None,
    }
    (directory / MANIFEST_NAME).write_text(json.dumps(manifest))
    return load_bundle(directory)


def portrait(colour: str, width: int = 128, height: int = 128) -> bytes:
    """A PNG with a circle of this colour."""
    picture = Image.new("RGB", (width, height), "#efe6da")
    ImageDraw.Draw(picture).ellipse((width // 6, height // 6, width * 5 // 6, height * 5 // 6), fill=colour)
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def voice(seconds: float = 3.0, rate: int = 8000) -> bytes:
    """A WAV file with a tone."""
    out = io.BytesIO()
    with wave.open(out, "wb") as recording:
        recording.setnchannels(1)
        recording.setsampwidth(2)
        recording.setframerate(rate)
        samples = (int(8000 * math.sin(0.3 * at)) for at in range(int(seconds * rate)))
        recording.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return out.getvalue()
