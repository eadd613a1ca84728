"""Any text-classification model of Hugging Face: a hub id, or a folder.

It reads the raw text, as models are trained on, and where the normaliser undid more than capitals (look-alike letters,
digits for letters, invisible characters) also what it made of it. A text longer than the model can read is read in
overlapping windows. The highest score counts. Code that comes with a model is never run.
"""

import math
from collections.abc import Sequence
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING

from services.moderation.backends.port import BackendError, Excerpt, Judgement
from services.moderation.backends.threads import OneThread, use_cores
from services.moderation.policy import TextClassificationSpec
from shared.errors import SettingsError
from shared.telemetry.logs import cause_of

if TYPE_CHECKING:  # torch takes seconds to import: `start` does it in its thread
    from services.moderation.backends.classification import Classification, LabelScores


class HuggingFaceBackend:
    """Implements `Backend`. On a CPU its model computes on `threads` cores."""

    def __init__(self, name: str, spec: TextClassificationSpec, *, threads: int = 1) -> None:
        """Nothing is imported or loaded before `start`."""
        self.name = name
        self.revision = spec.revision or ""
        self.categories = frozenset(spec.labels.values())
        self.batch = 1
        self._spec = spec
        self._threads = threads
        self._model: Classification | None = None
        self._thread = OneThread(name)

    async def start(self) -> None:
        """Raises SettingsError: no such model, a label that it lacks, a library that is not installed."""
        self._model = await self._thread.run(self._load)
        self.revision, self.batch = self._model.revision, self._model.batch

    async def judge(self, excerpts: Sequence[Excerpt]) -> list[Judgement]:
        """Raises BackendError."""
        model = self._model
        if model is None:
            raise BackendError(f"{self.name} was not started")
        readings = [readings_of(excerpt) for excerpt in excerpts]
        try:
            scored = iter(await self._scores(model, list(chain(*readings))) if any(readings) else [])
        except (RuntimeError, ValueError, IndexError) as error:
            # Out of memory is one of them; others are the tokenizer's, which may quote what it could not read.
            raise BackendError(f"{self.name}: the model failed with {cause_of(error)}") from error
        return [self._judgement(list(islice(scored, len(of_excerpt)))) for of_excerpt in readings]

    async def stop(self) -> None:
        await self._thread.stop()
        self._model = None

    async def _scores(self, model: "Classification", texts: Sequence[str]) -> "list[LabelScores]":
        """Step by step, so that nobody waits long behind who waits no more."""
        steps = await self._thread.run(lambda: model.steps(texts))
        probabilities = [await self._thread.run(partial(model.probabilities, step)) for step in steps]
        return model.scores(list(chain(*steps)), list(chain(*probabilities)))

    def _load(self) -> "Classification":
        try:
            use_cores(self._threads)
            from services.moderation.backends.classification import Classification
        except ImportError as error:
            raise SettingsError(
                f"backend {self.name} (text-classification) needs torch and transformers: "
                f"pip install 'chatmesh[inference]' ({error})"
            ) from error
        try:
            return Classification(self._spec)
        except SettingsError as error:
            raise SettingsError(f"backend {self.name}: {error}") from error

    def _judgement(self, readings: "Sequence[LabelScores]") -> Judgement:
        """The highest score of all readings. Raises BackendError if one is no number."""
        scores = dict.fromkeys(sorted(self.categories), 0.0)
        said: set[str] = set()
        for reading in readings:
            for label, category in self._spec.labels.items():
                probability = reading.probabilities[label]
                if not math.isfinite(probability):
                    raise BackendError(f"{self.name}: the score of {label} is {probability}, not a number")
                scores[category] = max(scores[category], probability)
            said |= {category for label, category in self._spec.labels.items() if label in reading.said}
        return Judgement(scores, flagged=frozenset(said))


def readings_of(excerpt: Excerpt) -> list[str]:
    """What a model reads of an excerpt: nothing of a blank one, of which it has an opinion too, but no reason."""
    if not excerpt.raw.strip():
        return []
    return [excerpt.raw] if excerpt.text.casefold() == excerpt.raw.casefold() else [excerpt.raw, excerpt.text]
