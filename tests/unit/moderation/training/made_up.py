"""A data folder of made-up texts whose categories can be told from their words, and an encoder that counts words."""

import csv
import gzip
import json
import random
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from services.moderation.backends.encoder.features import LAYERS, Floats
from services.moderation.training.data import LABELLED_FILE, TWEETS_FILE

WORDS = {"S": "naked", "H": "vermin", "V": "stab", "HR": "moron", "SH": "razor", "H2": "exterminate", "V2": "entrails"}
_FILLING = (
    "the",
    "day",
    "was",
    "long",
    "and",
    "we",
    "talked",
    "of",
    "rain",
    "trains",
    "gardens",
    "while",
    "they",
    "slept",
)
_WINDOW = 24
_WIDTH = 32


def text_with(word: str | None, chance: random.Random) -> str:
    """Up to three windows of filling, with `word` twice in one place."""
    words = [chance.choice(_FILLING) for _ in range(chance.randint(8, 60))]
    if word is not None:
        place = chance.randrange(len(words))
        words[place:place] = [word, "them", word]
    return " ".join(words)


def write_folder(folder: Path, rows: int = 150) -> Path:
    """Every second row is harmless; of some rows not everything is known, and of three nothing."""
    chance = random.Random(5)
    keys = list(WORDS)
    lines = []
    for number in range(rows):
        key = keys[number // 2 % len(keys)] if number % 2 else None
        labels = {each: int(each == key) for each in keys if number % 10 or each == key}
        lines.append({"prompt": text_with(WORDS[key] if key else None, chance), **labels})
    lines += [{"prompt": text_with(None, chance)} for _ in range(3)]
    with gzip.open(folder / LABELLED_FILE, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    write_tweets(
        folder, [("0", "3", "RT @you: vermin &amp; vermin"), ("1", "0", "moron moron"), ("2", "0", "fine day")]
    )
    return folder


def write_tweets(folder: Path, rows: Sequence[tuple[str, str, str]]) -> None:
    """Of (class, hate_speech, tweet)."""
    with gzip.open(folder / TWEETS_FILE, "wt", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("class", "hate_speech", "tweet"), *rows])


class WordCutter:
    """Windows of so many words, half of each in the next; ids are words' hashes."""

    def windows(self, text: str) -> list[tuple[tuple[int, ...], str]]:
        words = text.split()
        starts = range(0, max(1, len(words) - _WINDOW // 2), _WINDOW // 2)
        parts = [words[start : start + _WINDOW] for start in starts]
        return [(tuple(zlib.crc32(word.encode()) for word in part), " ".join(part)) for part in parts]


class WordPooler:
    """Each word has a direction of its own; a window is the mean of its words, the same in every layer."""

    def pooled(self, windows: Sequence[Sequence[int]]) -> Floats:
        means = [np.mean([self._direction(word) for word in window or [0]], 0) for window in windows]
        return np.repeat(np.array(means, np.float32)[:, None], len(LAYERS), 1)

    def _direction(self, word: int) -> Floats:
        return np.random.default_rng(word).standard_normal(_WIDTH).astype(np.float32)
