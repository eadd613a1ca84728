"""Screening in the owner: input before anything is public, output window by window (DESIGN 4.2, 4.4 and 6)."""

import asyncio
import time
from collections.abc import Iterable, Sequence

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from services.moderation.classifiers import Classifier, InputVerdict, screen_input
from services.moderation.owner.alternatives import Alternatives, ending_in, start_of
from services.moderation.owner.dispatcher import Dispatcher
from services.moderation.owner.outbox import Outbox
from services.moderation.owner.response import Owned, failed_by, terminal_of
from services.moderation.policy import Policy
from services.moderation.verdicts import input_verdict, output_verdicts, passed_verdict
from services.moderation.windows import Decision, Finding, Outcome, Release, TextScreen, Window
from shared.folds import EventFold
from shared.ids import now_ms
from shared.log import Appended
from shared.records import Accepted, AnyTerminal, Cut, Delta, Finish, TokenLogprob
from shared.telemetry import extract, inject, names
from shared.topics import JOURNAL

tracer = trace.get_tracer("chatmesh.moderation")

OVERLOADED = "rate_limit_exceeded"


class Screener:
    """Decides what becomes public. One classifier call serves every window of every response of a batch."""

    def __init__(self, policy: Policy, classifier: Classifier, outbox: Outbox, dispatcher: Dispatcher) -> None:
        self._policy = policy
        self._classifier = classifier
        self._outbox = outbox
        self._dispatcher = dispatcher
        self._alternatives = Alternatives(policy, classifier)

    def resume(self, owned: Owned, events: EventFold) -> None:
        """Go on where the public log stands: the raw text is judged again, alike; what is public is not repeated."""
        owned.accepted = True
        owned.screen = TextScreen(self._policy, resume_at=events.position)
        owned.logprobs = events.logprobs
        self._open_span(owned)
        if events.accepted is not None and events.accepted.policy != self._policy.name:
            self._end_under_another_policy(owned, events)

    def _end_under_another_policy(self, owned: Owned, events: EventFold) -> None:
        """Two policies may decide differently about the same text, so that what is public cannot be continued."""
        assert events.accepted is not None, "a response that nobody accepted has no policy yet"
        message = (
            f"The moderation policy changed from {events.accepted.policy} to {self._policy.name} while the response "
            "was being generated."
        )
        cut = Cut(response_id=owned.id, reason="failed", message=message)
        self._outbox.append(owned, cut)
        self._close(owned, failed_by(cut, owned, text=events.text, finished_ms=now_ms()))

    def let_go(self, owned: Owned) -> None:
        """Another owner goes on with the response."""
        self._close_span(owned, "handed over")

    async def screen(self, responses: Iterable[Owned]) -> None:
        """Bring the public log of each response up to what its journal allows."""
        open_responses = [r for r in responses if not r.closed]
        for owned in open_responses:
            if not owned.accepted:
                await self._screen_input(owned)
        await self._screen_outputs([r for r in open_responses if r.accepted and not r.closed])

    # -- input -----------------------------------------------------------------------------------------------

    async def _screen_input(self, owned: Owned) -> None:
        """Accept, refuse, or turn away. Only `cut{stage: input}` says that nothing became of a request: whatever else
        ended it already, another owner may have accepted it before, so it is accepted and then ended."""
        decision = owned.fold.decision
        if isinstance(decision, Cut) and decision.stage == "input":
            self._end_unaccepted(owned, decision)
            return
        if owned.ending and decision is None:
            return  # its end is on its way to the journal
        with tracer.start_as_current_span(
            names.process(JOURNAL),
            context=extract(owned.trace),
            kind=SpanKind.CONSUMER,
            attributes=names.messaging(JOURNAL, "process", owned.partition, owned.offset),
        ) as span:
            texts = [message.text for message in owned.requested.prompt()]
            started_s = time.perf_counter()
            result = await screen_input(self._policy, self._classifier, texts)
            verdict = input_verdict(owned.id, owned.requested.tenant, self._policy, result, _ms_since(started_s))
            span.set_attributes(
                {names.RESPONSE_ID: owned.id, names.POLICY: self._policy.name, names.OUTCOME: result.action}
            )
            owned.trace = inject(span) or owned.trace
            self._outbox.verdict(owned, verdict)
            self._decide_input(owned, result)

    def _decide_input(self, owned: Owned, result: InputVerdict) -> None:
        if result.action == "refuse":
            self._refuse(owned, result.category)
        elif owned.fold.decision is None and self._dispatcher.overloaded:
            self._turn_away(owned)
        else:
            self._accept(owned)

    def _accept(self, owned: Owned) -> None:
        requested = owned.requested
        owned.accepted = True
        owned.screen = TextScreen(self._policy)
        self._open_span(owned)
        accepted = Accepted(
            response_id=owned.id,
            epoch=owned.epoch,
            tenant=requested.tenant,
            spec=requested.spec,
            policy=self._policy.name,
            created_ms=requested.created_ms,
            deadline_ms=requested.deadline_ms,
            input_tokens=requested.input_tokens,
        )
        self._outbox.publish(owned, accepted, inject(owned.span))
        if owned.fold.decision is None and owned.times.attempt == 0:
            self._dispatcher.admit(owned)

    def _refuse(self, owned: Owned, category: str | None) -> None:
        """Every owner refuses the same, so that others may be told before the journal is."""
        told = self._reject_input(owned, category)
        cut = Cut(response_id=owned.id, reason="policy", stage="input", category=category)
        owned.closing = [*told, self._outbox.append(owned, cut)]

    def _reject_input(self, owned: Owned, category: str | None) -> "list[asyncio.Future[Appended]]":
        message = "The input was refused by the content policy" + (f" (category {category})." if category else ".")
        return self._outbox.reject(owned, status=400, code="content_policy_violation", message=message, param="input")

    def _turn_away(self, owned: Owned) -> None:
        """How many wait depends on the moment, so the journal decides: the client is told once it is read back."""
        message = f"{self._dispatcher.waiting:,} requests are waiting for a slot already. Please retry later."
        owned.ending = True
        self._outbox.append(
            owned, Cut(response_id=owned.id, reason="failed", stage="input", code=OVERLOADED, message=message)
        )

    def _end_unaccepted(self, owned: Owned, cut: Cut) -> None:
        """Nothing was ever public. It may have been told before: gateways drop replies that they do not wait for, and
        history releases once."""
        if cut.reason == "policy":
            owned.closing = self._reject_input(owned, cut.category)
            return
        status, kind = (429, "rate_limit_error") if cut.code == OVERLOADED else (500, "server_error")
        owned.closing = self._outbox.reject(owned, status=status, code=cut.code, message=cut.message, error_type=kind)

    # -- output ----------------------------------------------------------------------------------------------

    async def _screen_outputs(self, responses: list[Owned]) -> None:
        pending = [(owned, self._feed(owned)) for owned in responses]
        windows = [window for _, completed in pending for window in completed]
        started_s = time.perf_counter()
        findings = iter(await self._classifier.classify(windows) if windows else ())
        latency_ms = _ms_since(started_s)
        for owned, completed in pending:
            await self._judge(owned, completed, [next(findings) for _ in completed], latency_ms)

    def _feed(self, owned: Owned) -> list[Window]:
        screen = owned.screen
        assert screen is not None, "an accepted response has a screen"
        windows = [window for piece in owned.unseen_pieces() for window in screen.feed(piece)]
        if owned.fold.decision is not None:
            # By itself: whether the end came together with the last piece is a matter of batches.
            windows += screen.feed("", final=True)
        return windows

    async def _judge(
        self, owned: Owned, windows: list[Window], findings: list[Sequence[Finding]], latency_ms: float
    ) -> None:
        screen = owned.screen
        assert screen is not None, "an accepted response has a screen"
        outcome = screen.resolve(windows, findings)
        await self._publish(owned, outcome)
        tenant = owned.requested.tenant
        for verdict in output_verdicts(owned.id, tenant, self._policy, outcome, latency_ms):
            self._outbox.verdict(owned, verdict)
        if screen.done and outcome.cut is None:
            self._outbox.verdict(owned, passed_verdict(owned.id, tenant, self._policy, screen.position, latency_ms))
        if screen.done:
            self._end(owned, screen, outcome.cut)

    async def _publish(self, owned: Owned, outcome: Outcome) -> None:
        for release in outcome.releases:
            logprobs = await self._released_logprobs(owned, release) if owned.fold.logprobs else []
            delta = Delta(
                response_id=owned.id,
                epoch=owned.epoch,
                start=release.start,
                end=release.end,
                text=release.text,
                policy=self._policy.name,
                window=release.window,
                logprobs=logprobs,
            )
            self._outbox.publish(owned, delta)

    async def _released_logprobs(self, owned: Owned, release: Release) -> list[TokenLogprob]:
        """Those of the tokens that become public with the release, in their order."""
        said = owned.fold.logprobs
        owned.shown, places = ending_in(said, owned.shown, release)
        screened = [await self._alternatives.screened(said[i], owned.fold.text[: start_of(said, i)]) for i in places]
        owned.logprobs += screened
        return screened

    def _end(self, owned: Owned, screen: TextScreen, violation: Decision | None) -> None:
        if violation is not None and owned.fold.decision is None:
            self._outbox.append(owned, Cut(response_id=owned.id, reason="policy", category=violation.category))
        terminal = terminal_of(owned, text=screen.text_released, violated=violation is not None, finished_ms=now_ms())
        self._close(owned, terminal)

    def _close(self, owned: Owned, terminal: AnyTerminal) -> None:
        owned.closing = [self._outbox.publish(owned, terminal, inject(owned.span))]
        self._dispatcher.forget(owned)
        self._stop_worker(owned)
        self._close_span(owned, type(terminal).__name__.lower())

    def _stop_worker(self, owned: Owned) -> None:
        claim = owned.fold.owner
        if claim is not None and claim.live and not isinstance(owned.fold.decision, Finish):
            self._outbox.stop(owned.partition, owned.id, claim.id, claim.mailbox, "ended")

    # -- tracing ---------------------------------------------------------------------------------------------

    def _open_span(self, owned: Owned) -> None:
        owned.span = tracer.start_span(names.SCREEN_OUTPUT, context=extract(owned.trace))
        owned.span.set_attributes(
            {names.RESPONSE_ID: owned.id, names.POLICY: self._policy.name, names.EPOCH: owned.epoch}
        )

    def _close_span(self, owned: Owned, outcome: str) -> None:
        if owned.span is not None:
            owned.span.set_attributes({names.OUTCOME: outcome, names.USAGE_OUTPUT_TOKENS: len(owned.fold.ids)})
            owned.span.end()
            owned.span = None


def _ms_since(started_s: float) -> float:
    return round((time.perf_counter() - started_s) * 1000, 3)
