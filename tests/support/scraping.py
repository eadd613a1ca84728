"""What a registry shows, and what a scrape of a service brings."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import httpx
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as text_string_to_openmetrics

from tests.support.mesh import Replica

_ENDPOINT = re.compile(r"management endpoint at (http://[^\s\"]+)")
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Sample:
    """One line: a name, its labels, its value."""

    name: str
    labels: Mapping[str, str]
    value: float


class Samples:
    """All lines that a registry shows."""

    def __init__(self, families: Iterator[Metric]) -> None:
        self.all = [Sample(s.name, s.labels, s.value) for family in families for s in family.samples]

    def of(self, name: str, **labels: str) -> list[Sample]:
        """Those of this name that have these labels, among others."""
        return [s for s in self.all if s.name == name and labels.items() <= s.labels.items()]

    def total(self, name: str, **labels: str) -> float:
        """Their sum; 0 if there are none."""
        return sum(sample.value for sample in self.of(name, **labels))

    def by(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """What is not zero, by the values of these labels."""
        return {tuple(s.labels[label] for label in labels): s.value for s in self.of(name) if s.value}


def of_registry(registry: CollectorRegistry) -> Samples:
    """What a registry would show now."""
    return Samples(iter(registry.collect()))


def management_url(replica: Replica) -> str:
    """Where a replica that was started with CHATMESH_MANAGEMENT_PORT=0 shows its metrics; its log names the port."""
    said = _ENDPOINT.findall(replica.process.log_path.read_text(encoding="utf-8"))
    assert said, f"{replica.id} has opened no management endpoint: {replica.process.log_tail(5)}"
    return str(said[-1])


async def exemplars_of(url: str, histogram: str) -> set[tuple[str, str]]:
    """Trace id and response id of each exemplar that the buckets of a histogram have."""
    async with httpx.AsyncClient(timeout=_TIMEOUT_S) as client:
        answer = await client.get(f"{url}/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0"})
    answer.raise_for_status()
    found = [
        sample.exemplar.labels
        for family in text_string_to_openmetrics(answer.text)
        for sample in family.samples
        if sample.name == f"{histogram}_bucket" and sample.exemplar is not None
    ]
    return {(labels["trace_id"], labels["response_id"]) for labels in found}
