"""Backends beside patterns: whenever they answer, and whoever else asks, the same is public, and the same is told."""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.records import ModerationWish
from tests.chaos.evidence import Rule, Screening
from tests.support.backends import WordBackend
from tests.support.fakes import MemoryLog
from tests.support.owner_bench import claimed, requested
from tests.unit.moderation.parity.courses import (
    Course,
    Outcome,
    courses,
    in_dialects,
    outcome,
    owner,
    plain,
    run,
    until_ended,
    violations,
)

PATTERN = "zebra"
CUT, SURLY, FLAG, NEAR, PLACE = "qualmy", "surly", "grumble", "peevish", "@home"
WORDS = {CUT: {"violence": 0.95}, FLAG: {"harassment": 0.6}, NEAR: {"violence": 0.6}}
MORE_WORDS = {SURLY: {"violence": 0.92}, NEAR: {"violence": 0.7}}
"""Of another backend. `CUT` and `SURLY` reach the threshold of their category's action, the others that of a flag."""
GROWN = "@homestead"
"""At the edge of a window it looks like `PLACE`."""
MASK = "[place]"
HANG, FAIL = "molasses", "gremlin"


@dataclass(frozen=True)
class Windows:
    """How a policy cuts text; every word of these tests is seen whole before its first letter is public."""

    stride: int
    checkpoint: int
    hold_back: int

    def forbidding(self, wish: ModerationWish | None = None) -> Screening:
        """What the checker knows of it: who wants to "block" has what is flagged cut."""
        blocked = (FLAG, NEAR) if wish is not None and wish.output == "block" else ()
        return Screening(self.stride, self.hold_back, {GROWN: MASK, PLACE: MASK}, (PATTERN, CUT, SURLY, *blocked))

    def policy(self, **backend: Any) -> str:
        """A policy with one pattern and two backends; `backend` are further keys of the first."""
        keys = "".join(f", {name}: {value}" for name, value in backend.items())
        return f"""
version: backends-1
streaming:
  {{stride: {self.stride}, checkpoint: {self.checkpoint}, hold_back: {self.hold_back}, lookback: 160}}
backends:
  words: {{kind: upstream, base_url: "http://words/v1"{keys}}}
  more: {{kind: upstream, base_url: "http://more/v1"}}
categories:
  violence: {{input: refuse, output: cut, thresholds: {{flag: 0.5, cut: 0.9}}}}
  harassment: {{input: flag, output: flag}}
  animals: {{patterns: ["{PATTERN}"], input: refuse, output: cut}}
  places: {{output: mask, mask: "{MASK}"}}
"""


def words(name: str, turns: Sequence[int] = (), *, reads_context: bool = True) -> WordBackend:
    """What the policies here ask: two that differ in what they know, and in when they are slow."""
    if name == "more":
        return WordBackend(name, MORE_WORDS, batch=5, turns=turns[::-1], reads_context=reads_context)
    places = {PLACE: "places", GROWN: "places"}
    return WordBackend(
        name, WORDS, places=places, batch=3, turns=turns, hangs=HANG, fails=FAIL, reads_context=reads_context
    )


def words_alone(name: str, turns: Sequence[int] = ()) -> WordBackend:
    """Those that do not care what was said before."""
    return words(name, turns, reads_context=False)


EDGY = [Windows(1, 1, 12), Windows(4, 8, 24), Windows(16, 16, 32), Windows(8, 32, 64)]
windows = st.builds(
    lambda stride, strides, more: Windows(stride, stride * strides, stride * strides + 10 + more),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(0, 12),
)
wishes = st.sampled_from(
    [
        None,
        ModerationWish(model="omni-moderation-latest"),
        ModerationWish(model="omni-moderation-latest", output="block"),
    ]
)
pieces = [
    PATTERN,
    CUT,
    SURLY,
    FLAG,
    NEAR,
    PLACE,
    "qual",
    "my",
    "a",
    "the sea",
    " ",
    " ",
    ". ",
    "? ",
    "\n",
    ", ",
    "é",
    "👩‍🚀",
]
texts = st.lists(st.sampled_from(pieces), max_size=24).map("".join)


@settings(max_examples=100)
@given(st.data(), windows, texts, wishes)
async def test_no_course_changes_what_comes_of_a_text(
    data: st.DataObject, where: Windows, text: str, wish: ModerationWish | None
) -> None:
    policy = where.policy()
    expected = await plain(policy, text, words, moderation=wish)
    found = await run(policy, data.draw(courses(text)), words, moderation=wish)
    assert found == expected
    assert violations(found.log, where.forbidding(wish)) == []
    assert set(in_dialects(found.log).values()) == {expected.text}


