"""The pattern classifier."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.moderation.classifiers import PatternClassifier
from services.moderation.classifiers.patterns import RUN_SPAN
from services.moderation.policy import Policy, parse_policy
from services.moderation.windows import Finding, TextScreen, Window

POLICY = parse_policy(r"""
version: test
streaming: {stride: 4, lookback: 16, hold_back: 8}
categories:
  bad: {input: refuse, output: cut, patterns: ['\bkill\b', 'skull']}
  odd: {input: flag, output: mask, patterns: ['\d{3,}', 'ſk', 'k+']}
  quiet: {input: "off", output: flag, patterns: ['ill']}
  loud: {input: refuse, output: "off", patterns: ['shout']}
""")


def findings_one_by_one(policy: Policy, text: str, window: Window) -> list[Finding]:
    return [
        Finding(category.name, m.start(), m.end(), open=m.end() == window.end and not window.final)
        for category in policy.categories.values()
        if getattr(category, window.stage) != "off"
        for pattern in category.patterns
        for m in pattern.regex.finditer(text, window.start, window.end)
    ]


@settings(max_examples=200)
@given(st.lists(st.text(alphabet="kilsu 1ſK.\n", max_size=60), min_size=1, max_size=4), st.integers(1, 70))
async def test_a_batch_finds_what_each_window_alone_does(texts: list[str], step: int) -> None:
    """Asked together or one by one, fed in whatever pieces: the same, and all that is in the raw text. The Kelvin sign
    (K) is in the texts because case folds it to a k."""
    batch: list[Window] = []
    raw: list[list[Finding]] = []
    for text in texts:
        screen = TextScreen(POLICY)
        for at in range(0, len(text), step):
            batch += screen.feed(text[at : at + step])
        batch += screen.feed("", final=True)
        raw += [findings_one_by_one(POLICY, text, window) for window in batch[len(raw) :]]
    classifier = PatternClassifier(POLICY)
    found = await classifier.classify(batch)
    assert found == [(await classifier.classify([window]))[0] for window in batch]
    assert all(set(all_raw) <= set(findings) for all_raw, findings in zip(raw, found, strict=True))


@pytest.mark.parametrize("text", ["a \u017fkull", "a s\u212aull"])
async def test_letters_that_case_folds_onto_ascii_ones_hide_nothing(text: str) -> None:
    (found,) = await PatternClassifier(POLICY).classify([Window(0, 0, len(text), True, text)])
    assert [(f.start, f.end) for f in found if f.category == "bad"] == [(2, 7)]


async def test_a_text_that_is_asked_about_in_several_runs_hides_nothing() -> None:
    """An owner that takes a long response over feeds all of it at once."""
    text = "x" * (RUN_SPAN - 2) + " kill " + "y" * RUN_SPAN + " kill"
    windows = TextScreen(POLICY).feed(text, final=True)
    found = await PatternClassifier(POLICY).classify(windows)
    assert found == [findings_one_by_one(POLICY, text, window) for window in windows]
    bad = {(f.start, f.end) for findings in found for f in findings if f.category == "bad"}
    assert bad == {(RUN_SPAN - 1, RUN_SPAN + 3), (2 * RUN_SPAN + 5, 2 * RUN_SPAN + 9)}


async def test_the_text_behind_a_window_is_not_looked_at() -> None:
    text = "kills"
    (early,) = await PatternClassifier(POLICY).classify([Window(0, 0, 4, False, text)])
    (late,) = await PatternClassifier(POLICY).classify([Window(1, 0, 5, True, text)])
    assert [f for f in early if f.category == "bad"] == [Finding("bad", 0, 4, open=True)]
    assert [f for f in late if f.category == "bad"] == []


async def test_a_stage_looks_only_for_what_it_acts_on() -> None:
    text = "ill shout"
    found = await PatternClassifier(POLICY).classify(
        [Window(0, 0, 9, True, text, 0, "input"), Window(0, 0, 9, True, text, 0, "output")]
    )
    assert [[f.category for f in findings] for findings in found] == [["loud"], ["quiet"]]
