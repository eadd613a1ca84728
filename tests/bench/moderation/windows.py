"""What one window costs the default classifier, by its length, alone and in company. In this process, on one thread."""

import time
from collections.abc import Callable
from itertools import cycle

from services.moderation.backends.encoder.classifier import WindowClassifier
from services.moderation.backends.encoder.encoder import Encoder
from services.moderation.backends.encoder.windows import PieceWindow
from services.moderation.normaliser import normalise
from tests.bench.moderation.figures import WindowCost

LENGTHS = (16, 32, 64, 96, 128)
"""Positions of a window, its two marks included."""
REPEATS = 15
# Each is one word piece.
_WORDS = "the weather in our small village was calm and warm all day so we took an old train to see the lake"


def window_costs(classifier: WindowClassifier) -> list[WindowCost]:
    """Torch must be set to one thread, for the clock is the thread's: what else runs on the machine does not count, but
    for the caches."""
    return [_cost(classifier, length) for length in LENGTHS]


def _cost(classifier: WindowClassifier, length: int) -> WindowCost:
    window = _window(classifier, length)
    together = [window] * classifier.rows
    alone_ms = _cpu_ms(lambda: classifier.scores([window]))
    return WindowCost(
        length=length,
        alone_ms=alone_ms,
        shared_ms=_cpu_ms(lambda: classifier.scores(together)) / len(together),
        shared=len(together),
        head_ms=max(0.0, alone_ms - _cpu_ms(lambda: classifier.encoder.pooled([window.ids]))),
        reading_ms=_cpu_ms(lambda: classifier.windows(normalise(window.text).text)),
    )


def _window(classifier: WindowClassifier, length: int) -> PieceWindow:
    words = [word for word, _ in zip(cycle(_WORDS.split()), range(length - 2), strict=False)]
    (window,) = classifier.windows(" ".join(words))
    assert len(window.ids) == length, "each of the words is one piece"
    return window


def _cpu_ms(work: Callable[[], object]) -> float:
    """The quickest of REPEATS: what comes on top is the machine's, not the work's."""
    times = []
    for _ in range(REPEATS):
        started_s = time.thread_time()
        work()
        times.append(time.thread_time() - started_s)
    return min(times) * 1000


def processor(encoder: Encoder) -> str:
    """What the encoder runs on: device and numbers."""
    return f"{encoder.device.type}, {str(encoder.dtype).removeprefix('torch.')}"
