"""The default classifier behind the port. Neither torch nor numpy is imported before `start`."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from services.moderation.backends.encoder.memory import Memory, Scores
from services.moderation.backends.port import BackendError, Excerpt, Judgement
from services.moderation.backends.threads import OneThread, use_cores
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
        try:
            use_cores(self._threads)
            from services.moderation.backends.encoder.classifier import WindowClassifier
        except ModuleNotFoundError as error:
            raise SettingsError(
                f"the policy's backend {self.name} needs {error.name}: install chatmesh[moderation], or set "
                "CHATMESH_POLICY to a policy without it"
            ) from error
        classifier = WindowClassifier.load()
        if dropped := classifier.settle():
            log.warning("encoder: passes of %s windows round differently here than smaller ones: unused", dropped)
        return classifier

    async def judge(self, excerpts: Sequence[Excerpt]) -> list[Judgement]:
        """Raises BackendError if it was not started."""
        if self._classifier is None:
            raise BackendError(f"the backend {self.name} was not started")
        call = _Call(self._classifier, self._memory, [excerpt.text for excerpt in excerpts])
        while not await self._thread.run(call.advance):
            pass  # between two passes other calls have theirs
        return call.judgements()

    async def stop(self) -> None:
        """Ends behind the pass in flight."""
        await self._thread.stop()
        self._classifier = None


class _Call:
    """The texts of one call, on their way to scores. `advance` runs in the thread, and so does all that it touches."""

    def __init__(self, classifier: "WindowClassifier", memory: Memory, texts: Sequence[str]) -> None:
        self._classifier = classifier
        self._memory = memory
        self._texts = texts
        self._cut: list[list[PieceWindow]] | None = None
        self._known: dict[PieceWindow, Scores] = {}
        self._unknown: list[PieceWindow] = []

    def advance(self) -> bool:
        """Score a few more windows, first those that are alike in length; whether all are scored now."""
        if self._cut is None:
            self._cut = [self._classifier.windows(text) for text in self._texts]
            self._recall({window for windows in self._cut for window in windows})
        together = self._unknown[: self._classifier.rows]
        del self._unknown[: len(together)]
        if together:
            for window, row in zip(together, self._classifier.scores(together).tolist(), strict=True):
                self._known[window] = tuple(row)
                self._memory.put(*window, self._known[window])
        return not self._unknown

    def _recall(self, windows: "Iterable[PieceWindow]") -> None:
        for window in sorted(windows, key=lambda window: (len(window.ids), window)):
            if (scores := self._memory.get(*window)) is not None:
                self._known[window] = scores
            else:
                self._unknown.append(window)

    def judgements(self) -> list[Judgement]:
        """Of each text, once all is scored."""
        assert self._cut is not None, "advance says when"
        names = self._classifier.categories
        return [
            Judgement(dict(zip(names, _highest(self._known[window] for window in windows), strict=True)))
            for windows in self._cut
        ]


def _highest(rows: Iterable[Sequence[float]]) -> list[float]:
    """The maximum of each column."""
    return [max(column) for column in zip(*rows, strict=True)]
