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

ClaimOutcome: TypeAlias = Literal["finished", "released", "superseded", "stopped", "full"]
_OUTCOMES: tuple[ClaimOutcome, ...] = ("finished", "released", "superseded", "stopped", "full")


@dataclass(slots=True)
class Timing:
    """When things happened to one generation here, in seconds of `perf_counter`; `tokens` that this worker said."""

    claimed_s: float = field(default_factory=time.perf_counter)
    first_s: float = 0.0
    last_s: float = 0.0
    tokens: int = 0

    def said(self, tokens: int) -> None:
        """So many tokens came right now."""
        self.last_s = time.perf_counter()
        if not self.tokens:
            self.first_s = self.last_s
        self.tokens += tokens


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
        if timing.tokens:
            self._first_token.labels(*labels).observe(timing.first_s - timing.claimed_s, seen)
        if timing.tokens > 1:
            spoken_s = timing.last_s - timing.first_s
            self._per_token.labels(*labels).observe(spoken_s / (timing.tokens - 1), seen)
