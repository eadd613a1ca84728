"""Judging what goes into a model, before anything is accepted (DESIGN 4.2), and texts on their own.

Every text of the prompt is judged alone, behind the turns before it, and so are the last turns of the user as one: who
spreads a violation over several messages says it all the same.
"""

import asyncio
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from services.moderation.judging.batcher import Urgency
from services.moderation.judging.findings import merge_highest
from services.moderation.judging.judge import Context, Heard, Judge, JudgingUnavailable
from services.moderation.judging.results import result_of
from services.moderation.policy import InputAction, Policy
from services.moderation.windows import Finding, Window
from shared.records import BackendReport, Message, ModerationResult

InputOutcome = Literal["pass", "flag", "refuse"]
T = TypeVar("T")

CHUNK = 16_384
"""New code points per window of input: a text of any size is then a row of bounded steps, not one long one."""

EXCERPT = 1_024
"""The same where backends read: one such part of an input goes with every call in which streams wait for theirs, and a
model may take a millisecond for fifty code points."""

_PER_TURN = 4 * EXCERPT
"""Code points that are begun with in one turn of the event loop: to normalise a thousand takes a millisecond."""

CONTEXT_TURNS = 6
CONTEXT_LENGTH = 4_000
"""Code points of the turns before a text that are judged with it."""


class InputFinding(msgspec.Struct, frozen=True, gc=False):
    """A finding in the text number `text` (from 0); positions count its code points."""

    text: int
    finding: Finding
    action: InputAction


class InputVerdict(msgspec.Struct, frozen=True, gc=False):
    """What is to be done with the request. `findings` are in order of text and place; `deciding` is the one that
    the outcome rests on (None for a pass). `scores`: the highest of each category. `missing`: the closed backend that
    has no answer, so that there is no outcome."""

    action: InputOutcome
    findings: tuple[InputFinding, ...] = ()
    deciding: InputFinding | None = None
    scores: Mapping[str, float] = {}
    reports: tuple[BackendReport, ...] = ()
    missing: str | None = None

    @property
    def category(self) -> str | None:
        return None if self.deciding is None else self.deciding.finding.category

    @property
    def failed(self) -> list[str]:
        """The backends that have no answer, whether closed or not."""
        return [report.name for report in self.reports if report.status != "ok"]


class _Subject(NamedTuple):
    """A text to judge, told as text `number`. One that several turns make: `seams` are where each but the first of them
    begins, the last of them the text that it is told as."""

    number: int
    text: str
    context: Context = ()
    seams: tuple[int, ...] = ()


class _Place(NamedTuple):
    subject: _Subject
    window: Window


async def judge_input(judge: Judge, messages: Sequence[Message]) -> InputVerdict:
    """Judge a prompt. What its patterns refuse is refused: no backend is asked then."""
    verdict = await match_input(judge, messages)
    return (
        verdict if verdict.action == "refuse" or not judge.has_backends else await hear_input(judge, messages, verdict)
    )


async def match_input(judge: Judge, messages: Sequence[Message]) -> InputVerdict:
    """What the patterns alone make of a prompt."""
    places = list(_places(judge.policy, _subjects(messages), CHUNK))
    found = await judge.matches([place.window for place in places])
    findings = [
        f for place, of_window in zip(places, found, strict=True) for f in _told(judge.policy, place, of_window)
    ]
    return _verdict(findings, [])


async def hear_input(judge: Judge, messages: Sequence[Message], matched: InputVerdict) -> InputVerdict:
    """What patterns and backends make of a prompt of which the patterns made `matched`."""
    places = list(_places(judge.policy, _subjects(messages), EXCERPT))
    heard = await _hear_each(judge, places)
    findings = [
        f
        for place, of_window in zip(places, heard, strict=True)
        for f in _told(judge.policy, place, of_window.findings)
    ]
    return _verdict([*matched.findings, *findings], heard)


async def judge_texts(judge: Judge, texts: Sequence[str], context: Context = ()) -> list[ModerationResult]:
    """What the policy makes of each text, all behind the same turns. Raises JudgingUnavailable."""
    return await _each((len(text), _judge_text(judge, text, context)) for text in texts)


async def _judge_text(judge: Judge, text: str, context: Context) -> ModerationResult:
    subject = _Subject(0, text, context)
    scores: dict[str, float] = {}
    places = list(_places(judge.policy, [subject], CHUNK))
    for place, found in zip(places, await judge.matches([place.window for place in places]), strict=True):
        whole = [finding for finding in found if not _is_seen_again(finding, place.window, judge.policy)]
        merge_highest(scores, {finding.category: finding.score for finding in whole})
    heard = await _hear_each(judge, _places(judge.policy, [subject], EXCERPT))
    for one in heard:
        if one.missing is not None:
            raise JudgingUnavailable(one.missing)
        merge_highest(scores, one.scores)
    return result_of(judge, scores, {name for one in heard for name in one.failed}, "input")


