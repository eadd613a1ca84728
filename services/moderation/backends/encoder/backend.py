"""The default classifier behind the port. Neither torch nor numpy is imported before `start`."""

import hashlib
import logging
import os
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from services.moderation.backends.encoder.memory import Memory, Scores
from services.moderation.backends.port import BackendError, Excerpt, Judgement
from services.moderation.backends.threads import OneThread
from shared.errors import SettingsError

if TYPE_CHECKING:
    from services.moderation.backends.encoder.classifier import WindowClassifier
    from services.moderation.backends.encoder.windows import PieceWindow

log = logging.getLogger(__name__)

HEAD_FILE = Path(__file__).with_name("head.npz")
RULES = 1
"""Version of how a text becomes scores (windows, pooling, maximum), part of the revision: raise it with any change."""
REMEMBERED = 16_384
EXCERPTS = 4
"""Excerpts in a call, unless a pass takes more: on a CPU more gain nothing, and all of them wait for the last."""


@cache
def head_revision() -> str:
    """Tells two versions of the built-in classifier apart: a digest of its head's file and RULES, without reading it
    as numbers. Raises SettingsError where the file is missing."""
    try:
        content = HEAD_FILE.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"the default classifier has no head ({error}); make one with `make train-moderation DATA=...`"
        ) from error
    return hashlib.sha256(f"{RULES}\n".encode() + content).hexdigest()[:12]


class EncoderBackend:
    """MiniLM and its head: each category's score is the maximum over the windows of an excerpt's normalised text.

    Torch runs in one thread of ours on `threads` cores, so that it does not starve others on the machine. Calls may
    overlap: their windows take turns, a few at a time, and a call that is cancelled stops behind the pass in flight.
    """

    def __init__(self, name: str, *, threads: int = 1) -> None:
        self.name = name
        self.revision = head_revision()
        self.categories: frozenset[str] = frozenset()
        self.batch = EXCERPTS
        self._threads = threads
        self._thread = OneThread(f"encoder-{name}")
        self._classifier: WindowClassifier | None = None
        self._memory = Memory(REMEMBERED)

    async def start(self) -> None:
        """Load encoder and head, and try every shape. Raises SettingsError."""
        classifier = await self._thread.run(self._load)
        self.categories = frozenset(classifier.categories)
        self.batch = max(EXCERPTS, classifier.rows)
        self._classifier = classifier

    def _load(self) -> "WindowClassifier":
        # The head's products are numpy's, whose library reads this as it is loaded: else it would take all cores.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", str(self._threads))
        try:
            import torch

            from services.moderation.backends.encoder.classifier import WindowClassifier
        except ModuleNotFoundError as error:
            raise SettingsError(
                f"the policy's backend {self.name} needs {error.name}: install chatmesh[moderation], or set "
                "CHATMESH_POLICY to a policy without it"
            ) from error
        torch.set_num_threads(self._threads)
        classifier = WindowClassifier.load()
        if dropped := classifier.settle():
            log.warning("encoder: passes of %s windows round differently here than smaller ones: unused", dropped)
        return classifier

    async def judge(self, excerpts: Sequence[Excerpt]) -> list[Judgement]:
        """Raises BackendError if it was not started."""
        if self._classifier is None:
            raise BackendError(f"the backend {self.name} was not started")
        classifier = self._classifier
        cut = await self._thread.run(lambda: [classifier.windows(excerpt.text) for excerpt in excerpts])
        scores = await self._scores(classifier, {window for windows in cut for window in windows})
        return [
            Judgement(dict(zip(classifier.categories, _highest(scores[window] for window in windows), strict=True)))
            for windows in cut
        ]

    async def _scores(
        self, classifier: "WindowClassifier", windows: "Collection[PieceWindow]"
    ) -> "dict[PieceWindow, Scores]":
        """Of each: as remembered, else in passes of windows that are alike in length."""
        known = {window: scores for window in windows if (scores := self._memory.get(*window)) is not None}
        unknown = sorted((window for window in windows if window not in known), key=lambda window: len(window.ids))
        for start in range(0, len(unknown), classifier.rows):
            together = unknown[start : start + classifier.rows]
            for window, scores in zip(together, await self._pass(classifier, together), strict=True):
                known[window] = scores
                self._memory.put(*window, scores)
        return known

    async def _pass(self, classifier: "WindowClassifier", windows: "Sequence[PieceWindow]") -> "list[Scores]":
        return await self._thread.run(lambda: [tuple(row) for row in classifier.scores(windows).tolist()])

    async def stop(self) -> None:
        """Ends behind the pass in flight."""
        await self._thread.stop()
        self._classifier = None


def _highest(rows: Iterable[Sequence[float]]) -> list[float]:
    """The maximum of each column."""
    return [max(column) for column in zip(*rows, strict=True)]
