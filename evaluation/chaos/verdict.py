"""What a run came to, in figures: by kind of fault, and of all sessions together. It runs nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.chaos.history import Committed, Cut, Ended, History, Rendered
from evaluation.chaos.rules import Violation

UNDISTURBED = "no fault"
Digests = Mapping[str, Mapping[int, str]]
"""Of each part of a scripted session, by chunk."""


def digests_by_part(history: History, parts: Mapping[str, str]) -> dict[str, dict[int, str]]:
    """What the latents of each part's chunks were; `parts` names the part of each session."""
    found: dict[str, dict[int, str]] = defaultdict(dict)
    for session, committed in history.of(Committed).items():
        if session in parts:
            found[parts[session]].update({event.chunk: event.digest for event in committed})
    return dict(found)


def identical(history: History, parts: Mapping[str, str], reference: Digests) -> dict[str, int]:
    """Chunks of scripted sessions that an undisturbed run has too, and how many of them are the same bit for bit."""
    counts: Counter[str] = Counter(compared=0, identical=0)
    for session, committed in history.of(Committed).items():
        wanted = reference.get(parts.get(session, ""), {})
        for event in committed:
            if event.chunk in wanted:
                counts["compared"] += 1
                counts["identical"] += event.digest == wanted[event.chunk]
    return dict(counts)


def totals(history: History, violations: Sequence[Violation]) -> dict[str, Any]:
    """Sessions by how they ended, what was shown of them, and what does not hold."""
    ends = Counter(events[-1].state for events in history.of(Ended).values())
    rendered = history.of(Rendered)
    broken = Counter(violation.rule for violation in violations)
    return {
        "sessions": len(history.sessions),
        "watched": dict(ends),
        "media": sum(map(len, rendered.values())),
        "cuts": sum(map(len, history.of(Cut).values())),
        "lost": broken["offsets_are_dense"] + broken["words_are_kept"],
        "doubled": broken["offsets_are_unique"],
        "violations": dict(broken),
    }


def by_kind(outcomes: Sequence[Mapping[str, Any]], quiet_gaps_s: Sequence[float]) -> list[dict[str, Any]]:
    """A row for each kind and place, and one for what is seen when there is no fault."""
    grouped: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for outcome in outcomes:
        if not outcome["note"]:
            grouped[outcome["fault"]["kind"], outcome["fault"]["where"]].append(outcome)
    rows: list[dict[str, Any]] = [
        {"kind": UNDISTURBED, "where": "", "faults": 0, "recovered": 0, **_spread("gap", quiet_gaps_s)}
    ]
    for (kind, where), group in sorted(grouped.items()):
        recovered = [outcome["recovered_s"] for outcome in group if outcome["recovered_s"] is not None]
        gaps = [gap for outcome in group for gap in outcome["gaps_s"]]
        row = {"kind": kind, "where": where, "faults": len(group), "recovered": len(recovered)}
        rows.append({**row, **_spread("gap", gaps), **_spread("recovery", recovered)})
    return rows


def _spread(name: str, values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return {f"{name}_{share}_s": None for share in ("p50", "p95", "max")}
    p50, p95 = np.quantile(values, [0.5, 0.95])
    return {
        f"{name}_p50_s": round(float(p50), 2),
        f"{name}_p95_s": round(float(p95), 2),
        f"{name}_max_s": round(max(values), 2),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table for documents."""
    head = "| fault | at | done | recovered | gap p50 | p95 | max (s) |\n|---|---|---|---|---|---|---|\n"
    lines = []
    for row in rows:
        gaps = [
            f"{row[f'gap_{share}_s']:.2f}" if row[f"gap_{share}_s"] is not None else ""
            for share in ("p50", "p95", "max")
        ]
        lines.append(f"| {row['kind']} | {row['where']} | {row['faults']} | {row['recovered']} | {' | '.join(gaps)} |")
    return head + "\n".join(lines)
