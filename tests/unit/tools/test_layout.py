"""The repository keeps what it promises about its own shape."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = (
    "protos",
    "sdk/python",
    "services",
    "orchestrator_llm",
    "dit_worker",
    "gateway",
    "render_worker",
    "training",
    "evaluation",
    "bundles",
    "deploy",
    "helm/cuelight",
    "benchmarks",
    "examples",
    "docs",
    "tests",
    "tools",
)


def test_each_folder_says_what_it_owns() -> None:
    """Every folder has a README of at most 40 lines; the SDK's is also its page in a package index, so 80."""
    lengths = {name: len((ROOT / name / "README.md").read_text().splitlines()) for name in FOLDERS}
    limits = dict.fromkeys(FOLDERS, 40) | {"sdk/python": 80}
    assert not {name: lines for name, lines in lengths.items() if not 0 < lines <= limits[name]}


def test_the_architecture_fits_on_a_page() -> None:
    """At most 60 lines, or nobody reads it."""
    assert len((ROOT / "docs" / "architecture.md").read_text().splitlines()) <= 60


def test_each_make_target_has_a_help_line() -> None:
    """At most twelve targets, and `make help` knows them all."""
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", text, re.MULTILINE))
    assert targets == set(re.findall(r"^([a-z]+):.* ## .+", text, re.MULTILINE))
    assert len(targets) <= 12


def test_decisions_carry_their_date() -> None:
    """docs/decisions/YYYYMMDD-title.md."""
    names = [path.name for path in (ROOT / "docs" / "decisions").iterdir()]
    assert names and all(re.fullmatch(r"\d{8}-[a-z0-9-]+\.md", name) for name in names)


def test_relative_links_lead_somewhere() -> None:
    """No document points at a file that is not there."""
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / name / "README.md" for name in FOLDERS)]
    links = [(page, link) for page in documents for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())]
    assert not [f"{page.relative_to(ROOT)}: {link}" for page, link in links if not (page.parent / link).exists()]
