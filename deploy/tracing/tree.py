"""A trace as text. Pure."""

from collections.abc import Iterator, Sequence

from deploy.tracing.graph import SpanSeen
from shared.telemetry import names

_SHOWN = (names.ATTEMPT, names.EPOCH, names.OUTCOME)


def tree(spans: Sequence[SpanSeen]) -> Iterator[str]:
    """One line a span, children below their parents; what has lost its parent stands at the margin."""
    ids = {span.span_id for span in spans}
    for span in spans:
        if span.parent_id not in ids:
            yield from _branch(span, spans, 0)


def _branch(span: SpanSeen, spans: Sequence[SpanSeen], depth: int) -> Iterator[str]:
    shown = "".join(
        f" {name.removeprefix('chatmesh.')}={span.attributes[name]}" for name in _SHOWN if name in span.attributes
    )
    yield f"{'  ' * depth}{span.service}: {span.name}{shown}"
    for event in span.events:
        told = ", ".join(f"{key.removeprefix('chatmesh.')}={value}" for key, value in event.attributes.items())
        yield f"{'  ' * depth}  · {event.name}{f' ({told})' if told else ''}"
    for child in spans:
        if child.parent_id == span.span_id:
            yield from _branch(child, spans, depth + 1)
