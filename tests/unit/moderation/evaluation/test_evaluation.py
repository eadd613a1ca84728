"""The whole tool, with a backend whose scores stand in the texts: known answers."""

import json
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from services.moderation.backends.port import BackendError, Excerpt, Judgement
from services.moderation.evaluation import __main__ as tool
from services.moderation.evaluation.dataset import Sample
from services.moderation.evaluation.overshoot import Overshoot, Spread, Streamed, overshoot, stream_texts
from services.moderation.evaluation.quality import ANY_LABELLED, AUPRC, Quality, qualities
from services.moderation.evaluation.scoring import Judges, judges_of, score_texts
from services.moderation.judging import JudgingUnavailable
from services.moderation.policy import BackendSpec, parse_policy
from shared.records import ModerationWish

POLICY = parse_policy("""
version: t
streaming: {stride: 4, lookback: 64, hold_back: 8, checkpoint: 8}
backends:
  plain: {kind: encoder, timeout_s: 0.001}
categories:
  violence: {input: flag, output: cut, thresholds: {flag: 0.3, cut: 0.8}}
  hate: {input: flag, output: flag, thresholds: {flag: 0.5, cut: 0.9}}
""")


class SaidScores:
    """A text scores what it says: "v.7" is violence .7, "h.2" hate .2, "any.5" any .5; the highest counts."""

    name, revision, batch = "plain", "1", 4
    categories = frozenset({"violence", "hate"})
    _NAMES = {"v": "violence", "h": "hate", "any": "any"}

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def judge(self, excerpts: Sequence[Excerpt]) -> list[Judgement]:
        return [self._judged(excerpt.raw) for excerpt in excerpts]

    def _judged(self, text: str) -> Judgement:
        if "broken" in text:
            raise BackendError("it cannot")
        scores: dict[str, float] = {}
        for name, score in re.findall(r"(v|h|any)(\.\d)", text):
            category = self._NAMES[name]
            scores[category] = max(scores.get(category, 0.0), float(score))
        return Judgement(scores)


def build(name: str, spec: BackendSpec) -> SaidScores:
    return SaidScores()


@pytest.fixture
async def judges() -> AsyncIterator[Judges]:
    async with judges_of(POLICY, build) as found:
        yield found


def nothing(done: int, whole: int) -> None: ...


async def evaluated(judges: Judges, samples: Sequence[Sample]) -> dict[str, Quality]:
    scored = await score_texts(judges(None), [sample.text for sample in samples], nothing)
    return {each.category: each for each in qualities(POLICY, samples, scored, draws=20, seed=0)}


async def test_each_category_is_judged_over_the_texts_whose_label_is_known(judges: Judges) -> None:
    samples = [
        Sample("v.9", {"violence": True}),
        Sample("v.4", {"violence": False}),
        Sample("v.2 h.6", {"violence": True, "hate": False}),
        Sample("h.1", {}),
    ]
    found = await evaluated(judges, samples)
    violence = found["violence"]
    assert (violence.texts, violence.positives) == (3, 2)
    assert violence.measures[AUPRC].value == pytest.approx((1 + 2 / 3) / 2)
    assert violence.flag is not None and violence.cut is not None
    assert (violence.flag.precision, violence.flag.recall, violence.flag.false_positive_rate) == (0.5, 0.5, 1.0)
    assert (violence.cut.precision, violence.cut.recall, violence.cut.false_positive_rate) == (1.0, 0.5, 0.0)
    assert violence.calibration_error == pytest.approx((0.1 + 0.4 + 0.8) / 3)
    assert (found["hate"].texts, found["hate"].positives) == (1, 0)
    assert "sexual" not in found


async def test_any_counts_what_nobody_labelled_as_harmless_and_is_told_without_it_too(judges: Judges) -> None:
    samples = [Sample("v.9", {"violence": True}), Sample("h.3", {"hate": False}), Sample("v.9", {})]
    found = await evaluated(judges, samples)
    assert (found["any"].texts, found["any"].positives) == (3, 1)
    assert found["any"].measures[AUPRC].value == pytest.approx(1 / 2)
    assert (found[ANY_LABELLED].texts, found[ANY_LABELLED].measures[AUPRC].value) == (2, 1.0)
    assert ANY_LABELLED not in await evaluated(judges, samples[:2])


