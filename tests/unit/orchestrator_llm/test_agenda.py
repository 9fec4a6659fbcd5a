"""What is planned ahead: taken at chunk boundaries, never waited for, bounded by budgets, void after a cut."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_llm.engine.agenda import CAMPAIGN_SLOTS, MAX_REPLY_WORDS, Agenda, AgendaOptions
from orchestrator_llm.engine.brief import Brief, Work
from orchestrator_llm.engine.campaign import Campaign, PlannedAction
from orchestrator_llm.engine.director import Director
from orchestrator_llm.engine.memory import MAX_BYTES, Memory
from orchestrator_llm.engine.pace import SpeakingRate
from orchestrator_llm.engine.planner import PlannerOptions, RulePlanner
from orchestrator_llm.engine.prompts import PromptPlanner
from orchestrator_llm.engine.syllables import SyllableCounter
from services.bundle import Prompts
from services.session import Regime, Snapshot
from tests.fakes.direction import VOWELS, ScriptedBackend
from tests.unit.orchestrator_llm.test_director import LATENTS, REFERENCE

CHUNK_S = 1.375
SYLLABLES_PER_SECOND = 4.0
words = st.text(alphabet="abcdeio ,.!?'", max_size=80)
actions = st.builds(
    PlannedAction,
    speaker=st.sampled_from(["", "Ada", "Narrator"]),
    presence=st.sampled_from(["in_world", "disembodied"]),
    speech=words,
    visual=words,
    ambience=words,
    music=words,
)
campaigns = st.builds(Campaign, actions=st.lists(actions, min_size=1, max_size=8).map(tuple))


class Counts(Counter[str]):
    """Takes the agenda's counts."""

    def __call__(self, what: str, number: int) -> None:
        """So many of that were dropped."""
        self[what] += number


def agenda_of(regime: Regime, counts: Counts | None = None) -> Agenda:
    """An agenda at a session's beginning."""
    rate = SpeakingRate(SYLLABLES_PER_SECOND)
    agenda = Agenda(AgendaOptions(regime, chunk_s=CHUNK_S), SyllableCounter(), rate, counts)
    agenda.restore((), 0, "")
    return agenda


def brief_of(agenda: Agenda, work: Work) -> Brief:
    """The one brief of that kind that is wanted now."""
    (brief,) = [brief for brief in agenda.briefs(windows=("one two",) * 12) if brief.ticket.work is work]
    return brief


def speaking(*speeches: str) -> Campaign:
    """A campaign of speech alone."""
    return Campaign(actions=tuple(PlannedAction(speech=speech) for speech in speeches))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(alphabet="abcdeio ,.", max_size=60), min_size=1, max_size=4), st.lists(campaigns, max_size=4))
def test_a_scripted_transcript_stays_word_for_word(pieces: list[str], offered: list[Campaign]) -> None:
    """Whatever a model plans, the words told in a scripted session are the words given: none lost, added or twice."""
    backend = ScriptedBackend.walking([9.0])
    agenda = agenda_of(Regime.SCRIPTED)
    director = Director(backend, RulePlanner(VOWELS), agenda=agenda)
    director.open(Snapshot((), 0.0, 0, ()), REFERENCE)
    told: list[str] = []
    committed: list[str] = []
    waiting, plans = list(pieces), list(offered)
    for index in range(200):
        say = [waiting.pop(0)] if waiting else []
        action = director.begin(index, say)
        committed += [*say, *action.written]
        for brief in director.take_briefs():
            assert brief.ticket.work is Work.CAMPAIGN
            agenda.write(brief.ticket, "words that nobody gave")
            if plans:
                agenda.offer(brief.ticket, plans.pop(0))
        told += [word.text for word in director.end(index, LATENTS).words]
        if not waiting and not plans and index > 30:
            break
    assert committed == pieces
    given_words = [word for piece in pieces for word in piece.split()]
    assert told == given_words[: len(told)]
    assert not any(map(str.isalpha, "".join(given_words[len(told) :]))), "only silent words may be left untold"


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([Regime.NARRATOR, Regime.WORLD, Regime.SPEAKERLESS, Regime.CONVERSATION]),
    st.lists(campaigns, min_size=1, max_size=3),
)
def test_planned_speech_keeps_to_regime_and_budget(regime: Regime, offered: list[Campaign]) -> None:
    """Nobody speaks where nobody shall, and no chunk takes more syllables than fit, but for a single long word."""
    agenda = agenda_of(regime)
    counter, budget = SyllableCounter(), int(SYLLABLES_PER_SECOND * CHUNK_S)
    agenda.hear(["hello"])
    for campaign in offered:
        for brief in agenda.briefs(windows=("a",) * 12):
            if brief.ticket.work is Work.CAMPAIGN:
                agenda.offer(brief.ticket, campaign)
        for _ in range(len(campaign.actions) + 2):
            for speech in agenda.draw((), (), 0.0).written:
                assert regime in (Regime.NARRATOR, Regime.WORLD)
                assert counter.of(speech) <= budget or len(speech.split()) == 1


