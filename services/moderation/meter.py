"""What moderation measures, in its own words. Who is given no metrics measures for nobody."""

from collections.abc import Collection
from typing import Protocol

from opentelemetry.trace import SpanContext

from shared.telemetry.metrics import (
    GENERATION_TAKEOVERS,
    HOLD_BACK,
    MODERATION_BACKEND_DURATION,
    OPEN_RESPONSES,
    OWNED_PARTITIONS,
    PARTITION_TAKEOVERS,
    RESPONSES,
    VERDICTS,
    WAITING_JOBS,
    Metrics,
    exemplar,
)

_OUTCOMES = (
    ("completed", ""),
    ("incomplete", "max_output_tokens"),
    ("incomplete", "content_filter"),
    ("failed", "server_error"),
    ("failed", "deadline"),
    ("failed", "moderation_unavailable"),
    ("cancelled", "requested"),
    ("cancelled", "abandoned"),
    ("refused", "content_policy_violation"),
    ("refused", "rate_limit_exceeded"),
    ("refused", "moderation_unavailable"),
)
_VERDICTS = {"input": ("pass", "flag", "refuse"), "output": ("pass", "flag", "mask", "cut")}
_TAKEOVERS = ("unclaimed", "released", "silent", "forgotten", "stuck")
_STATUSES = ("ok", "failed", "late")


class Holder(Protocol):
    """Who owns partitions; `Owner` is the real one."""

    @property
    def waiting(self) -> int:
        """Jobs that no worker has a slot for."""

    @property
    def open_responses(self) -> int:
        """Responses without an end."""

    @property
    def live_partitions(self) -> Collection[int]:
        """The partitions."""


class ModerationMeter:
    """The counters and histograms of one replica. All known labels are there from the start: whoever watches for an
    increase would not see a counter that begins with 1."""

    def __init__(self, metrics: Metrics | None = None) -> None:
        self._metrics = metrics = metrics or Metrics(None)
        self._responses = metrics.counter(RESPONSES)
        self._verdicts = metrics.counter(VERDICTS)
        self._takeovers = metrics.counter(GENERATION_TAKEOVERS)
        self._partitions = metrics.counter(PARTITION_TAKEOVERS)
        self._hold_back = metrics.histogram(HOLD_BACK)
        self._backends = metrics.histogram(MODERATION_BACKEND_DURATION)
        for outcome in _OUTCOMES:
            self._responses.labels(*outcome)
        for stage, actions in _VERDICTS.items():
            for action in actions:
                self._verdicts.labels(stage, action)
        for reason in _TAKEOVERS:
            self._takeovers.labels(reason)

    def watch(self, owner: Holder) -> None:
        """Show what the owner holds."""
        self._metrics.read(WAITING_JOBS, lambda: [((), owner.waiting)])
        self._metrics.read(OPEN_RESPONSES, lambda: [((), owner.open_responses)])
        self._metrics.read(OWNED_PARTITIONS, lambda: [((), len(owner.live_partitions))])

    def ended(self, outcome: str, reason: str) -> None:
        """A response's end is public."""
        self._responses.labels(outcome, reason).inc()

    def refused(self, code: str) -> None:
        """A request became nothing."""
        self._responses.labels("refused", code).inc()

    def judged(self, stage: str, action: str) -> None:
        """A verdict was sent."""
        self._verdicts.labels(stage, action).inc()

    def attempt_failed(self, reason: str) -> None:
        """A generation needs another attempt."""
        self._takeovers.labels(reason).inc()

    def partition_taken_over(self) -> None:
        """A partition came with responses that are still open."""
        self._partitions.inc()

    def held_back(self, waited_s: float, span: SpanContext | None, response_id: str) -> None:
        """Text became public so long after it came."""
        self._hold_back.observe(max(0.0, waited_s), exemplar(span, response_id) if span is not None else None)

    def knows_backend(self, name: str) -> None:
        """A backend may be called from now on."""
        for status in _STATUSES:
            self._backends.labels(name, status)

    def backend_called(self, name: str, status: str, took_s: float) -> None:
        """One call, whatever it was about."""
        self._backends.labels(name, status).observe(took_s)