async def test_any_is_the_backends_own_where_it_has_one_else_the_highest(judges: Judges) -> None:
    scored = await score_texts(judges(None), ["v.4 h.6", "v.4 any.9", "nothing"], nothing)
    assert [each.of("any") for each in scored] == [0.6, 0.9, 0.0]


async def test_a_backend_that_fails_ends_the_evaluation(judges: Judges) -> None:
    with pytest.raises(JudgingUnavailable):
        await score_texts(judges(None), ["broken"], nothing)
    with pytest.raises(JudgingUnavailable):
        await stream_texts(judges(None), [Sample("broken", {}, ())], nothing)


async def test_texts_are_streamed_and_cut_as_the_policy_says(judges: Judges) -> None:
    offence = "All is well here, my friend. Now v.9 it says."
    samples = [
        Sample(offence, {}, ((33, 36),)),
        Sample("It is h.9 by far.", {}, ((6, 9),)),
        Sample("A clean text, all the way.", {}, ()),
    ]
    cut, flagged, clean = await stream_texts(judges(None), samples, nothing)
    assert cut.cut and cut.told == 0 and cut.public <= 33
    assert not flagged.cut and flagged.told == len("h.9 by far.")
    assert not clean.cut and clean.lost == 0
    blocked = await stream_texts(judges(ModerationWish(model="", output="block")), samples, nothing)
    assert [each.cut for each in blocked] == [True, True, False]


def test_overshoot_is_told_of_the_texts_that_were_cut() -> None:
    spans = ((10, 14), (40, 44))
    streamed = [
        Streamed(100, 10, True, spans),
        Streamed(100, 20, True, spans),
        Streamed(100, 4, True, spans),
        Streamed(100, 100, False, spans),
        Streamed(50, 30, True, ()),
        Streamed(50, 50, False, ()),
    ]
    assert [each.told for each in streamed[:3]] == [0, 10, 0]
    assert [each.past for each in streamed[:3]] == [0, 6, 0]
    assert [each.lost for each in streamed] == [0, 0, 6, 0, 20, 0]
    assert overshoot(streamed) == Overshoot(
        offending=4,
        cut=3,
        told=Spread((0.0, pytest.approx(8.0), pytest.approx(9.8), 10.0), pytest.approx(2 / 3)),
        past=Spread((0.0, pytest.approx(4.8), pytest.approx(5.88), 6.0), pytest.approx(2 / 3)),
        lost=Spread((0.0, pytest.approx(4.8), pytest.approx(5.88), 6.0), pytest.approx(2 / 3)),
        clean=2,
        clean_cut=1,
    )


PATTERNS = """
version: t
categories:
  violence: {input: flag, output: cut, patterns: [blood]}
"""


def test_from_the_command_line_to_the_tables_and_the_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"text": "blood and more blood", "violence": 1, "spans": [[0, 5]]},
        {"text": "nothing at all", "violence": 0, "spans": []},
    ]
    file, policy, out = tmp_path / "x.jsonl", tmp_path / "policy.yaml", tmp_path / "out"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    policy.write_text(PATTERNS)
    assert tool.main([str(file), "--policy", str(policy), "--out", str(out), "--bootstrap", "10"]) == 0
    told = capsys.readouterr()
    assert "| violence | rules | 2 | 1 | **1.000**" in told.out
    assert "| violence | flag | 1.000 | 1.000 | 0 | 0.0% |" in told.out
    assert "| of these cut | 1 (100.0%) | 1 (100.0%) |" in told.out
    assert "scored: 2 of 2" in told.err
    assert (out / "reliability.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "figures.json").read_text())["overshoot"]["by the policy"]["cut"] == 1


@pytest.mark.parametrize("arguments", [["nowhere.jsonl"], [__file__, "--policy", "nowhere.yaml"]])
def test_what_cannot_be_evaluated_is_an_error_of_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main(arguments) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("arguments", [["--limit", "0"], ["--limit=-1"], ["--bootstrap", "0"], ["--bootstrap", "x"]])
def test_no_texts_and_no_samples_cannot_be_asked_for(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        tool.main(["x.jsonl", *arguments])
    assert ended.value.code == 2
    assert "is no number from 1 on" in capsys.readouterr().err


def test_it_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        tool.main(["--help"])
    assert ended.value.code == 0
    assert "--policy" in capsys.readouterr().out
