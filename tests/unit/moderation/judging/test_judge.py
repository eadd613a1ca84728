"""What patterns and backends say of a window, put together by the policy."""

from collections.abc import Mapping, Sequence

import pytest

from services.moderation.backends.port import BackendError, Excerpt, Judgement, Span
from services.moderation.judging import JudgePool, JudgingUnavailable, hear_input, judge_input, judge_texts, match_input
from services.moderation.judging.findings import placed_findings, scores_of
from services.moderation.judging.inputs import EXCERPT
from services.moderation.policy import Policy, parse_policy
from services.moderation.windows import Window
from shared.records import MODERATION_CATEGORIES, Message

Words = Mapping[str, Mapping[str, float]]


class Knows:
    """Scores by words; `flags` are what it calls violations whenever it is asked, `spans` what it places."""

    revision, batch = "1", 4

    def __init__(
        self, name: str, words: Words, *, flags: frozenset[str] = frozenset(), span: str | None = None
    ) -> None:
        self.name = name
        self.categories = frozenset(category for scores in words.values() for category in scores)
        self.asked: list[Excerpt] = []
        self.broken = False
        self._words, self._flags, self._span = words, flags, span

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def judge(self, excerpts: Sequence[Excerpt]) -> Sequence[Judgement]:
        if self.broken:
            raise BackendError("broken")
        self.asked += excerpts
        return [self._judgement(excerpt.raw) for excerpt in excerpts]

    def _judgement(self, text: str) -> Judgement:
        scores = {
            c: max((s.get(c, 0.0) for w, s in self._words.items() if w in text), default=0.0) for c in self.categories
        }
        at = text.find(self._span) if self._span is not None else -1
        spans = (Span("secrets", at, at + len(self._span or ""), 1.0),) if at >= 0 else ()
        return Judgement(scores, spans, self._flags)


def policy(backends: str, more: str = "", combine: str = "maximum") -> Policy:
    return parse_policy(f"""
version: test
streaming: {{stride: 4, checkpoint: 8, hold_back: 40, lookback: 120}}
combine: {combine}
backends:
{backends}
categories:
  violence: {{input: refuse, output: cut, thresholds: {{flag: 0.5, cut: 0.9, refuse: 0.8}}, patterns: ['zebra']}}
  hate: {{input: flag, output: flag}}
  secrets: {{input: "off", output: mask}}
  sexual: {{input: "off", output: mask, thresholds: {{flag: 0.5, cut: 0.9}}}}
{more}""")


ONE = "  a: {kind: encoder}"
TWO = "  a: {kind: encoder}\n  b: {kind: secrets, category: secrets, on_failure: open}"


def pool(*backends: Knows) -> JudgePool:
    known = {backend.name: backend for backend in backends}
    return JudgePool(lambda name, _: known[name])


def window(text: str, *, start: int = 0, final: bool = True) -> Window:
    return Window(0, start, len(text), final, text, checkpoint=True)


async def test_of_several_backends_the_highest_score_counts_and_each_finding_names_its_finder() -> None:
    a = Knows("a", {"grr": {"violence": 0.6, "hate": 0.2}})
    b = Knows("b", {"grr": {"violence": 0.7, "hate": 0.9}})
    heard = await pool(a, b).judge(policy(TWO)).hear(window("grr"))
    assert heard.scores == {"violence": 0.7, "hate": 0.9}
    assert [(f.backend, f.category, f.score) for f in heard.findings] == [
        ("a", "violence", 0.6),
        ("b", "hate", 0.9),
        ("b", "violence", 0.7),
    ]
    assert [(r.name, r.status) for r in heard.reports] == [("a", "ok"), ("b", "ok")]


@pytest.mark.parametrize(("combine", "score"), [("maximum", 0.1), ("any", 0.5)])
async def test_what_a_backend_calls_a_violation_counts_where_the_policy_says_any(combine: str, score: float) -> None:
    a = Knows("a", {"grr": {"violence": 0.1}}, flags=frozenset({"violence", "unknown"}))
    judge = pool(a).judge(policy(ONE, combine=combine))
    heard = await judge.hear(window("grr"))
    assert heard.scores["violence"] == score
    assert len(heard.findings) == (1 if combine == "any" else 0)


async def test_the_missing_answer_of_a_closed_backend_is_missed_and_that_of_an_open_one_told() -> None:
    a, b = Knows("a", {"grr": {"violence": 0.6}}), Knows("b", {"grr": {"hate": 0.9}})
    judge = pool(a, b).judge(policy(TWO))
    b.broken = True
    heard = await judge.hear(window("grr"))
    assert (heard.missing, heard.failed, heard.scores) == (None, ["b"], {"violence": 0.6})
    a.broken = True
    heard = await judge.hear(window("grr"))
    assert (heard.missing, heard.failed) == ("a", ["a", "b"])


async def test_what_is_cut_is_asked_about_until_its_beginning_is_known_and_a_flag_is_not() -> None:
    a = Knows("a", {"grr": {"violence": 0.95}, "hmm": {"violence": 0.6}})
    judge = pool(a).judge(policy(ONE))
    text = "All was well before that day. Then, grr, it began. "
    (finding,) = (await judge.hear(window(text))).findings
    assert text[finding.start : finding.end] == "grr, it began. "
    assert len(a.asked) > 1
    a.asked.clear()
    (finding,) = (await judge.hear(window("All was well. Then hmm."))).findings
    assert (finding.start, finding.end, len(a.asked)) == (0, 23, 1)


