"""The span over the screening of one response's output."""

from opentelemetry import trace

from services.moderation.owner.response import Owned
from shared.telemetry import extract, names

tracer = trace.get_tracer("chatmesh.moderation")


def open_span(owned: Owned) -> None:
    """From its acceptance, or from when it was taken over."""
    owned.span = tracer.start_span(names.SCREEN_OUTPUT, context=extract(owned.trace))
    owned.span.set_attributes(
        {names.RESPONSE_ID: owned.id, names.POLICY: owned.judge.policy.name, names.EPOCH: owned.epoch}
    )


def close_span(owned: Owned, outcome: str) -> None:
    """To its end, or to when another owner goes on with it."""
    if owned.span is not None:
        owned.span.set_attributes({names.OUTCOME: outcome, names.USAGE_OUTPUT_TOKENS: len(owned.fold.ids)})
        owned.span.end()
        owned.span = None
