"""Prometheus' own tool finds nothing to say against our names, types and help texts, in either format."""

import subprocess

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from shared.telemetry.metrics import DECLARED, Kind, Metrics
from shared.topics import Service
from tests.support.tools import required_tool


def every_metric_of(service: Service) -> Metrics:
    """Each that is declared for the service, with a value."""
    metrics = Metrics(service, f"{service.value}-1")
    for declared in (declared for declared in DECLARED if service in declared.services):
        labels = tuple("some" for _ in declared.labels)
        if declared.kind is Kind.HISTOGRAM:
            histogram = metrics.histogram(declared)
            (histogram.labels(*labels) if labels else histogram).observe(0.1, {"trace_id": "ab" * 16})
        else:
            metrics.read(declared, lambda labels=labels: [(labels, 1.0)])
    return metrics


@pytest.mark.parametrize("service", Service)
def test_promtool_has_nothing_to_say(service: Service) -> None:
    text = generate_latest(every_metric_of(service).registry)
    command = [required_tool("promtool"), "check", "metrics"]
    done = subprocess.run(command, input=text, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("service", Service)
def test_openmetrics_holds_the_same(service: Service) -> None:
    metrics = every_metric_of(service)
    families = text_string_to_metric_families(generate_openmetrics(metrics.registry).decode())
    expected = {declared.name.removesuffix("_total") for declared in DECLARED if service in declared.services}
    assert {family.name for family in families} - {"target"} == expected
