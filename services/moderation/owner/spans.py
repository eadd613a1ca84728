"""What an owner tells the trace of a response: the screening of its output, its attempts, takeovers and its end.

A process that is killed takes its open spans along, so whoever goes on tells of it: a new owner of its predecessor's
screening, by a link and `chatmesh.takeover`, and any owner of a worker that ended without a word, by a span of its own,
`generation lost`, where the worker's would have been.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanKind

from services.moderation.owner.response import Owned
from services.moderation.owner.watch import Reason
from shared.records import AnyTerminal, Cancel, Cut, Failed, Journal
from shared.records.codec import Envelope
from shared.telemetry import extract, fail, inject, lead_to, names, working
from shared.telemetry.content import describe_content
from shared.topics import JOBS

tracer = trace.get_tracer("chatmesh.moderation")

_WITHOUT_A_WORD = frozenset({Reason.SILENT, Reason.FORGOTTEN, Reason.STUCK})


def open_span(owned: Owned) -> None:
    """From its acceptance, or from when it was taken over."""
    owned.span = tracer.start_span(names.SCREEN_OUTPUT, context=extract(owned.trace))
    owned.span.set_attributes(
        {names.RESPONSE_ID: owned.id, names.POLICY: owned.judge.policy.name, names.EPOCH: owned.epoch}
    )


def note_owner_takeover(owned: Owned) -> None:
    """Another owner accepted it: where this one goes on."""
    if owned.span is not None:
        lead_to(owned.accepted_trace, owned.span)
        owned.span.add_event(
            names.TAKEOVER,
            {names.EPOCH: owned.epoch, names.POSITION: owned.fold.position, names.PUBLIC_POSITION: owned.resumed_at},
        )


def note_generation_takeover(owned: Owned, reason: Reason) -> None:
    """The last attempt gets a successor."""
    worker = _last_worker(owned)
    attributes: dict[str, str | int] = {
        names.REASON: reason.name.lower(),
        names.ATTEMPT: owned.times.attempt,
        names.WORKER: worker,
        names.POSITION: owned.fold.position,
    }
    if owned.span is not None:
        owned.span.add_event(names.TAKEOVER, attributes)
    if reason in _WITHOUT_A_WORD:
        _tell_lost(owned, attributes)


def _tell_lost(owned: Owned, attributes: dict[str, str | int]) -> None:
    """By the log's clock, from its claim until now."""
    lost = tracer.start_span(
        names.GENERATION_LOST,
        context=extract(owned.attempt_trace or owned.trace),
        start_time=min(owned.times.claimed_ms * 1_000_000, time.time_ns()),
        attributes={names.RESPONSE_ID: owned.id, **attributes},
    )
    fail(lost, str(attributes[names.REASON]))
    lost.end()


def _last_worker(owned: Owned) -> str:
    claim = owned.fold.owner
    return claim.worker if claim is not None and claim.attempt == owned.times.attempt else owned.times.worker


@contextmanager
def attempt_span(owned: Owned, attempt: int, mailbox: int) -> Iterator[Span]:
    """While a job is sent; a later attempt's leads to the one before."""
    context = trace.get_current_span(extract(owned.attempt_trace)).get_span_context()
    links: Sequence[Link] = [Link(context)] if context.is_valid else []
    attributes = {
        **names.messaging(JOBS, "send", mailbox),
        names.RESPONSE_ID: owned.id,
        names.ATTEMPT: attempt,
        names.WORKER: owned.times.worker,
    }
    of_response = extract(owned.trace)
    with working(
        tracer, names.send(JOBS), context=of_response, kind=SpanKind.PRODUCER, attributes=attributes, links=links
    ) as span:
        owned.attempt_trace = inject(span)
        yield span


def note_decision(owned: Owned, envelope: Envelope[Journal]) -> None:
    """The journal says that it ends, by somebody's wish or by a rule."""
    record = envelope.record
    if owned.span is None:
        return
    if isinstance(record, Cancel):
        lead_to(envelope.trace, owned.span)
        owned.span.add_event(names.CANCEL, {names.REASON: record.reason, names.POSITION: owned.fold.position})
    elif isinstance(record, Cut):
        note_cut(owned, record)


def note_cut(owned: Owned, cut: Cut) -> None:
    """It is cut off: by the policy, its deadline, or because nobody can go on with it."""
    if owned.span is not None:
        why = names.ERROR_TYPE, cut.code
        if cut.reason == "policy":
            why = names.CATEGORY, cut.category or ""
        owned.span.add_event(names.CUT, dict([(names.REASON, cut.reason), why, (names.POSITION, owned.fold.position)]))


def end_span(owned: Owned, terminal: AnyTerminal) -> None:
    """To its end."""
    if owned.span is not None:
        describe_content(owned.span, owned.requested.prompt(), terminal)
        if isinstance(terminal, Failed):
            fail(owned.span, terminal.code)
    _close(owned, str(terminal.__struct_config__.tag))


def hand_span_over(owned: Owned) -> None:
    """To when another owner goes on with it."""
    _close(owned, "handed over")


def _close(owned: Owned, outcome: str) -> None:
    if owned.span is not None:
        owned.span.set_attributes({names.OUTCOME: outcome, names.POSITION: owned.fold.position})
        owned.span.end()
        owned.span = None
