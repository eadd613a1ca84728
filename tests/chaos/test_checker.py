"""Each invariant has a hand-made log that violates it; the whole log violates none."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace as replaced

from services.history.stores.port import StoredResponse
from services.moderation.classifiers import PatternClassifier
from services.moderation.policy import load_policy
from services.moderation.windows import TextScreen
from shared.records import (
    Accepted,
    Cancel,
    Cancelled,
    Claimed,
    Completed,
    Delta,
    Failed,
    Finish,
    Incomplete,
    Message,
    Requested,
    ResponseSpec,
    TokenLogprob,
    Tokens,
    Usage,
    Verdict,
)
from shared.records import Screening as Mark
from shared.records.codec import Envelope
from tests.chaos.checker import Evidence, Rule, check, references_of
from tests.chaos.evidence import Screening
from tests.chaos.figures import pauses, silence_s
from tests.chaos.observations import AnyClientLine, Asked, Event, GaveUp, Injected, Opened, Refused

RESPONSE = "resp_019aa0000000700080000000000000aa"
SPEC = ResponseSpec(model="m", input=[Message(role="user", parts=["p"])])
DELTA, DONE = "response.output_text.delta", "response.incomplete"
END: dict[str, Any] = {"response_id": RESPONSE, "tenant": "t", "usage": Usage(input_tokens=1, output_tokens=2)}


def log(*records: Any) -> list[Envelope[Any]]:
    return [Envelope(record, "topic", 0, offset, 1000 * (offset + 1)) for offset, record in enumerate(records)]


def seen(number: int, kind: str, text: str | None = None) -> Event:
    return Event(at=float(number), stream=0, type=kind, number=number, text=text)


def delta(start: int, text: str, epoch: int = 0) -> Delta:
    return Delta(response_id=RESPONSE, epoch=epoch, start=start, end=start + len(text), text=text, policy="p", window=0)


def tokens(claim: str, position: int, piece: str, finish: Finish | None = None) -> Tokens:
    return Tokens(response_id=RESPONSE, claim=claim, position=position, ids=[7], pieces=[piece], finish=finish)


def claimed(claim: str, attempt: int, worker: str) -> Claimed:
    return Claimed(response_id=RESPONSE, claim=claim, attempt=attempt, worker=worker, mailbox=0)


CLIENT: list[AnyClientLine] = [
    Asked(at=0, stream=0, prompt="p"),
    Opened(at=0, stream=0, gateway="gateway-1", sent_at=0),
    Event(at=0, stream=0, type="response.created", number=0, response_id=RESPONSE),
    seen(1, DELTA, "ab"),
    seen(2, DELTA, "cd"),
    seen(3, DONE, "abcd"),
]
ACCEPTED = Accepted(
    response_id=RESPONSE, tenant="t", spec=SPEC, policy="p", created_ms=0, deadline_ms=9, input_tokens=1
)
COMPLETED = Completed(**END, text="abcd", finished_ms=5)
EVENTS = [ACCEPTED, delta(0, "ab"), delta(2, "cd"), COMPLETED]
JOURNAL = [
    Requested(response_id=RESPONSE, tenant="t", spec=SPEC, created_ms=0, deadline_ms=9, input_tokens=1),
    claimed("c1", 1, "inference-1"),
    tokens("c1", 0, "ab"),
    claimed("c2", 2, "inference-2"),
    tokens("c1", 1, "xx"),
    tokens("c2", 1, "cd", Finish(reason="length", input_tokens=1)),
]
LIKELY = [TokenLogprob(token=text, logprob=-1.0, end=end) for text, end in (("ab", 2), ("cd", 4))]
TOLD = [
    ACCEPTED,
    *(replaced(d, logprobs=[entry]) for d, entry in zip((delta(0, "ab"), delta(2, "cd")), LIKELY, strict=True)),
    replaced(COMPLETED, logprobs=LIKELY),
]
LIKELY_JOURNAL = [
    *JOURNAL[:2],
    replaced(tokens("c1", 0, "ab"), logprobs=LIKELY[:1]),
    *JOURNAL[3:5],
    replaced(JOURNAL[5], logprobs=LIKELY[1:]),
]
GOOD = Evidence(CLIENT, {RESPONSE: log(*JOURNAL)}, {RESPONSE: log(*EVENTS)}, {"p": "abcd"})


# The same with a policy: windows of 2 code points, the newest 2 held back; "b" is masked, nothing follows "z".
STRICT = Screening(stride=2, hold_back=2, masks={"b": "[*]"}, cuts=("z",))
RAW = [
    *JOURNAL[:2],
    tokens("c1", 0, "abcd"),
    tokens("c1", 1, "efzg"),
    tokens("c1", 2, "h", Finish(reason="length", input_tokens=1)),
]
CUT = Incomplete(**END, text="a[*]cdef", finished_ms=5, reason="content_filter")


def released(start: int, end: int, text: str, window: int) -> Delta:
    return Delta(response_id=RESPONSE, start=start, end=end, text=text, policy="p", window=window)


SCREENED = [
    ACCEPTED,
    released(0, 1, "a", 1),
    released(1, 2, "[*]", 1),
    released(2, 4, "cd", 2),
    released(4, 6, "ef", 3),
    CUT,
]


def stamped(records: list[Any], *seconds: int) -> list[Envelope[Any]]:
    return [Envelope(r, "topic", 0, n, 1000 * at) for n, (r, at) in enumerate(zip(records, seconds, strict=True))]


CUT_CLIENT: list[AnyClientLine] = [
    *CLIENT[:3],
    *(seen(n, DELTA, text) for n, text in enumerate(("a", "[*]", "cd", "ef"), start=1)),
    seen(5, DONE, "a[*]cdef"),
]
MASKED = Evidence(
    CUT_CLIENT,
    {RESPONSE: stamped(RAW, 1, 2, 3, 4, 5)},
    {RESPONSE: stamped(SCREENED, 1, 3, 3, 4, 5, 6)},
    {"p": STRICT.public("abcdefzgh")},
    STRICT,
)


def verdict(action: Any, start: int, end: int, window: int, **more: Any) -> Verdict:
    """One whose name follows from what was judged."""
    fields: dict[str, Any] = {"verdict_id": f"modr_{action}_{start}_{end}_{window}", "stage": "output", "latency_ms": 1}
    place: dict[str, Any] = {"response_id": RESPONSE, "tenant": "t", "policy": "p", "window": window}
    return Verdict(**fields | place | {"action": action, "start": start, "end": end} | more)


LET_IN = verdict("pass", 0, 0, 0, stage="input")
VERDICTS = [
    LET_IN,
    verdict("pass", 0, 2, 0),
    verdict("mask", 1, 2, 0, category="word-1", scores={"word-1": 1.0}),
    verdict("pass", 2, 4, 1),
    verdict("pass", 4, 6, 2),
    verdict("cut", 6, 8, 3, category="word-0", scores={"word-0": 1.0}),
]
JUDGED_AT = (1, 3, 3, 3, 4, 4)
JUDGED = replace(MASKED, verdicts={RESPONSE: stamped(VERDICTS, *JUDGED_AT)})


def judged(*verdicts: Verdict, at: tuple[int, ...] = JUDGED_AT) -> Evidence:
    """Other verdicts on the same text."""
    return replace(MASKED, verdicts={RESPONSE: stamped(list(verdicts), *at)})


def screened(*replaced: Any) -> Evidence:
    """Other public records at the same times."""
    return replace(MASKED, events={RESPONSE: stamped(list(replaced), 1, 3, 3, 4, 5, 6)})


def stored(accepted: Any, terminal: Any) -> Evidence:
    return replace(GOOD, stored={RESPONSE: StoredResponse(accepted, terminal)})


def client(*lines: Any) -> Evidence:
    return replace(GOOD, lines=lines)


def events(*records: Any) -> Evidence:
    return replace(GOOD, events={RESPONSE: log(*records)})


def likely(*records: Any) -> Evidence:
    """Where log probabilities were asked for."""
    return replace(GOOD, journals={RESPONSE: log(*LIKELY_JOURNAL)}, events={RESPONSE: log(*records)})


VIOLATIONS = {
    "a log probability is not public with its text": (
        Rule.LOGPROBS,
        likely(TOLD[0], delta(0, "ab"), TOLD[2], replaced(COMPLETED, logprobs=LIKELY[1:])),
    ),
    "the end has a log probability twice": (
        Rule.LOGPROBS,
        likely(*TOLD[:3], replaced(COMPLETED, logprobs=[*LIKELY, LIKELY[1]])),
    ),
    "an event is lost": (Rule.LOST, client(*CLIENT[:3], *CLIENT[4:])),
    "an event comes twice": (Rule.DOUBLED, client(*CLIENT[:4], *CLIENT[3:])),
    "two events change places": (Rule.REORDERED, client(*CLIENT[:3], CLIENT[4], CLIENT[3], CLIENT[5])),
    "the client never sees the end": (Rule.UNTERMINATED, client(*CLIENT[:5], GaveUp(at=9, stream=0))),
    "the log never ends": (Rule.UNTERMINATED, events(*EVENTS[:3])),
    "the client sees more after the end": (Rule.AFTER_TERMINAL, client(*CLIENT, seen(4, DELTA, "e"))),
    "a later owner publishes after the end": (Rule.AFTER_TERMINAL, events(*EVENTS, delta(4, "e", epoch=1))),
    "the client's deltas are not the text": (Rule.TEXT, client(*CLIENT[:4], seen(2, DELTA, "xx"), CLIENT[5])),
    "the client's end is not the log's": (Rule.TEXT, client(*CLIENT[:5], seen(3, DONE, "ab"))),
    "the log's deltas are not its text": (Rule.TEXT, events(ACCEPTED, delta(0, "ab"), delta(2, "xx"), COMPLETED)),
    "a superseded claim is public": (
        Rule.CLAIMS,
        events(ACCEPTED, delta(0, "ab"), delta(2, "xx"), Completed(**END, text="abxx", finished_ms=5)),
    ),
    "a superseded claim is public for a moment": (
        Rule.CLAIMS,
        events(ACCEPTED, delta(0, "ab"), delta(2, "xx"), *EVENTS[2:]),
    ),
    "a cancelled response ends with more than was said": (
        Rule.CLAIMS,
        replace(
            events(ACCEPTED, delta(0, "ab"), Cancelled(**END, text="abc", finished_ms=5)),
            journals={RESPONSE: log(*JOURNAL[:3], Cancel(response_id=RESPONSE))},
        ),
    ),
    "a second claim of the same attempt is public": (
        Rule.CLAIMS,
        replace(
            GOOD,
            journals={
                RESPONSE: log(
                    *JOURNAL[:3],
                    claimed("c2", 1, "inference-2"),
                    tokens("c2", 1, "cd", Finish(reason="length", input_tokens=1)),
                )
            },
        ),
    ),
    "a masked word is public": (Rule.UNSCREENED, screened(ACCEPTED, released(0, 2, "ab", 1), *SCREENED[2:])),
    "a piece of a masked word's neighbour is masked with it": (
        Rule.UNSCREENED,
        screened(ACCEPTED, SCREENED[1], released(1, 3, "[*]", 1), *SCREENED[3:]),
    ),
    "text behind a cut is public": (Rule.UNSCREENED, screened(*SCREENED[:4], released(4, 7, "efz", 3), CUT)),
    "text far behind a cut is public": (Rule.UNSCREENED, screened(*SCREENED[:4], released(7, 8, "g", 3), CUT)),
    "the terminal says what the deltas did not": (
        Rule.UNSCREENED,
        screened(*SCREENED[:5], Incomplete(**END, text="abcdef", finished_ms=5, reason="content_filter")),
    ),
    "a window releases more than it may": (
        Rule.UNSCREENED,
        replace(
            screened(*SCREENED[:3], released(2, 4, "cd", 1), *SCREENED[4:]), screening=replace(STRICT, cuts=("none",))
        ),
    ),
    "a delta comes before its window's text": (
        Rule.UNSCREENED,
        replace(MASKED, journals={RESPONSE: stamped(RAW, 1, 2, 3, 5, 6)}),
    ),
    "nothing was ever judged": (Rule.UNJUDGED, replace(MASKED, verdicts={})),
    "a request is accepted unjudged": (Rule.UNJUDGED, judged(*VERDICTS[1:], at=JUDGED_AT[1:])),
    "a request is accepted that was refused": (
        Rule.UNJUDGED,
        judged(verdict("refuse", 0, 0, 0, stage="input"), *VERDICTS[1:]),
    ),
    "a range is public that nobody judged": (
        Rule.UNJUDGED,
        judged(*VERDICTS[:3], *VERDICTS[4:], at=JUDGED_AT[:5]),
    ),
    "one letter of a range is judged by nobody": (
        Rule.UNJUDGED,
        judged(*VERDICTS[:3], verdict("pass", 3, 4, 1), *VERDICTS[4:]),
    ),
    "a range is public before its verdict": (Rule.UNJUDGED, judged(*VERDICTS, at=(1, 3, 3, 3, 6, 6))),
    "a verdict on the input stands for the output": (
        Rule.UNJUDGED,
        judged(LET_IN, verdict("pass", 0, 8, 0, stage="input"), at=(1, 1)),
    ),
    "a second owner scores otherwise": (
        Rule.JUDGED_TWICE,
        judged(*VERDICTS, replaced(VERDICTS[2], scores={"word-1": 0.5}), at=(*JUDGED_AT, 5)),
    ),
    "a second owner does otherwise": (
        Rule.JUDGED_TWICE,
        judged(*VERDICTS, replaced(VERDICTS[3], action="flag"), at=(*JUDGED_AT, 5)),
    ),
    "a second owner calls the same by another name": (
        Rule.JUDGED_TWICE,
        judged(*VERDICTS, replaced(VERDICTS[3], verdict_id="modr_other"), at=(*JUDGED_AT, 5)),
    ),
    "history holds nothing": (Rule.STORED, replace(GOOD, stored={RESPONSE: None})),
    "history holds another text": (Rule.STORED, stored(ACCEPTED, Completed(**END, text="ab", finished_ms=5))),
    "history holds another end": (Rule.STORED, stored(ACCEPTED, Cancelled(**END, text="abcd", finished_ms=5))),
    "history holds an end that nobody was told": (
        Rule.STORED,
        replace(stored(ACCEPTED, COMPLETED), events={RESPONSE: log(*EVENTS[:3])}),
    ),
    "the answer is another than without faults": (Rule.SPLICED, replace(GOOD, references={"p": "else"})),
    "the response failed": (
        Rule.WRONG_END,
        replace(
            client(*CLIENT[:5], seen(3, "response.failed", "abcd")),
            events={RESPONSE: log(*EVENTS[:3], Failed(**END, text="abcd", finished_ms=5, code="c", message="m"))},
        ),
    ),
    "a gateway does not know the response": (
        Rule.FORGOTTEN,
        client(*CLIENT[:5], Refused(at=3, stream=0, gateway="g", status=404, body="", resuming=True), CLIENT[5]),
    ),
}


def test_a_takeover_by_the_rules_violates_nothing() -> None:
    assert check(GOOD) == []
    assert check(stored(ACCEPTED, COMPLETED)) == []
    assert check(likely(*TOLD)) == []


def test_a_screened_and_cut_response_violates_nothing() -> None:
    assert check(MASKED) == []


def test_a_judged_response_violates_nothing() -> None:
    assert check(JUDGED) == []
    again = [*VERDICTS, *(replaced(verdict, latency_ms=7) for verdict in VERDICTS)]
    assert check(judged(*again, at=(*JUDGED_AT, *[9] * len(VERDICTS)))) == [], "a successor judges again, alike"


def test_what_a_screening_forbids_is_what_its_policy_forbids(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(STRICT.policy("checked"))
    policy = load_policy(tmp_path / "policy.yaml")
    actions = {name: category.output for name, category in policy.categories.items()}
    assert actions == {"word-0": "cut", "word-1": "mask"}
    assert policy.categories["word-1"].mask == "[*]"
    screen = TextScreen(policy)
    windows = screen.feed("abcdefzgh", final=True)
    outcome = screen.resolve(windows, asyncio.run(PatternClassifier(policy).classify(windows)))
    assert "".join(release.text for release in outcome.releases) == STRICT.public("abcdefzgh") == "a[*]cdef"
    assert outcome.cut is not None


@pytest.mark.parametrize("name", VIOLATIONS)
def test_the_violation_is_found(name: str) -> None:
    rule, evidence = VIOLATIONS[name]
    assert rule in {violation.rule for violation in check(evidence)}


def test_every_rule_has_a_violating_log() -> None:
    assert {rule for rule, _ in VIOLATIONS.values()} == set(Rule)


def test_an_owner_that_is_late_behind_the_end_is_harmless() -> None:
    assert check(events(*EVENTS, delta(2, "cd"), COMPLETED)) == []


def test_what_a_superseded_owner_calls_the_end_is_none() -> None:
    mark = Mark(response_id=RESPONSE, epoch=1, owner="moderation-2")
    late, rightful = replaced(COMPLETED, text="ab"), replaced(COMPLETED, epoch=1)
    assert check(events(*EVENTS[:2], mark, late, delta(2, "cd", epoch=1), rightful)) == []
    behind_the_end = check(events(*EVENTS[:2], late, mark, delta(2, "cd", epoch=1), rightful))
    assert Rule.AFTER_TERMINAL in {violation.rule for violation in behind_the_end}


def test_references_are_one_text_per_prompt() -> None:
    assert references_of(CLIENT) == {"p": "abcd"}
    other: list[AnyClientLine] = [
        Asked(at=0, stream=1, prompt="p"),
        Event(at=1, stream=1, type=DONE, number=0, text="else"),
    ]
    with pytest.raises(ValueError, match="two answers"):
        references_of([*CLIENT, *other])


def test_a_pause_begins_with_the_fault_or_with_the_last_token_behind_it() -> None:
    assert silence_s([0.0, 1.0, 4.0, 4.1], at=1.5) == 2.5
    assert silence_s([0.0, 1.0, 4.0, 4.1], at=0.9) == 3.0
    assert silence_s([5.0, 6.0], at=1.0) is None


@pytest.mark.parametrize(("victim", "hit"), [("inference-1", 0), ("inference-2", 1)])
def test_a_stream_is_hit_by_the_death_of_the_worker_that_owned_it_then(victim: str, hit: int) -> None:
    at = 4.5  # c2 has claimed (4 s), its tokens come at 6 s
    late: list[AnyClientLine] = [*CLIENT[:5], replace_at(CLIENT[5], 7.0)]
    fault = Injected(at=at, fault="inference SIGKILL", service="inference", victim=victim)
    (figures,) = pauses(replace(GOOD, lines=[*late, fault]))
    assert (figures.faults, figures.streams) == (1, hit)


def replace_at(event: Any, at: float) -> Event:
    return Event(at=at, stream=event.stream, type=event.type, number=event.number, text=event.text)
