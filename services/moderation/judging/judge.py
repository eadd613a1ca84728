"""What a policy's patterns and backends make of a text: findings with their places, scores, and who failed."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from services.moderation.backends.port import Excerpt
from services.moderation.classifiers import Classifier
from services.moderation.judging.batcher import Answer, Batcher, Urgency
from services.moderation.judging.findings import merge_highest, placed_findings, scores_of, whole_findings
from services.moderation.judging.localisation import Candidates, offence_start
from services.moderation.normaliser import normalise
from services.moderation.policy import Policy
from services.moderation.windows import Finding, Window
from shared.errors import ChatmeshError
from shared.records import BackendReport, Message

Context = tuple[Message, ...]


class JudgingUnavailable(ChatmeshError):
    """A backend without whose answer the policy lets nothing pass has none."""

    def __init__(self, backend: str) -> None:
        super().__init__(f"the moderation backend {backend} has no answer")
        self.backend = backend


class Seat(NamedTuple):
    """A backend as a policy uses it. `closed`: without its answer nothing passes."""

    batcher: Batcher
    closed: bool


class Heard(msgspec.Struct, frozen=True, gc=False):
    """What the backends say of one window. `scores`: the highest of each category. `missing`: the closed backend that
    has no answer, so that nothing may be decided."""

    findings: tuple[Finding, ...] = ()
    scores: Mapping[str, float] = {}
    reports: tuple[BackendReport, ...] = ()
    missing: str | None = None

    @property
    def failed(self) -> list[str]:
        """The backends that have no answer, whether closed or not."""
        return [report.name for report in self.reports if report.status != "ok"]


class Judge:
    """Judges by one policy: `matches` asks its patterns, `hear` its backends."""

    def __init__(self, policy: Policy, patterns: Classifier, seats: Sequence[Seat]) -> None:
        self.policy = policy
        self._patterns = patterns
        self._seats = tuple(seats)
        # The windows before this one have released the rest, or hold it back for a reason of their own.
        self._unpublished = policy.streaming.hold_back + policy.streaming.stride

    @property
    def has_backends(self) -> bool:
        """Whether `hear` has anybody to ask."""
        return bool(self._seats)

    def asks(self, batchers: Iterable[Batcher]) -> bool:
        """Whether it asks one of these."""
        return any(seat.batcher is batcher for seat in self._seats for batcher in batchers)

    @property
    def scored(self) -> frozenset[str]:
        """The categories that a backend scores."""
        return frozenset(category for seat in self._seats for category in seat.batcher.categories)

    async def matches(self, windows: Sequence[Window]) -> Sequence[Sequence[Finding]]:
        """What the patterns find in each window."""
        return await self._patterns.classify(windows) if windows else ()

    def cuts(self, found: Sequence[Finding]) -> bool:
        """Whether one of these ends the text of a response."""
        return any(self.policy.output_action(finding.category, finding.score) == "cut" for finding in found)

    async def hear(self, window: Window, context: Context = (), urgency: Urgency = Urgency.STREAM) -> Heard:
        """What the backends say of the window: a function of its text, its context and the policy, as long as none
        fails. `context`: the turns before the text, oldest first."""
        if window.start == window.end:
            return Heard()  # nothing was said
        asked = (self._hear_one(_Asked(seat, window, context, urgency)) for seat in self._seats)
        return _together(await asyncio.gather(*asked))

    async def _hear_one(self, asked: "_Asked") -> Heard:
        window, name = asked.window, asked.seat.batcher.name
        answer = await asked.about(window.excerpt)
        judgement = answer.judgement
        if judgement is None:
            return _silence(asked.seat, answer)
        scores = scores_of(self.policy, judgement)
        placed = placed_findings(self.policy, judgement, window, name)
        whole = whole_findings(self.policy, judgement, scores, window, name)
        located = await self._located(asked, whole)
        if isinstance(located, Answer):
            return _silence(asked.seat, located)
        return Heard((*placed, *located), scores, (answer.report,))

    async def _located(self, asked: "_Asked", findings: Sequence[Finding]) -> list[Finding] | Answer:
        """The same findings, those that will be cut or masked with the place where the offence begins; or the answer
        that is none. A prompt is taken or refused as a whole."""
        window = asked.window
        if window.stage == "input":
            return list(findings)
        located = list(findings)
        for action, candidates_of in _LOCATED.items():
            numbers = [n for n, f in enumerate(located) if self.policy.output_action(f.category, f.score) == action]
            if not numbers:
                continue
            candidates = candidates_of(window.excerpt, self._unpublished)
            scores = await self._ask_about(asked, candidates)
            if isinstance(scores, Answer):
                return scores
            for number in numbers:
                located[number] = self._moved(located[number], window, candidates, scores)
        return located

    async def _ask_about(self, asked: "_Asked", candidates: Candidates) -> list[dict[str, float]] | Answer:
        answers = await asyncio.gather(*map(asked.about, candidates.texts))
        scores = []
        for answer in answers:
            if answer.judgement is None:
                return answer
            scores.append(scores_of(self.policy, answer.judgement))
        return scores

    def _moved(
        self, finding: Finding, window: Window, candidates: Candidates, scores: Sequence[Mapping[str, float]]
    ) -> Finding:
        category = finding.category
        threshold = self.policy.categories[category].thresholds.cut
        start = offence_start(candidates, [of.get(category, 0.0) for of in scores], threshold)
        anchor = window.start + candidates.starts[0]
        if start is not None:
            return msgspec.structs.replace(finding, start=window.start + start)
        if self.policy.output_action(category, finding.score) == "cut" or anchor == window.start:
            return msgspec.structs.replace(finding, start=anchor)
        return msgspec.structs.replace(finding, end=anchor)  # no more of it came


_LOCATED = {"cut": Candidates.for_cut, "mask": Candidates.for_mask}


class _Asked(NamedTuple):
    """A window as one backend is asked about it, and about parts of it."""

    seat: Seat
    window: Window
    context: Context
    urgency: Urgency

    def about(self, raw: str) -> "asyncio.Future[Answer]":
        excerpt = Excerpt(raw, normalise(raw).text, self.window.stage, self.context)
        return self.seat.batcher.ask(excerpt, self.urgency)


def _silence(seat: Seat, answer: Answer) -> Heard:
    return Heard(reports=(answer.report,), missing=seat.batcher.name if seat.closed else None)


def _together(heard: Iterable[Heard]) -> Heard:
    """All that the backends say, as one."""
    findings: list[Finding] = []
    reports: list[BackendReport] = []
    scores: dict[str, float] = {}
    missing = None
    for one in heard:
        findings += one.findings
        reports += one.reports
        merge_highest(scores, one.scores)
        missing = missing or one.missing
    return Heard(tuple(findings), scores, tuple(reports), missing)
