"""Patterns alone: however a text came and whoever owned it, the same is public, and the same is told to auditors."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chaos.evidence import Screening
from tests.unit.moderation.parity.courses import Course, courses, in_dialects, plain, run, violations

MASKS = {"fig": "[fruit]", "plum": "…"}
CUTS = ("zebra", "yak")
EDGES = 40
"""Offsets over which a violation slides: further than any window of the policies here reaches."""

EDGY = [Screening(stride, hold_back, MASKS, CUTS) for stride, hold_back in ((1, 5), (4, 8), (16, 16))]

screenings = st.builds(
    Screening,
    stride=st.integers(1, 5),
    hold_back=st.integers(5, 16),
    masks=st.just(MASKS),
    cuts=st.just(CUTS),
)
words = st.sampled_from([*MASKS, *CUTS, "fi", "ze", "bra", "a", "the", " ", " ", ". ", "\n", "é", "👩‍🚀", "Zebra"])
texts = st.lists(words, max_size=30).map("".join)


@settings(max_examples=100)
@given(st.data(), screenings, texts)
async def test_no_course_changes_what_comes_of_a_text(data: st.DataObject, screening: Screening, text: str) -> None:
    policy = screening.policy("parity")
    expected = await plain(policy, text)
    assert expected.text == screening.public(text)
    assert expected.cut == any(place.mask is None for place in screening.forbidden(text))
    found = await run(policy, data.draw(courses(text)))
    assert found == expected
    assert violations(found.log, screening) == []
    assert set(in_dialects(found.log).values()) == {expected.text}


@pytest.mark.parametrize("word", [*CUTS, *MASKS])
@pytest.mark.parametrize("screening", EDGY, ids=lambda s: f"stride {s.stride}, hold back {s.hold_back}")
async def test_a_word_is_found_across_every_edge(screening: Screening, word: str) -> None:
    policy = screening.policy("edges")
    for offset in range(EDGES):
        text = "a" * offset + word + " and so on, for a while, until it ends"
        found = await run(policy, Course((text,)))
        assert found.text == screening.public(text)
        assert (found.cut, word in found.text) == (word in CUTS, False)
        action = "cut" if word in CUTS else "mask"
        assert [place[1:] for place in found.places(action)] == [(offset, offset + len(word))]


@pytest.mark.parametrize("spelling", ["z e b r a", "z.e.b.r.a", "ze\u200bbra", "z\u0435bra", "ZEBRA", "ｚｅｂｒａ"])
async def test_an_evasion_is_found_across_every_edge(spelling: str) -> None:
    """However it is spelled, as long as no more is spelled than is held back."""
    screening = Screening(stride=4, hold_back=16, masks=MASKS, cuts=CUTS)
    for offset in range(EDGES):
        text = "one " * (offset // 4) + "." * (offset % 4) + " " + spelling + " and so on, for a while, until it ends"
        found = await run(screening.policy("evasions"), Course((text,)))
        assert found.cut
        assert found.position <= text.index(spelling)
        assert violations(found.log) == []
