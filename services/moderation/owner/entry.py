"""Screening of a request's input: accepted, refused or turned away, before anything is public (DESIGN 4.2)."""

import asyncio
from functools import partial

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind

from services.moderation.judging import InputVerdict, hear_input, match_input, result_of
from services.moderation.owner.dispatcher import Dispatcher
from services.moderation.owner.entering import Entering
from services.moderation.owner.outbox import Outbox
from services.moderation.owner.ready import Ready
from services.moderation.owner.response import Owned
from services.moderation.owner.spans import open_span
from services.moderation.windows import TextScreen
from shared.log import Appended
from shared.records import Accepted, Cut, ModerationResult
from shared.telemetry import extract, inject, names
from shared.topics import JOURNAL

tracer = trace.get_tracer("chatmesh.moderation")

OVERLOADED = "rate_limit_exceeded"
UNAVAILABLE = "moderation_unavailable"

_INPUT_JUDGED = 0
"""How far the output is judged once the input is."""

_TOLD = {OVERLOADED: (429, "rate_limit_error"), UNAVAILABLE: (503, "server_error")}
"""What else than a violation ends a request before it is accepted: HTTP status and error type."""


class Entry:
    """Lets requests in. What it decides follows from the request and the policy, so that every owner decides alike;
    what does not (how many wait, which backend is there) goes through the journal first."""

    def __init__(self, outbox: Outbox, dispatcher: Dispatcher, ready: Ready) -> None:
        self._outbox = outbox
        self._dispatcher = dispatcher
        self._ready = ready

    async def screen(self, owned: Owned) -> None:
        """Accept, refuse, or turn away, as soon as its backends have answered. Only `cut{stage: input}` says that
        nothing became of a request: whatever else ended it already, another owner may have accepted it before, so it is
        accepted and then ended."""
        decision = owned.fold.decision
        if isinstance(decision, Cut) and decision.stage == "input":
            self.leave(owned)
            self._end_unaccepted(owned, decision)
            return
        if owned.ending and decision is None:
            return  # its end is on its way to the journal
        if owned.entering is None:
            owned.entering = await self._begin(owned)
        if owned.entering.ready:
            self._finish(owned, owned.entering)

    def leave(self, owned: Owned) -> None:
        """The request is another owner's, or at its end."""
        if owned.entering is not None:
            owned.entering.give_up()
            owned.entering = None

    async def _begin(self, owned: Owned) -> Entering:
        span = tracer.start_span(
            names.process(JOURNAL),
            context=extract(owned.trace),
            kind=SpanKind.CONSUMER,
            attributes=names.messaging(JOURNAL, "process", owned.partition, owned.offset),
        )
        messages = owned.requested.prompt()
        entering = Entering(span, await match_input(owned.judge, messages))
        # What the patterns refuse is refused, whatever a model says.
        if owned.judge.has_backends and entering.matched.action != "refuse":
            entering.hearing = asyncio.create_task(hear_input(owned.judge, messages, entering.matched))
            entering.hearing.add_done_callback(partial(self._ready.add, owned))
        return entering

    def _finish(self, owned: Owned, entering: Entering) -> None:
        result = entering.result
        unjudged = result.missing is not None and owned.fold.decision is None
        make = owned.trail.of_unjudged_input if unjudged else owned.trail.of_input
        verdict = self._outbox.verdict(owned, make(result, entering.waited_ms))
        owned.trace = self._noted(entering.span, owned, result) or owned.trace
        self.leave(owned)
        if unjudged:
            self._unavailable(owned, str(result.missing))
        elif result.action == "refuse":
            self._refuse(owned, result.category)
        elif owned.fold.decision is None and self._dispatcher.overloaded:
            self._turn_away(owned)
        else:
            self._accept(owned, result, verdict)

    def _noted(self, span: Span, owned: Owned, result: InputVerdict) -> dict[str, str]:
        span.set_attributes(
            {names.RESPONSE_ID: owned.id, names.POLICY: owned.judge.policy.name, names.OUTCOME: result.action}
        )
        return inject(span)

    def _accept(self, owned: Owned, result: InputVerdict, verdict: "asyncio.Future[Appended]") -> None:
        requested, policy = owned.requested, owned.judge.policy
        owned.accepted = True
        owned.screen = TextScreen(policy)
        owned.events = self._outbox.gate(owned)
        owned.gate.judged(_INPUT_JUDGED, verdict)
        open_span(owned)
        accepted = Accepted(
            response_id=owned.id,
            epoch=owned.epoch,
            tenant=requested.tenant,
            spec=requested.spec,
            policy=policy.name,
            created_ms=requested.created_ms,
            deadline_ms=requested.deadline_ms,
            input_tokens=requested.input_tokens,
            moderation=_told(owned, result),
        )
        owned.gate.pass_through(accepted, _INPUT_JUDGED, inject(owned.span))
        if owned.fold.decision is None and owned.times.attempt == 0:
            self._dispatcher.admit(owned)

    def _refuse(self, owned: Owned, category: str | None) -> None:
        """Every owner refuses the same, so that others may be told before the journal is."""
        told = self._reject(owned, category)
        cut = Cut(response_id=owned.id, reason="policy", stage="input", category=category)
        owned.closing = [*told, self._outbox.append(owned, cut)]

    def _reject(self, owned: Owned, category: str | None) -> "list[asyncio.Future[Appended]]":
        message = "The input was refused by the content policy" + (f" (category {category})." if category else ".")
        return self._outbox.reject(owned, status=400, code="content_policy_violation", message=message, param="input")

    def _turn_away(self, owned: Owned) -> None:
        message = f"{self._dispatcher.waiting:,} requests are waiting for a slot already. Please retry later."
        self._end_by_journal(owned, OVERLOADED, message)

    def _unavailable(self, owned: Owned, backend: str) -> None:
        message = f"The input could not be moderated: {backend} does not answer. Please retry later."
        self._end_by_journal(owned, UNAVAILABLE, message)

    def _end_by_journal(self, owned: Owned, code: str, message: str) -> None:
        """What depends on the moment the journal decides: the client is told once it is read back."""
        owned.ending = True
        cut = Cut(response_id=owned.id, reason="failed", stage="input", code=code, message=message)
        self._outbox.append(owned, cut)

    def _end_unaccepted(self, owned: Owned, cut: Cut) -> None:
        """Nothing was ever public. It may have been told before: gateways drop replies that they do not wait for, and
        history releases once."""
        if cut.reason == "policy":
            owned.closing = self._reject(owned, cut.category)
            return
        status, kind = _TOLD.get(cut.code, (500, "server_error"))
        owned.closing = self._outbox.reject(owned, status=status, code=cut.code, message=cut.message, error_type=kind)


def _told(owned: Owned, result: InputVerdict) -> ModerationResult | None:
    """What the request wants to know of its input."""
    if owned.requested.spec.moderation is None:
        return None
    return result_of(owned.judge, result.scores, result.failed, "input")
