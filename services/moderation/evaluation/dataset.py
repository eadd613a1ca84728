"""Labelled texts from a file: JSON lines or CSV, gzipped or not.

| key                             | meaning                                                                           |
|---------------------------------|-----------------------------------------------------------------------------------|
| `text`, or `prompt`             | the text                                                                          |
| a category by OpenAI's name     | 1: the text is of it; 0: it is not; absent, null or empty: unknown                |
| S S3 H H2 V V2 HR SH            | the same, by the names of OpenAI's own data set                                   |
| `any`                           | of any category at all, where that is all that is known                           |
| `spans`                         | where the offence is: positions `[8, 9, 10]`, or pairs `[[8, 11]]`; may be empty   |

Everything else in a row is ignored.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from shared.errors import ChatmeshError
from shared.records import MODERATION_CATEGORIES

ANY = "any"
SHORT = {
    "S": "sexual",
    "S3": "sexual/minors",
    "H": "hate",
    "H2": "hate/threatening",
    "V": "violence",
    "V2": "violence/graphic",
    "HR": "harassment",
    "SH": "self-harm",
}
_KEYS = {**{name: name for name in (*MODERATION_CATEGORIES, ANY)}, **SHORT}
_TEXTS = ("text", "prompt")
_MAX_FIELD = 1 << 30  # the csv module refuses fields above 128 KiB by itself

Span = tuple[int, int]


class DatasetError(ChatmeshError):
    """The file cannot be evaluated; the message names it, and the line."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A text; `labels` has what is known of it; `spans`, `[start, end)` in order: None where nothing is known."""

    text: str
    labels: Mapping[str, bool]
    spans: tuple[Span, ...] | None = None

    def label(self, category: str) -> bool | None:
        """None: unknown. `any`: said outright, else whether one of the labels is true, if there are labels at all."""
        if category == ANY and ANY not in self.labels:
            return any(self.labels.values()) if self.labels else None
        return self.labels.get(category)


def read_samples(file: Path) -> list[Sample]:
    """Raises DatasetError."""
    try:
        with _opened(file) as lines:
            rows = _csv_rows(file, lines) if ".csv" in file.suffixes else _json_rows(file, lines)
            samples = [_sample(f"{file}:{number}", row) for number, row in rows]
    except FileNotFoundError as error:
        raise DatasetError(f"there is no file {file}") from error
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        raise DatasetError(f"cannot read {file}: {error}") from error
    if not samples:
        raise DatasetError(f"{file} has no texts")
    if not any(sample.labels or sample.spans is not None for sample in samples):
        raise DatasetError(f"{file} has no labels: none of its rows has a key of {', '.join([*_KEYS, 'spans'])}")
    return samples


def _opened(file: Path) -> TextIO:
    if file.suffix == ".gz":
        return gzip.open(file, "rt", encoding="utf-8", newline="")
    return file.open(encoding="utf-8", newline="")


def _json_rows(file: Path, lines: TextIO) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DatasetError(f"{file}:{number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DatasetError(f"{file}:{number} must be an object, and is {_shown(row)}")
        yield number, row


def _csv_rows(file: Path, lines: TextIO) -> Iterator[tuple[int, Mapping[str, Any]]]:
    csv.field_size_limit(_MAX_FIELD)
    reader = csv.DictReader(lines)
    for row in reader:
        yield (
            reader.line_num,
            {
                key: _spans_of_csv(file, reader.line_num, value) if key == "spans" else value
                for key, value in row.items()
            },
        )


def _spans_of_csv(file: Path, number: int, value: str) -> Any:
    """A list as JSON and Python write it."""
    try:
        return json.loads(value)
    except (json.JSONDecodeError, TypeError) as error:
        raise DatasetError(f"{file}:{number}: spans is {_shown(value)}, and must be a list of positions") from error


def _sample(place: str, row: Mapping[str, Any]) -> Sample:
    text = next((row[key] for key in _TEXTS if key in row), None)
    if not isinstance(text, str):
        raise DatasetError(f"{place} has no text: a string under the key `text` or `prompt`")
    labels: dict[str, bool] = {}
    for key, category in _KEYS.items():
        known = _label(f"{place}: {key}", row.get(key))
        if known is not None:
            # Of two names of one category the one that says yes counts.
            labels[category] = labels.get(category, False) or known
    return Sample(text, labels, _spans(place, row.get("spans"), len(text)))


def _label(place: str, value: Any) -> bool | None:
    if value is None or value == "":
        return None
    if value in (0, 1, "0", "1"):
        return bool(int(value))
    raise DatasetError(f"{place} is {_shown(value)}, and must be 1, 0 or absent")


def _spans(place: str, value: Any, length: int) -> tuple[Span, ...] | None:
    if value is None:
        return None
    found: list[Span] = []
    for one in sorted(_pairs(place, value)):
        start, end = one
        if not 0 <= start < end <= length:
            raise DatasetError(f"{place}: the span [{start}, {end}) is not within the text of {length} code points")
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return tuple(found)


def _pairs(place: str, value: Any) -> Iterator[Span]:
    for one in value if isinstance(value, list) else [value]:
        match one:
            case int():
                yield one, one + 1
            case [int(start), int(end)]:
                yield start, end
            case _:
                raise DatasetError(f"{place}: spans has {_shown(one)}, and must be positions or pairs [start, end)")


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."
