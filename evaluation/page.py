"""The report as one page that needs nothing else: tables, curves, contact sheets, spectrograms, players.

Everything is in the page as data, nothing is fetched. What the numbers mean stands in docs/evaluation.md at length. It
measures nothing; `exhibits` are what was made ready for showing (`evaluation.exhibits`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape

from evaluation import figures
from evaluation.players import data_address
from evaluation.targets import Verdict, percent

Figures = Mapping[str, Any]
TEMPLATES = Path(__file__).parent
ITALICS = (
    "Rows in italics are no model: the synthesiser's own speech with the renderer's own face, and the same there and "
    "back through both VAEs, which no model of their latents can beat. Sync, FID- and FVD-type figures, identity and "
    "quality come from networks trained here on the corpus's renderer: they compare these rows with each other, and "
    "with no paper."
)
TIMES = (
    "Where the words are is the first judge's hearing, less its own delay, which is known from true speech; the row of "
    "ground truth shows how far it still is from the synthesiser's own times. Generating means conditioner and DiT, "
    "without decoding."
)
Cell = tuple[str, str]
"""What a cell says, and below it in small."""


@dataclass(frozen=True)
class Row:
    """One row; `kind` is first, true or nothing."""

    cells: list[Cell]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table; `words` are the columns that hold text."""

    head: list[Cell]
    rows: list[Row]
    title: str = ""
    words: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Picture:
    """A picture as a data address."""

    source: str
    says: str


PAIRS = "Two stills each: before the prompt acts, and two chunks on. The face and the words differ from value to value."


@dataclass(frozen=True)
class SheetRow:
    """One row of a contact sheet: a stream, or what one slot was asked for."""

    label: str
    source: str


@dataclass(frozen=True)
class Player:
    """A film or a sound."""

    title: str
    says: str
    source: str
    is_film: bool
    poster: str = ""
    heard: str = ""


@dataclass
class Part:
    """One section of the page."""

    id: str
    title: str
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    sheet: list[SheetRow] = field(default_factory=list)
    players: list[Player] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Exhibits:
    """What a report shows besides figures."""

    sheet: list[SheetRow] = field(default_factory=list)
    sheet_moments: str = ""
    spectrograms: list[Picture] = field(default_factory=list)
    players: list[Player] = field(default_factory=list)
    prompts: list[SheetRow] = field(default_factory=list)


def number(value: float | None, digits: int = 3) -> str:
    """A number, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def rate(interval: Sequence[float] | None) -> Cell:
    """A rate with its interval below."""
    return (
        ("–", "") if interval is None else (percent(interval[0]), f"{100 * interval[1]:.1f} to {100 * interval[2]:.1f}")
    )


def kinds(results: Figures) -> list[tuple[str, str, Figures]]:
    """(kind of row, title, figures) of truth, codec and variants."""
    true = [("true", "ground truth", results["truth"]), ("true", "through both VAEs", results["codec"])]
    variants = [("first" if i == 0 else "", f["title"], f) for i, f in enumerate(results["variants"].values())]
    return [*true, *variants]


def short_table(results: Figures) -> Table:
    """After the paper's Table 1, with our columns."""
    head: list[Cell] = [
        ("short protocol", ""), ("WER ↓", "corpus judge, 95 %"), ("WER ↓", "pocketsphinx, 95 %"), ("PER ↓", "95 %"),
        ("lost ↓", "by both"), ("repeated ↓", "by both"), ("Sync-C ↑", "net of ours"), ("Sync-D ↓", "offset, frames"),
        ("lip corr. ↑", "offset, frames"), ("FID-type ↓", "eye of ours"), ("FVD-type ↓", "eye of ours"),
        ("identity ↑", "least"), ("quality ↑", ""), ("dynamic ↑", "flow"), ("border ↓", ""),
    ]  # fmt: skip
    rows = []
    for kind, title, f in kinds(results):
        if "short" not in f:
            continue
        s, sync = f["short"], f["short"]["sync"]
        rows.append(
            Row(
                [
                    (title, f"{s['clips']} clips, {s['words']} words"), rate(s["wer"]), rate(s.get("wer_sphinx")),
                    rate(s["per"]), (str(s["lost"]), str(s.get("lost_by_both", ""))),
                    (str(s["repeated"]), str(s.get("repeated_by_both", ""))),
                    (number(sync["syncnet"]["confidence"]), ""),
                    (number(sync["syncnet"]["distance"]), f"{sync['syncnet']['offset']:+d}"),
                    (number(sync["renderer"]["correlation"]), f"{sync['renderer']['offset_frames']:+.2f}"),
                    (number(s.get("frechet_image")), ""), (number(s.get("frechet_video")), ""),
                    (number(s["likeness"]), number(s["likeness_least"], 2)), (number(s["quality"]), ""),
                    (number(s.get("dynamic_degree"), 2), number(s["flow"])), (number(s["border_jump"], 2), ""),
                ],
                kind,
            )
        )  # fmt: skip
    return Table(head, rows, "Clips of about 10 s")


