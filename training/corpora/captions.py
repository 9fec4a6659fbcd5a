"""Words for what is asked of a picture: the captions of the synthetic corpus, and what their phrases change.

A caption names exactly the slots of a `State` that are off their default, in any order, as a user might: "she smiles
and looks left, dim light". Left and right are the viewer's, in the picture, not the character's own. The language is
closed: `SLOTS` says of every phrase which slot it sets to which value, `WORDS` lists every word there is. In a pattern
(a|b) stands for either; what is written twice comes twice as often. Knows nothing of pictures.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Mapping, Sequence

from training.corpora.states import COLOURS, VALUES, State

HER = "(the|her|his|their)"
CHEERFUL = "(happy|cheerful|joyful|merry|glad|delighted|pleased|amused|friendly)"
SORRY = "(sad|unhappy|gloomy|sorrowful|miserable|melancholy|disappointed|upset)"
STARTLED = "(surprised|astonished|amazed|shocked|startled|stunned|astounded)"
CROSS = "(angry|furious|cross|annoyed|mad|grim|enraged|irritated)"
FACE = "(face|look|expression)"
WALL = "(wall|wall|background|background|backdrop)"
LIGHT = "(light|lighting)"
SHADES = {
    "red": "(red|red|red|crimson|scarlet)",
    "orange": "(orange|orange|orange|tangerine)",
    "yellow": "(yellow|yellow|yellow|lemon)",
    "green": "(green|green|green|green|emerald)",
    "blue": "(blue|blue|blue|blue|azure|navy)",
    "purple": "(purple|purple|purple|purple|violet|lilac)",
    "pink": "(pink|pink|pink|rose)",
    "white": "white",
    "grey": "(grey|gray)",
    "black": "black",
    "brown": "(brown|brown|brown|chestnut)",
}
SIDES = {
    "left": "(left|left|left|to the left|to the left|leftward|leftwards)",
    "right": "(right|right|right|to the right|to the right|rightward|rightwards)",
}
HEIGHTS = {
    "up": "(up|up|upward|upwards|at the ceiling)",
    "down": "(down|down|downward|downwards|at the floor)",
}


def _feelings() -> Iterator[tuple[str, str, str]]:
    for value, kind in (("smile", CHEERFUL), ("sad", SORRY), ("surprised", STARTLED), ("angry", CROSS)):
        yield "expression", value, f"> (looks|is|seems|becomes|grows|feels) {kind}"
        yield "expression", value, f"! (look|be|seem) {kind}"
        yield "expression", value, f"with (a|an) {kind} {FACE}"
        yield "expression", value, f"{kind} {FACE}"
        yield "expression", value, f"> makes (a|an) {kind} face"
        yield "expression", value, f"! make (a|an) {kind} face"
    yield "expression", "smile", f"> (smiles|is smiling|grins|is grinning|beams|smiles (broadly|warmly|{CHEERFUL}))"
    yield (
        "expression",
        "smile",
        "(smiling|grinning|beaming|with a smile|with a (warm|broad|big|gentle|happy) smile)",
    )
    yield "expression", "smile", "! (smile|grin|give a smile|smile (broadly|warmly))"
    yield "expression", "sad", "> (pouts|is pouting|mourns|is mourning|looks (sadly|down in the mouth))"
    yield "expression", "sad", "(pouting|with (the|) corners of the mouth down)"
    yield "expression", "surprised", "> (gasps|is gasping|raises (the|her|his) (brows|eyebrows)|is in shock)"
    yield (
        "expression",
        "surprised",
        "(gasping|in surprise|with wide (open|) eyes|with raised (brows|eyebrows))",
    )
    yield "expression", "angry", "> (frowns|is frowning|scowls|is scowling|glares|is glaring)"
    yield "expression", "angry", "! (frown|scowl|glare)"
    yield "expression", "angry", "(frowning|scowling|glaring|with a (frown|scowl|glare)|in anger)"
    yield "expression", "neutral", f"> (returns|goes back) to a neutral {FACE}"
    yield (
        "expression",
        "neutral",
        "> (relaxes|stops (smiling|frowning)|looks (neutral|calm|relaxed)|is (calm|neutral))",
    )
    yield "expression", "neutral", f"(with a|) (neutral|calm|relaxed) {FACE}"
    yield "expression", "neutral", "! (relax|stop smiling|stop frowning|look (neutral|calm))"


def _gazes() -> Iterator[tuple[str, str, str]]:
    for value, where in (SIDES | HEIGHTS).items():
        way = where.replace("|at the ceiling", "").replace("|at the floor", "")
        yield "gaze", value, f"> (looks|is looking|glances|gazes|is gazing|is glancing) {where}"
        yield "gaze", value, f"(looking|glancing|gazing) {where}"
        yield "gaze", value, f"! (look|glance|gaze) {where}"
        yield "gaze", value, f"(gaze|eyes|with eyes|{HER} eyes|with (the|her|his) gaze) (turned |){way}"
        yield "gaze", value, f"> turns {HER} eyes {way}"
        yield "gaze", value, f"! turn your eyes {way}"
    straight = "(at|into) the (camera|viewer|lens)"
    yield "gaze", "camera", f"> (looks|is looking|looks back|gazes) ({straight}|at us|straight ahead|ahead)"
    yield "gaze", "camera", f"! look ({straight}|at us|at me|straight ahead)"
    yield "gaze", "camera", f"(looking {straight}|eyes on the (camera|viewer)|gaze ahead)"


def _heads() -> Iterator[tuple[str, str, str]]:
    for side, where in SIDES.items():
        for value, does, asks, doing in (
            ("turned", "(turns|is turning|rotates)", "(turn|rotate)", "(turned|turning|rotated)"),
            ("tilted", "(tilts|is tilting|leans|tips)", "(tilt|lean|tip)", "(tilted|tilting|leaning|tipped)"),
        ):
            yield "head", f"{value} {side}", f"> {does} {HER} head {where}"
            yield "head", f"{value} {side}", f"! {asks} (your|the) head {where}"
            yield "head", f"{value} {side}", f"(with|) {HER} head {doing} {where}"
            yield "head", f"{value} {side}", f"head {doing} {where}"
            yield "head", f"{value} {side}", f"> {does} {where}"
            yield "head", f"{value} {side}", f"! {asks} {where}"
        yield "head", f"turned {side}", f"> (faces|is facing) {where}"
        yield "head", f"turned {side}", f"facing {where}"
    yield "head", "straight", f"> (holds|keeps|straightens) {HER} head (straight|upright|)"
    yield "head", "straight", f"(with|) {HER} head (straight|upright)"
    yield "head", "straight", "> (faces|is facing) (the camera|the viewer|us|forward|ahead)"
    yield "head", "straight", "! (hold your head straight|face the (camera|viewer)|face forward)"


def _walls() -> Iterator[tuple[str, str, str]]:
    for value in COLOURS:
        colour = SHADES[value]
        yield "wall", value, f"(the|) {WALL} (turns|becomes|is|goes|changes to|grows) {colour}"
        yield "wall", value, f"(in front of|against|before|with) (a|an) {colour} {WALL}"
        yield "wall", value, f"(a|an|the|) {colour} {WALL}"
        yield "wall", value, f"(a|an) {colour} {WALL} behind (her|him|them)"
        yield "wall", value, f"! (make|turn|paint|colour|color) the {WALL} {colour}"
        yield "wall", value, f"! change the {WALL} to {colour}"
    yield "wall", "portrait", f"the {WALL} (returns to normal|goes back to normal|changes back|is as before)"
    yield "wall", "portrait", f"(in front of|) the (usual|original|old|first) {WALL}"


def _lights() -> Iterator[tuple[str, str, str]]:
    kinds = {
        "dark": (
            "(dim|dark|low|faint|weak)",
            "(dark|darker|dim)",
            "(in the dark|at night|in darkness|in shadow)",
        ),
        "bright": (
            "(bright|strong|brilliant|glaring)",
            "(bright|brighter|strong)",
            "(brightly lit|in daylight)",
        ),
        "warm": ("(warm|golden|amber|candle)", "(warm|warmer|golden)", "(in candlelight|at sunset|by the fire)"),
        "cool": ("(cool|cold|bluish|icy)", "(cool|cooler|cold|colder|bluish)", "(in moonlight|under the moon)"),
    }
    for value, (kind, change, scene) in kinds.items():
        yield "light", value, f"(in |) {kind} {LIGHT}"
        yield "light", value, f"(the |) {LIGHT} (turns|gets|becomes|grows|is) {change}"
        yield "light", value, f"! (make|turn) the {LIGHT} {change}"
        yield "light", value, scene
    yield "light", "dark", "(the lights (dim|go down|go out)|the light (dims|fades))"
    yield "light", "dark", "! (dim the (light|lights)|turn (the lights down|down the lights|off the light))"
    yield "light", "dark", "it (gets|is|grows) dark"
    yield "light", "bright", "(the lights (come on|go up)|the light brightens|it gets bright)"
    yield "light", "bright", "! (brighten the (light|lights)|turn (the lights up|up the lights|on the light))"
    for side in ("left", "right"):
        yield "light", side, f"(lit|light|lighting|illuminated|a lamp|side light) from the {side}"
        yield "light", side, f"the light (comes|falls|shines|is) from the {side}"
        yield "light", side, f"with (a lamp|light) (on|from) the {side}"
        yield "light", side, f"! (light (her|him|the face) from the {side}|put a lamp on the {side})"
    yield "light", "portrait", f"(in |) (normal|usual|ordinary|natural|even) {LIGHT}"
    yield "light", "portrait", f"the {LIGHT} (returns|goes back) to normal"


def _expand(pattern: str) -> list[str]:
    """Every phrase of a pattern: (a|b) stands for either, and may nest; what is written twice comes twice as often."""
    match = re.search(r"\(([^()]*)\)", pattern)
    if not match:
        return [" ".join(pattern.split())]
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [phrase for option in match[1].split("|") for phrase in _expand(before + option + after)]


def _right_article(phrase: str) -> bool:
    words = phrase.split()
    return all((a == "an") == (b[0] in "aeiou") for a, b in itertools.pairwise(words) if a in ("a", "an"))


Pattern = tuple[str, tuple[str, ...]]
"""How a phrase stands in a caption ('>' says what someone does, '!' asks for it, '' names it) and all its forms."""


def _table() -> dict[tuple[str, str], tuple[Pattern, ...]]:
    table: dict[tuple[str, str], list[Pattern]] = {(s, v): [] for s, values in VALUES.items() for v in values}
    for slot, value, pattern in itertools.chain(_feelings(), _gazes(), _heads(), _walls(), _lights()):
        mood, bare = (pattern[0], pattern[2:]) if pattern[0] in ">!" else ("", pattern)
        table[slot, value].append((mood, tuple(filter(_right_article, _expand(bare)))))
    return {key: tuple(patterns) for key, patterns in table.items()}


PHRASES: Mapping[tuple[str, str], tuple[Pattern, ...]] = _table()
"""The patterns of every value of every slot."""

SLOTS: Mapping[str, tuple[str, str]] = {
    phrase: key for key, patterns in PHRASES.items() for _, forms in patterns for phrase in forms
}
"""What each phrase changes: phrase -> (slot, value)."""

SUBJECTS = ("she", "he", "the character", "the woman", "the man", "the person", "the speaker", "the face")
POLITE = ("please", "now")
JOINS = (", ", ", ", ", ", " and ", " and ", ", and ", "; ")
DEFAULT_SHARE = 0.15
"""How often a caption names one default too, as one does when something is to go back."""

WORDS: tuple[str, ...] = tuple(
    sorted({w for text in (*SLOTS, *SUBJECTS, *POLITE, "and") for w in text.replace(",", "").split()})
)
"""Every word a caption can hold."""


def phrase(rng: random.Random, slot: str, value: str) -> str:
    """One of the ways to ask for a value."""
    mood, forms = rng.choice(PHRASES[slot, value])
    text = rng.choice(forms)
    if mood == ">" and rng.random() < 0.5:
        return f"{rng.choice(SUBJECTS)} {text}"
    if mood == "!" and rng.random() < 0.25:
        return f"{rng.choice(POLITE)} {text}"
    return text


def caption(state: State, rng: random.Random, back: Sequence[str] = ()) -> str:
    """What is asked for in words; "" for the default state.

    `back` are slots that have just gone back to their default: the caption then says so, one time in two. A caption
    that asks for something names another slot's default as well now and then.
    """
    named = list(state.asked().items())
    defaults = [slot for slot, values in VALUES.items() if getattr(state, slot) == values[0]]
    said = [slot for slot in back if slot in defaults and rng.random() < 0.5]
    if not said and named and defaults and rng.random() < DEFAULT_SHARE:
        said = [rng.choice(defaults)]
    named += [(slot, VALUES[slot][0]) for slot in said]
    rng.shuffle(named)
    parts = [phrase(rng, slot, value) for slot, value in named]
    return "".join(part + (rng.choice(JOINS) if i + 1 < len(parts) else "") for i, part in enumerate(parts))


def captions(states: Sequence[State], rng: random.Random) -> list[str]:
    """One caption a chunk, in fresh words each."""
    said, before = [], State()
    for state in states:
        said.append(caption(state, rng, [slot for slot in before.asked() if slot not in state.asked()]))
        before = state
    return said


def words_of(text: str) -> list[str]:
    """The words of a caption, lower case, without punctuation."""
    return re.findall(r"[a-z]+", text.lower())


_LONGEST = max(len(p.split()) for p in SLOTS)


def read(text: str) -> dict[str, str]:
    """What a caption asks for: slot -> value, defaults included; the later phrase wins, other words say nothing."""
    words, asked, k = words_of(text), {}, 0
    while k < len(words):
        for n in range(min(_LONGEST, len(words) - k), 0, -1):
            found = SLOTS.get(" ".join(words[k : k + n]))
            if found:
                asked[found[0]] = found[1]
                k += n
                break
        else:
            k += 1
    return asked