@settings(deadline=None, max_examples=40)
@given(st.lists(campaigns, min_size=1, max_size=4))
def test_what_holds_is_never_asked_for_again(offered: list[Campaign]) -> None:
    """Ambience and music are told when they change and not otherwise."""
    agenda = agenda_of(Regime.WORLD)
    last = {"ambience": "", "music": ""}
    for campaign in offered:
        for brief in agenda.briefs():
            agenda.offer(brief.ticket, campaign)
        for _ in range(len(campaign.actions) + 2):
            action = agenda.draw((), (), 0.0).action
            for name, holds in last.items():
                asked = getattr(action, name)
                assert not asked or asked != holds
                last[name] = asked or holds


def test_actions_come_at_chunk_boundaries_in_their_slots() -> None:
    """The campaign asked for at one boundary begins with the next, one action a chunk."""
    agenda = agenda_of(Regime.NARRATOR)
    brief = brief_of(agenda, Work.CAMPAIGN)
    assert brief.slots == CAMPAIGN_SLOTS
    agenda.offer(brief.ticket, speaking("one.", "two.", "three.", "four."))
    assert [agenda.draw((), (), 0.0).written for _ in range(5)] == [("one.",), ("two.",), ("three.",), ("four.",), ()]


def test_the_next_campaign_is_asked_for_before_the_last_has_run_out() -> None:
    """While actions are left a model is already asked for those that follow them, and for no slot twice."""
    agenda = agenda_of(Regime.NARRATOR)
    first = brief_of(agenda, Work.CAMPAIGN)
    assert not agenda.briefs(), "one request at a time"
    agenda.offer(first.ticket, speaking("one.", "two.", "three.", "four."))
    agenda.draw((), (), 0.0)
    second = brief_of(agenda, Work.CAMPAIGN)
    assert second.first_slot == first.first_slot + CAMPAIGN_SLOTS


def test_a_late_campaign_loses_what_is_past_and_delays_nothing() -> None:
    """Chunks go on while a model thinks; the actions of those chunks are dropped and counted."""
    counts = Counts()
    agenda = agenda_of(Regime.NARRATOR, counts)
    brief = brief_of(agenda, Work.CAMPAIGN)
    assert [agenda.draw((), (), 0.0).written for _ in range(3)] == [(), (), ()]
    assert agenda.offer(brief.ticket, speaking("one.", "two.", "three.", "four.")) == 3
    assert counts["action_late"] == 3
    assert agenda.draw((), (), 0.0).written == ("four.",)


def test_a_slow_model_is_asked_further_ahead() -> None:
    """The lead follows the measured latency, so that a slow model's plans come in time."""
    agenda = agenda_of(Regime.NARRATOR)
    agenda.latency_s = 3 * CHUNK_S
    assert brief_of(agenda, Work.CAMPAIGN).first_slot == 2


def test_speech_waits_while_much_is_left_to_say() -> None:
    """The pointer, not the plan, says where speech has come: the next line is not piled onto an unspoken one."""
    agenda = agenda_of(Regime.NARRATOR)
    agenda.offer(brief_of(agenda, Work.CAMPAIGN).ticket, speaking("one.", "two."))
    assert agenda.draw((), (), 0.0).written == ("one.",)
    assert agenda.draw((), (), 5.0).written == ()
    assert agenda.draw((), (), 0.5).written == ("two.",)


