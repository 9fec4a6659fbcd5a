"""The command line `cuelight-eval`. It parses and prints; `runs` does the work."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from evaluation.beside import judge_beside, read_beside
from evaluation.lexicon_loop import read_lexicon
from evaluation.measure import Judges
from evaluation.prompting import prompt_figures
from evaluation.protocol import LONG_SECONDS, SHORT_CLIPS, VOICES
from evaluation.report import SCHEMA, provenance, read_json, write_json
from evaluation.runs import Plan, Results, Run, carry_out, perform, pointing_figures, summarise, true_run
from evaluation.targets import judge_targets, percent
from evaluation.variants import CODEC, TRUTH, Variant, load_variants
from services.errors import CuelightError

QUICK = {"short": 6, "long": 1, "follow": 1, "prompted": 1, "seconds": 66.0}
"""What --quick does: a few minutes on one core."""

app = typer.Typer(
    help="Measures what a bundle says and shows; compares variants. Start with [bold]cuelight-eval run --quick[/].\n\n"
    "Takes and measurements are kept under --cache, so that a command that was stopped goes on where it was.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
)

BundleOption = Annotated[Path, typer.Option(help="Folder of the bundle.")]
CacheOption = Annotated[Path, typer.Option(help="Where takes and measurements are kept.")]
QuickOption = Annotated[bool, typer.Option("--quick", help="A few clips: minutes instead of hours.")]
ShortOption = Annotated[int | None, typer.Option(min=0, help=f"Short clips, {SHORT_CLIPS} by default.")]
LongOption = Annotated[int | None, typer.Option(min=0, help="Long streams, 2 by default.")]
FollowOption = Annotated[int | None, typer.Option(min=0, help="Clips of each unheard voice, 4 by default.")]
SecondsOption = Annotated[float | None, typer.Option(min=12, help=f"Length of a stream, {LONG_SECONDS:g} by default.")]
VoicesOption = Annotated[str, typer.Option(help="Voices to perform with, by commas.")]
JudgeOption = Annotated[Path, typer.Option(help="The corpus judge (evaluation.train_judge).")]
EyeOption = Annotated[Path, typer.Option(help="The eye (evaluation.train_eye).")]
SyncOption = Annotated[Path, typer.Option(help="The sync net (evaluation.train_syncnet).")]
CorpusOption = Annotated[Path, typer.Option(help="Read only where the judge is not tuned yet.")]
ThreadsOption = Annotated[int, typer.Option(min=1, help="Threads to compute with.")]
OutOption = Annotated[Path, typer.Option(help="JSON to write.")]
PageOption = Annotated[Path, typer.Option(help="HTML page to write.")]
OnlyOption = Annotated[str, typer.Option(help="Names of variants, by commas; all by default.")]
VariantsArgument = Annotated[
    Path, typer.Argument(help="JSON file: a list of variants, the first is what others are compared with.")
]

CACHE = Path("out/evaluation")
JUDGE, EYE, SYNCNET = (Path("data/checkpoints") / name for name in ("judge", "eye", "syncnet"))
CORPUS = Path("data/corpus")
ALL_VOICES = ",".join(VOICES)


@dataclass(frozen=True)
class Bench:
    """Everything an evaluation works with."""

    runs: list[Run]
    judges: Judges
    cache: Path

    @staticmethod
    def set_up(variants: Sequence[Variant], cache: Path, judges: dict[str, Path], corpus: Path, threads: int) -> Bench:
        """Loads variants and judges."""
        torch.set_num_threads(threads)
        runs = [Run.open(variant, cache, threads) for variant in variants]
        models, bundle = runs[0].house.models, runs[0].house.bundle
        lexicon = read_lexicon(bundle.path / str(bundle.manifest.text["lexicon"]))
        return Bench(runs, Judges.convene(judges, models.audio_codec, lexicon, corpus), cache)

    def evaluate(self, plan: Plan) -> tuple[Results, Results, list[Results]]:
        """Truth, codec and every variant, performed and measured."""
        truth, codec = (carry_out(true_run(self.runs[0], self.cache, n), plan, self.judges) for n in (TRUTH, CODEC))
        return truth, codec, [carry_out(run, plan, self.judges) for run in self.runs]


def plan_of(
    voices: str, quick: bool, short: int | None, long: int | None, follow: int | None, seconds: float | None
) -> Plan:
    """The clips that the options ask for."""
    given = {"short": short, "long": long, "follow": follow, "seconds": seconds}
    if short == 0 or long == 0:  # one protocol alone: nothing else is asked for
        given |= {"follow": follow or 0, "prompted": 0}
    wanted = (dict(QUICK) if quick else {}) | {name: value for name, value in given.items() if value is not None}
    names = [name for name in voices.split(",") if name]
    if not names:
        raise ValueError("--voices names no voice")
    return Plan.of(**wanted, voices=names)  # type: ignore[arg-type]  # a dictionary of two types of number


def summary_of(bench: Bench, plan: Plan, truth: Results, codec: Results, made: Sequence[Results]) -> dict[str, Any]:
    """All figures of a report."""
    return provenance() | {
        "schema": SCHEMA,
        "protocol": {
            "short": len(plan.short),
            "long": len(plan.long),
            "seconds": plan.long[0].seconds if plan.long else 0.0,
            "follow": len(plan.follow),
            "prompted": len(plan.prompted),
            "voices": list(dict.fromkeys(clip.voice for clip in (*plan.short, *plan.long))),
        },
        "judges": {
            "digest": bench.judges.digest,
            "words": len(bench.judges.panel.loop.classes),
            "penalty": bench.judges.panel.loop.penalty,
        },
        "truth": summarise(truth, truth, None, bench.judges),
        "codec": summarise(codec, truth, None, bench.judges),
        "variants": {r.run.variant.name: summarise(r, truth, made[0], bench.judges) for r in made},
    }


def megabytes(run: Run) -> float:
    """Size of a bundle."""
    return sum(run.house.bundle.file(name).stat().st_size for name in run.house.bundle.manifest.files) / 1e6


def show(results: dict[str, Any]) -> None:
    """The main figures on the terminal."""
    for figures in (results["truth"], results["codec"], *results["variants"].values()):
        for protocol in ("short", "long"):
            if protocol not in figures:
                continue
            f = figures[protocol]
            wer, low, high = f["wer"]
            line = (
                f"{figures['title']:<28} {protocol:<6} WER {percent(wer):>7} ({100 * low:.1f} to {100 * high:.1f})  "
                f"lost {f['lost']} repeated {f['repeated']} of {f['words']}  "
                f"lips {f['sync']['renderer']['correlation']:.3f} at {f['sync']['renderer']['offset_frames']:+.2f}  "
                f"quality {f['quality']:.3f}"
            )
            typer.echo(line + (f"  drift {f['drift']['quality']['drift']:.4f}" if "drift" in f else ""))


def write_report(bench: Bench, plan: Plan, out: Path | None, page: Path | None) -> None:
    """Performs, measures, summarises, and writes what is wanted."""
    from evaluation.exhibits import exhibits_of
    from evaluation.page import build_page

    began = time.monotonic()
    truth, codec, made = bench.evaluate(plan)
    results = summary_of(bench, plan, truth, codec, made)
    if page is not None or out is not None:
        first = results["variants"][bench.runs[0].variant.name]
        first["pointing"] = pointing_figures(bench.runs[0])
        if plan.prompted:
            first["prompts"] = prompt_figures(bench.runs[0], plan.prompted)
        shown = plan.prompted if "slots" in first.get("prompts", {}) else ()
    verdicts = judge_targets(results, megabytes(bench.runs[0]))
    if out is not None:
        results["beside"] = read_beside(out.parent)
        verdicts += judge_beside(results["beside"])
    results["targets"] = [vars(v) for v in verdicts]
    results["seconds"] = round(time.monotonic() - began, 1)
    if out is not None:
        write_json(results, out)
    if page is not None:
        exhibits = exhibits_of(truth, codec, made, shown)
        html = build_page(results, verdicts, exhibits, "" if out is None else out.name)
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(html, encoding="utf-8")
    show(results)
    for path in (out, page):
        if path is not None:
            typer.echo(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB)")


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """A fault of the caller's or of the machine's ends the command with one sentence and code 2."""

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> None:  # noqa: ANN401  (handed on as they are)
        try:
            command(*arguments, **options)
        except (ValueError, OSError, RuntimeError, CuelightError) as error:
            typer.echo(f"cuelight-eval: {error}", err=True)
            raise typer.Exit(2) from error

    return run


def chosen(path: Path, only: str) -> list[Variant]:
    """The variants of a file that are wanted, in the file's order. Raises ValueError for a name it does not have."""
    listed = load_variants(path)
    wanted = [name for name in only.split(",") if name] or [v.name for v in listed]
    if unknown := set(wanted) - {v.name for v in listed}:
        raise ValueError(f"{path} lists no variant called {', '.join(sorted(unknown))}")
    return [v for v in listed if v.name in wanted]


