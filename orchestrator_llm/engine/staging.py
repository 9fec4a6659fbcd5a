"""What of a planned action the bundle makes, and what it leaves to whoever shows the performance.

Nothing planned is dropped silently: what a bundle cannot make stays in the action, and a notice tells the client, who
may make it. It knows no sessions.
"""

from __future__ import annotations

from collections.abc import Collection

from orchestrator_llm.engine.campaign import PlannedAction
from services.session import Notice

NOT_PERFORMED = "{}_NOT_PERFORMED"


def visual_prompts(action: PlannedAction) -> tuple[str, ...]:
    """What the action asks of the picture, scene before face before hands, as prompts."""
    return tuple(text for text in (action.visual, action.emotion, action.gesture) if text)


def notices(action: PlannedAction, performs: Collection[str]) -> tuple[Notice, ...]:
    """What of the action is not made by a bundle that `performs` so much."""
    found = []
    if action.ambience and "ambience" not in performs:
        found.append(_notice("AMBIENCE", f"The bundle makes no ambience; this was planned: {action.ambience}"))
    if action.music and "music" not in performs:
        found.append(_notice("MUSIC", f"The bundle makes no music; this was planned: {action.music}"))
    if action.speech and action.presence == "disembodied" and "narrator" not in performs:
        found.append(_notice("NARRATOR", "The bundle shows whoever speaks; a narrator who is not seen was planned."))
    if action.transition == "recache" and "recache" not in performs:
        found.append(
            _notice("RECACHE", "The bundle changes its picture by and by; a cut to another scene was planned.")
        )
    return tuple(found)


def describe(speech: str, action: PlannedAction, asked: str) -> str:
    """One prompt for a body that takes all from text: speech before everything, ambience and music last.

    Seed paper: speech prompts always before general ambience prompts give the best audio (Starchild-1, section 5).
    """
    speaker = action.speaker or ("A narrator" if action.presence == "disembodied" else "The character")
    parts = [f'{speaker} says: "{speech}"' if speech else "", asked, action.ambience, action.music]
    return ". ".join(part.rstrip(".") for part in parts if part)


def _notice(what: str, text: str) -> Notice:
    return Notice(NOT_PERFORMED.format(what), text)
