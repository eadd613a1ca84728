"""What a gateway measures, in its own words. Who is given no metrics measures for nobody."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

from opentelemetry import trace

from services.gateway.errors import RATE_LIMIT, SERVER_ERROR, ApiError
from services.gateway.fanout import Stream
from shared.telemetry.metrics import (
    ACTIVE_STREAMS,
    FOLLOWED_RESPONSES,
    HTTP_DURATION,
    REQUESTS_REFUSED,
    STREAM_EVICTIONS,
    STREAM_RESUMES,
    TIME_PER_OUTPUT_TOKEN,
    TIME_TO_FIRST_TOKEN,
    Metrics,
    exemplar,
)
from shared.telemetry.pace import Pace

Transport: TypeAlias = Literal["json", "sse", "websocket"]
TRANSPORTS: Final[tuple[Transport, ...]] = ("json", "sse", "websocket")
STREAMING: Final[tuple[Transport, ...]] = ("sse", "websocket")

MAX_CODES = 64
"""Errors have about fifty codes, all of our own; a label must be bounded whatever becomes of them."""
_CODES = (
    RATE_LIMIT,
    SERVER_ERROR,
    "content_policy_violation",
    "context_length_exceeded",
    "conversation_locked",
    "invalid_api_key",
    "invalid_value",
    "model_not_found",
    "moderation_unavailable",
    "request_too_large",
)


class GatewayMeter:
    """The counters and histograms of one gateway. Labels that people watch are there from the start."""

    def __init__(self, metrics: Metrics | None = None) -> None:
        self._metrics = metrics = metrics or Metrics(None)
        self.active: dict[Transport, int] = dict.fromkeys(TRANSPORTS, 0)
        self._requests = metrics.histogram(HTTP_DURATION)
        self._refused = metrics.counter(REQUESTS_REFUSED)
        self._evictions = metrics.counter(STREAM_EVICTIONS)
        self._resumes = metrics.counter(STREAM_RESUMES)
        self._first_token = metrics.histogram(TIME_TO_FIRST_TOKEN)
        self._per_token = metrics.histogram(TIME_PER_OUTPUT_TOKEN)
        self._codes = set(_CODES)
        metrics.read(ACTIVE_STREAMS, lambda: [((name,), count) for name, count in self.active.items()])
        for code in _CODES:
            self._refused.labels(code)
        for transport in STREAMING:
            self._evictions.labels(transport)
            self._resumes.labels(transport)

    def watch(self, followed: Callable[[], int]) -> None:
        """Show how many responses the fan-out holds."""
        self._metrics.read(FOLLOWED_RESPONSES, lambda: [((), followed())])

    def answered(self, method: str, route: str, status: str, took_s: float) -> None:
        """An HTTP request is over; `route` is a template, `status` empty where the client left before it was told."""
        self._requests.labels(method, route, status).observe(took_s)

    def refused(self, error: ApiError) -> None:
        """A client was told an error."""
        code = error.code or str(error.status)
        if len(self._codes) < MAX_CODES:
            self._codes.add(code)
        self._refused.labels(code if code in self._codes else "other").inc()

    def resumed(self, transport: Transport) -> None:
        """A client goes on behind a sequence number."""
        self._resumes.labels(transport).inc()

    def evicted(self, transport: Transport) -> None:
        """A client read too far behind."""
        self._evictions.labels(transport).inc()

    def telling(self, transport: Transport, stream: Stream, asked_s: float | None = None) -> "Telling":
        """Within the block, a client is told the stream, or waits for its end. `asked_s` (`perf_counter`): when it was
        asked for by this very client; None for one that comes later, whose times tell nothing of the mesh."""
        return Telling(self, transport, stream, asked_s)

    def first_text(self, stream: Stream, after_s: float) -> None:
        """The first text was handed to the client."""
        span = trace.get_current_span().get_span_context()
        self._first_token.labels(_model_of(stream)).observe(after_s, exemplar(span, stream.id.text))

    def told_all(self, stream: Stream, pace: Pace) -> None:
        """The client has the whole answer; `pace`: of its characters. Which token is in which of them nobody says."""
        terminal = stream.fold.terminal
        if terminal is not None and (per_token_s := pace.seconds_per(terminal.usage.output_tokens)) is not None:
            span = trace.get_current_span().get_span_context()
            self._per_token.labels(_model_of(stream)).observe(per_token_s, exemplar(span, stream.id.text))


class Telling:
    """One client and one stream. Say `took` when a batch of events is about to be written, `handed` once it was."""

    def __init__(self, meter: GatewayMeter, transport: Transport, stream: Stream, asked_s: float | None) -> None:
        self._meter = meter
        self._transport = transport
        self._stream = stream
        self._asked_s = asked_s
        self._pace = Pace()
        self._texts = self._told = 0

    def __enter__(self) -> Self:
        self._meter.active[self._transport] += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._meter.active[self._transport] -= 1
        if self._told and self._told == len(self._stream.fold.texts):
            self._meter.told_all(self._stream, self._pace)

    def took(self) -> None:
        """The events that come next hold all that the stream knows by now."""
        self._texts = len(self._stream.fold.texts)

    def handed(self) -> None:
        """They were handed to the client."""
        if self._asked_s is None or self._texts == self._told:
            return
        now_s = time.perf_counter()
        if not self._told:
            self._meter.first_text(self._stream, now_s - self._asked_s)
        self._pace.came(sum(map(len, self._stream.fold.texts[self._told : self._texts])), now_s)
        self._told = self._texts

    def evicted(self) -> None:
        """The client reads too far behind and is left."""
        self._meter.evicted(self._transport)


def _model_of(stream: Stream) -> str:
    """Only a model that is served is ever accepted: the label is bounded."""
    return stream.accepted.spec.model if stream.accepted is not None else ""
