"""From labels and scores to the figures of each category. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from services.moderation.evaluation.dataset import ANY, Sample
from services.moderation.evaluation.metrics import (
    Bin,
    Confusion,
    Interval,
    Measure,
    Ranking,
    average_precision,
    bootstrap,
    expected_calibration_error,
    reliability,
    true_positive_rate_at,
)
from services.moderation.evaluation.scoring import Scored
from services.moderation.policy import Policy
from shared.records import MODERATION_CATEGORIES

AUPRC = "AUPRC"
MEASURES: dict[str, Measure] = {
    AUPRC: average_precision,
    "TPR at 1 % FPR": true_positive_rate_at(0.01),
    "TPR at 5 % FPR": true_positive_rate_at(0.05),
}
ANY_LABELLED = "any, of texts with a label"

Labelled = list[tuple[bool, Scored]]


@dataclass(frozen=True, slots=True)
class Quality:
    """Of one category, or of any. `flag` and `cut`: what the policy's thresholds come to; None for a category that it
    does not have."""

    category: str
    texts: int
    positives: int
    measures: Mapping[str, Interval]
    flag: Confusion | None
    cut: Confusion | None
    bins: Sequence[Bin]

    @property
    def calibration_error(self) -> float:
        return expected_calibration_error(self.bins)


def qualities(
    policy: Policy, samples: Sequence[Sample], scored: Sequence[Scored], draws: int, seed: int
) -> list[Quality]:
    """Of every category that some text is labelled with, over the texts whose label is known; and of any."""
    return [
        _quality(policy, title, ANY if title == ANY_LABELLED else title, labelled, draws, seed)
        for title, labelled in _labelled(samples, scored)
        if labelled
    ]


def _labelled(samples: Sequence[Sample], scored: Sequence[Scored]) -> Iterator[tuple[str, Labelled]]:
    """`any` is over all texts, those of which nothing is known counting as harmless, as in published figures; and over
    the others alone where that makes a difference."""
    pairs = list(zip(samples, scored, strict=True))
    for category in MODERATION_CATEGORIES:
        yield category, [(label, score) for sample, score in pairs if (label := sample.label(category)) is not None]
    known = [(label, score) for sample, score in pairs if (label := sample.label(ANY)) is not None]
    yield ANY, [(bool(sample.label(ANY)), score) for sample, score in pairs] if known else []
    yield ANY_LABELLED, known if len(known) < len(pairs) else []


def _quality(policy: Policy, title: str, category: str, labelled: Labelled, draws: int, seed: int) -> Quality:
    truth = np.array([label for label, _ in labelled], bool)
    scores = np.array([scored.of(category) for _, scored in labelled], float)
    flagged = np.array([_decided(policy, category, scored, cut=False) for _, scored in labelled], bool)
    cut = np.array([_decided(policy, category, scored, cut=True) for _, scored in labelled], bool)
    judged = category == ANY or category in policy.categories
    return Quality(
        category=title,
        texts=len(labelled),
        positives=int(truth.sum()),
        measures=bootstrap(Ranking(truth, scores), len(labelled), MEASURES, draws, seed),
        flag=Confusion.of(truth, flagged) if judged else None,
        cut=Confusion.of(truth, cut) if judged else None,
        bins=reliability(truth, scores),
    )


def _decided(policy: Policy, category: str, scored: Scored, *, cut: bool) -> bool:
    """Whether the score reaches the category's threshold; of any: whether that of some category does."""
    names = policy.categories.keys() if category == ANY else policy.categories.keys() & {category}
    return any(
        scored.of(name) >= (thresholds.cut if cut else thresholds.flag)
        for name, thresholds in ((name, policy.categories[name].thresholds) for name in names)
    )
