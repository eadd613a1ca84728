"""Every metric of the mesh, declared once: name, kind, labels, buckets, meaning, and which services have it.

Names follow OpenTelemetry's semantic conventions (HTTP, GenAI, messaging, database), translated by the rules for
Prometheus: dots become underscores, the unit comes last, counters end in `_total`. What the conventions do not know is
named `chatmesh_…`. docs/metrics.md has the same table for readers; a test compares the two.

Labels are bounded: no ids, no tenants, nothing that a client may choose. Nothing is measured per token: writers count
by batch, and what a service knows anyway is read when somebody scrapes (`Metrics.read`).
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from opentelemetry.trace import SpanContext
from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shared.release import VERSION
from shared.topics import Service


class Kind(StrEnum):
    """What Prometheus calls the type of a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Declared:
    """A metric: its name as Prometheus shows it, and all that is known of it before the first value.

    `buckets`: upper bounds in the unit that the name ends in, histograms only.
    """

    name: str
    kind: Kind
    services: frozenset[Service]
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


ALL: Final = frozenset(Service)
_GATEWAY: Final = frozenset({Service.GATEWAY})
_MODERATION: Final = frozenset({Service.MODERATION})
_INFERENCE: Final = frozenset({Service.INFERENCE})
_HISTORY: Final = frozenset({Service.HISTORY})

# -- labels --------------------------------------------------------------------------------------------------

METHOD: Final = "http_request_method"
ROUTE: Final = "http_route"
STATUS: Final = "http_response_status_code"
MODEL: Final = "gen_ai_request_model"
OPERATION: Final = "gen_ai_operation_name"
PROVIDER: Final = "gen_ai_provider_name"
TOKEN_TYPE: Final = "gen_ai_token_type"
ERROR: Final = "error_type"
TOPIC: Final = "messaging_destination_name"
PARTITION: Final = "messaging_destination_partition_id"
GROUP: Final = "messaging_consumer_group_name"
MESSAGING_OPERATION: Final = "messaging_operation_name"
DATABASE: Final = "db_system_name"
DATABASE_OPERATION: Final = "db_operation_name"
TRANSPORT: Final = "transport"

# -- buckets -------------------------------------------------------------------------------------------------
# Where the conventions advise bounds, theirs are among them; ours reach from a scripted engine to a deadline.

_REQUEST_S: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 120, 300, 600)
_GENERATION_S: Final = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 300, 600,
)  # fmt: skip
_FIRST_TOKEN_S: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60,
)  # fmt: skip
_PER_TOKEN_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
_HOLD_BACK_S: Final = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_APPEND_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_STORE_S: Final = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)

# -- gateway -------------------------------------------------------------------------------------------------

HTTP_DURATION: Final = Declared(
    "http_server_request_duration_seconds",
    Kind.HISTOGRAM,
    _GATEWAY,
    "HTTP requests, from their first line to the last byte of their answer; streams count whole. Routes are templates",
    (METHOD, ROUTE, STATUS),
    _REQUEST_S,
)
ACTIVE_STREAMS: Final = Declared(
    "chatmesh_active_streams",
    Kind.GAUGE,
    _GATEWAY,
    "Clients that are being told a response right now",
    (TRANSPORT,),
)
FOLLOWED_RESPONSES: Final = Declared(
    "chatmesh_followed_responses",
    Kind.GAUGE,
    _GATEWAY,
    "Responses whose events this gateway holds, however many clients read them",
)
TIME_TO_FIRST_TOKEN: Final = Declared(
    "chatmesh_response_time_to_first_token_seconds",
    Kind.HISTOGRAM,
    _GATEWAY,
    "From a request that was read to its first text handed to the client; streams that this gateway began",
    (MODEL,),
    _FIRST_TOKEN_S,
)
TIME_PER_OUTPUT_TOKEN: Final = Declared(
    "chatmesh_response_time_per_output_token_seconds",
    Kind.HISTOGRAM,
    _GATEWAY,
    "From the first batch of text handed to the client to the last one, by the output tokens behind the first batch, "
    "as its share of the characters; one value a stream that had several",
    (MODEL,),
    _PER_TOKEN_S,
)
STREAM_RESUMES: Final = Declared(
    "chatmesh_stream_resumes_total",
    Kind.COUNTER,
    _GATEWAY,
    "Streams that went on behind a sequence number which the client named",
    (TRANSPORT,),
)
STREAM_EVICTIONS: Final = Declared(
    "chatmesh_stream_evictions_total",
    Kind.COUNTER,
    _GATEWAY,
    "Streams that were closed because their client lagged behind by more than CHATMESH_LAG_LIMIT_S",
    (TRANSPORT,),
)
REQUESTS_REFUSED: Final = Declared(
    "chatmesh_requests_refused_total",
    Kind.COUNTER,
    _GATEWAY,
    "Requests answered by an error, by its code",
    ("code",),
)

