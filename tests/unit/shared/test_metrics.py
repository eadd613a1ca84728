"""The declarations keep Prometheus' rules, and the metrics of one process do not touch those of another."""

import re
import tomllib
from pathlib import Path

import pytest
from opentelemetry.trace import SpanContext, TraceFlags
from prometheus_client import generate_latest

from shared.release import VERSION
from shared.telemetry.metrics import (
    ALL,
    CLAIMS,
    CONSUMER_LAG,
    DECLARED,
    HOLD_BACK,
    STREAM_RESUMES,
    USAGE_TOKENS,
    WAITING_JOBS,
    Declared,
    Kind,
    Metrics,
    exemplar,
)
from shared.topics import Service

ROOT = Path(__file__).resolve().parents[3]
UNITS = {"seconds", "bytes", "records"}


@pytest.mark.parametrize("declared", DECLARED, ids=lambda declared: declared.name)
def test_a_declaration_keeps_the_rules(declared: Declared) -> None:
    assert re.fullmatch(r"(chatmesh|http_server|gen_ai_server|messaging_client)(_[a-z]+)+", declared.name)
    assert declared.name.endswith("_total") == (declared.kind is Kind.COUNTER)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", label) for label in declared.labels)
    assert len(set(declared.labels)) == len(declared.labels)
    assert declared.meaning and not declared.meaning.endswith(".")
    assert declared.services
    if declared.kind is Kind.HISTOGRAM:
        assert declared.name.rpartition("_")[2] in UNITS
        assert list(declared.buckets) == sorted(set(declared.buckets)) and declared.buckets[0] > 0
    else:
        assert not declared.buckets


def test_names_are_unique() -> None:
    assert len({declared.name for declared in DECLARED}) == len(DECLARED)


def text(metrics: Metrics) -> str:
    return generate_latest(metrics.registry).decode()


def test_two_services_in_one_process_share_no_metric() -> None:
    one, other = Metrics(Service.GATEWAY, "gateway-1"), Metrics(Service.GATEWAY, "gateway-2")
    one.counter(STREAM_RESUMES).labels("sse").inc()
    assert 'chatmesh_stream_resumes_total{transport="sse"} 1.0' in text(one)
    assert "{transport" not in text(other)


def test_who_asks_twice_gets_the_same_metric() -> None:
    metrics = Metrics(Service.INFERENCE)
    assert metrics.counter(CLAIMS) is metrics.counter(CLAIMS)
    moderation = Metrics(Service.MODERATION)
    assert moderation.histogram(HOLD_BACK) is moderation.histogram(HOLD_BACK)


def test_a_metric_of_another_service_or_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="chatmesh_claims_total is not declared for gateway"):
        Metrics(Service.GATEWAY).counter(CLAIMS)
    with pytest.raises(ValueError, match="chatmesh_waiting_jobs is a gauge, not a counter"):
        Metrics(Service.MODERATION).counter(WAITING_JOBS)


def test_what_is_read_at_a_scrape_is_what_is_so_then() -> None:
    metrics, waiting = Metrics(Service.MODERATION), [3]
    metrics.read(WAITING_JOBS, lambda: [((), waiting[0])])
    assert "chatmesh_waiting_jobs 3.0" in text(metrics)
    waiting[0] = 4
    assert "chatmesh_waiting_jobs 4.0" in text(metrics)


def test_several_sources_make_one_value_until_they_go() -> None:
    metrics = Metrics(Service.HISTORY)
    metrics.read(USAGE_TOKENS, lambda: [(("output", "0"), 5), (("output", "1"), 1)])
    metrics.read(USAGE_TOKENS, lambda: [(("output", "0"), 2)])
    forget = metrics.read(CONSUMER_LAG, lambda: [(("responses.events", "", "0"), 7)])
    metrics.read(CONSUMER_LAG, lambda: [(("responses.events", "", "0"), 2)])
    usage = 'chatmesh_usage_tokens_total{gen_ai_token_type="output",messaging_destination_partition_id='
    lag = (
        'chatmesh_consumer_lag_records{messaging_consumer_group_name="",messaging_destination_name="responses.events",'
        'messaging_destination_partition_id="0"} '
    )
    shown = text(metrics)
    assert usage + '"0"} 7.0' in shown and usage + '"1"} 1.0' in shown
    assert lag + "7.0" in shown
    forget()
    assert lag + "2.0" in text(metrics)


def span(flags: int = TraceFlags.SAMPLED, trace_id: int = 0xAB) -> SpanContext:
    return SpanContext(trace_id, 1, is_remote=True, trace_flags=TraceFlags(flags))


def test_an_exemplar_names_a_sampled_trace_only() -> None:
    assert exemplar(span()) == {"trace_id": "0" * 30 + "ab"}
    assert exemplar(span(flags=TraceFlags.DEFAULT)) is None
    assert exemplar(span(trace_id=0)) is None


def test_an_exemplar_is_as_short_as_openmetrics_wants_it() -> None:
    found = exemplar(span(), "resp_" + "0" * 32)
    assert found is not None
    assert sum(len(name) + len(value) for name, value in found.items()) <= 128


def test_the_release_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == VERSION


def row(declared: Declared) -> str:
    """As docs/metrics.md describes it."""
    services = "all" if declared.services == ALL else ", ".join(sorted(declared.services))
    labels = ", ".join(f"`{label}`" for label in declared.labels) or "-"
    return f"| `{declared.name}` | {declared.kind} | {services} | {labels} | {declared.meaning} |"


def test_the_document_describes_what_is_declared() -> None:
    lines = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8").splitlines()
    documented = [
        line for line in lines if line.startswith(("| `chatmesh_", "| `http_", "| `gen_ai_", "| `messaging_"))
    ]
    assert documented == [row(declared) for declared in DECLARED]
