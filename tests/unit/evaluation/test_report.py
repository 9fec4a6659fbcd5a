"""The page shows every figure there is and names what was skipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evaluation.report import kept_parts, percent, provenance, table, write_json, write_page

WORDS = {"phone_error_rate": 0.031, "word_error_rate": 0.055, "sphinx_word_error_rate": 0.12, "words": 480,
         "words_lost": 3, "words_substituted": 20, "words_added": 4, "words_repeated": 1}  # fmt: skip
SYNC = {"offset": 0.4, "correlation": 0.71, "correlation_at_zero": 0.7}
DRIFT = {"colours": {"skin": 2.5, "wall": 0.5}, "eye_gap": 0.01, "eye_to_mouth": -0.02}


def results() -> dict[str, Any]:
    """Figures of a whole evaluation."""
    minute = {"seconds": 60.5, "against_portrait": DRIFT, "against_first_seconds": DRIFT, "worst_along_the_way": 3.1,
              "border_jump": 1.2}  # fmt: skip
    return provenance() | {
        "written_to": "benchmarks/results/quality.json",
        "sentences": 48,
        "bundle": {"name": "pocket", "version": "9.9.9", "sampler": {"steps": 4}},
        "judge": {"words": 5116, "penalty": -3.0},
        "truth": {"kal16": {"ground_truth": WORDS, "codec": WORDS}},
        "speech": {"ada": WORDS | {"examples": [{"meant": "the sea", "heard": "the c"}]}},
        "sync": {"ada": {"against_energy": SYNC, "against_renderer": {"skipped": "no renderer"}}},
        "pointer": {"skipped": "flite is not installed"},
        "options": {"character": "ada", "sentences": 24, "trials": {"as in the manifest": WORDS, "2 steps": WORDS}},
        "identity": {"ada": minute, "speech": WORDS},
    }


def test_the_page_holds_every_part(tmp_path: Path) -> None:
    """Rates, trials, offsets, drift, pictures and examples are all on it."""
    write_page(results(), tmp_path, ["contact.png"])
    page = (tmp_path / "README.md").read_text()
    for part in (
        "pocket 9.9.9",
        "generated, ada",
        "3.1 %",
        "3 of 480",
        "2 steps",
        "0.71",
        "contact.png",
        "the c",
        "3.1",
    ):
        assert part in page


def test_what_was_skipped_is_named(tmp_path: Path) -> None:
    """A part that could not be measured gives its reason."""
    partial = results() | {"truth": {"skipped": "flite is not installed (Debian package flite)"}}
    write_page(partial, tmp_path, [])
    page = (tmp_path / "README.md").read_text()
    assert "True speech was skipped: flite is not installed" in page
    assert "Skipped: flite is not installed" in page


def test_a_single_part_makes_a_page(tmp_path: Path) -> None:
    """Parts that were not asked for leave no empty headings."""
    some = {name: value for name, value in results().items() if name not in ("truth", "sync", "pointer", "identity")}
    write_page(some, tmp_path, [])
    assert "Does the character stay" not in (tmp_path / "README.md").read_text()


def test_figures_are_written_with_where_they_come_from(tmp_path: Path) -> None:
    """The JSON names hardware, commit and date, and is read back equal."""
    write_json(results(), tmp_path / "deep" / "quality.json")
    read = json.loads((tmp_path / "deep" / "quality.json").read_text())
    assert read["hardware"]["torch"] and read["made"] and "commit" in read


def test_tables_and_percents() -> None:
    """Markdown rows, and a dash for what is not there."""
    assert table(["a", "b"], [[1, 2]]) == "| a | b |\n|---|---|\n| 1 | 2 |"
    assert (percent(0.0312), percent(None)) == ("3.1 %", "-")


def test_the_pointer_is_shown_by_voice(tmp_path: Path) -> None:
    """Each voice's errors and how many times they grow."""
    errors = {"own": 0.16, "swapped_chunk": 1.14, "swapped_sound": 1.13, "windows": 68, "ratio_swapped_chunk": 6.94,
              "ratio_swapped_sound": 6.87}  # fmt: skip
    write_page(results() | {"pointer": {"slt": errors}}, tmp_path, [])
    assert "| slt | another sentence's chunk | 1.14 | 6.94 |" in (tmp_path / "README.md").read_text()


def test_parts_of_the_same_bundle_are_kept(tmp_path: Path) -> None:
    """Measuring one part again leaves the others, but never those of another bundle."""
    path = tmp_path / "quality.json"
    assert kept_parts(path, results()) == {}
    write_json(results(), path)
    assert kept_parts(path, results())["speech"]["ada"]["words"] == 480
    assert kept_parts(path, results() | {"bundle": {"name": "another"}}) == {}