def judges_of(judge: Path, eye: Path, syncnet: Path) -> dict[str, Path]:
    """Folders of the judges by name."""
    return {"judge": judge, "eye": eye, "syncnet": syncnet}


@app.command()
@guarded
def run(
    bundle: BundleOption = Path("bundles/pocket"),
    quick: QuickOption = False,
    short: ShortOption = None,
    long: LongOption = None,
    follow: FollowOption = None,
    seconds: SecondsOption = None,
    voices: VoicesOption = ALL_VOICES,
    out: OutOption = Path("benchmarks/results/quality.json"),
    page: PageOption = Path("docs/quality/report.html"),
    cache: CacheOption = CACHE,
    judge: JudgeOption = JUDGE,
    eye: EyeOption = EYE,
    syncnet: SyncOption = SYNCNET,
    corpus: CorpusOption = CORPUS,
    threads: ThreadsOption = 1,
) -> None:
    """Measure a bundle by both protocols, and write figures and page."""
    plan = plan_of(voices, quick, short, long, follow, seconds)
    variant = Variant(name="shipped", says="as shipped", bundle=bundle)
    write_report(Bench.set_up([variant], cache, judges_of(judge, eye, syncnet), corpus, threads), plan, out, page)


@app.command()
@guarded
def compare(
    variants: VariantsArgument,
    only: OnlyOption = "",
    quick: QuickOption = False,
    short: ShortOption = None,
    long: LongOption = None,
    follow: FollowOption = None,
    seconds: SecondsOption = None,
    voices: VoicesOption = ALL_VOICES,
    out: OutOption = Path("benchmarks/results/quality.json"),
    page: PageOption = Path("docs/quality/report.html"),
    cache: CacheOption = CACHE,
    judge: JudgeOption = JUDGE,
    eye: EyeOption = EYE,
    syncnet: SyncOption = SYNCNET,
    corpus: CorpusOption = CORPUS,
    threads: ThreadsOption = 1,
) -> None:
    """Measure several variants, and write one report with tables like the paper's."""
    plan, listed = plan_of(voices, quick, short, long, follow, seconds), chosen(variants, only)
    write_report(Bench.set_up(listed, cache, judges_of(judge, eye, syncnet), corpus, threads), plan, out, page)


