"""A page to listen to: the same sentence from several decoders, each with its mel-spectrogram, all in one HTML file.

Sounds are Opus, pictures PNG, both inside the page, so that it can be sent to somebody as it is. It measures nothing.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from PIL import Image
from scipy.signal import resample_poly

from dit_worker.model.codec import FLOOR, AudioCodec

OPUS_RATE = 48_000
BITS_PER_SECOND = 40_000
SCALE = 2
"""Pixels of a mel band, upwards."""
LOUDEST = 1.5
"""Log-mel that is drawn white."""
SHOWN = {
    "word_error_rate": ("WER", 100, "%"),
    "phone_error_rate": ("PER", 100, "%"),
    "sphinx_word_error_rate": ("WER, pocketsphinx", 100, "%"),
    "spectral_db": ("spectral distance", 1, "dB"),
    "mel": ("log-mel error", 1, "nepers"),
    "pitch_percent": ("pitch error", 1, "%"),
    "depth_db": ("depth between overtones, less the true one's", 1, "dB"),
    "real_time_factor": ("computing per second of sound", 1, "s"),
}
STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.3rem .7rem;text-align:left;border-bottom:1px solid #ddd;
vertical-align:top}audio{width:20rem;display:block}img{width:20rem;height:auto;display:block;margin-top:.4rem}
.wide{overflow-x:auto}"""


class Example(NamedTuple):
    """One sound to hear. samples: (S,) at the codec's rate."""

    voice: str
    way: str
    text: str
    samples: np.ndarray


def opus(samples: np.ndarray, rate: int) -> bytes:
    """Samples (S,) as an Ogg Opus file."""
    divisor = math.gcd(OPUS_RATE, rate)
    heard = resample_poly(samples, OPUS_RATE // divisor, rate // divisor).astype(np.float32)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=OPUS_RATE, layout="mono")
        stream.bit_rate = BITS_PER_SECOND
        frame = av.AudioFrame.from_ndarray(np.clip(heard, -1, 1)[None], format="flt", layout="mono")
        frame.sample_rate = OPUS_RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return buffer.getvalue()


def mel_picture(codec: AudioCodec, samples: np.ndarray) -> bytes:
    """The log-mel of samples (S,) as a PNG in grey, low bands below."""
    log_mel = codec.log_mel(torch.from_numpy(samples)[None])[0].numpy()
    share = (log_mel - math.log(FLOOR)) / (LOUDEST - math.log(FLOOR))
    grey = (np.clip(share, 0, 1) * 15).round().astype(np.uint8) * 17
    picture = Image.fromarray(np.flipud(grey.T)).resize(
        (grey.shape[0], grey.shape[1] * SCALE), Image.Resampling.NEAREST
    )
    buffer = io.BytesIO()
    picture.quantize(16).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_uri(kind: str, data: bytes) -> str:
    """Bytes as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def write_page(path: Path, codec: AudioCodec, examples: Sequence[Example], figures: Mapping[str, Any]) -> None:
    """Writes the page. figures: those of `evaluation.codec_quality`."""
    ways = list(figures["mean"])
    rows = []
    for voice in dict.fromkeys(example.voice for example in examples):
        own = {example.way: example for example in examples if example.voice == voice}
        cells = "".join(f"<td>{_player(codec, own[way])}</td>" for way in ways)
        rows.append(f"<tr><th>{html.escape(voice)}</th>{cells}</tr>")
    text = html.escape(examples[0].text)
    head = "".join(f"<th>{html.escape(way)}</th>" for way in ways)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>The audio VAE, to listen to</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>
<h1>The audio VAE, to listen to</h1>
<p>“{text}” as flite says it, and as it comes back from {codec.config.channels} numbers 24 times a second. Sound is
Opus at {BITS_PER_SECOND // 1000} kbit/s; the pictures are mel-spectrograms, low bands below.</p>
<div class="wide"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>
<h2>Measured on {figures["sentences"]} held-out sentences of each voice</h2>
<div class="wide"><table><tr><th>means over voices</th>{head}</tr>{_table(figures["mean"])}</table></div>
</body></html>
"""
    )


def _player(codec: AudioCodec, example: Example) -> str:
    sound = data_uri("audio/ogg", opus(example.samples, codec.config.sample_rate))
    picture = data_uri("image/png", mel_picture(codec, example.samples))
    what = html.escape(f"{example.voice}, {example.way}")
    return (
        f'<audio controls src="{sound}" aria-label="{what}"></audio><img src="{picture}" alt="Mel-spectrogram: {what}">'
    )


def _table(mean: Mapping[str, Mapping[str, float]]) -> str:
    rows = []
    for key, (title, factor, unit) in SHOWN.items():
        cells = "".join(
            f"<td>{own[key] * factor:.3g} {unit}</td>" if key in own else "<td></td>" for own in mean.values()
        )
        rows.append(f"<tr><td>{title}</td>{cells}</tr>")
    return "".join(rows)
