"""Campaigns: what a language model plans for the coming chunks, as JSON that is bounded, then validated, then believed.

One action a chunk: who says what, and what changes in picture, ambience and music. Every field is a string of a bounded
pattern or one of a few words, and none may be missing from the schema a model is held to, so that any model yields
valid JSON; an empty string changes nothing. Where it comes from and what becomes of it is not known here.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

MAX_CAMPAIGN_BYTES = 16 * 1024
MAX_DEPTH = 6
"""Brackets within brackets; a campaign has three."""
MAX_ACTIONS = 8

LETTERS = "A-Za-zÀ-ɏΑ-ωА-яЁёІіЇїЄєぁ-ヺー一-鿿가-힣"
"""What words are written with. Ranges, not classes: grammars of structured output know no \\w beyond ASCII."""
MARKS = " 0-9.,;:!?'’()&%-"
_WORDS = f"[{LETTERS}{MARKS}]"
_MOST_REPEATED = 80
"""Letters that one repetition of a pattern is for: beyond 127 xgrammar 0.2.8 lets tokens through that it then rejects
(` {"` within a string), which ends the answer."""


def _up_to(count: int) -> str:
    """So many letters at most, or none."""
    repeated = [f"{_WORDS}{{0,{min(_MOST_REPEATED, count - done)}}}" for done in range(0, count, _MOST_REPEATED)]
    return f"^{''.join(repeated)}$"


Name: TypeAlias = Annotated[str, StringConstraints(pattern=f"^[{LETTERS}0-9 '’.-]{{0,32}}$")]
Phrase: TypeAlias = Annotated[str, StringConstraints(pattern=_up_to(160))]
Words: TypeAlias = Annotated[str, StringConstraints(pattern=_up_to(240))]
_FENCE = re.compile(r"^```(?:json)?\s*(.*?)\s*```$", re.DOTALL)


class CampaignInvalid(ValueError):
    """What a model gave is no campaign; the message says why and quotes nothing of it."""


class PlannedAction(BaseModel):
    """What one chunk shall be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    speaker: Name = ""
    """Who speaks; empty is the session's character."""
    presence: Literal["in_world", "disembodied"] = "in_world"
    """Whether whoever speaks is seen, or is a narrator who is not."""
    speech: Words = ""
    """What is said in this chunk."""
    visual: Phrase = ""
    """What changes in the picture."""
    emotion: Phrase = ""
    """What changes in how the character feels, as its face shows it."""
    gesture: Phrase = ""
    """What the character does."""
    ambience: Phrase = ""
    """What changes in the sounds around."""
    music: Phrase = ""
    """What changes in the music."""
    transition: Literal["soft", "recache"] = "soft"
    """Recache is for a cut to another scene."""

    @property
    def is_empty(self) -> bool:
        """True when it asks for nothing."""
        return not (self.speech or self.visual or self.emotion or self.gesture or self.ambience or self.music)


class Campaign(BaseModel):
    """Actions for chunks in a row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    actions: tuple[PlannedAction, ...] = Field(min_length=1, max_length=MAX_ACTIONS)

    @classmethod
    def parse(cls, raw: str) -> Campaign:
        """Reads what a model gave; JSON within a code fence is taken for JSON. Raises CampaignInvalid."""
        content = _bounded_json(raw)
        try:
            return cls.model_validate(content)
        except ValidationError as fault:
            first = fault.errors(include_input=False, include_url=False)[0]
            place = ".".join(map(str, first["loc"][:3]))[:80] or "campaign"
            raise CampaignInvalid(f"{place}: {first['type']}") from None


@cache
def schema(actions: int = MAX_ACTIONS) -> dict[str, Any]:
    """The JSON schema that structured output is held to, for so many actions: each field there, and nothing else."""
    field = {
        name: {key: value for key, value in described.items() if key in ("type", "pattern", "enum")}
        for name, described in PlannedAction.model_json_schema()["properties"].items()
    }
    action = {"type": "object", "properties": field, "required": list(field), "additionalProperties": False}
    return {
        "type": "object",
        "properties": {"actions": {"type": "array", "items": action, "minItems": actions, "maxItems": actions}},
        "required": ["actions"],
        "additionalProperties": False,
    }


def _bounded_json(raw: str) -> object:
    """JSON that is neither long nor deep. Raises CampaignInvalid."""
    if len(raw.encode(errors="replace")) > MAX_CAMPAIGN_BYTES:
        raise CampaignInvalid(f"longer than {MAX_CAMPAIGN_BYTES} bytes")
    text = raw.strip()
    fenced = _FENCE.match(text)
    text = fenced.group(1) if fenced else text
    if _depth(text) > MAX_DEPTH:
        raise CampaignInvalid(f"deeper than {MAX_DEPTH} brackets")
    try:
        return json.loads(text, parse_constant=_refuse)
    except ValueError:
        raise CampaignInvalid("no JSON") from None


def _depth(text: str) -> int:
    """How deep brackets stand within brackets, those in strings left out."""
    deepest = depth = 0
    is_string = is_escaped = False
    for letter in text:
        if is_string:
            is_string = is_escaped or letter != '"'
            is_escaped = letter == "\\" and not is_escaped
        elif letter == '"':
            is_string = True
        elif letter in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif letter in "]}":
            depth -= 1
    return deepest


def _refuse(_: str) -> None:
    raise ValueError("no number")
