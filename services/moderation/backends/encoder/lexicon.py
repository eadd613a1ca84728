"""What words say beside the encoder: how many of each class (`lexicon.yaml`) a text has, which stand together, and what
its letters look like. Pure; about a third of a millisecond for a window."""

import math
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

LEXICON_FILE = Path(__file__).with_name("lexicon.yaml")
NEAR = 80
"""Code points between the starts of two words that count as standing together."""
_WORD = re.compile(r"[\w*!@$]*\w[\w*]*(?:'\w+)?")
_PLAIN_WORD = re.compile(r"[a-z']+|[^\W\d_]+")
_BRACKETS = re.compile(r"\[[^]]*\]")
_SURFACE = 9
_USUAL_SHARE = 0.4
_FULL_SHARE = 0.3
_DOUBT = 3


class Lexicon:
    """`classes`: name → regular expressions, of one whole word each, or of a phrase (with a space or a hyphen); `pairs`
    of classes that are counted where they stand together; `english`: that language's commonest words."""

    def __init__(
        self, classes: Mapping[str, Sequence[str]], pairs: Sequence[tuple[str, str]], english: Sequence[str]
    ) -> None:
        order = {name: place for place, name in enumerate(classes)}
        self._words: dict[int, re.Pattern[str]] = {}
        self._phrases: dict[int, re.Pattern[str]] = {}
        for name, entries in classes.items():
            if words := [entry for entry in entries if not _is_phrase(entry)]:
                self._words[order[name]] = re.compile(f"(?:{'|'.join(words)})")
            if phrases := [entry for entry in entries if _is_phrase(entry)]:
                self._phrases[order[name]] = re.compile(rf"\b(?:{'|'.join(phrases)})\b")
        self._pairs = [(order[one], order[other]) for one, other in pairs]
        self._english = frozenset(english)
        self.size = 2 * len(order) + len(self._pairs) + _SURFACE
        self._classes = len(order)
        self._classes_of = lru_cache(maxsize=65_536)(self._classes_of_word)

    def features(self, text: str) -> NDArray[np.float32]:
        """[size]: counts and shares of each class, counts of each pair, and what the surface says."""
        low = text.lower().replace("\u2019", "'")
        words, places = self._places(low)
        counts = np.array([len(found) for found in places], np.float32)
        shares = np.minimum(counts / max(1, words) * 20, 3)
        pairs = np.array([_near(places[one], places[other]) for one, other in self._pairs], np.float32)
        surface = np.array(_surface(low, max(1, words)), np.float32)
        return np.concatenate([np.log1p(counts), shares, np.log1p(pairs), surface])

    def english(self, text: str) -> float:
        """1 for English, towards 0 the fewer of a text's words are common in English: other languages, program text,
        lists of keywords. A few words say little, and count as English with `_DOUBT` more."""
        words = _PLAIN_WORD.findall(text.lower().replace("\u2019", "'"))
        common = sum(word in self._english for word in words) + _DOUBT * _USUAL_SHARE
        return float(min(1.0, common / (len(words) + _DOUBT) / _FULL_SHARE))

    def _places(self, low: str) -> tuple[int, list[list[int]]]:
        """How many words there are, and where those of each class begin."""
        places: list[list[int]] = [[] for _ in range(self._classes)]
        words = 0
        for match in _WORD.finditer(low):
            words += 1
            for number in self._classes_of(match[0]):
                places[number].append(match.start())
        for number, phrase in self._phrases.items():
            places[number].extend(match.start() for match in phrase.finditer(low))
        return words, places

    def _classes_of_word(self, word: str) -> tuple[int, ...]:
        forms = {word, word.split("'", maxsplit=1)[0], word.strip("*!@$")}
        return tuple(
            number for number, pattern in self._words.items() if any(pattern.fullmatch(form) for form in forms)
        )


@cache
def built_in() -> Lexicon:
    """The one of `lexicon.yaml`."""
    content: dict[str, Any] = yaml.safe_load(LEXICON_FILE.read_text("utf-8"))
    return Lexicon(content["classes"], [(one, other) for one, other in content["pairs"]], content["english"])


def _is_phrase(entry: str) -> bool:
    return " " in entry or "-" in _BRACKETS.sub("", entry)


def _near(ones: Sequence[int], others: Sequence[int]) -> int:
    """How many of `ones` have one of `others` within NEAR."""
    others = sorted(others)
    count = 0
    for place in ones:
        after = bisect_left(others, place)
        count += any(abs(other - place) < NEAR for other in others[max(0, after - 1) : after + 1])
    return count


def _surface(low: str, words: int) -> list[float]:
    """Length, punctuation, exclamation, other scripts, questions, digits, lines, links, quotation."""
    length = max(1, len(low))
    return [
        math.log(words),
        sum(low.count(mark) for mark in ".,;:") / length * 10,
        math.log1p(low.count("!")),
        (length - len(low.encode("ascii", "ignore"))) / length if low else 0.0,
        math.log1p(low.count("?")),
        sum(map(str.isdigit, low)) / length * 10,
        math.log1p(low.count("\n")),
        float("http" in low or "www." in low),
        math.log1p(low.count('"') + low.count("\u201c")),
    ]