# -- inference -----------------------------------------------------------------------------------------------

_GENERATION_LABELS: Final = (OPERATION, PROVIDER, MODEL, ERROR)
GENERATION_DURATION: Final = Declared(
    "gen_ai_server_request_duration_seconds",
    Kind.HISTOGRAM,
    _INFERENCE,
    "Generations by this worker, from its claim to the last record; one that was taken over counts at each worker",
    _GENERATION_LABELS,
    _GENERATION_S,
)
GENERATION_FIRST_TOKEN: Final = Declared(
    "gen_ai_server_time_to_first_token_seconds",
    Kind.HISTOGRAM,
    _INFERENCE,
    "From this worker's claim to its first token",
    _GENERATION_LABELS,
    _FIRST_TOKEN_S,
)
GENERATION_PER_TOKEN: Final = Declared(
    "gen_ai_server_time_per_output_token_seconds",
    Kind.HISTOGRAM,
    _INFERENCE,
    "From this worker's first step with a token to its last one, by the tokens behind the first step; one value a "
    "generation that had several",
    _GENERATION_LABELS,
    _PER_TOKEN_S,
)
ENGINE_SLOTS: Final = Declared(
    "chatmesh_engine_slots", Kind.GAUGE, _INFERENCE, "Places for generations in the engine: total, free", ("state",)
)
ENGINE_STEPS: Final = Declared(
    "chatmesh_engine_steps_total", Kind.COUNTER, _INFERENCE, "Steps of the engine, each of one batch"
)
GENERATED_TOKENS: Final = Declared(
    "chatmesh_generated_tokens_total",
    Kind.COUNTER,
    _INFERENCE,
    "Tokens that this worker appended to the journal; what became of them, chatmesh_usage_tokens_total says",
)
CLAIMS: Final = Declared(
    "chatmesh_claims_total", Kind.COUNTER, _INFERENCE, "Jobs that this worker claimed, by how that ended", ("outcome",)
)

# -- moderation ----------------------------------------------------------------------------------------------

WAITING_JOBS: Final = Declared(
    "chatmesh_waiting_jobs",
    Kind.GAUGE,
    _MODERATION,
    "Jobs that this owner holds because no worker has a free slot: scale inference by their sum",
)
OPEN_RESPONSES: Final = Declared(
    "chatmesh_open_responses", Kind.GAUGE, _MODERATION, "Responses of this owner's partitions without a terminal event"
)
OWNED_PARTITIONS: Final = Declared(
    "chatmesh_owned_partitions", Kind.GAUGE, _MODERATION, "Partitions of the journal that this replica owns"
)
RESPONSES: Final = Declared(
    "chatmesh_responses_total",
    Kind.COUNTER,
    _MODERATION,
    "Terminal events that this owner published, and inputs that it refused, by outcome and its reason",
    ("outcome", "reason"),
)
GENERATION_TAKEOVERS: Final = Declared(
    "chatmesh_generation_takeovers_total",
    Kind.COUNTER,
    _MODERATION,
    "Generations that needed another attempt, by what became of the one before",
    ("reason",),
)
PARTITION_TAKEOVERS: Final = Declared(
    "chatmesh_partition_takeovers_total",
    Kind.COUNTER,
    _MODERATION,
    "Partitions that came with responses still open: from another owner, or back after a rebalance",
)
HOLD_BACK: Final = Declared(
    "chatmesh_hold_back_seconds",
    Kind.HISTOGRAM,
    _MODERATION,
    "From the log's time of tokens in the journal to its time of the text that they release; the first of each batch",
    (),
    _HOLD_BACK_S,
)
VERDICTS: Final = Declared(
    "chatmesh_verdicts_total",
    Kind.COUNTER,
    _MODERATION,
    "Verdicts by stage and decision",
    ("stage", "decision"),
)
MODERATION_BACKEND_DURATION: Final = Declared(
    "chatmesh_moderation_backend_duration_seconds",
    Kind.HISTOGRAM,
    _MODERATION,
    "Calls of moderation's models and detectors, by how they ended: ok, failed, late",
    ("backend", "status"),
    _APPEND_S,
)