@settings(max_examples=100)
@given(st.data(), windows, texts)
async def test_nothing_that_is_cut_or_masked_is_public(data: st.DataObject, where: Windows, text: str) -> None:
    found = await run(where.policy(), data.draw(courses(text)), words)
    first = min((text.find(word) for word in (PATTERN, CUT, SURLY) if word in text), default=None)
    assert found.cut == (first is not None)
    assert found.position <= (len(text) if first is None else first)
    assert found.text == text[: found.position].replace(GROWN, MASK).replace(PLACE, MASK)


@settings(max_examples=60)
@given(st.data(), windows, texts)
async def test_a_text_of_one_checkpoint_has_the_same_scores_wherever_it_is_judged(
    data: st.DataObject, where: Windows, text: str
) -> None:
    """As input, as output, and told to a request that asks for both: one excerpt, one score."""
    text = text[: where.checkpoint]
    wish = ModerationWish(model="omni-moderation-latest")
    of_output = await run(where.policy(), data.draw(courses(text)), words_alone, moderation=wish)
    of_input = await plain(where.policy(), "", words_alone, text=text, moderation=wish)
    asked, said = of_input.told[0], of_output.told[1]
    assert said is not None
    refused = any(word in text for word in (PATTERN, CUT, SURLY))
    assert (of_input.end == "content_policy_violation") == of_output.cut == refused
    if not refused:
        assert asked is not None
        assert asked.scores == said.scores
        assert asked.flagged == said.flagged


@settings(max_examples=60)
@given(st.data(), windows, st.lists(texts, min_size=2, max_size=5))
async def test_neighbours_in_a_batch_change_nothing(data: st.DataObject, where: Windows, said: list[str]) -> None:
    """Many responses at once, their records in any order, in batches that mix them: each comes out as it does alone."""
    course = data.draw(courses("".join(said)))
    order = data.draw(
        st.permutations([number for number, text in enumerate(said, 1) for _ in Course(tuple(text)).journal()])
    )
    together = await crowd(where.policy(), said, order, course)
    for number, text in enumerate(said, 1):
        alone = await crowd(where.policy(), [text], None, Course(()), first=number)
        assert together[number] == alone[number]


async def crowd(
    policy: str, said: Sequence[str], order: Sequence[int] | None, course: Course, first: int = 1
) -> dict[int, Outcome]:
    """Number → what came of each text, of responses numbered from `first`. `order` says whose record comes next,
    `course` how many reach the owner at once and how long the backend takes."""
    log = MemoryLog()
    bench = owner(log, policy, words, turns=course.turns)
    await bench.start()
    numbers = list(range(first, first + len(said)))
    await bench.together(*(requested(number) for number in numbers))
    await bench.together(*(claimed(number) for number in numbers))
    journals = {number: iter(Course(tuple(text)).journal(number)) for number, text in zip(numbers, said, strict=True)}
    records = [next(journals[number]) for number in order] if order else [r for j in journals.values() for r in j]
    sizes = itertools.chain(course.batches, itertools.repeat(3))
    while records:
        size = next(sizes)
        await bench.together(*records[:size])
        del records[:size]
    await until_ended(bench, *numbers)
    return {number: outcome(log, number) for number in numbers}


async def test_what_a_patterns_cut_releases_was_judged_by_the_backend_too() -> None:
    """The window that finds the pattern is no checkpoint, and the text before the cut was seen by none."""
    found = await plain(Windows(4, 16, 26).policy(), f"{PLACE}{PATTERN} and so on", words)
    assert found.cut
    assert found.text == MASK


# -- where it is cut ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", [CUT, SURLY, PATTERN, PLACE, GROWN])
@pytest.mark.parametrize("where", EDGY, ids=str)
async def test_a_word_is_found_across_every_edge(where: Windows, word: str) -> None:
    for offset in range(where.hold_back + where.checkpoint + where.stride + 3):
        text = "a" * offset + word + " and so on, for a while, until it ends"
        found = await run(where.policy(), Course((text,)), words)
        assert found.cut == (word not in (PLACE, GROWN))
        assert found.position <= (offset if found.cut else len(text))
        assert word not in found.text
        assert found.cut or found.text == text.replace(word, MASK)
        assert found.position >= offset + len(word) - where.hold_back - where.stride, "no more is lost than was held"


@pytest.mark.parametrize("word", [CUT, GROWN])
@pytest.mark.parametrize("where", EDGY[1:3], ids=str)
async def test_a_word_is_found_far_behind_what_a_window_sees(where: Windows, word: str) -> None:
    """The text before it is longer than a window: what is long public neither hides nor repeats anything."""
    for offset in range(where.checkpoint + where.stride):
        text = "One more sentence. " * 10 + "a" * offset + f", {word}. And so on, for a while, until it ends."
        found = await run(where.policy(), Course((text,), deaths=((2, 1),)), words)
        assert found.cut == (word == CUT)
        assert found.position <= (text.index(word) if found.cut else len(text))
        assert found.text == (text[: found.position] if found.cut else text.replace(word, MASK))
        assert found.position >= text.index(word) - where.hold_back - where.stride
        assert violations(found.log, where.forbidding()) == []


