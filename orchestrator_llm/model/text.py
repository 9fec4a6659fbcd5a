"""The pocket's text front-end: written English to phones, with the words they belong to. No system package speaks here.

    text ─▶ pieces between spaces ─▶ numbers, symbols as words ─▶ lexicon, else letters to sounds ─▶ phones and pauses

A piece between spaces is one word of the transcript, whatever it is spoken as; nothing is ever dropped silently: what
cannot be spoken keeps its place, has no phones and is named in a notice.
"""

from __future__ import annotations

import gzip
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from anyascii import anyascii
from num2words import num2words
from safetensors.torch import load_file

from orchestrator_llm.model.letter_to_sound import LETTERS, LetterToSound, LetterToSoundConfig

PAUSE = "pau"
FIRST_PHONE = 3
"""Token id of the first phone: 0 is padding, 1 before the beginning, 2 after the end."""
VOWELS = frozenset("aa ae ah ao aw ax ay eh er ey ih iy ow oy uh uw".split())
SYMBOLS = {
    "&": "and",
    "%": "percent",
    "+": "plus",
    "=": "equals",
    "@": "at",
    "$": "dollars",
    "€": "euros",
    "£": "pounds",
    "#": "number",
    "°": "degrees",
}
PAUSING = re.compile(r"[,;:.!?…—–]['\")\]]*$")
PARTS = re.compile(r"\d+(?:,\d{3})*(?:\.\d+|st|nd|rd|th)?|[a-z']+|[&%+=@$€£#°]", re.IGNORECASE)
PRICE = re.compile(r"([$€£])(\d[\d,.]*\d|\d)")
"""A price is written sign first and spoken sign last."""
LONGEST_NUMBER = 15
MOST_LEXICON_BYTES = 64 << 20
READINGS_KEPT = 65_536
"""Readings of words outside the lexicon that are kept: a reading takes the net about a millisecond."""
NAMED_IN_A_NOTICE = 40
"""Characters of an unspeakable word that a notice shows."""


@dataclass(frozen=True, slots=True)
class WordSpan:
    """One word as given, with its tokens [begin, end) counted from the utterance's beginning."""

    index: int
    text: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Utterance:
    """Tokens of a text, its words, and sentences for the client."""

    tokens: list[int]
    words: list[WordSpan]
    notices: list[str]