# -- history -------------------------------------------------------------------------------------------------

RECORDED_RESPONSES: Final = Declared(
    "chatmesh_recorded_responses_total", Kind.COUNTER, _HISTORY, "Ended responses that this recorder stored"
)
STORE_DURATION: Final = Declared(
    "chatmesh_store_operation_duration_seconds",
    Kind.HISTOGRAM,
    _HISTORY,
    "Operations of the store, by what it is, what was asked of it, and the error it gave (empty: none)",
    (DATABASE, DATABASE_OPERATION, ERROR),
    _STORE_S,
)
USAGE_TOKENS: Final = Declared(
    "chatmesh_usage_tokens_total",
    Kind.COUNTER,
    _HISTORY,
    "Tokens in the usage of terminal events since the group's commits began: take the max over instances, then the sum",
    (TOKEN_TYPE, PARTITION),
)
USAGE_RESPONSES: Final = Declared(
    "chatmesh_usage_responses_total",
    Kind.COUNTER,
    _HISTORY,
    "Terminal events since the group's commits began: take the max over instances, then the sum",
    ("outcome", PARTITION),
)

# -- every service -------------------------------------------------------------------------------------------

SENT_MESSAGES: Final = Declared(
    "messaging_client_sent_messages_total",
    Kind.COUNTER,
    ALL,
    "Records that were appended, or failed to be, by topic and error (empty: none)",
    (TOPIC, ERROR),
)
CONSUMED_MESSAGES: Final = Declared(
    "messaging_client_consumed_messages_total",
    Kind.COUNTER,
    ALL,
    "Records that were read, replays included, by topic",
    (TOPIC,),
)
SEND_DURATION: Final = Declared(
    "messaging_client_operation_duration_seconds",
    Kind.HISTOGRAM,
    ALL,
    "From a batch that was handed to the producer to the broker's acknowledgement; one value a batch",
    (MESSAGING_OPERATION, TOPIC),
    _APPEND_S,
)
CONSUMER_LAG: Final = Declared(
    "chatmesh_consumer_lag_records",
    Kind.GAUGE,
    ALL,
    "Records between what was read and the end of the partition as last heard of; no group: a tail",
    (TOPIC, GROUP, PARTITION),
)
CONSUMER_HEALS: Final = Declared(
    "chatmesh_consumer_heals_total",
    Kind.COUNTER,
    ALL,
    "Consumers that were replaced because they stood still or failed",
    (TOPIC,),
)
DEAD_LETTERS: Final = Declared(
    "chatmesh_dead_letters_total",
    Kind.COUNTER,
    ALL,
    "Records put aside in a dead-letter queue, by the topic that they came from",
    (TOPIC,),
)
LOST_LETTERS: Final = Declared(
    "chatmesh_lost_dead_letters_total",
    Kind.COUNTER,
    ALL,
    "Dead letters that no queue took, by the topic that they were about",
    (TOPIC,),
)
PARTITIONS: Final = Declared(
    "chatmesh_partitions", Kind.GAUGE, ALL, "CHATMESH_PARTITIONS: how many partitions the response topics have"
)
SERVICE_STATE: Final = Declared(
    "chatmesh_service_state",
    Kind.GAUGE,
    ALL,
    "1 for the state that the service is in: starting, ready, draining",
    ("state",),
)

DECLARED: Final = tuple(value for value in globals().values() if isinstance(value, Declared))
"""In the order of declaration."""

# -- the metrics of one process ------------------------------------------------------------------------------

Sample = tuple[tuple[str, ...], float]
"""The values of a metric's labels, in the order of its declaration, and its own."""
Source = Callable[[], Iterable[Sample]]


