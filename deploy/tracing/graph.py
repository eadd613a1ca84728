"""What the trace of one response must look like. Pure.

To add a service: give its work for a response one span, named in `shared/telemetry/names.py`; start it in the
context that the record's `traceparent` carries (`shared.telemetry.extract`), inject it into what the service
appends (`inject`), and add a row to `SERVICE_GRAPH` with the span that wrote the record. Per-token work makes no spans.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.telemetry import names
from shared.topics import Service

Node = tuple[str, str]
"""Service and span; a generation's span is named `chat` here, whatever its model."""

REQUEST: Node = ("gateway", "request")
"""The span of the client's request, over whichever route it came."""

SERVICE_GRAPH: Mapping[Node, Node | None] = {
    REQUEST: None,
    ("gateway", "send responses.journal"): REQUEST,
    ("moderation", "process responses.journal"): ("gateway", "send responses.journal"),
    ("moderation", "send generation.jobs"): ("moderation", "process responses.journal"),
    ("inference", "chat"): ("moderation", "send generation.jobs"),
    ("moderation", "screen output"): ("moderation", "process responses.journal"),
    ("history", "record response"): ("moderation", "screen output"),
}
"""The service graph of a response that nothing happened to: (service, span) → its parent."""

_SERVICES = frozenset(service.value for service in Service)
_MAKING = frozenset({names.SCREEN_OUTPUT, names.RECORD})
_REQUEST_ROUTES = frozenset({"POST /v1/responses", "POST /v1/chat/completions", "WS /v1/responses"})


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """Something that happened within a span."""

    name: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SpanSeen:
    """One exported span; ids in lower-case hex. `parent_id` is empty for a root. `links`: (trace id, span id)."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    events: tuple[SpanEvent, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    status: str = ""
    resource: Mapping[str, Any] = field(default_factory=dict)

    @property
    def node(self) -> Node:
        """Where it stands in the graph."""
        if self.service == "inference" and self.name.startswith(f"{names.CHAT} "):
            return self.service, names.CHAT
        return REQUEST if self.service == "gateway" and self.name in _REQUEST_ROUTES else (self.service, self.name)


def graph_of(spans: Iterable[SpanSeen]) -> dict[Node, Node | None]:
    """(service, span) → its parent, None where that is not among the spans."""
    by_id = {span.span_id: span for span in spans}
    parents = {span.span_id: by_id.get(span.parent_id) for span in by_id.values()}
    return {span.node: parent.node if (parent := parents[span.span_id]) else None for span in by_id.values()}


def own_trace(spans: Iterable[SpanSeen], response_id: str) -> list[SpanSeen]:
    """What tells of one response's making: the spans that name it, whatever they hang under, and whatever hangs under
    them, in the trace in which it was made. A client may have more in its trace, other responses for instance, and may
    export its own spans to the same place; requests that resume a response have traces of their own."""
    ours = {span.span_id: span for span in spans if span.service in _SERVICES}
    naming = [span for span in ours.values() if span.attributes.get(names.RESPONSE_ID) == response_id]
    making = {span.trace_id for span in naming if span.node == REQUEST or span.name in _MAKING}
    own = {span.span_id for span in naming}
    above = {ancestor for span in naming for ancestor in _ancestors(span, ours)}
    return [
        span
        for span in ours.values()
        if span.trace_id in making and (span.span_id in own | above or own & set(_ancestors(span, ours)))
    ]


def _ancestors(span: SpanSeen, by_id: Mapping[str, SpanSeen]) -> Iterator[str]:
    """The next first. A client chooses the ids of its spans, so that one may be its own ancestor."""
    seen: set[str] = set()
    while (parent := by_id.get(span.parent_id)) is not None and parent.span_id not in seen:
        seen.add(parent.span_id)
        yield parent.span_id
        span = parent


_JOURNALED: Node = ("gateway", "send responses.journal")
_JOURNALED_BY_HISTORY: Node = ("history", "send responses.journal")

OTHER_PARENTS: Mapping[Node, frozenset[Node]] = {
    # With stored context, history writes the request into the journal.
    ("gateway", "send context.requested"): frozenset({REQUEST}),
    ("history", "process context.requested"): frozenset({("gateway", "send context.requested")}),
    _JOURNALED_BY_HISTORY: frozenset({("history", "process context.requested")}),
    ("moderation", "process responses.journal"): frozenset({_JOURNALED_BY_HISTORY}),
    ("history", "send conversations.events"): frozenset({("moderation", "screen output")}),
    # What gateways ask history while they prepare a request.
    ("history", "process history.queries"): frozenset({REQUEST}),
    ("history", "send gateway.replies"): frozenset(
        {("history", "process history.queries"), ("history", "process context.requested")}
    ),
    # An owner that takes a response over knows it from the journal.
    ("moderation", "send generation.jobs"): frozenset({_JOURNALED, _JOURNALED_BY_HISTORY}),
    ("moderation", "screen output"): frozenset({_JOURNALED, _JOURNALED_BY_HISTORY}),
    ("moderation", names.GENERATION_LOST): frozenset({("moderation", "send generation.jobs")}),
    # A client that comes back, to any gateway.
    ("gateway", names.RESUME): frozenset({("moderation", "screen output")}),
}
"""What else may be seen, and where: other ways of a request, takeovers, resumes."""


def faults(spans: Iterable[SpanSeen], *, undisturbed: bool = False) -> list[str]:
    """What is wrong with the trace of one response, a sentence each; none if it is whole.

    `undisturbed`: nothing happened to it, so that each span of `SERVICE_GRAPH` is there once, and no other.
    """
    by_id = {span.span_id: span for span in spans}
    seen = Counter(span.node for span in by_id.values())
    found = [f"missing: {_named(node)}" for node in SERVICE_GRAPH if not _stands(node, seen)]
    if len(traces := {span.trace_id for span in by_id.values()}) > 1:
        found.append(f"{len(traces)} traces instead of one")
    for span in by_id.values():
        found += _misplaced(span, by_id, undisturbed=undisturbed)
    if undisturbed:
        found += [f"{count} times instead of once: {_named(node)}" for node, count in seen.items() if count > 1]
    return found


def _stands(node: Node, seen: Counter[Node]) -> bool:
    return node in seen or (node == _JOURNALED and _JOURNALED_BY_HISTORY in seen)


def _misplaced(span: SpanSeen, by_id: Mapping[str, SpanSeen], *, undisturbed: bool) -> list[str]:
    usual = {SERVICE_GRAPH[span.node]} if span.node in SERVICE_GRAPH else set()
    allowed = usual if undisturbed else usual | OTHER_PARENTS.get(span.node, frozenset())
    if not allowed:
        return [f"unexpected: {_named(span.node)}"]
    parent = by_id.get(span.parent_id)
    if parent is not None and parent.node not in allowed:
        return [f"{_named(span.node)} hangs under {_named(parent.node)}"]
    if parent is None and None not in allowed:
        return [f"the parent of {_named(span.node)} is missing"]
    return []


def _named(node: Node) -> str:
    service, span = node
    return f"'{span}' of {service}"