def long_table(results: Figures) -> Table:
    """After the paper's Table 2, with our columns."""
    head: list[Cell] = [
        ("long protocol", ""), ("Quality Drift ↓", "worst stream"), ("drift of sharpness ↓", "levels"),
        ("drift of colourfulness ↓", "levels"), ("colour change ↓", "last 5 s, levels"), ("dynamic ↑", "flow"),
        ("identity ↑", "least"), ("FID-type ↓", ""), ("WER ↓", "corpus judge, 95 %"), ("lost ↓", "by both"),
        ("repeated ↓", "by both"), ("lip corr. ↑", "offset, frames"), ("border ↓", ""),
    ]  # fmt: skip
    rows = []
    for kind, title, f in kinds(results):
        if "long" not in f:
            continue
        s, d = f["long"], f["long"]["drift"]
        rows.append(
            Row(
                [
                    (title, f"{d['streams']} of {d['seconds']:.0f} s"),
                    (number(d["quality"]["drift"], 4), number(d["quality"]["worst"], 4)),
                    (number(d["sharpness"]["drift"], 2), ""), (number(d["colourfulness"]["drift"], 2), ""),
                    (number(d["colour_change"], 1), ""), (number(s.get("dynamic_degree"), 2), number(s["flow"])),
                    (number(s["likeness"]), number(s["likeness_least"], 2)), (number(s.get("frechet_image")), ""),
                    rate(s["wer"]), (f"{s['lost']} of {s['words']}", str(s.get("lost_by_both", ""))),
                    (str(s["repeated"]), str(s.get("repeated_by_both", ""))),
                    (number(s["sync"]["renderer"]["correlation"]), f"{s['sync']['renderer']['offset_frames']:+.2f}"),
                    (number(s["border_jump"], 2), ""),
                ],
                kind,
            )
        )  # fmt: skip
    return Table(head, rows, "Long streams")


def time_table(results: Figures) -> Table:
    """Pointer and word times."""
    head: list[Cell] = [
        ("", ""), ("pointer error, words", "mean; 95 % within"), ("its bias", "words"), ("chunk ends", ""),
        ("word-time error, s", "median; 95 % within"), ("its bias", "s"), ("finished", ""), ("nudges", ""),
        ("RTF of generating", "processor time"),
    ]  # fmt: skip
    rows = []
    for kind, title, f in kinds(results):
        for protocol in ("short", "long"):
            if protocol not in f:
                continue
            s = f[protocol]
            p, w = s["pointer_words"] or {}, s["word_time_s"] or {}
            rows.append(
                Row(
                    [
                        (f"{title}, {protocol}", ""), (number(p.get("mean"), 2), number(p.get("p95"), 2)),
                        (number(p.get("bias"), 2), ""), (str(p.get("count", "–")), ""),
                        (number(w.get("median")), number(w.get("p95"))), (number(w.get("bias")), ""),
                        (f"{s['finished']} of {s['clips']}", ""), (str(s["nudges"]), ""), (number(s["rtf"], 2), ""),
                    ],
                    kind,
                )
            )  # fmt: skip
    return Table(head, rows)