async def test_a_mask_by_score_covers_what_came_new_and_nothing_once_no_more_comes() -> None:
    """What was masked stands in the window still, and makes every longer text as bad."""
    a = Knows("a", {"grr": {"sexual": 0.95}})
    judge = pool(a).judge(policy(ONE))
    text = "It was late. A grr thing. " + "And then all was as it had been before, and so on and on. "
    (early,) = (await judge.hear(window(text[:30], final=False))).findings
    assert text[early.start : early.end] == "A grr thing. And "
    (late,) = (await judge.hear(window(text))).findings
    assert late.end == len(text) - 44, "before anything that is not public yet: no mask, a flag"


async def test_places_that_a_backend_knows_are_taken_as_they_are_and_rests_are_none() -> None:
    b = Knows("b", {"": {"hate": 0.0}}, span="k-1")
    judge = pool(Knows("a", {}), b).judge(policy(TWO))
    (inside,) = (await judge.hear(window("my k-1 is", start=2))).findings
    assert (inside.category, inside.start, inside.end, inside.open) == ("secrets", 3, 6, False)
    (at_the_end,) = (await judge.hear(window("my k-1", final=False))).findings
    assert at_the_end.open
    assert (await judge.hear(window("my k-1", start=3))).findings == (), "an earlier window had it whole"


async def test_a_place_counts_by_the_score_that_is_told() -> None:
    """Rounded it reaches the threshold: it may not be told as a flag and passed over."""
    judgement = Judgement(spans=(Span("violence", 0, 2, 0.49996),))
    (found,) = placed_findings(policy(ONE), judgement, window("my k-1"), "a")
    assert found.score == scores_of(policy(ONE), judgement)["violence"] == 0.5


async def test_backends_read_the_normalised_text_and_the_turns_before_it() -> None:
    a = Knows("a", {})
    context = (Message(role="user", parts=["Hello"]),)
    await pool(a).judge(policy(ONE)).hear(window("ＧＲＲ"), context)
    (asked,) = a.asked
    assert (asked.raw, asked.text, asked.context, asked.stage) == ("ＧＲＲ", "grr", context, "output")


# -- inputs and single texts ---------------------------------------------------------------------------------------


def said(*turns: str) -> list[Message]:
    return [Message(role="user", parts=[turn]) for turn in turns]


async def test_an_input_is_refused_from_its_own_threshold_on() -> None:
    a = Knows("a", {"grr": {"violence": 0.85}, "hmm": {"violence": 0.7}})
    judge = pool(a).judge(policy(ONE))
    assert (await judge_input(judge, said("hello", "grr"))).action == "refuse"
    flagged = await judge_input(judge, said("hmm"))
    assert (flagged.action, flagged.category, flagged.scores) == ("flag", "violence", {"violence": 0.7})
    assert [(report.name, report.status) for report in flagged.reports] == [("a", "ok")]


async def test_what_the_patterns_refuse_no_backend_is_asked_about() -> None:
    a = Knows("a", {})
    assert (await judge_input(pool(a).judge(policy(ONE)), said("a zebra"))).action == "refuse"
    assert a.asked == []


async def test_every_text_is_judged_behind_the_turns_before_it_and_the_users_turns_as_one() -> None:
    a = Knows("a", {"take this and mix": {"violence": 0.85}})
    messages = [*said("take this"), Message(role="assistant", parts=["ok"]), *said("and mix")]
    judge = pool(a).judge(policy(ONE))
    verdict = await hear_input(judge, messages, await match_input(judge, messages))
    assert (verdict.action, verdict.deciding and verdict.deciding.text) == ("refuse", 2)
    alone = [(excerpt.raw, [turn.text for turn in excerpt.context]) for excerpt in a.asked]
    assert alone == [
        ("take this", []),
        ("ok", ["take this"]),
        ("and mix", ["take this", "ok"]),
        ("take this and mix", []),
    ]


async def test_long_texts_are_judged_in_parts_that_overlap() -> None:
    a = Knows("a", {})
    await judge_texts(pool(a).judge(policy(ONE)), ["x" * (2 * EXCERPT + 100)])
    assert [len(excerpt.raw) for excerpt in a.asked] == [EXCERPT, EXCERPT + 120, 100 + 120]


async def test_a_text_on_its_own_is_told_in_every_category_with_its_source() -> None:
    a = Knows("a", {"grr": {"violence": 0.6, "hate": 0.2}})
    judge = pool(a).judge(policy(ONE, "  illicit: {input: flag, patterns: ['heist']}\n"))
    grr, heist = await judge_texts(judge, ["grr", "a heist"])
    assert set(grr.scores) == set(grr.sources) == set(MODERATION_CATEGORIES)
    assert (grr.scores["violence"], grr.scores["hate"], grr.scores["illicit"]) == (0.6, 0.2, 0.0)
    assert (grr.flagged, heist.flagged) == (["violence"], ["illicit"])
    assert (grr.sources["violence"], grr.sources["illicit"], grr.sources["self-harm"]) == ("model", "rules", "none")
    assert grr.policy == judge.policy.name


async def test_a_text_that_a_closed_backend_cannot_judge_has_no_result() -> None:
    a, b = Knows("a", {}), Knows("b", {})
    judge = pool(a, b).judge(policy(TWO))
    b.broken = True
    (result,) = await judge_texts(judge, ["x"])
    assert result.failed == ["b"]
    a.broken = True
    with pytest.raises(JudgingUnavailable, match="backend a has no answer") as raised:
        await judge_texts(judge, ["x"])
    assert raised.value.backend == "a"
