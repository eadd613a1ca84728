"""A text-classification model in memory: texts in, probabilities of its labels out. Blocks; needs torch.

**The batch decides nothing.** Sums of floats depend on the shape of what they are part of, so a window always runs in
the same shape, whoever else is there: on a CPU alone, though a batch would be somewhat quicker; on an accelerator
padded to a step of LENGTH_STEP tokens, in a batch that is always ROWS long.
"""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils.logging import disable_default_handler, disable_progress_bar, enable_propagation

from services.moderation.policy import TextClassificationSpec
from shared.errors import SettingsError

MAX_WINDOW = 512
"""Tokens of a window, special ones included, also where a model could read more: windows localise, and bound a step."""
ROWS = 16
LENGTH_STEP = 64
_UNUSABLE = (OSError, ValueError, RuntimeError, ImportError, KeyError)
_FOLDER_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*.bin")


@dataclass(frozen=True, slots=True)
class LabelScores:
    """Of one text: label → probability, the highest of its windows, and the labels that the model itself would say: of
    a window the likeliest (softmax), or all of at least one half (sigmoid)."""

    probabilities: Mapping[str, float]
    said: frozenset[str]


class Classification:
    """A model that was loaded; not to be used by two threads at once. `revision`: the hub's commit, or a digest of the
    folder's files. `batch`: how many texts it likes at once: all wait for the last."""

    def __init__(self, spec: TextClassificationSpec) -> None:
        """Raises SettingsError, with what is wrong with the model or the policy."""
        disable_progress_bar()  # type: ignore[no-untyped-call]
        disable_default_handler()  # what it warns of is a line of our log, in its format
        enable_propagation()
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                spec.model, revision=spec.revision or "main", trust_remote_code=False
            )
            model: Any = AutoModelForSequenceClassification.from_pretrained(
                spec.model, revision=spec.revision or "main", trust_remote_code=False, dtype=torch.float32
            )
        except _UNUSABLE as error:
            raise SettingsError(f"the model {spec.model} cannot be loaded: {error}") from error
        self._device = _device()
        self._rows = 1 if self._device.type == "cpu" else ROWS
        self.batch = 4 if self._device.type == "cpu" else 2 * ROWS
        self._model = model.to(self._device).eval()
        self._labels = [str(model.config.id2label[index]) for index in range(model.config.num_labels)]
        self._exclusive = _is_softmax(spec, model.config)
        self._window = _window(self._tokenizer, model.config)
        self.revision = getattr(model.config, "_commit_hash", None) or folder_digest(Path(spec.model))
        self._check(spec)

    def steps(self, texts: Sequence[str]) -> "list[list[Window]]":
        """What there is to read of the texts, in steps of one forward pass each."""
        windows = self._windows(texts)
        by_length: dict[int, list[Window]] = {}
        for window in windows:
            by_length.setdefault(self._padded(window), []).append(window)
        return [
            alike[start : start + self._rows]
            for alike in by_length.values()
            for start in range(0, len(alike), self._rows)
        ]

    def probabilities(self, step: "Sequence[Window]") -> list[list[float]]:
        """[windows of the step][labels]."""
        length = None if self._rows == 1 else self._padded(step[0])
        return self._forward([window.inputs for window in step], length)[: len(step)]

    def scores(self, windows: "Sequence[Window]", probabilities: Sequence[Sequence[float]]) -> list[LabelScores]:
        """One per text, in order, of all its windows and their probabilities."""
        by_text: dict[int, list[Sequence[float]]] = {}
        for window, of_window in zip(windows, probabilities, strict=True):
            by_text.setdefault(window.text, []).append(of_window)
        return [self._label_scores(by_text[text]) for text in sorted(by_text)]

    def _check(self, spec: TextClassificationSpec) -> None:
        """Find out now, not at the first request."""
        if unknown := sorted(spec.labels.keys() - set(self._labels)):
            raise SettingsError(
                f"the model {spec.model} has no label {', '.join(unknown)}; it has {', '.join(self._labels)}"
            )
        if not self._tokenizer.is_fast:
            raise SettingsError(f"the model {spec.model} has no tokenizer.json, without which long texts cannot be cut")
        longest = "word " * self._window
        try:
            for step in self.steps([longest]):
                self.probabilities(step)
        except (RuntimeError, IndexError) as error:
            raise SettingsError(
                f"the model {spec.model} cannot read {self._window} tokens at once, as its configuration says; "
                f"set model_max_length in its tokenizer_config.json ({type(error).__name__}: {error})"
            ) from error

    def _windows(self, texts: Sequence[str]) -> "list[Window]":
        encoded = self._tokenizer(
            list(texts),
            truncation=True,
            max_length=self._window,
            stride=self._window // 4,
            return_overflowing_tokens=True,
        )
        names = [name for name in self._tokenizer.model_input_names if name in encoded]
        return [
            Window(text, {name: encoded[name][index] for name in names})
            for index, text in enumerate(encoded["overflow_to_sample_mapping"])
        ]

    def _padded(self, window: "Window") -> int:
        """The length to which it is padded on an accelerator."""
        length = len(window.inputs["input_ids"])
        return min(-(-length // LENGTH_STEP) * LENGTH_STEP, self._window)

    @torch.inference_mode()
    def _forward(self, rows: Sequence[Mapping[str, list[int]]], length: int | None) -> list[list[float]]:
        """[self._rows][labels], of rows padded to `length`; those that are missing are filled with the first."""
        filled = [*rows, *itertools.repeat(rows[0], self._rows - len(rows))]
        padded = self._tokenizer.pad(
            filled, padding="max_length" if length else False, max_length=length, return_tensors="pt"
        )
        logits = self._model(**padded.to(self._device)).logits.float()
        probabilities = logits.softmax(-1) if self._exclusive else logits.sigmoid()
        found: list[list[float]] = probabilities.cpu().tolist()
        return found

    def _label_scores(self, windows: Sequence[Sequence[float]]) -> LabelScores:
        said: set[str] = set()
        for of_window in windows:
            if self._exclusive:
                said.add(self._labels[max(range(len(of_window)), key=of_window.__getitem__)])
            else:
                said |= {label for label, p in zip(self._labels, of_window, strict=True) if p >= 0.5}
        highest = (max(of_label) for of_label in zip(*windows, strict=True))
        return LabelScores(dict(zip(self._labels, highest, strict=True)), frozenset(said))


@dataclass(frozen=True, slots=True)
class Window:
    """What the model reads of the text number `text`: input name → one number per token."""

    text: int
    inputs: Mapping[str, list[int]]


def _device() -> torch.device:
    """An accelerator if there is one."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


def _is_softmax(spec: TextClassificationSpec, config: Any) -> bool:
    """As transformers' own pipeline decides, unless the policy says. Raises SettingsError for a regression."""
    if spec.activation is not None:
        return spec.activation == "softmax"
    if config.problem_type == "regression":
        raise SettingsError(f"the model {spec.model} is a regression: say which activation makes scores of its outputs")
    return not (config.problem_type == "multi_label_classification" or config.num_labels == 1)


def _window(tokenizer: Any, config: Any) -> int:
    """Tokens; a tokenizer that does not know says something like 10^30."""
    positions = getattr(config, "max_position_embeddings", None) or MAX_WINDOW
    return int(min(MAX_WINDOW, tokenizer.model_max_length, positions if positions > 0 else MAX_WINDOW))


def folder_digest(folder: Path) -> str:
    """16 hex digits over names and contents of the files that make a model of a folder."""
    digest = hashlib.sha256(transformers.__version__.encode())
    for path in sorted({path for pattern in _FOLDER_FILES for path in folder.glob(pattern)}):
        with path.open("rb") as file:
            digest.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