def difference_table(results: Figures) -> Table | None:
    """WER of each variant less that of the first, paired."""
    rows = []
    for f in results["variants"].values():
        if "against_first" not in f:
            continue
        cells: list[Cell] = [(f["title"], f"{f['against_first']['words']['words']} words")]
        for judge in ("words", "sphinx"):
            value, low, high = f["against_first"][judge]["difference"]
            sure = "interval excludes 0" if f["against_first"][judge]["is_told"] else "interval holds 0"
            cells += [(f"{100 * value:+.2f}", f"{100 * low:+.2f} to {100 * high:+.2f}"), (sure, "")]
        rows.append(Row(cells))
    if not rows:
        return None
    first = next(iter(results["variants"].values()))["title"]
    head: list[Cell] = [
        (f"WER less that of “{first}”", ""), ("corpus judge", "points, paired 95 %"), ("", ""),
        ("pocketsphinx", "points, paired 95 %"), ("", ""),
    ]  # fmt: skip
    return Table(head, rows, "Differences on the same clips")


def distillation_table(results: Figures) -> Table | None:
    """What each part of distillation is worth in words (`evaluation.few_steps`)."""
    rows = results.get("beside", {}).get("steps", {}).get("rows", [])
    head: list[Cell] = [
        ("", ""), ("WER", "95 %"), ("more than the first", "points, paired 95 %"), ("PER", ""), ("words lost", ""),
        ("repeated", ""), ("of words", ""),
    ]  # fmt: skip
    lines = []
    for number, row in enumerate(rows):
        (wer, low, high), more = row["word_error_rate"], row.get("more_word_errors")
        lines.append(
            Row(
                [
                    (row["row"], ""), (f"{wer:.1f} %", f"{low:.1f} to {high:.1f}"),
                    (f"{more[0]:+.2f}", "{:+.2f} to {:+.2f}".format(*more[1:])) if more else ("", ""),
                    (f"{row['phone_error_rate'][0]:.1f} %", ""), (str(row["lost"]), ""), (str(row["repeated"]), ""),
                    (str(row["words"]), ""),
                ],
                "" if number else "first",
            )
        )  # fmt: skip
    return Table(head, lines, "Parts of distillation, on the same clips, speech alone") if lines else None


def voices_table(results: Figures) -> Table | None:
    """Word errors by voice."""
    rows, voices = [], []
    for kind, title, f in kinds(results):
        if "short" in f:
            by_voice = f["short"]["wer_by_voice"]
            voices = list(by_voice)
            rows.append(Row([(title, ""), *((percent(by_voice[v]), "") for v in voices)], kind))
    return Table([("WER by voice", ""), *((v, "") for v in voices)], rows) if rows else None


def follow_table(results: Figures) -> Table | None:
    """Does the reference decide the voice?"""
    first = next(iter(results["variants"].values()))
    if "follow" not in first:
        return None
    head: list[Cell] = [
        ("unheard reference", ""), ("clips", ""), ("nearest to it", f"of {first['follow']['candidates']} voices"),
        ("taken for", ""), ("distance to it", "nepers"), ("to the others", "nepers, mean"), ("pitch off", "semitones"),
        ("between the two", "0 the first, 1 the second"),
    ]  # fmt: skip
    rows = [
        Row(
            [
                (voice, ""), (str(v["clips"]), ""), (percent(v["nearest_share"], 0), ""),
                (", ".join(v["taken_for"]), ""),
                (number(v["distance_own"]), ""), (number(v["distance_others"]), ""),
                (number(v["pitch_off_semitones"], 1), ""), (number(v.get("between"), 2), ""),
            ]
        )
        for voice, v in first["follow"]["voices"].items()
    ]  # fmt: skip
    return Table(head, rows, words=(0, 3))


def told(value: str, seen: Sequence[str]) -> str:
    """How often a value showed, and what else did."""
    others = ", ".join(dict.fromkeys(other for other in seen if other != value))
    return f"{seen.count(value)} of {len(seen)}{f' (else {others})' if others else ''}"


