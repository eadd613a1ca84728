"""What leaves of a text before it is cut, where the offence's place in it is known: text by text, then as a whole."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.moderation.evaluation.dataset import Sample
from services.moderation.evaluation.scoring import Progress
from services.moderation.judging import Judge, JudgingUnavailable
from services.moderation.windows import Finding, TextScreen, Window

PIECE = 4
"""Code points that arrive at a time, about a token. Where a text is cut does not depend on it (DESIGN 6.3)."""
TOGETHER = 64
QUANTILES = (0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True, slots=True)
class Streamed:
    """`public`: how much of a text of `length` code points left. `spans` as in the sample: where the offence is."""

    length: int
    public: int
    cut: bool
    spans: Sequence[tuple[int, int]]

    @property
    def told(self) -> int:
        """Code points from the start of the first offence on that left."""
        return max(0, self.public - self.spans[0][0])

    @property
    def past(self) -> int:
        """Code points behind the end of the first offence that left."""
        return max(0, self.public - self.spans[0][1])

    @property
    def lost(self) -> int:
        """Clean code points before the first offence that did not leave; without an offence, all that did not."""
        return max(0, (self.spans[0][0] if self.spans else self.length) - self.public)


@dataclass(frozen=True, slots=True)
class Spread:
    """Quantiles (QUANTILES) of a number of code points, and the share of texts in which it is 0."""

    quantiles: tuple[float, ...]
    none: float


@dataclass(frozen=True, slots=True)
class Overshoot:
    """`offending` texts have spans, `clean` ones have none. The spreads are over the offending texts that were cut."""

    offending: int
    cut: int
    told: Spread | None
    past: Spread | None
    lost: Spread | None
    clean: int
    clean_cut: int


async def stream_texts(judge: Judge, samples: Sequence[Sample], progress: Progress) -> list[Streamed]:
    """Each text as if a model said it now. Raises JudgingUnavailable if a backend fails."""
    streamed: list[Streamed] = []
    for start in range(0, len(samples), TOGETHER):
        streamed += await asyncio.gather(*(_stream(judge, sample) for sample in samples[start : start + TOGETHER]))
        progress(len(streamed), len(samples))
    return streamed


async def _stream(judge: Judge, sample: Sample) -> Streamed:
    screen = TextScreen(judge.policy)
    text = sample.text
    pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
    for number, piece in enumerate([*pieces, ""]):
        for window in screen.feed(piece, final=number == len(pieces)):
            outcome = screen.resolve([window], [await _findings(judge, window)])
            if outcome.cut is not None:
                return Streamed(len(text), screen.position, True, sample.spans or ())
    return Streamed(len(text), screen.position, False, sample.spans or ())


async def _findings(judge: Judge, window: Window) -> list[Finding]:
    (found,) = await judge.matches([window])
    if not (window.checkpoint and judge.has_backends):
        return list(found)
    heard = await judge.hear(window)
    for name in heard.failed:
        raise JudgingUnavailable(name)
    return [*found, *heard.findings]


def overshoot(streamed: Sequence[Streamed]) -> Overshoot:
    """All texts together."""
    offending = [each for each in streamed if each.spans]
    cut = [each for each in offending if each.cut]
    clean = [each for each in streamed if not each.spans]
    return Overshoot(
        offending=len(offending),
        cut=len(cut),
        told=_spread([each.told for each in cut]),
        past=_spread([each.past for each in cut]),
        lost=_spread([each.lost for each in cut]),
        clean=len(clean),
        clean_cut=sum(each.cut for each in clean),
    )


def _spread(numbers: Sequence[int]) -> Spread | None:
    if not numbers:
        return None
    found: NDArray[np.float64] = np.quantile(numbers, QUANTILES)
    return Spread(tuple(found.tolist()), sum(number == 0 for number in numbers) / len(numbers))