def test_a_reply_comes_in_as_it_is_written() -> None:
    """Words are taken by the next chunk; while more are to come nothing is finished."""
    agenda = agenda_of(Regime.CONVERSATION)
    agenda.hear(["Who are you?"])
    (brief,) = agenda.reply_briefs()
    assert brief.dialogue[-1].words == "Who are you?"
    assert agenda.draw((), (), 0.0).written == ()
    assert agenda.is_writing
    agenda.write(brief.ticket, "I keep")
    agenda.write(brief.ticket, "the light.")
    assert agenda.draw((), (), 0.0).written == ("I keep", "the light.")
    assert agenda.is_writing
    agenda.finish(brief.ticket)
    assert not agenda.is_writing
    memory = agenda.draw((), (), 0.0).memory
    assert memory is not None
    assert not Memory.read(memory).is_answering


def test_a_rambling_reply_is_cut() -> None:
    """A reply has so many words and no more."""
    agenda = agenda_of(Regime.CONVERSATION)
    agenda.hear(["Tell me everything."])
    (brief,) = agenda.reply_briefs()
    wanted = [agenda.write(brief.ticket, "on and on it goes") for _ in range(100)]
    assert wanted[0]
    assert not wanted[-1]
    assert sum(len(piece.split()) for piece in agenda.draw((), (), 0.0).written) == MAX_REPLY_WORDS


def test_a_barge_in_ends_the_reply_and_keeps_what_was_heard() -> None:
    """After an interrupt no word of the old reply comes, and the model is told what the listener has heard of it."""
    counts = Counts()
    agenda = agenda_of(Regime.CONVERSATION, counts)
    agenda.hear(["Who are you?"])
    (brief,) = agenda.reply_briefs()
    agenda.write(brief.ticket, "I am the keeper of the lighthouse")
    memory = agenda.draw((), (), 0.0).memory
    agenda.write(brief.ticket, "and I have been here for years")
    agenda.restore(("I am the",), 3, memory or "", is_interrupted=True)
    assert not agenda.write(brief.ticket, "and years.")
    assert counts["reply_cut"] == 1
    assert not agenda.is_writing
    assert not agenda.reply_briefs()
    agenda.hear(["Wait, since when?"])
    (answer,) = agenda.reply_briefs()
    assert [line.words for line in answer.dialogue] == ["Who are you?", "I am the", "Wait, since when?"]
    assert agenda.draw((), (), 0.0).written == ()


def test_another_replica_goes_on_answering() -> None:
    """From transcript and memory alone a reply that was begun is asked for again, with what was said of it."""
    first, second = agenda_of(Regime.CONVERSATION), agenda_of(Regime.CONVERSATION)
    first.hear(["Who are you?"])
    (brief,) = first.reply_briefs()
    first.write(brief.ticket, "I am the keeper,")
    drawn = first.draw((), (), 0.0)
    second.restore(drawn.written, 4, drawn.memory or "")
    assert second.is_writing
    (again,) = second.reply_briefs()
    assert [(line.is_user, line.words) for line in again.dialogue] == [
        (True, "Who are you?"),
        (False, "I am the keeper,"),
    ]


def test_without_a_model_somebody_who_speaks_is_told_so() -> None:
    """The rule planner answers nobody and says so, as do regimes without conversation."""
    for regime, can_ask in ((Regime.CONVERSATION, False), (Regime.NARRATOR, True)):
        agenda = agenda_of(regime)
        agenda.can_ask = can_ask
        agenda.hear(["Hello?"])
        assert [notice.code for notice in agenda.draw((), (), 0.0).notices] == ["HEARD_NOT_ANSWERED"]
        assert not agenda.is_writing


def test_a_failing_model_rests_and_the_rules_go_on() -> None:
    """After a failure some chunks pass before it is asked again; a user who waits is told."""
    agenda = agenda_of(Regime.CONVERSATION)
    agenda.hear(["Hello?"])
    briefs = {brief.ticket.work: brief for brief in agenda.briefs()}
    for brief in briefs.values():
        agenda.fail(brief.ticket)
    assert not agenda.is_writing
    assert [notice.code for notice in agenda.draw((), (), 0.0).notices] == ["HEARD_NOT_ANSWERED"]
    narrating = agenda_of(Regime.NARRATOR)
    narrating.fail(brief_of(narrating, Work.CAMPAIGN).ticket)
    assert not narrating.briefs()
    narrating.draw((), (), 0.0)
    narrating.draw((), (), 0.0)
    assert narrating.briefs()