def prompt_table(results: Figures) -> Table | None:
    """Do prompts show?"""
    prompted = next(iter(results["variants"].values())).get("prompts", {})
    if "slots" not in prompted:
        return None
    head: list[Cell] = [
        ("asked of", ""), ("clips", ""), ("shows", "from the next chunk on"), ("showed before", ""),
        ("other slots kept", ""), ("asked, and seen", ""),
    ]  # fmt: skip
    rows = [
        Row(
            [
                (slot, ""), (str(s["clips"]), ""), (percent(s["shown"], 0), ""), (percent(s["before"], 0), ""),
                (percent(s["others_kept"], 0), ""),
                ("; ".join(f"{value}: {told(value, seen)}" for value, seen in s["asked"].items()), ""),
            ]
        )
        for slot, s in prompted["slots"].items()
    ]  # fmt: skip
    return Table(head, rows, words=(0, 5))


def pointing_table(results: Figures) -> Table | None:
    """Does the pointer listen?"""
    voices = next(iter(results["variants"].values())).get("pointing", {})
    head: list[Cell] = [
        ("true speech", ""), ("pointer error, phones", "mean"), ("another sentence's chunk", "phones"),
        ("its history too", "phones"), ("chunks", ""),
    ]  # fmt: skip
    rows = [
        Row(
            [
                (voice, ""), (number(p["own"]), ""), (number(p["swapped_chunk"]), ""), (number(p["swapped_sound"]), ""),
                (str(p["windows"]), ""),
            ]
        )
        for voice, p in voices.items()
    ]  # fmt: skip
    return Table(head, rows, "Does the pointer listen") if rows else None


def picture(data: bytes | None, says: str) -> list[Picture]:
    """A PNG as a picture, none where there is none."""
    return [] if data is None else [Picture(data_address("image/png", data), says)]


def parts_of(results: Figures, exhibits: Exhibits) -> list[Part]:
    """The sections, in order; those with nothing to say are left out."""
    tables = [short_table(results), long_table(results)]
    differences, follow, voices = difference_table(results), follow_table(results), voices_table(results)
    prompts, pointing, distillation = prompt_table(results), pointing_table(results), distillation_table(results)
    parts = [
        Part(
            "tables",
            "Quality, after the paper's tables",
            [ITALICS],
            [t for t in (*tables, differences, distillation) if t is not None and t.rows],
        ),
        Part(
            "words", "Words", [], [voices] if voices else [], picture(figures.word_rates(results), "Word error rates.")
        ),
        Part("time", "Pointer and times of words", [], [t for t in (time_table(results), pointing) if t is not None]),
        Part(
            "sync",
            "Lips",
            [],
            [],
            picture(figures.sync_curves(results), "Lip sync by offset, all short clips together."),
        ),
        Part(
            "drift", "Over time", [], [], picture(figures.drift_curves(results), "Means of 5 s, mean of the streams.")
        ),
        Part("streams", "The streams", [exhibits.sheet_moments], sheet=exhibits.sheet),
        Part("voices", "Does the reference decide the voice", [], [follow] if follow else []),
        Part(
            "prompts",
            "Do prompts show",
            [PAIRS] * bool(exhibits.prompts),
            [prompts] if prompts else [],
            sheet=exhibits.prompts,
        ),
        Part("spectrograms", "Sound and words", pictures=exhibits.spectrograms),
        Part("players", "To look at and listen to", players=exhibits.players),
    ]
    parts[2].notes.append(TIMES)
    return [p for p in parts if p.tables or p.pictures or p.sheet or p.players]


def build_page(results: Figures, verdicts: Sequence[Verdict], exhibits: Exhibits, json_name: str) -> str:
    """The whole page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    )
    first, where, plan = next(iter(results["variants"].values())), results["hardware"], results["protocol"]
    protocol = (
        f"{plan['short']} short clips, {plan['long']} streams of {plan['seconds']:.0f} s, {plan['follow']} clips of "
        f"unheard voices; voices {', '.join(plan['voices'])}; faces nobody has learned from; noise seeded by "
        "the clips' names."
    )
    parts = parts_of(results, exhibits)
    if verdicts:
        parts.insert(0, Part("targets", "Targets"))
    return environment.get_template("report.html").render(
        title=f"Quality of {first['bundle']['name']} {first['bundle']['version']}",
        made=results["made"][:16].replace("T", " "),
        commit=results["commit"] or "unknown",
        hardware=f"{where['processor']}, {where['threads']} thread(s), torch {where['torch']}",
        protocol=protocol,
        json_name=json_name,
        targets=list(verdicts),
        parts=parts,
    )