class TextFrontEnd:
    """Lexicon, letter-to-sound net and rules of one bundle."""

    def __init__(self, phones: list[str], lexicon: Mapping[str, tuple[str, ...]], letters: LetterToSound) -> None:
        self.phones, self._lexicon, self._letters = phones, lexicon, letters
        self._by_letters = lru_cache(READINGS_KEPT)(self._read_letters)
        self._ids = {name: FIRST_PHONE + i for i, name in enumerate(phones)}
        self.pause_id = self._ids[PAUSE]
        self.vowels = frozenset(self._ids[name] for name in VOWELS if name in self._ids)

    @staticmethod
    def load(bundle: Path, text: Mapping[str, Any]) -> TextFrontEnd:
        """Reads the files a manifest's `text` names: phones, lexicon, letters."""
        phones = list(text["phones"])
        with gzip.open(bundle / text["lexicon"], "rb") as file:
            unpacked = file.read(MOST_LEXICON_BYTES + 1)
        if len(unpacked) > MOST_LEXICON_BYTES:
            raise ValueError(f"{text['lexicon']} unfolds to more than {MOST_LEXICON_BYTES} bytes")
        entries = (line.split() for line in unpacked.decode().splitlines())
        lexicon = {entry[0]: tuple(entry[1:]) for entry in entries if entry}
        letters = LetterToSound(LetterToSoundConfig(phones=len(phones), **text.get("letter_to_sound", {})))
        letters.load_state_dict(load_file(bundle / text["letters"]))
        return TextFrontEnd(phones, lexicon, letters.eval())

    def tokenize(self, text: str, first_word_index: int = 0) -> Utterance:
        """Phones of a text that ends a sentence; the first word gets `first_word_index`."""
        pieces = [self._clean(piece) for piece in text.split()]
        spoken = [self._parts(piece) for piece in pieces]
        following = self._first_parts_behind(spoken)
        tokens: list[int] = []
        words: list[WordSpan] = []
        notices: list[str] = []
        for position, piece in enumerate(pieces):
            parts = spoken[position]
            phones = [
                phone
                for part, then in zip(parts, [*parts[1:], following[position]], strict=False)
                for phone in self.pronounce(part, then)
            ]
            begin = len(tokens)
            tokens += [self._ids[phone] for phone in phones if phone in self._ids]
            words.append(WordSpan(first_word_index + position, piece, begin, len(tokens)))
            if len(tokens) == begin:
                notices.append(f"cannot be spoken and is passed over: {piece[:NAMED_IN_A_NOTICE]}")
            is_last = position == len(pieces) - 1
            if (is_last or PAUSING.search(piece)) and tokens and tokens[-1] != self.pause_id:
                tokens.append(self.pause_id)
        return Utterance(tokens, words, notices)

    @staticmethod
    def _first_parts_behind(spoken: list[list[str]]) -> list[str]:
        """For each piece the first spoken word of those behind it, empty when there is none."""
        behind, found = "", []
        for parts in reversed(spoken):
            found.append(behind)
            behind = parts[0] if parts else behind
        return found[::-1]

    def pronounce(self, word: str, following: str = "") -> tuple[str, ...]:
        """Phones of one spoken word; `following` decides how an article is read."""
        if word == "a":
            return ("ax",)
        if word == "the" and following:
            begins = self._lexicon.get(following) or self._by_letters(following)
            return ("dh", "iy" if begins and begins[0] in VOWELS else "ax")
        return self._lexicon.get(word) or self._by_letters(word)

    def syllables(self, word: str) -> int | None:
        """Vowels among the phones of one written word; None when the lexicon does not have all of it."""
        phones = [self._lexicon.get(part) for part in self._parts(self._clean(word))]
        if not phones or None in phones:
            return None
        return sum(phone in VOWELS for part in phones if part for phone in part)

    def _read_letters(self, word: str) -> tuple[str, ...]:
        known = "".join(letter for letter in word if letter in LETTERS).strip("'")
        return tuple(self.phones[i] for i in self._letters.read(known)) if known else ()

    @staticmethod
    def _clean(text: str) -> str:
        """Control characters are left out and compatibility forms made plain; what was one word stays one."""
        plain = unicodedata.normalize("NFKC", text)
        return "".join(" " if c.isspace() else c for c in plain if unicodedata.category(c) != "Cc").strip()

    def _parts(self, piece: str) -> list[str]:
        """The spoken words of one written piece: numbers and symbols read out, other scripts transliterated."""
        speakable = "".join(
            c for c in piece if unicodedata.category(c) not in ("So", "Sk", "Cs", "Co", "Cn", "Cf", "Mn")
        )
        plain = "".join(c if c in SYMBOLS else anyascii(c) for c in speakable.replace("’", "'"))
        plain = PRICE.sub(r"\2\1", plain)
        return [word for part in PARTS.findall(plain) for word in self._read_out(part)]

    def _read_out(self, part: str) -> list[str]:
        if part in SYMBOLS:
            return [SYMBOLS[part]]
        if part[0].isdigit():
            return re.findall(r"[a-z]+", number_in_words(part))
        word = part.strip("'")
        is_acronym = (
            word.isupper() and len(word) > 1 and (word.lower() not in self._lexicon or not set(word) & set("AEIOUY"))
        )
        if is_acronym and len(word) <= 5:
            return (
                [f"{letter.lower()}." for letter in word if letter.isalpha()]
                if self._has_letter_names
                else [word.lower()]
            )
        return [word.lower()] if word else []

    @property
    def _has_letter_names(self) -> bool:
        return "b." in self._lexicon


def number_in_words(number: str) -> str:
    """English words of a number; digit by digit when it is very long."""
    digits = number.replace(",", "")
    suffix = digits[-2:].lower()
    if len(digits) > LONGEST_NUMBER:
        return " ".join(str(num2words(int(d))) for d in digits if d.isdigit())
    if suffix in ("st", "nd", "rd", "th"):
        return str(num2words(int(digits[:-2]), to="ordinal"))
    if digits.isdigit() and len(digits) == 4 and 1100 <= int(digits) < 2000:
        return str(num2words(int(digits), to="year"))
    return str(num2words(float(digits) if "." in digits else int(digits)))
