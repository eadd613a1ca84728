"""Screening of generated text: window by window, as it is judged, up to the response's one end (DESIGN 4.4, 6)."""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial

import msgspec
from opentelemetry.trace import SpanContext

from services.moderation.judging import Heard, Urgency, result_of
from services.moderation.meter import ModerationMeter
from services.moderation.owner.alternatives import ending_in, start_of, without_violations
from services.moderation.owner.appends import succeeded
from services.moderation.owner.dispatcher import Dispatcher
from services.moderation.owner.entry import UNAVAILABLE
from services.moderation.owner.line import Step
from services.moderation.owner.outbox import Outbox
from services.moderation.owner.ready import Ready
from services.moderation.owner.response import Owned, failed_by, outcome_of, terminal_of
from services.moderation.owner.spans import end_span, note_cut
from services.moderation.windows import Decision, Finding, Outcome, Release, Stretch, TextScreen, Window
from shared.ids import now_ms
from shared.log import Appended
from shared.records import AnyTerminal, Cut, Delta, Finish, ModerationResult, TokenLogprob
from shared.telemetry import inject
from shared.telemetry.logs import about

log = logging.getLogger(__name__)


class Output:
    """Publishes what may be public, in the order of the text, and then the end."""

    def __init__(self, outbox: Outbox, dispatcher: Dispatcher, ready: Ready, meter: ModerationMeter) -> None:
        self._outbox = outbox
        self._dispatcher = dispatcher
        self._ready = ready
        self._meter = meter
        self._measures = False

    def begin_batch(self) -> None:
        """What follows comes of one batch of the journal: how long its first text was held back stands for all of it.
        To measure each delta would cost a twentieth of what it takes to make it."""
        self._measures = True

    async def screen(self, owned: Owned) -> None:
        """Line up what is new in the journal, and resolve what is judged by now."""
        screen = owned.screen
        assert screen is not None, "an accepted response has a screen"
        windows = self._feed(owned, screen)
        if windows:
            for window, found in zip(windows, await owned.judge.matches(windows), strict=True):
                owned.line.add(self._step(owned, window, found))
        if not owned.line:
            return  # most tokens complete no window
        await self._resolve(owned, screen)
        if owned.fold.decision is not None and not owned.closed:
            self._stop_worker(owned)  # what is left to judge takes no slot

    def _feed(self, owned: Owned, screen: TextScreen) -> list[Window]:
        windows = [window for piece in owned.unseen_pieces() for window in screen.feed(piece)]
        if owned.fold.decision is not None and not screen.finished:
            # By itself: whether the end came together with the last piece is a matter of batches.
            windows += screen.feed("", final=True)
        return windows

    def _step(self, owned: Owned, window: Window, found: Sequence[Finding]) -> Step:
        judge = owned.judge
        if not judge.has_backends or window.start == window.end:
            return Step(window, found)
        if not window.checkpoint and judge.cuts(found):
            # A cut releases what else would be held back: as at the end of the text, nobody will judge it later.
            window = msgspec.structs.replace(window, checkpoint=True)
        return Step(window, found, self._hear(owned, window) if window.checkpoint else None)

    def _hear(self, owned: Owned, window: Window) -> "asyncio.Task[Heard]":
        urgency = Urgency.AGAIN if window.end <= owned.resumed_at else Urgency.STREAM
        hearing = asyncio.create_task(owned.judge.hear(window, owned.context, urgency))
        hearing.add_done_callback(partial(self._ready.add, owned))
        return hearing

    async def _resolve(self, owned: Owned, screen: TextScreen) -> None:
        if steps := list(owned.line.take_ready()):
            outcome = screen.resolve([step.window for step in steps], [step.findings for step in steps])
            self._tell(owned, steps, outcome)
            await self._publish(owned, outcome)
            if screen.done:
                self._end(owned, outcome.cut)
                return
        if (step := owned.line.stopped_by) is not None:
            owned.line.stop_here()
            self._give_up(owned, step)

    # -- verdicts --------------------------------------------------------------------------------------------

    def _tell(self, owned: Owned, steps: Sequence[Step], outcome: Outcome) -> None:
        """Of all that was decided, before any of it is public."""
        decisions: dict[int, list[Decision]] = {}
        for decision in outcome.decisions:
            decisions.setdefault(decision.window, []).append(decision)
        stretches = {stretch.window: stretch for stretch in outcome.stretches}
        for step in steps:
            number = step.window.index
            owned.tally.add(step)
            for decision in decisions.get(number, ()):
                self._outbox.verdict(owned, owned.trail.of_decision(decision, step.heard.reports, step.waited_ms))
            if number in stretches:
                self._tell_stretch(owned, stretches[number], step)
            if outcome.cut is not None and outcome.cut.window == number:
                return

    def _tell_stretch(self, owned: Owned, stretch: Stretch, step: Step) -> None:
        scores, reports = owned.tally.take()
        verdict = owned.trail.of_stretch(stretch, scores, reports, step.waited_ms)
        owned.gate.judged(stretch.end, self._outbox.verdict(owned, verdict))

    # -- text ------------------------------------------------------------------------------------------------

    async def _publish(self, owned: Owned, outcome: Outcome) -> None:
        for release in outcome.releases:
            logprobs = await self._released_logprobs(owned, release) if owned.fold.logprobs else []
            delta = Delta(
                response_id=owned.id,
                epoch=owned.epoch,
                start=release.start,
                end=release.end,
                text=release.text,
                policy=owned.judge.policy.name,
                window=release.window,
                logprobs=logprobs,
            )
            published = owned.gate.pass_through(delta, release.end)
            owned.public_texts.append(release.text)
            if self._measures and (came_ms := owned.arrivals.of(release.start)) is not None:
                self._measures = False
                span = owned.span.get_span_context() if owned.span is not None else None
                published.add_done_callback(partial(self._held_back, came_ms, span, owned.id))

    def _held_back(
        self, came_ms: int, span: SpanContext | None, response_id: str, published: "asyncio.Future[Appended]"
    ) -> None:
        if succeeded(published):
            self._meter.held_back((published.result().timestamp_ms - came_ms) / 1000, span, response_id)

    async def _released_logprobs(self, owned: Owned, release: Release) -> list[TokenLogprob]:
        """Those of the tokens that become public with the release, in their order."""
        said = owned.fold.logprobs
        owned.shown, places = ending_in(said, owned.shown, release)
        screened = [
            await without_violations(owned.judge, said[i], owned.fold.text[: start_of(said, i)]) for i in places
        ]
        owned.logprobs += screened
        return screened

    # -- the end ---------------------------------------------------------------------------------------------

    def fail(self, owned: Owned, cut: Cut) -> None:
        """Give the response up, with what is public of it."""
        if owned.fold.decision is None:
            self._outbox.append(owned, cut)
            note_cut(owned, cut)
        _, text = owned.public
        self._close(owned, failed_by(cut, owned, text=text, finished_ms=now_ms(), moderation=_told(owned)))

    def _end(self, owned: Owned, violation: Decision | None = None) -> None:
        if violation is not None and owned.fold.decision is None:
            cut = Cut(response_id=owned.id, reason="policy", category=violation.category)
            self._outbox.append(owned, cut)
            note_cut(owned, cut)
        _, text = owned.public
        violated = violation is not None
        self._close(
            owned,
            terminal_of(owned, text=text, violated=violated, finished_ms=now_ms(), moderation=_told(owned)),
        )

    def give_up(self, owned: Owned) -> None:
        """The journal has decided, and the response's time is over: what is not judged by now stays unsaid."""
        log.error("%s: a backend has not answered about it by its deadline", owned.id, extra=about(owned.span))
        self._end_unjudged(owned, _unjudged(owned, "it was not judged in time."))

    def _give_up(self, owned: Owned, step: Step) -> None:
        """A backend is missing, so that what follows is nobody's to publish. That depends on the moment, so the journal
        decides; where it has decided already, the response ends where it is."""
        cut = _unjudged(owned, f"{step.heard.missing} does not answer.")
        if owned.fold.decision is not None:
            self._end_unjudged(owned, cut)
        elif not owned.ending:  # else its end is on its way to the journal
            owned.ending = True
            self._outbox.append(owned, cut)

    def _end_unjudged(self, owned: Owned, cut: Cut) -> None:
        if isinstance(owned.fold.decision, Finish):
            self.fail(owned, cut)
        else:
            self._end(owned)

    def _close(self, owned: Owned, terminal: AnyTerminal) -> None:
        """Publish the end; nothing that is judged after it counts."""
        position, _ = owned.public
        owned.line.clear()
        published = owned.gate.pass_through(terminal, position, inject(owned.span))
        published.add_done_callback(partial(self._ended, *outcome_of(owned, terminal)))
        owned.closing = [published]
        self._dispatcher.forget(owned)
        self._stop_worker(owned)
        end_span(owned, terminal)

    def _ended(self, outcome: str, reason: str, published: "asyncio.Future[Appended]") -> None:
        if succeeded(published):
            self._meter.ended(outcome, reason)

    def _stop_worker(self, owned: Owned) -> None:
        claim = owned.fold.owner
        if owned.stopped or claim is None or not claim.live or isinstance(owned.fold.decision, Finish):
            return
        owned.stopped = True
        self._outbox.stop(owned.partition, owned.id, claim.id, claim.mailbox, "ended")


def _unjudged(owned: Owned, why: str) -> Cut:
    message = f"The output could not be moderated: {why}"
    return Cut(response_id=owned.id, reason="failed", code=UNAVAILABLE, message=message)


def _told(owned: Owned) -> ModerationResult | None:
    """What the request wants to know of its output."""
    if owned.requested.spec.moderation is None:
        return None
    return result_of(owned.judge, owned.tally.overall, owned.tally.failed, "output")
