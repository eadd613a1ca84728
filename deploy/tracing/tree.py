"""A trace as text. Pure."""

from collections.abc import Iterator, Sequence

from deploy.tracing.graph import SpanSeen
from shared.telemetry import names

_SHOWN = (names.ATTEMPT, names.EPOCH, names.OUTCOME)


def tree(spans: Sequence[SpanSeen]) -> Iterator[str]:
    """Each span once, children below their parents; what has lost its parent, or is its own ancestor, stands at the
    margin."""
    ids = {span.span_id for span in spans}
    children: dict[str, list[SpanSeen]] = {}
    for span in spans:
        children.setdefault(span.parent_id, []).append(span)
    orphans = [span for span in spans if span.parent_id not in ids]
    shown: set[str] = set()
    for top in (*orphans, *spans):
        waiting = [(top, 0)]
        while waiting:
            span, depth = waiting.pop()
            if span.span_id not in shown:
                shown.add(span.span_id)
                yield from _lines(span, depth)
                waiting += [(child, depth + 1) for child in reversed(children.get(span.span_id, []))]


def _lines(span: SpanSeen, depth: int) -> Iterator[str]:
    shown = "".join(
        f" {name.removeprefix('chatmesh.')}={span.attributes[name]}" for name in _SHOWN if name in span.attributes
    )
    yield f"{'  ' * depth}{span.service}: {span.name}{shown}"
    for event in span.events:
        told = ", ".join(f"{key.removeprefix('chatmesh.')}={value}" for key, value in event.attributes.items())
        yield f"{'  ' * depth}  · {event.name}{f' ({told})' if told else ''}"
