"""The head of the default classifier: from a window's pooled states and text to calibrated probabilities.

One support vector machine per category over one sum of kernels (features.py): the likeness of a window to some two
thousand training texts, seen by the encoder's layers, by classes of words and by single words. The part over single
words is linear and is kept as one weight per word. How it was trained, and how well it does: MODEL_CARD.md.

numpy only; a window's scores depend on nothing else, to the bit.
"""

import hashlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.moderation.backends.encoder.features import (
    KERNELS,
    LAYERS,
    TOTAL_WEIGHT,
    Axes,
    Floats,
    Scale,
    Terms,
    language_factor,
)
from services.moderation.backends.encoder.lexicon import built_in
from shared.errors import SettingsError

DEFAULT = Path(__file__).with_name("head.npz")
FORMAT = 1
CATEGORIES = ("sexual", "hate", "violence", "harassment", "self-harm", "hate/threatening", "violence/graphic")
"""What the training data teaches, of OpenAI's thirteen categories."""
MAIN = 5
"""The first so many categories hold the others: their union is all of them."""
OUTPUTS = (*CATEGORIES, "any")
ANY_OWN = 2 / 3
"""The share of the margin of its own in the log-odds of `any`; the rest is that of the categories' union."""


class Head:
    """`arrays` as training wrote them (`parts` names them), `revision` tells two heads apart."""

    layers = LAYERS
    categories = CATEGORIES
    outputs = OUTPUTS

    def __init__(self, arrays: Mapping[str, NDArray[Any]], revision: str) -> None:
        """Raises KeyError for an array that is missing."""
        self.revision = revision
        single = {name: array.astype(np.float32) for name, array in arrays.items() if array.dtype.kind == "f"}
        self._scale = Scale(*(single[name] for name in Scale._fields))
        self._terms = Terms(arrays["terms"], single["inverse_frequency"])
        self._term_weights = single["term_weights"]
        self._english = single["english"]
        self._bias, self._calibration = single["bias"], single["calibration"]
        self._kernels = [_Compared(single, kernel.name, kernel.width, kernel.weight) for kernel in KERNELS]
        self._weights = single["weights"]

    def score(self, pooled: Floats, texts: Sequence[str]) -> Floats:
        """The probability of each of `categories` for n windows: [n, categories].

        `pooled`: [n, layers, 384], the means of the hidden states `layers`; `texts`: what each window covers.
        """
        return self.score_all(pooled, texts)[:, : len(CATEGORIES)]

    def score_all(self, pooled: Floats, texts: Sequence[str]) -> Floats:
        """As `score`, and in the last column the probability of any violation: [n, outputs]."""
        return calibrated(self.margins(pooled, texts), self._calibration)

    def margins(self, pooled: Floats, texts: Sequence[str]) -> Floats:
        """How far each window is on the wrong side, before calibration: [n, outputs]."""
        rows = [self._margins(pooled[row : row + 1], text) for row, text in enumerate(texts)]
        return np.array(rows, np.float32).reshape(len(texts), len(OUTPUTS))

    def _margins(self, pooled: Floats, text: str) -> Floats:
        """[outputs], of one window."""
        lexicon = built_in()
        vectors = self._scale.vectors(pooled, lexicon.features(text)[None])
        likeness = np.zeros(len(self._english), np.float32)
        for compared, vector in zip(self._kernels, vectors, strict=True):
            likeness += compared.likeness(vector)
        likeness *= language_factor(np.full(1, lexicon.english(text), np.float32), self._english)
        places, values = self._terms.of_text(text)
        margins: Floats = likeness @ self._weights + values @ self._term_weights[places] + self._bias
        return margins


class _Compared:
    """One kernel between a window and the support texts."""

    def __init__(self, arrays: Mapping[str, Floats], name: str, width: float, weight: float) -> None:
        self._width = np.float32(width)
        self._axes = Axes(arrays[f"{name}.centre"], np.ascontiguousarray(arrays[f"{name}.directions"]))
        self._points = np.ascontiguousarray(arrays[f"{name}.points"])
        self._square = np.square(self._points).sum(1) + arrays[f"{name}.rests"]
        self._share = np.float32(weight / TOTAL_WEIGHT)

    def likeness(self, vector: Floats) -> Floats:
        """`vector`: [1, d]. Its weighted kernel with every support text."""
        coordinates, rest = self._axes.place(vector)
        distance = self._square - 2 * (self._points @ coordinates[0]) + (np.square(coordinates[0]).sum() + rest[0])
        kernel: Floats = self._share * np.exp(-self._width * np.maximum(distance, 0))
        return kernel


def calibrated(margins: Floats, calibration: Floats) -> Floats:
    """Probabilities from margins, [n, outputs] each. `calibration`: slope and offset [outputs + 1, 2]; the last row but
    one turns the margin of `any` itself into log-odds, the last one its mixture with the categories' union."""
    odds = margins * calibration[: len(OUTPUTS), 0] + calibration[: len(OUTPUTS), 1]
    mixed = mixed_any(odds) * calibration[-1, 0] + calibration[-1, 1]
    return _probability(np.concatenate([odds[:, : len(CATEGORIES)], mixed[:, None]], 1))


def mixed_any(odds: Floats) -> Floats:
    """Log-odds of any violation [n] from those of the outputs [n, outputs]: between its own and that of the union of
    the categories as if they were independent."""
    # log(1 - prod(1 - p)) - log(prod(1 - p)), without leaving log-odds where p is near 0 or 1
    none = -np.logaddexp(0, odds[:, :MAIN]).sum(1)
    union = np.log(np.maximum(-np.expm1(none), np.float32(1e-30))) - none
    return np.asarray(ANY_OWN * odds[:, -1] + (1 - ANY_OWN) * union, np.float32)


def load_head(path: Path = DEFAULT) -> Head:
    """The head in `path`. Raises SettingsError where it is missing or no head of this version."""
    try:
        content = path.read_bytes()
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise SettingsError(f"{path} is no head of the default classifier: {error}") from error
    if int(arrays.get("format", -1)) != FORMAT:
        raise SettingsError(f"{path} has format {arrays.get('format')}, not {FORMAT}: train it again")
    try:
        return Head(arrays, hashlib.sha256(content).hexdigest()[:12])
    except KeyError as error:
        raise SettingsError(f"{path} has no array {error}: train it again") from error


def _probability(odds: Floats) -> Floats:
    # Below -80 it is 0 to any digit that counts, and float32 would overflow on the way.
    return np.asarray(1 / (1 + np.exp(-np.maximum(odds, -80))), np.float32)