@app.command("perform")
@guarded
def perform_only(
    variants: VariantsArgument,
    only: OnlyOption = "",
    quick: QuickOption = False,
    short: ShortOption = None,
    long: LongOption = None,
    follow: FollowOption = None,
    seconds: SecondsOption = None,
    voices: VoicesOption = ALL_VOICES,
    cache: CacheOption = CACHE,
    threads: ThreadsOption = 1,
) -> None:
    """Perform the clips of variants without measuring them; `compare` measures later."""
    torch.set_num_threads(threads)
    plan = plan_of(voices, quick, short, long, follow, seconds)
    for variant in chosen(variants, only):
        opened = Run.open(variant, cache, threads)
        made = perform(opened, plan.clips)
        typer.echo(f"{variant.name}: performed {made} of {len(plan.clips)} clips, in {opened.folder}")


@app.command("short")
@guarded
def short_only(
    bundle: BundleOption = Path("bundles/pocket"),
    quick: QuickOption = False,
    clips: ShortOption = None,
    voices: VoicesOption = ALL_VOICES,
    cache: CacheOption = CACHE,
    judge: JudgeOption = JUDGE,
    eye: EyeOption = EYE,
    syncnet: SyncOption = SYNCNET,
    corpus: CorpusOption = CORPUS,
    threads: ThreadsOption = 1,
) -> None:
    """Measure the short protocol alone: clips of some 10 s. Prints figures, writes no report."""
    plan = plan_of(voices, quick, clips, 0, 0, None)
    bench = Bench.set_up(
        [Variant(name="shipped", says="as shipped", bundle=bundle)],
        cache,
        judges_of(judge, eye, syncnet),
        corpus,
        threads,
    )
    write_report(bench, plan, None, None)


@app.command("long")
@guarded
def long_only(
    bundle: BundleOption = Path("bundles/pocket"),
    quick: QuickOption = False,
    streams: LongOption = None,
    seconds: SecondsOption = None,
    voices: VoicesOption = ALL_VOICES,
    cache: CacheOption = CACHE,
    judge: JudgeOption = JUDGE,
    eye: EyeOption = EYE,
    syncnet: SyncOption = SYNCNET,
    corpus: CorpusOption = CORPUS,
    threads: ThreadsOption = 1,
) -> None:
    """Measure the long protocol alone: streams of five minutes. Prints figures, writes no report."""
    plan = plan_of(voices, quick, 0, streams, 0, seconds)
    bench = Bench.set_up(
        [Variant(name="shipped", says="as shipped", bundle=bundle)],
        cache,
        judges_of(judge, eye, syncnet),
        corpus,
        threads,
    )
    write_report(bench, plan, None, None)


@app.command()
@guarded
def report(
    results: Annotated[Path, typer.Argument(help="JSON that run or compare wrote.")] = Path(
        "benchmarks/results/quality.json"
    ),
    page: PageOption = Path("docs/quality/report.html"),
) -> None:
    """Write the page again from its JSON: tables and curves, without what only the cache can show."""
    from evaluation.page import Exhibits, build_page
    from evaluation.targets import Verdict

    figures = read_json(results)
    html = build_page(figures, [Verdict(**v) for v in figures.get("targets", [])], Exhibits(), results.name)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(html, encoding="utf-8")
    typer.echo(f"wrote {page} ({page.stat().st_size / 1e6:.2f} MB)")


def main() -> None:
    """Options without a command are those of `run`."""
    given = sys.argv[1:]
    is_run = bool(given) and given[0].startswith("-") and given[0] not in ("-h", "--help")
    app(["run", *given] if is_run else given, prog_name="cuelight-eval")
