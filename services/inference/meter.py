"""What inference measures, in its own words. Who is given no metrics measures for nobody."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from opentelemetry.trace import SpanContext

from shared.records import Heartbeat
from shared.telemetry import names
from shared.telemetry.metrics import (
    CLAIMS,
    ENGINE_SLOTS,
    ENGINE_STEPS,
    GENERATED_TOKENS,
    GENERATION_DURATION,
    GENERATION_FIRST_TOKEN,
    GENERATION_PER_TOKEN,
    Metrics,
    exemplar,
)
from shared.telemetry.pace import Pace

ClaimOutcome: TypeAlias = Literal["finished", "released", "superseded", "stopped", "full"]
_OUTCOMES: tuple[ClaimOutcome, ...] = ("finished", "released", "superseded", "stopped", "full")


@dataclass(slots=True)
class Timing:
    """When one generation was claimed here, in seconds of `perf_counter`, and how its tokens came since."""

    claimed_s: float = field(default_factory=time.perf_counter)
    pace: Pace = field(default_factory=Pace)

    def said(self, tokens: int) -> None:
        """So many tokens came right now."""
        self.pace.came(tokens, time.perf_counter())


class InferenceMeter:
    """The counters and histograms of one worker; `tokens` is read when somebody scrapes, for it grows with each."""

    def __init__(self, metrics: Metrics | None = None) -> None:
        self._metrics = metrics or Metrics(None)
        self.tokens = 0
        self._claims = self._metrics.counter(CLAIMS)
        self._duration = self._metrics.histogram(GENERATION_DURATION)
        self._first_token = self._metrics.histogram(GENERATION_FIRST_TOKEN)
        self._per_token = self._metrics.histogram(GENERATION_PER_TOKEN)
        self._metrics.read(GENERATED_TOKENS, lambda: [((), self.tokens)])
        for outcome in _OUTCOMES:
            self._claims.labels(outcome)

    def watch(self, beat: Callable[[], Heartbeat], steps: Callable[[], int]) -> None:
        """Show the engine: its slots as the heartbeats tell them, and its steps."""
        self._metrics.read(ENGINE_STEPS, lambda: [((), steps())])
        self._metrics.read(ENGINE_SLOTS, lambda: [(("total",), beat().slots_total), (("free",), beat().slots_free)])

    def turned_away(self, outcome: ClaimOutcome) -> None:
        """A job was claimed and released at once."""
        self._claims.labels(outcome).inc()

    def ended(
        self, timing: Timing, outcome: ClaimOutcome, *, model: str, error_type: str, span: SpanContext, response_id: str
    ) -> None:
        """A generation is over here. `error_type` is empty unless something went wrong."""
        self._claims.labels(outcome).inc()
        labels, seen = (names.CHAT, names.PROVIDER, model, error_type), exemplar(span, response_id)
        self._duration.labels(*labels).observe(time.perf_counter() - timing.claimed_s, seen)
        pace = timing.pace
        if pace.total:
            self._first_token.labels(*labels).observe(pace.first_s - timing.claimed_s, seen)
        if (per_token_s := pace.seconds_per(pace.total)) is not None:
            self._per_token.labels(*labels).observe(per_token_s, seen)