@pytest.mark.parametrize("where", [w for w in EDGY if w.hold_back >= w.checkpoint + 16], ids=str)
async def test_what_was_clean_before_the_clause_is_public_and_nothing_behind(where: Windows) -> None:
    """The cut lies where the clause with the word begins, not where the window does."""
    for offset in range(where.checkpoint + where.stride + 1):
        before = "b" * offset + " is fine. So it is. "
        text = before + f"A {CUT} way. And then on and on, as ever, to the end."
        found = await run(where.policy(), Course(tuple(text)), words)
        assert found.cut
        assert found.text.rstrip() == before.rstrip(), f"offset {offset}"


# -- who fails ---------------------------------------------------------------------------------------------------------


async def test_only_the_text_that_a_backend_fails_on_ends() -> None:
    where = EDGY[1]
    said = [
        f"a calm beginning, then {FAIL} and more of it, at length",
        "calm from the beginning to the end, as one says",
    ]
    found = await crowd(where.policy(on_failure="closed"), said, None, Course(()))
    assert found[1].end == "failed moderation_unavailable"
    assert FAIL not in found[1].text
    assert found[2].end == "completed"
    assert found[2].text == said[1]


failing_texts = st.lists(st.sampled_from([FAIL, CUT, SURLY, FLAG, PLACE, "a", "the sea", " ", ". ", "é"]), max_size=20)


@settings(max_examples=60)
@given(st.data(), windows, failing_texts.map("".join))
async def test_where_a_backend_fails_by_the_text_open_no_course_changes_anything(
    data: st.DataObject, where: Windows, text: str
) -> None:
    policy = where.policy(on_failure="open")
    expected = await plain(policy, text, words)
    found = await run(policy, data.draw(courses(text)), words)
    assert found == expected
    assert [v for v in violations(found.log) if v.rule in (Rule.UNJUDGED, Rule.JUDGED_TWICE)] == []


@settings(max_examples=60)
@given(st.data(), windows, failing_texts.map("".join))
async def test_where_a_backend_fails_closed_nothing_unjudged_is_public(
    data: st.DataObject, where: Windows, text: str
) -> None:
    found = await run(where.policy(on_failure="closed"), data.draw(courses(text)), words)
    first = min((text.find(word) for word in (FAIL, CUT, SURLY) if word in text), default=None)
    assert (found.end == "completed") == (first is None)
    assert found.position <= (len(text) if first is None else first)
    assert found.text == text[: found.position].replace(PLACE, MASK)
    assert [v for v in violations(found.log) if v.rule in (Rule.UNJUDGED, Rule.JUDGED_TWICE)] == []


async def test_what_fails_open_goes_on_and_says_so() -> None:
    where = EDGY[1]
    text = f"a calm beginning, then {FAIL} and more of it, at length, {PATTERN}"
    found = await plain(where.policy(on_failure="open"), text, words)
    assert found.cut, "the patterns still decide"
    reports = {report for verdict in found.verdicts.values() for report in verdict[-1]}
    assert {status for _, _, status in reports} == {"ok", "failed"}


@pytest.mark.parametrize(("on_failure", "end"), [("closed", "failed moderation_unavailable"), ("open", "completed")])
async def test_a_backend_that_hangs_is_late_and_who_comes_next_goes_on(on_failure: str, end: str) -> None:
    asked: list[WordBackend] = []
    bench = owner(
        MemoryLog(),
        EDGY[1].policy(on_failure=on_failure, timeout_s=0.2),
        lambda name, turns: asked.append(words(name, turns)) or asked[-1],
    )
    await bench.start()
    stuck, calm = f"a calm beginning, then {HANG} and more of it, at length", "calm from the beginning to the end"
    await bench.together(requested(1), claimed(1), *Course(tuple(stuck)).journal(1))
    async with asyncio.timeout(5):
        while not any(HANG in excerpt.raw for batch in asked[0].batches for excerpt in batch):
            await bench.pump()
    await bench.together(requested(2), claimed(2), *Course(tuple(calm)).journal(2))
    await until_ended(bench, 1, 2)
    first, second = outcome(bench.log, 1), outcome(bench.log, 2)
    assert (first.end, second.end, second.text) == (end, "completed", calm)
    assert stuck.startswith(first.text)
    assert HANG not in first.text or on_failure == "open"
    late = {status for verdict in first.verdicts.values() for _, _, status in verdict[-1]}
    assert late == ({"ok", "late"} if on_failure == "open" else {"ok"}), "what ends by the journal has no verdict of it"


async def test_an_input_that_cannot_be_judged_is_turned_away_as_long_as_that_lasts() -> None:
    found = await plain(EDGY[1].policy(on_failure="closed"), "never said", words, text=f"why {FAIL}?")
    assert found.end == "moderation_unavailable"
