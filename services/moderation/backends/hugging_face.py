"""Any text-classification model of Hugging Face: a hub id, or a folder.

It reads the raw text, as models are trained on; a text longer than it can read is read in overlapping windows, of which
each label's highest score counts. Code that comes with a model is never run.
"""

import math
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from services.moderation.backends.port import BackendError, Excerpt, Judgement
from services.moderation.backends.threads import OneThread
from services.moderation.policy import TextClassificationSpec
from shared.errors import SettingsError

if TYPE_CHECKING:  # torch takes seconds to import: `start` does it in its thread
    from services.moderation.backends.classification import Classification, LabelScores


class HuggingFaceBackend:
    """Implements `Backend`."""

    def __init__(self, name: str, spec: TextClassificationSpec) -> None:
        """Nothing is imported or loaded before `start`."""
        self.name = name
        self.revision = spec.revision or ""
        self.categories = frozenset(spec.labels.values())
        self.batch = 1
        self._spec = spec
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
        # A model has an opinion on nothing at all, too; it means nothing.
        texts = [excerpt.raw for excerpt in excerpts if excerpt.raw.strip()]
        try:
            scored = iter(await self._scores(model, texts) if texts else [])
        except (
            RuntimeError,
            ValueError,
            IndexError,
        ) as error:  # out of memory is one; torch speaks of shapes, not texts
            raise BackendError(f"{self.name}: the model failed with {type(error).__name__}: {error}") from error
        return [self._judgement(next(scored)) if excerpt.raw.strip() else self._nothing() for excerpt in excerpts]

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

    def _judgement(self, scores: "LabelScores") -> Judgement:
        """Raises BackendError if a score is no number."""
        found = dict(self._nothing().scores)
        for label, category in self._spec.labels.items():
            probability = scores.probabilities[label]
            if not math.isfinite(probability):
                raise BackendError(f"{self.name}: the score of {label} is {probability}, not a number")
            found[category] = max(found[category], probability)
        said = {category for label, category in self._spec.labels.items() if label in scores.said}
        return Judgement(found, flagged=frozenset(said))

    def _nothing(self) -> Judgement:
        return Judgement(dict.fromkeys(sorted(self.categories), 0.0))
