"""What counts as a whole trace, and how a broken one is told."""

from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.tracing.graph import OTHER_PARENTS, REQUEST, SERVICE_GRAPH, Node, SpanSeen, faults, own_trace
from deploy.tracing.tree import tree
from shared.telemetry import names

Trace = dict[Node, SpanSeen]
NAMES = {REQUEST: ("gateway", "POST /v1/responses"), ("inference", "chat"): ("inference", "chat llama")}
JOB: Node = ("moderation", "send generation.jobs")
CHAT: Node = ("inference", "chat")
DOCUMENT = Path(__file__).resolve().parents[4] / "docs" / "tracing.md"
EVENTS = {names.TAKEOVER, names.CANCEL, names.CUT, names.EVICTED}


def span(node: Node, span_id: str, parent_id: str = "", **attributes: object) -> SpanSeen:
    service, name = NAMES.get(node, node)
    return SpanSeen(service, name, "t1", span_id, parent_id, attributes)


def whole() -> Trace:
    """A trace of which each span's id is its place in the graph."""
    ids = {node: str(place) for place, node in enumerate(SERVICE_GRAPH)}
    return {node: span(node, ids[node], ids[parent] if parent else "client") for node, parent in SERVICE_GRAPH.items()}


def lost(trace: Trace) -> None:
    del trace[CHAT]


def misplaced(trace: Trace) -> None:
    trace[CHAT] = span(CHAT, "4", trace[REQUEST].span_id)


def orphaned(trace: Trace) -> None:
    del trace[JOB]


def strange(trace: Trace) -> None:
    trace["inference", "token"] = span(("inference", "token"), "9", "4")


def torn(trace: Trace) -> None:
    trace[CHAT] = SpanSeen("inference", "chat llama", "t2", "4", trace[JOB].span_id)


def test_a_whole_trace_has_no_fault() -> None:
    assert faults(whole().values()) == faults(whole().values(), undisturbed=True) == []


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lost, ["missing: 'chat' of inference"]),
        (misplaced, ["'chat' of inference hangs under 'request' of gateway"]),
        (orphaned, ["missing: 'send generation.jobs' of moderation", "the parent of 'chat' of inference is missing"]),
        (strange, ["unexpected: 'token' of inference"]),
        (torn, ["2 traces instead of one"]),
    ],
)
def test_a_fault_is_told(break_it: Callable[[Trace], None], told: list[str]) -> None:
    trace = whole()
    break_it(trace)
    assert faults(trace.values()) == told


def test_of_a_response_that_nobody_knows_everything_is_missing() -> None:
    assert len(faults([])) == len(SERVICE_GRAPH)


def test_a_takeover_is_a_fault_only_where_nothing_happened() -> None:
    trace = whole()
    again = [span(JOB, "20", trace[JOB].parent_id), span(("moderation", "generation lost"), "21", "3")]
    spans = [*trace.values(), *again]
    assert faults(spans) == []
    assert set(faults(spans, undisturbed=True)) == {
        "2 times instead of once: 'send generation.jobs' of moderation",
        "unexpected: 'generation lost' of moderation",
    }


def test_a_span_that_came_twice_counts_once() -> None:
    assert faults([*whole().values(), *whole().values()], undisturbed=True) == []


def test_a_request_may_come_through_history() -> None:
    trace = whole()
    del trace["gateway", "send responses.journal"]
    ways = [("gateway", "send context.requested"), ("history", "process context.requested")]
    parent = trace[REQUEST].span_id
    for place, node in enumerate([*ways, ("history", "send responses.journal")]):
        trace[node] = span(node, f"h{place}", parent)
        parent = f"h{place}"
    trace["moderation", "process responses.journal"] = span(("moderation", "process responses.journal"), "2", parent)
    assert faults(trace.values()) == []


def test_who_only_read_a_response_is_no_part_of_its_making() -> None:
    made = [span(REQUEST, "1", **{"gen_ai.response.id": "resp_1"}), span(CHAT, "2", "1")]
    read = SpanSeen("gateway", "GET /v1/responses/{response_id}", "t2", "3", "", {"gen_ai.response.id": "resp_1"})
    assert own_trace([*made, read], "resp_1") == made
    assert own_trace([*made, read], "resp_2") == []


def test_a_clients_trace_may_have_more_than_one_response_and_spans_of_its_own() -> None:
    client = SpanSeen("browser", "chat", "t1", "0", "")
    first, second = (
        [span(REQUEST, f"{n}1", "0", **{"gen_ai.response.id": f"resp_{n}"}), span(CHAT, f"{n}2", f"{n}1")]
        for n in (1, 2)
    )
    orphan = span(("history", "record response"), "13", "gone", **{"gen_ai.response.id": "resp_1"})
    spans = [client, *second, *first, orphan]
    assert own_trace(spans, "resp_1") == [*first, orphan]
    assert own_trace(spans, "resp_2") == second


def test_a_tree_has_children_below_their_parents_and_orphans_at_the_margin() -> None:
    lines = list(tree([span(REQUEST, "1", "client"), span(CHAT, "2", "1"), span(JOB, "3", "gone")]))
    assert lines == ["gateway: POST /v1/responses", "  inference: chat llama", "moderation: send generation.jobs"]


def test_a_span_that_is_its_own_ancestor_is_shown_once_and_ends_no_search() -> None:
    """Whoever sends a `traceparent` may name a span of ours as its parent."""
    naming = {"gen_ai.response.id": "resp_1"}
    spans = [span(REQUEST, "1", "2", **naming), span(CHAT, "2", "1"), span(JOB, "3", "3", **naming)]
    assert own_trace(spans, "resp_1") == spans
    assert list(tree(spans)) == [
        "gateway: POST /v1/responses",
        "  inference: chat llama",
        "moderation: send generation.jobs",
    ]


def test_a_deep_trace_is_shown() -> None:
    deep = [span(CHAT, str(depth), str(depth - 1)) for depth in range(3000)]
    assert len(list(tree(deep))) == len(deep)


@pytest.mark.parametrize(
    "named", sorted({name for _, name in [*SERVICE_GRAPH, *OTHER_PARENTS] if name not in ("request", "chat")} | EVENTS)
)
def test_the_document_has_everything_that_a_trace_may_show(named: str) -> None:
    assert f"`{named}`" in DOCUMENT.read_text(encoding="utf-8")