async def _each(work: Iterable[tuple[int, Coroutine[Any, Any, T]]]) -> list[T]:
    """What each comes to that is done about so many code points: all beside each other, but not all begun before
    anybody else gets a turn. The first that raises, or whoever gives up waiting, ends the others."""
    tasks: list[asyncio.Task[T]] = []
    begun = 0
    try:
        for length, one in work:
            tasks.append(asyncio.create_task(one))
            begun += length
            if begun >= _PER_TURN:
                begun = 0
                await asyncio.sleep(0)
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _hear_each(judge: Judge, places: Iterable[_Place]) -> list[Heard]:
    return await _each(
        (window.end - window.start, judge.hear(window, subject.context, Urgency.INPUT)) for subject, window in places
    )


def context_before(messages: Sequence[Message]) -> Context:
    """The last turns, oldest first: at most CONTEXT_TURNS of them, and CONTEXT_LENGTH code points in all."""
    kept: list[Message] = []
    left = CONTEXT_LENGTH
    for message in reversed(messages[-CONTEXT_TURNS:]):
        if left <= 0:
            break
        text = message.text[-left:]
        left -= len(text)
        kept.append(Message(role=message.role, parts=[text]))
    return tuple(reversed(kept))


def _subjects(messages: Sequence[Message]) -> list[_Subject]:
    alone = [
        _Subject(number, message.text, context_before(messages[:number])) for number, message in enumerate(messages)
    ]
    said = [number for number, message in enumerate(messages) if message.role == "user"]
    if len(said) < 2:
        return alone
    turns = [f"{turn.text} " for turn in context_before([messages[number] for number in said[:-1]])]
    seams = tuple(accumulate(map(len, turns)))
    return [*alone, _Subject(said[-1], "".join(turns) + messages[said[-1]].text[:CONTEXT_LENGTH], seams=seams)]


def _places(policy: Policy, subjects: Sequence[_Subject], chunk: int) -> Iterator[_Place]:
    """Windows over each whole text, each beginning `lookback` code points before the previous one's end."""
    lookback = policy.streaming.lookback
    for subject in subjects:
        text = subject.text
        for index, begin in enumerate(range(0, max(len(text), 1), chunk)):
            end = min(begin + chunk, len(text))
            window = Window(index, max(0, begin - lookback), end, end == len(text), text, 0, "input", checkpoint=True)
            yield _Place(subject, window)


def _told(policy: Policy, place: _Place, found: Sequence[Finding]) -> Iterator[InputFinding]:
    """Those that the policy acts on, by the place where they are in their own text."""
    subject, window = place
    for finding in found:
        action = policy.input_action(finding.category, finding.score)
        if action == "off" or _is_seen_again(finding, window, policy) or not _is_new(finding, subject):
            continue
        offset = subject.seams[-1] if subject.seams else 0
        start, end = (max(0, position - offset) for position in (finding.start, finding.end))
        own = msgspec.structs.replace(finding, start=start, end=end)
        yield InputFinding(subject.number, own, action)


def _is_new(finding: Finding, subject: _Subject) -> bool:
    """What lies in one turn was found there."""
    return not subject.seams or any(finding.start < seam - 1 and seam < finding.end for seam in subject.seams)


def _is_seen_again(finding: Finding, window: Window, policy: Policy) -> bool:
    """Whether it is open here but lies whole in the next window, which judges it better."""
    return finding.open and finding.start >= window.end - policy.streaming.lookback


def _verdict(findings: Sequence[InputFinding], heard: Sequence[Heard]) -> InputVerdict:
    # Neighbouring windows overlap, and the last turn is judged twice: equal findings count once.
    unique = list(dict.fromkeys(sorted(findings, key=_order)))
    scores: dict[str, float] = {}
    for one in heard:
        merge_highest(scores, one.scores)
    for item in unique:
        merge_highest(scores, {item.finding.category: item.finding.score})
    refused = next((item for item in unique if item.action == "refuse"), None)
    deciding = refused or (unique[0] if unique else None)
    action: InputOutcome = "refuse" if refused else "flag" if deciding else "pass"
    missing = next((one.missing for one in heard if one.missing is not None), None)
    return InputVerdict(action, tuple(unique), deciding, scores, _reports(heard), missing)


def _order(item: InputFinding) -> tuple[int, int, int, str]:
    return item.text, item.finding.start, item.finding.end, item.finding.backend or ""


def _reports(heard: Sequence[Heard]) -> tuple[BackendReport, ...]:
    """One per backend: its worst answer, else its slowest."""
    worst: dict[str, BackendReport] = {}
    for report in (report for one in heard for report in one.reports):
        known = worst.get(report.name)
        if known is None or (report.status != "ok", report.latency_ms) > (known.status != "ok", known.latency_ms):
            worst[report.name] = report
    return tuple(worst.values())
