"""What the head reads of a window's words: classes, single words, the language."""

import time

import numpy as np
import pytest

from services.moderation.backends.encoder.features import Scale, Terms, language_factor
from services.moderation.backends.encoder.lexicon import Lexicon, built_in

SMALL = Lexicon(
    {"fruit": ["apples?", "pear"], "colour": ["red", "deep blue"]}, [("fruit", "colour")], ["the", "a", "is"]
)
FRUIT, COLOUR, PAIR = 0, 1, 4


def test_words_of_a_class_are_counted_whole_and_in_any_case() -> None:
    features = SMALL.features("APPLES, a pear and pineapples")
    assert features[FRUIT] == pytest.approx(np.log1p(2))
    assert features[COLOUR] == 0


def test_a_phrase_counts_as_one() -> None:
    assert SMALL.features("a deep blue sky, so blue")[COLOUR] == pytest.approx(np.log1p(1))


def test_words_near_each_other_make_a_pair_and_far_ones_none() -> None:
    assert SMALL.features("red apple")[PAIR] == pytest.approx(np.log1p(1))
    assert SMALL.features("red " + "so " * 40 + "apple")[PAIR] == 0


def test_every_text_has_as_many_features() -> None:
    for text in ("", "?!", "\ud800", "a" * 5_000, "日本語"):
        assert built_in().features(text).shape == (built_in().size,)
        assert np.isfinite(built_in().features(text)).all()


@pytest.mark.parametrize(
    "text", ["you " * 2_000, "you are " * 1_500 + "!", "f*" * 3_000, "''''" * 2_000, "going to " * 900]
)
def test_no_text_takes_long(text: str) -> None:
    """The expressions come from a file of ours, but the texts do not."""
    started = time.perf_counter()
    built_in().features(text)
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("I don't know what you want from me, it is late and I have to go", 1, 1),
        ("hello", 0.9, 1),
        ("Das ist ein ganz normaler Satz über das Wetter und die Arbeit", 0, 0.5),
        ("int main ( ) { return x [ i ] ; } void foo ( double bar ) ;", 0, 0.7),
    ],
)
def test_english_is_told_by_its_commonest_words(text: str, low: float, high: float) -> None:
    assert low <= built_in().english(text) <= high


def test_likeness_falls_with_the_difference_in_language() -> None:
    one = np.ones(1, np.float32)
    assert language_factor(one, one)[0] == 1
    assert language_factor(one, one * 0.2)[0] < 0.1


def test_terms_are_those_of_several_texts() -> None:
    terms = Terms.of(["red apple", "red pear", "blue"])
    assert len(terms.hashes) == 1
    places, values = terms.of_text("red red apple")
    assert (places.tolist(), values.tolist()) == ([0], [1])


def test_rarer_terms_weigh_more_and_the_vector_has_length_one() -> None:
    terms = Terms.of(["so rare", "so rare", "so", "so"])
    matrix = terms.matrix(["so rare", "nothing known"])
    values = dict(zip(*terms.of_text("so rare"), strict=True))
    assert max(values.values()) > min(values.values())
    assert np.square(matrix).sum(1) == pytest.approx([1, 0])


def test_nothing_known_is_an_empty_vector() -> None:
    assert len(Terms.of([]).of_text("red apple")[0]) == 0
    assert len(Terms.of(["red", "red"]).of_text("!")[0]) == 0


def test_vectors_of_states_have_length_one() -> None:
    chance = np.random.default_rng(0)
    states = chance.standard_normal((20, 5, 8)).astype(np.float32)
    words = chance.standard_normal((20, 3)).astype(np.float32)
    *of_states, of_words = Scale.of(states, words).vectors(states, words)
    for vectors in of_states:
        assert np.square(vectors).sum(1) == pytest.approx(np.ones(20), rel=1e-4)
    assert np.abs(of_words).max() <= 4
