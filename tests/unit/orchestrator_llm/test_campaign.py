"""Campaigns: what a language model may give, and what is made of the rest."""

from __future__ import annotations

import json
import re
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_llm.engine.campaign import (
    MAX_ACTIONS,
    MAX_CAMPAIGN_BYTES,
    Campaign,
    CampaignInvalid,
    PlannedAction,
    schema,
)
from orchestrator_llm.engine.staging import describe, notices

EMPTY = PlannedAction().model_dump()


def text(*actions: dict[str, object]) -> str:
    """A campaign as a model would write it."""
    return json.dumps({"actions": list(actions)})


SOUNDSCAPES = {
    "sound effects only": {"ambience": "thunder rolls, getting louder", "visual": "lightning over the bay"},
    "monologue in the world": {"speaker": "Ada", "speech": "I have been here before."},
    "dialogue in the world": {"speaker": "Ben", "speech": "Who goes there?"},
    "speech with sound effects": {"speaker": "Ada", "speech": "Listen!", "ambience": "a branch cracks, close by"},
    "narrator's monologue": {"speaker": "Narrator", "presence": "disembodied", "speech": "It was a cold night."},
    "narrators' dialogue": {"speaker": "Second voice", "presence": "disembodied", "speech": "Colder than most."},
    "narrator with sound effects": {"presence": "disembodied", "speech": "The sea rose.", "ambience": "waves break"},
}


@pytest.mark.parametrize("name", SOUNDSCAPES)
def test_each_kind_of_soundscape_is_a_campaign(name: str) -> None:
    """The seven soundscapes of the Starchild-1 paper can be planned, described with speech first, and told of."""
    given_fields = SOUNDSCAPES[name]
    (action,) = Campaign.parse(text(given_fields)).actions
    assert {key: getattr(action, key) for key in given_fields} == given_fields
    described = describe(action.speech, action, "a grey bay")
    places = [described.index(part) for part in (action.speech, action.ambience) if part]
    assert places == sorted(places), "speech stands before ambience"
    codes = {notice.code for notice in notices(action, ())}
    assert ("AMBIENCE_NOT_PERFORMED" in codes) == bool(action.ambience)
    assert ("NARRATOR_NOT_PERFORMED" in codes) == (action.presence == "disembodied")
    assert not notices(action, ("ambience", "music", "narrator", "recache"))


@settings(deadline=None, max_examples=80)
@given(
    st.text(max_size=400) | st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=20).map(json.dumps)
)
def test_whatever_a_model_gives_is_a_campaign_or_refused(raw: str) -> None:
    """Nothing but CampaignInvalid comes of text that is no campaign."""
    with suppress(CampaignInvalid):
        assert Campaign.parse(raw).actions


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ("", "no JSON"),
        ("I would be glad to help!", "no JSON"),
        ("null", "campaign: model_type"),
        ('{"actions": []}', "actions: too_short"),
        (text(*[{}] * (MAX_ACTIONS + 1)), "actions: too_long"),
        (text({"speech": "x" * 241}), "actions.0.speech: string_pattern_mismatch"),
        (text({"speech": "a\nb"}), "actions.0.speech: string_pattern_mismatch"),
        (text({"speech": "<b>hi</b>"}), "actions.0.speech: string_pattern_mismatch"),
        (text({"transition": "explode"}), "actions.0.transition: literal_error"),
        (text({"command": "rm"}), "actions.0.command: extra_forbidden"),
        ('{"actions": [{"speech": NaN}]}', "no JSON"),
        ("[" * 5000, "deeper than 6 brackets"),
        ('{"actions": [{"speech": "' + "a" * MAX_CAMPAIGN_BYTES, f"longer than {MAX_CAMPAIGN_BYTES} bytes"),
        ("9" * 10_000, "no JSON"),
    ],
)
def test_bad_campaigns_are_refused_with_a_reason(raw: str, why: str) -> None:
    """Too long, too deep, not JSON, an unknown field, a word of another pattern: each is named."""
    with pytest.raises(CampaignInvalid, match=f"^{why}"):
        Campaign.parse(raw)


def test_a_code_fence_is_no_obstacle() -> None:
    """Models like to wrap JSON in one."""
    assert Campaign.parse(f"```json\n{text({'speech': 'Hello.'})}\n```").actions[0].speech == "Hello."


def test_brackets_in_strings_are_not_depth() -> None:
    """Only the structure counts."""
    with pytest.raises(CampaignInvalid, match="string_pattern_mismatch"):
        Campaign.parse(text({"speech": '[[[[[[[[\\"[['}))


def test_the_schema_holds_a_model_to_every_field_and_bounds_every_string() -> None:
    """Structured output can leave nothing out, add nothing, and write no string without a pattern."""
    made = schema(3)
    actions = made["properties"]["actions"]
    item = actions["items"]
    assert (actions["minItems"], actions["maxItems"]) == (3, 3)
    assert made["additionalProperties"] is item["additionalProperties"] is False
    assert set(item["required"]) == set(item["properties"]) == set(EMPTY)
    assert all("pattern" in field or "enum" in field for field in item["properties"].values())
    assert list(item["properties"]).index("speech") < list(item["properties"]).index("ambience")


def test_no_pattern_repeats_letters_more_often_than_grammars_bear() -> None:
    """Repetitions beyond 127 have xgrammar offer tokens that it then rejects; long strings are several repetitions."""
    patterns = [
        field["pattern"]
        for field in schema(1)["properties"]["actions"]["items"]["properties"].values()
        if "pattern" in field
    ]
    repetitions = [int(most) for pattern in patterns for most in re.findall(r"\{0,(\d+)\}", pattern)]
    assert max(repetitions) <= 127
    assert Campaign.parse(text({"speech": "x" * 240})).actions[0].speech == "x" * 240
