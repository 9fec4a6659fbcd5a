"""How many syllables a text has: from the phones of words that the front-end knows, else by the rules of its script.

Budgets are made of these counts; where speech has really come is the pointer's to say, so that a count may be off by a
little and costs no word. It knows no models and no plans.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache

COUNTS_KEPT = 16_384
_LATIN = re.compile(r"[a-z]+")
_VOWELS = re.compile(r"[aeiouy]+")
_DIGITS = re.compile(r"\d+")
_SYLLABIC = re.compile(r"[\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff\uac00-\ud7a3]")
"""Kana, Han characters and Hangul blocks: each is about one syllable."""
_SMALL_KANA = re.compile(r"[ゃゅょャュョぁぃぅぇぉァィゥェォっッ]")
_OTHER_VOWELS = re.compile(r"[аеёиоуыэюяіїєαεηιουω]")
_LETTERS_A_SYLLABLE = 2.5
"""Of scripts whose vowels are not told apart here."""
_HIATUS = re.compile(r"i[ao]|eo|(?<!q)u[ao](?!r)|[^q]ue[lt]|iu[ms]|ying|ience|quiet|[rn]ea[t]|ea(?:l[ism])")
"""Where two vowels are mostly spoken apart: di-al, the-o-ry, du-al."""
_SILENT = re.compile(
    r"(?<![aeiouy])(?<![^aeiouy]l)e$"  # cake, but not table
    r"|(?<![^aeiouy]l)(?<![aeiouydt])ed$"  # baked, but not wanted
    r"|(?<![^aeiouy]l)(?<![aeiouyscxzgh])es$"  # cakes, but not boxes
    r"|[^aeiouyl]e(?:ly|ful|less|ness|ment)s?$"
)
_ONE_SOUND = re.compile(r"[ct]ia|[cgst]io")
"""Where they are not: ra-cial, na-tion."""


class SyllableCounter:
    """Counts syllables. `known` gives the syllables of a word by its phones, None for one it has no phones of."""

    def __init__(self, known: Callable[[str], int | None] | None = None) -> None:
        self._known = known
        self._word = lru_cache(COUNTS_KEPT)(self._count)

    def of(self, text: str) -> int:
        """Syllables of a text."""
        return sum(map(self._word, text.split()))

    def each(self, words: Iterable[str]) -> list[int]:
        """Syllables of each of some words."""
        return [self._word(word) for word in words]

    def _count(self, word: str) -> int:
        known = self._known(word) if self._known else None
        return by_rule(word) if known is None else known


def by_rule(word: str) -> int:
    """Syllables of a word by the rules of its script: at least one if anything of it can be spoken."""
    plain = unicodedata.normalize("NFKD", word.lower())
    bare = "".join(letter for letter in plain if not unicodedata.combining(letter))
    count = sum(_english(part) for part in _LATIN.findall(bare.replace("'", "").replace("’", "")))
    count += sum(_number(digits) for digits in _DIGITS.findall(bare))
    composed = unicodedata.normalize("NFC", word.lower())
    count += len(_SYLLABIC.findall(composed)) - len(_SMALL_KANA.findall(composed))
    count += len(_OTHER_VOWELS.findall(bare))
    if count == 0:
        letters = sum(letter.isalpha() for letter in composed)
        return max(1, round(letters / _LETTERS_A_SYLLABLE)) if letters else 0
    return count


def _english(word: str) -> int:
    """Groups of vowels, less a silent e, more where two vowels are spoken apart."""
    if len(word) <= 3 and not _VOWELS.search(word):
        return max(1, len(word))  # an abbreviation is spelled out
    count = len(_VOWELS.findall(word))
    count += len(_HIATUS.findall(word)) - len(_ONE_SOUND.findall(word))
    count -= bool(_SILENT.search(word))
    if re.search(r"(?:thm|sm)s?$", word) and len(word) > 3:
        count += 1
    return max(1, count)


def _number(digits: str) -> int:
    """About as a number is read out: 7 is one syllable, 1984 is four, a long one is spelled."""
    return max(1, round(1.6 * len(digits.lstrip("0") or "0")) - 1) if len(digits) <= 12 else len(digits)
