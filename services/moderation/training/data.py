"""Labelled examples from the data folder (its README names sources and licences) and from our own texts."""

import csv
import gzip
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from services.moderation.backends.encoder.head import CATEGORIES
from shared.errors import SettingsError

HANDWRITTEN = Path(__file__).with_name("handwritten.yaml")
LABELLED_FILE = "openai-moderation-train.jsonl.gz"
TWEETS_FILE = "davidson-hate-offensive.csv.gz"
_KEYS = dict(zip(("S", "H", "V", "HR", "SH", "H2", "V2"), CATEGORIES, strict=True))
_HATE, _OFFENSIVE, _NEITHER = 0, 1, 2
_TWEET_WEIGHT = 0.2
"""Tweets were labelled by other rules and are short: five of them count as one text."""
_TWEETS = {_HATE: 400, _NEITHER: 300, _OFFENSIVE: 300}
_AGREED = 2
_TWEET_NOISE = re.compile(r"@\w+|https?:\S+|&\w+;|#|\bRT\b")


class Example(NamedTuple):
    """`labels`: 1, 0 or NaN (unknown) for each of the head's outputs, `any` the last; `weight`: what it counts."""

    text: str
    labels: tuple[float, ...]
    weight: float = 1.0


class Material(NamedTuple):
    """`labelled` is what quality is measured on; `further` only helps to train."""

    labelled: list[Example]
    further: list[Example]


def read_material(folder: Path, handwritten: Path = HANDWRITTEN) -> Material:
    """Raises SettingsError that names what is missing or wrong, and where."""
    if not folder.is_dir():
        raise SettingsError(f"{folder} is no folder: the training data's is meant, with {LABELLED_FILE} in it")
    labelled = list(_labelled(folder / LABELLED_FILE))
    return Material(labelled, [*_handwritten(handwritten), *_tweets(folder / TWEETS_FILE)])


def labels_of(examples: Iterable[Example]) -> NDArray[np.float32]:
    """[examples, outputs]."""
    return np.array([example.labels for example in examples], np.float32)


def labels_from(known: Mapping[str, float]) -> tuple[float, ...]:
    """`known`: category → 0 or 1. `any` is whether one of them is 1: a text of which nothing is known is harmless."""
    return (*(known.get(name, math.nan) for name in CATEGORIES), float(any(value == 1 for value in known.values())))


def _labelled(path: Path) -> Iterator[Example]:
    for number, line in enumerate(_lines(path), 1):
        try:
            row = json.loads(line)
            text = row["prompt"]
            known = {name: float(row[key]) for key, name in _KEYS.items() if row.get(key) is not None}
        except (ValueError, KeyError, TypeError) as error:
            raise SettingsError(f"{path}, line {number}: no object with a prompt and labels 0 or 1: {error}") from error
        yield Example(text, labels_from(known))


def _handwritten(path: Path) -> Iterator[Example]:
    """Of `categories` (a comma between several, `harmless` for none) → texts. What is not named is 0."""
    content: dict[str, list[str]] = yaml.safe_load(path.read_text("utf-8"))
    for names, texts in content.items():
        positive = set() if names == "harmless" else {name.strip() for name in names.split(",")}
        if unknown := positive - set(CATEGORIES):
            raise SettingsError(f"{path}: {', '.join(sorted(unknown))}: no category of {', '.join(CATEGORIES)}")
        labels = labels_from({name: float(name in positive) for name in CATEGORIES})
        yield from (Example(text, labels) for text in texts)


def _tweets(path: Path) -> Iterator[Example]:
    """Some of each class, drawn the same every time; hateful ones only where two people agreed."""
    rows = list(csv.DictReader(_lines(path)))
    try:
        classes = np.array([int(row["class"]) for row in rows])
        agreed = np.array([int(row["hate_speech"]) >= _AGREED for row in rows])
    except (KeyError, ValueError) as error:
        raise SettingsError(f"{path}: no table of class, hate_speech and tweet: {error}") from error
    chance = np.random.default_rng(0)
    for kind, number in _TWEETS.items():
        fit = np.flatnonzero((classes == kind) & (agreed | (kind != _HATE)))
        for place in chance.permutation(fit)[:number]:
            text = _TWEET_NOISE.sub(" ", rows[place]["tweet"])
            yield Example(text, _tweet_labels(kind), _TWEET_WEIGHT)


def _tweet_labels(kind: int) -> tuple[float, ...]:
    """What the class of a tweet tells: hateful is hate, offensive is none (but perhaps something else), neither is none
    of three; the rest is unknown."""
    if kind == _HATE:
        return labels_from({"hate": 1.0})
    if kind == _NEITHER:
        return labels_from({"hate": 0.0, "harassment": 0.0, "self-harm": 0.0})
    return (*labels_from({"hate": 0.0})[:-1], math.nan)


def _lines(path: Path) -> Iterator[str]:
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            yield from file
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {path}: {error}") from error
