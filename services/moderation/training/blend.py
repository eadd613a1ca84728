"""The plain model that the head is measured against: two logistic regressions, one on MiniLM's embedding of a text and
one on its TF-IDF, and the mean of their z-scores."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from services.moderation.backends.encoder.features import Floats

_PENALTY = 10.0
_MOST_CHARACTER_TERMS = 100_000


def blend_scores(texts: Sequence[str], embeddings: Floats, labels: Floats, folds: NDArray[np.intp]) -> Floats:
    """Scores of texts that each model did not see: [texts, outputs].

    `embeddings`: [texts, 384], length 1; `labels`: [texts, outputs], NaN where unknown.
    """
    found = np.zeros((2, *labels.shape), np.float32)
    for fold in np.unique(folds):
        seen, unseen = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        words, others = _words(texts, seen, unseen)
        for output, truth in enumerate(labels.T):
            known = ~np.isnan(truth[seen])
            for number, (learnt, judged) in enumerate(((embeddings[seen], embeddings[unseen]), (words, others))):
                model = LogisticRegression(C=_PENALTY, class_weight="balanced", solver="liblinear", random_state=0)
                model.fit(learnt[known], truth[seen][known] == 1)
                found[number, unseen, output] = model.decision_function(judged)
    blended: Floats = _standardised(found, labels).mean(0)
    return blended


def _words(texts: Sequence[str], seen: NDArray[np.intp], unseen: NDArray[np.intp]) -> tuple[csr_matrix, csr_matrix]:
    """TF-IDF over words, pairs of words and pieces of words."""
    learnt, judged = ([texts[number] for number in some] for some in (seen, unseen))
    makers = (
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
        TfidfVectorizer(
            analyzer="char_wb",
            ngram_range=(2, 5),
            sublinear_tf=True,
            min_df=2,
            max_features=_MOST_CHARACTER_TERMS,
        ),
    )
    parts = [(maker.fit_transform(learnt), maker.transform(judged)) for maker in makers]
    return csr_matrix(hstack([one for one, _ in parts])), csr_matrix(hstack([other for _, other in parts]))


def _standardised(scores: Floats, labels: Floats) -> Floats:
    """z-scores over the texts whose label is known: [models, texts, outputs]."""
    known = np.where(np.isnan(labels), np.nan, scores)
    standard: Floats = (scores - np.nanmean(known, 1, keepdims=True)) / np.nanstd(known, 1, keepdims=True)
    return standard
