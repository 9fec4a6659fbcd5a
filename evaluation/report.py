"""Results of an evaluation as JSON and as a page one can look at. It measures nothing."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

Figures = Mapping[str, Any]
TITLES = {
    "contact.png": "A minute of each character",
    "words.png": "Word error rates",
    "sync.png": "Mouth and sound",
    "drift.png": "Drift over a minute",
}


def hardware() -> dict[str, str | int]:
    """What the figures were made on."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        named = [
            line.split(":", 1)[1].strip()
            for line in information.read_text().splitlines()
            if line.startswith("model name")
        ]
        model = named[0] if named else model
    return {
        "processor": model,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def commit() -> str:
    """The commit of the working tree, with a mark when files differ from it; empty outside a repository."""
    try:
        head, changed = (
            subprocess.run(
                ["git", *command], capture_output=True, text=True, check=True, timeout=20, cwd=Path(__file__).parent
            ).stdout.strip()
            for command in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{head}{' with changes' if changed else ''}"


def provenance() -> dict[str, Any]:
    """When, where and of what."""
    return {"made": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit(), "hardware": hardware()}


def kept_parts(path: Path, results: Figures) -> dict[str, Any]:
    """Results written before of the same bundle and the same sentences; nothing where they were of others."""
    if not path.exists():
        return {}
    before: dict[str, Any] = json.loads(path.read_text())
    same = all(before.get(name) == results[name] for name in ("sentences", "bundle", "judge"))
    return before if same else {}


def write_json(results: Figures, path: Path) -> None:
    """Writes the results, indented, so that changes show."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")


def write_page(results: Figures, folder: Path, drawn: Sequence[str]) -> None:
    """Writes README.md beside the pictures."""
    parts = [_head(results), _speech(results), _options(results), _pointer(results), _sync(results), _identity(results)]
    parts += [f"## {TITLES.get(name, name)}\n\n![{TITLES.get(name, name)}]({name})" for name in drawn]
    if "speech" in results:
        parts.append(_examples(results["speech"]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("\n\n".join(part for part in parts if part) + "\n")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def percent(share: float | None) -> str:
    """0.0312 as 3.1 %, a dash for nothing."""
    return "-" if share is None else f"{100 * share:.1f} %"


def _head(results: Figures) -> str:
    where, bundle, judge = results["hardware"], results["bundle"], results["judge"]
    written = results["written_to"]
    return (
        f"# Quality of {bundle['name']} {bundle['version']}\n\n"
        f"Written by `python -m evaluation`, {results['made'][:10]}, commit {results['commit'] or 'unknown'}, "
        f"{where['processor']}, {where['threads']} thread(s), torch {where['torch']}. "
        f"All figures: [`{Path(written).name}`](../../{written}).\n\n"
        f"Everything generated here is a whole performance on the model's own outputs, {bundle['sampler']['steps']} "
        f"steps, of {results['sentences']} sentences that share no four words in a row with the corpus. The first "
        f"judge is a phone recogniser that learned from true speech alone, with {judge['words']} words, each as likely "
        "as any; words that sound alike count as one. The second is pocketsphinx, not trained here, with a closed "
        "vocabulary of the sentences' own words."
    )


def _row(name: str, f: Figures) -> list[object]:
    return [
        name,
        percent(f["phone_error_rate"]),
        percent(f["word_error_rate"]),
        percent(f.get("sphinx_word_error_rate")),
        f"{f['words_lost']} of {f['words']}",
        f["words_added"],
        f["words_repeated"],
    ]


def _speech(results: Figures) -> str:
    truth, generated = results.get("truth", {}), results.get("speech", {})
    rows = [
        _row(f"{kind.replace('_', ' ')}, {voice}", f)
        for voice, kinds in truth.items()
        if isinstance(kinds, dict)
        for kind, f in kinds.items()
    ]
    rows += [_row(f"generated, {name}", f) for name, f in generated.items()]
    minute = results.get("identity", {}).get("speech")
    rows += [_row("generated, a minute at a stretch, all characters", minute)] if minute else []
    if not rows:
        return ""
    skipped = f"\n\nTrue speech was skipped: {truth['skipped']}." if "skipped" in truth else ""
    head = ["speech", "phone errors", "word errors", "by pocketsphinx", "words lost", "added", "of these repeated"]
    return f"## Does it say what it should\n\n{table(head, rows)}{skipped}"


def _options(results: Figures) -> str:
    if "options" not in results:
        return ""
    o = results["options"]
    return f"## What the options do\n\n{o['character']}, {o['sentences']} sentences, first judge.\n\n" + table(
        ["trial", "phone errors", "word errors"],
        [[name, percent(f["phone_error_rate"]), percent(f["word_error_rate"])] for name, f in o["trials"].items()],
    )


def _pointer(results: Figures) -> str:
    voices = results.get("pointer", {})
    if not voices:
        return ""
    if "skipped" in voices:
        return f"## Does the pointer listen\n\nSkipped: {voices['skipped']}."
    rows = []
    for voice, p in voices.items():
        rows += [
            [voice, "its own sound", p["own"], 1],
            [voice, "another sentence's chunk", p["swapped_chunk"], p["ratio_swapped_chunk"]],
            [voice, "another sentence's chunk and history", p["swapped_sound"], p["ratio_swapped_sound"]],
        ]
    return (
        "## Does the pointer listen\n\nMean distance from the true place at the end of a chunk, true speech, "
        f"{sum(p['windows'] for p in voices.values())} chunks.\n\n"
        + table(["voice", "given", "phones", "times its own"], rows)
    )


def _sync(results: Figures) -> str:
    if "sync" not in results:
        return ""
    rows = []
    for name, kinds in (results["sync"] | {"renderer on true speech": results.get("true_sync", {})}).items():
        rows += [
            [name, kind.replace("_", " "), s["offset"], s["correlation"], s["correlation_at_zero"]]
            for kind, s in kinds.items()
            if isinstance(s, dict) and "offset" in s
        ]
    return (
        "## Do the lips follow\n\nThe mouth is measured in the pictures. The renderer's mouth is what the corpus would "
        "draw for the phones the judge hears.\n\n"
        + table(["character", "mouth", "offset, frames", "correlation there", "with no offset"], rows)
    )


def _identity(results: Figures) -> str:
    entries = {name: f for name, f in results.get("identity", {}).items() if name != "speech" and "skipped" not in f}
    if not entries:
        return ""
    rows = [
        [
            name,
            max(f["against_portrait"]["colours"].values()),
            max(f["against_first_seconds"]["colours"].values()),
            f["worst_along_the_way"],
            percent(f["against_first_seconds"]["eye_gap"]),
            percent(f["against_first_seconds"]["eye_to_mouth"]),
            f["border_jump"],
        ]
        for name, f in entries.items()
    ]
    return (
        "## Does the character stay\n\nA minute; its last 5 s. Colours: largest distance of the mean colours of skin, "
        "hair, wall and shirt, in levels of 0 to 255. Border jump: change of the picture over chunk borders over that "
        "inside chunks.\n\n"
        + table(
            [
                "character",
                "colours, from the portrait",
                "from the first 5 s",
                "worst on the way",
                "eye gap",
                "eyes to mouth",
                "border jump",
            ],
            rows,
        )
    )


def _examples(speech: Figures) -> str:
    name, f = next(iter(speech.items()))
    rows = [[e["meant"], e["heard"]] for e in f["examples"]]
    return f"## What the first judge hears of {name}\n\nWords that sound alike are spelled one way.\n\n" + table(
        ["meant", "heard"], rows
    )
