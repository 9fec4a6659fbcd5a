"""What a report shows: contact sheets of the streams, spectrograms with word times, films and sounds of a few clips.

It takes takes and measurements that are there and measures nothing. How much it shows is bounded, so that a page stays
small enough to send by mail.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np

from evaluation.figures import spectrogram
from evaluation.judge import at_level
from evaluation.page import Exhibits, Picture, Player, SheetRow
from evaluation.players import data_address, jpeg, movie, strip
from evaluation.prompting import AFTER_CHUNKS
from evaluation.protocol import PROMPT_CHUNK, Clip
from evaluation.runs import Results, Run, pictures_of
from evaluation.takes import load_sound, load_take
from evaluation.voices import MEL_RATE, log_mel_of, portrait_of
from evaluation.watching import FRAME_RATE, is_shown

SHEET_S = 30.0
FEWEST_STILLS = 8
"""Streams too short for so many stills 30 s apart show more, evenly."""
FILM_S = 10.0
SPECTROGRAM_S = 8.0
FILMS, SOUNDS = 4, 3


def shown_seconds(frames: int) -> np.ndarray:
    """The seconds of the stills that `watching` keeps."""
    return np.array([i / FRAME_RATE for i in range(frames) if is_shown(i)])


def sheet_moments(seconds: float) -> list[float]:
    """When the stills of a contact sheet are taken."""
    if seconds >= SHEET_S * FEWEST_STILLS:
        return [0.5, *np.arange(SHEET_S, seconds + 1, SHEET_S).tolist()]
    return [float(v) for v in np.linspace(0.5, seconds - 1, FEWEST_STILLS)]


def contact_sheet(results: Sequence[Results], side: int = 88) -> list[SheetRow]:
    """One row a stream: its portrait, then a still every 30 s."""
    rows = []
    for clip in [m.clip for m in results[0].long]:
        for result in results:
            measured = next((m for m in result.long if m.clip.name == clip.name), None)
            if measured is None or measured.seen is None:
                continue
            known = shown_seconds(len(measured.seen.quality))
            wanted = sheet_moments(measured.heard["seconds"])
            stills = [measured.seen.stills[int(np.abs(known - second).argmin())] for second in wanted]
            portrait = portrait_of(clip.face, stills[0].shape[0])
            picture = data_address("image/jpeg", jpeg(strip([portrait, *stills], side)))
            rows.append(SheetRow(f"{result.run.variant.title}, {clip.name}", picture))
    return rows


def sheet_caption(results: Sequence[Results]) -> str:
    """What a contact sheet shows."""
    if not any(r.long for r in results):
        return ""
    seconds = next(m.heard["seconds"] for r in results for m in r.long)
    moments = ", ".join(f"{v:.0f}" for v in sheet_moments(seconds))
    return f"First the portrait, then stills at {moments} s."


def words_picture(run: Run, clip: Clip) -> Picture:
    """Log-mel of a clip with the told beginnings of its words."""
    rate, samples = load_sound(run.folder, clip)
    take = load_take(run.folder, clip)
    log_mel = log_mel_of(run.house.models.audio_codec, at_level(samples))
    seconds = min(SPECTROGRAM_S, len(samples) / rate)
    data = spectrogram(log_mel, take.words, clip.text.split(), seconds, MEL_RATE)
    return Picture(data_address("image/png", data), f"{run.variant.title}, {clip.name}, voice {clip.voice}")


def film(run: Run, clip: Clip, heard: str = "") -> Player:
    """The first seconds of a clip, to watch."""
    rate, samples = load_sound(run.folder, clip)
    chunk_s = run.house.bundle.manifest.chunk_seconds
    chunks = islice(pictures_of(run, load_take(run.folder, clip))(), int(np.ceil(FILM_S / chunk_s)))
    frames = np.concatenate(list(chunks))[: round(FILM_S * FRAME_RATE)]
    data = movie(frames, samples[: round(len(frames) / FRAME_RATE * rate)], rate)
    poster = data_address("image/jpeg", jpeg(frames[min(len(frames) - 1, 30)]))
    return Player(f"{run.variant.title}, {clip.voice}", clip.text, data_address("video/mp4", data), True, poster, heard)


def last_seconds(run: Run, clip: Clip) -> Player:
    """How a stream of ours ends, to watch."""
    rate, samples = load_sound(run.folder, clip)
    take = load_take(run.folder, clip)
    count = min(len(take.video), int(np.ceil(FILM_S / run.house.bundle.manifest.chunk_seconds)))
    take.video = take.video[-count:]
    frames = np.concatenate(list(pictures_of(run, take)()))
    data = movie(frames, samples[-round(len(frames) / FRAME_RATE * rate) :], rate)
    poster = data_address("image/jpeg", jpeg(frames[0]))
    says = f"The last {len(frames) / FRAME_RATE:.0f} s of a stream of {len(samples) / rate:.0f} s."
    return Player(
        f"{run.variant.title}, {clip.voice}, {clip.name}", says, data_address("video/mp4", data), True, poster
    )


def recording(run: Run, clip: Clip, heard: str = "") -> Player:
    """The first seconds of a clip, to listen to."""
    rate, samples = load_sound(run.folder, clip)
    data = movie(None, samples[: round(FILM_S * rate)], rate)
    title = f"{run.variant.title}, {clip.voice}"
    return Player(title, clip.text, data_address("audio/mp4", data), is_film=False, heard=heard)


def prompt_sheet(run: Run, clips: Sequence[Clip], side: int = 72) -> list[SheetRow]:
    """One row a slot: of each value, on the first face that was asked for it, a still before and one after."""
    rows: dict[str, dict[str, list[np.ndarray]]] = {}
    for clip in clips:
        values = rows.setdefault(clip.slot, {})
        if clip.value not in values:
            chunks = list(islice(pictures_of(run, load_take(run.folder, clip))(), PROMPT_CHUNK + AFTER_CHUNKS))
            values[clip.value] = [chunks[PROMPT_CHUNK - 1][-1], chunks[-1][-1]]
    sheet = []
    for slot, values in rows.items():
        stills = [still for pair in values.values() for still in pair]
        sheet.append(SheetRow(f"{slot}: {', '.join(values)}", data_address("image/jpeg", jpeg(strip(stills, side)))))
    return sheet


def exhibits_of(
    truth: Results, codec: Results, variants: Sequence[Results], prompted: Sequence[Clip] = (), films: int = FILMS
) -> Exhibits:
    """Everything a report shows of these results, and of the first variant's clips with prompts; films of the first
    variant and one of each other."""
    first, others = variants[0], variants[1:]
    players = [film(first.run, m.clip, m.heard["heard"]) for m in first.short[:films]]
    players += [film(r.run, r.short[0].clip, r.short[0].heard["heard"]) for r in (truth, codec, *others) if r.short]
    if first.long:
        players.append(last_seconds(first.run, first.long[0].clip))
    seen = {m.clip.voice: m for m in reversed(first.follow)}
    players += [recording(first.run, m.clip, m.heard["heard"]) for m in list(seen.values())[:SOUNDS]]
    shown = [r for r in (truth, codec, *variants) if r.long]
    return Exhibits(
        sheet=contact_sheet(shown) if shown else [],
        sheet_moments=sheet_caption(shown),
        prompts=prompt_sheet(first.run, prompted),
        spectrograms=[words_picture(r.run, r.short[0].clip) for r in (truth, codec, first) if r.short],
        players=players,
    )