class Metrics:
    """What one service measures, in a registry of its own: services that share a process share no metric.

    Whoever measures asks for its metric by declaration and gets the same one each time, so that parts need not know
    of one another. A service that asks for a metric which it is not declared to have raises ValueError; None is
    whoever measures for nobody, and may ask for all.
    """

    def __init__(self, service: Service | None, service_id: str = "") -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which nobody reads
        self.service = service
        self.registry = CollectorRegistry(target_info=_target_info(service, service_id) if service else None)
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        self._readings: dict[str, _Readings] = {}
        self._lock = threading.Lock()

    def watch_process(self) -> None:
        """Add what the process itself shows: memory, processor time, open files, garbage collection."""
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def counter(self, declared: Declared) -> Counter:
        """The counter that is declared so."""
        self._check(declared, Kind.COUNTER)
        with self._lock:
            found = self._counters.get(declared.name)
            if found is None:
                found = Counter(declared.name, declared.meaning, declared.labels, registry=self.registry)
                self._counters[declared.name] = found
            return found

    def histogram(self, declared: Declared) -> Histogram:
        """The histogram that is declared so."""
        self._check(declared, Kind.HISTOGRAM)
        with self._lock:
            found = self._histograms.get(declared.name)
            if found is None:
                found = Histogram(
                    declared.name, declared.meaning, declared.labels, buckets=declared.buckets, registry=self.registry
                )
                self._histograms[declared.name] = found
            return found

    def read(self, declared: Declared, source: Source) -> Callable[[], None]:
        """Ask `source` for the values of a gauge or a counter at each scrape, until what this returns is called.

        `source` runs in another thread than the service's event loop. Where several sources have values for the same
        labels, those of a counter are added up, and of a gauge the largest counts.
        """
        self._check(declared, Kind.COUNTER, Kind.GAUGE)
        with self._lock:
            readings = self._readings.get(declared.name)
            if readings is None:
                readings = self._readings[declared.name] = _Readings(declared)
                self.registry.register(readings)
            return readings.add(source)

    def _check(self, declared: Declared, *kinds: Kind) -> None:
        if self.service is not None and self.service not in declared.services:
            raise ValueError(f"{declared.name} is not declared for {self.service}: allowed are {declared.services}")
        if declared.kind not in kinds:
            raise ValueError(f"{declared.name} is a {declared.kind}, not a {' or '.join(kinds)}")


def _target_info(service: Service, service_id: str) -> dict[str, str]:
    """As OpenTelemetry's rules for Prometheus translate a resource."""
    return {
        "service_name": service.value,
        "service_namespace": "chatmesh",
        "service_instance_id": service_id,
        "service_version": VERSION,
    }


class _Readings(Collector):
    """The values that the sources of one metric have at the moment of a scrape."""

    def __init__(self, declared: Declared) -> None:
        self._declared = declared
        self._sources: dict[object, Source] = {}

    def add(self, source: Source) -> Callable[[], None]:
        key = object()
        self._sources[key] = source
        return lambda: self._forget(key)

    def _forget(self, key: object) -> None:
        self._sources.pop(key, None)

    def describe(self) -> Iterator[Metric]:
        yield self._family()

    def collect(self) -> Iterator[Metric]:
        counts = self._declared.kind is Kind.COUNTER
        found: defaultdict[tuple[str, ...], float] = defaultdict(float)
        for source in list(self._sources.values()):
            for labels, value in source():
                found[labels] = found[labels] + value if counts else max(found[labels], value)
        family = self._family()
        for labels, value in found.items():
            family.add_metric(labels, value)
        yield family

    def _family(self) -> CounterMetricFamily | GaugeMetricFamily:
        kind = CounterMetricFamily if self._declared.kind is Kind.COUNTER else GaugeMetricFamily
        return kind(self._declared.name, self._declared.meaning, labels=self._declared.labels)


def exemplar(span: SpanContext, response_id: str = "") -> dict[str, str] | None:
    """What ties a measurement to its trace; None unless that is sampled, for else nobody could look it up.

    OpenMetrics allows 128 code points for all names and values: these are 88 at most.
    """
    if not (span.is_valid and span.trace_flags.sampled):
        return None
    found = {"trace_id": f"{span.trace_id:032x}"}
    return found | {"response_id": response_id} if response_id else found