def test_a_new_wish_voids_the_plans_made_without_it() -> None:
    """What the client asks of the world is planned for at once."""
    counts = Counts()
    agenda = agenda_of(Regime.WORLD, counts)
    old = brief_of(agenda, Work.CAMPAIGN)
    agenda.offer(old.ticket, speaking("one.", "two.", "three.", "four."))
    agenda.draw((), ("a storm rolls in",), 0.0)
    assert counts["planned_and_cut"] == 4
    assert brief_of(agenda, Work.CAMPAIGN).wishes == ("a storm rolls in",)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(max_size=3000), max_size=40))
def test_memory_is_bounded_and_reads_back(turns: list[str]) -> None:
    """However much is said, memory stays small, keeps the newest turn, and another replica reads the same."""
    memory = Memory()
    for number, turn in enumerate(turns):
        memory = memory.hearing([turn], number)
    written = memory.text()
    assert len(written.encode()) <= MAX_BYTES
    again = Memory.read(written)
    assert again.text() == written
    assert not turns or again.turns[-1].words == turns[-1][:2000]


@pytest.mark.parametrize("text", ["{", "[]", '{"turns": 3}', '{"unknown": 1}', "x" * (MAX_BYTES + 1)])
def test_a_memory_nobody_wrote_is_refused(text: str) -> None:
    """Memory comes over the wire and is not believed."""
    with pytest.raises(ValueError, match="memory"):
        Memory.read(text)


def test_a_hard_budget_shows_the_model_no_word_beyond_it() -> None:
    """In a recipe whose speech must fit its chunk, the window ends where the action does."""
    backend = ScriptedBackend.walking([50.0])
    director = Director(backend, RulePlanner(VOWELS, PlannerOptions(4.0, 1.0, is_hard=True)))
    director.open(Snapshot((), 0.0, 0, ()), REFERENCE)
    action = director.begin(0, ["banana is a fruit of note"])
    assert action.text == "banana is"
    assert backend.windows[-1] == [ord(letter) for letter in "bananais"]


@settings(deadline=None, max_examples=30)
@given(st.lists(campaigns, max_size=3), st.lists(st.floats(0.5, 30), min_size=1, max_size=6))
def test_adjacent_chunks_never_have_the_same_description(offered: list[Campaign], walk: list[float]) -> None:
    """For a bundle whose sounds are made from text, no description follows itself, and speech stands before sounds."""
    backend = ScriptedBackend.walking(walk)
    agenda = agenda_of(Regime.WORLD)
    director = Director(backend, RulePlanner(VOWELS), None, agenda, ("ambience", "music", "narrator", "recache"))
    director.open(Snapshot((), 0.0, 0, ()), REFERENCE)
    last, plans = "", list(offered)
    for index in range(12):
        action = director.begin(index, ["hello there. a bee."] if index == 0 else [])
        assert not action.description or action.description != last
        last = action.description or last
        if action.description and action.text and action.ambience:
            assert action.description.index(action.text) < action.description.rindex(action.ambience.rstrip("."))
        for brief in director.take_briefs():
            if plans:
                agenda.offer(brief.ticket, plans.pop(0))
        director.end(index, LATENTS)


def test_what_is_planned_and_cannot_be_shown_is_told() -> None:
    """Words a bundle does not know are no reason for silence: the client learns what was planned."""
    prompts = PromptPlanner(Prompts(encoder={}, words=("smiles",), slots={"smiles": "expression"}))
    agenda = agenda_of(Regime.SPEAKERLESS)
    director = Director(ScriptedBackend.walking([1.0]), RulePlanner(VOWELS), prompts, agenda)
    director.open(Snapshot((), 0.0, 0, ()), REFERENCE)
    planned = (PlannedAction(emotion="smiles"), PlannedAction(visual="a storm of feathers"))
    agenda.offer(brief_of(agenda, Work.CAMPAIGN).ticket, Campaign(actions=planned))
    codes = []
    for index in range(2):
        action = director.begin(index, ())
        director.end(index, LATENTS)
        codes.append([(notice.code, notice.text.rpartition(": ")[2]) for notice in action.prompt_notices])
    assert codes == [[], [("VISUAL_NOT_PERFORMED", "a storm of feathers")]]
