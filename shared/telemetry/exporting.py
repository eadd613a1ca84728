"""Spans on their way out: what is dropped, and why, is told once; nothing that hangs holds up anybody."""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from shared.telemetry.otlp import batching, check_exporter, endpoint

log = logging.getLogger(__name__)

# The one place that tells of a queue that is full, in the middle of the thread whose span is dropped.
_QUEUE = logging.getLogger("opentelemetry.sdk._shared_internal")
_LAST_WORDS_S = 2.0
_SAY_FULL_EVERY_S = 60.0


def export_from(provider: TracerProvider) -> Callable[[], None]:
    """Queue finished spans and send them over OTLP/HTTP, by the standard variables; returns what flushes them at
    shutdown. Raises SettingsError."""
    check_exporter(os.environ)
    waiting = batching(os.environ)
    exporter = _otlp_exporter()
    _QUEUE.handlers = [_WhenFull(exporter)]
    _QUEUE.setLevel(logging.WARNING)
    _QUEUE.propagate = False
    processor = BatchSpanProcessor(
        exporter,
        max_queue_size=waiting.queue,
        schedule_delay_millis=waiting.delay_ms,
        max_export_batch_size=waiting.batch,
    )
    provider.add_span_processor(processor)
    return lambda: _flush(provider, exporter)


def _flush(provider: TracerProvider, exporter: "QuietExporter") -> None:
    """What nobody takes within two seconds is given up: a request under way cannot be broken off."""
    last_words = threading.Thread(target=provider.shutdown, name="last traces", daemon=True)
    last_words.start()
    last_words.join(_LAST_WORDS_S)
    if last_words.is_alive() and not exporter.refused:
        log.warning("the last traces are not taken by %s in time: they are dropped", endpoint(os.environ))


def _otlp_exporter() -> "QuietExporter":
    import requests  # the exporter imports it as late: only who exports needs it

    class Witness(requests.Session):
        """Knows why the last request failed; of the exporter only its log would tell."""

        trouble = ""

        def request(self, *args: Any, **options: Any) -> requests.Response:
            try:
                answer = super().request(*args, **options)
            except Exception as error:
                self.trouble = type(error).__name__
                raise
            self.trouble = "" if answer.ok else f"HTTP {answer.status_code}"
            return answer

    session = Witness()
    return QuietExporter(OTLPSpanExporter(session=session), lambda: session.trouble)


class QuietExporter(SpanExporter):
    """Says once that spans are not taken, and why, and once that they are again; what was not taken is dropped.

    The exporter behind it tells of every attempt; its loggers are silenced (`shared/telemetry/logs.py`). `trouble`: the
    kind of its last failure, never its words; empty for one of its own, as of a batch that is too large.
    """

    def __init__(self, inner: SpanExporter, trouble: Callable[[], str] = str) -> None:
        self._inner = inner
        self._trouble = trouble
        self.refused = False
        self._full_until_s = 0.0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Blocks, with retries, in the SDK's own thread."""
        try:
            result = self._inner.export(spans)
            why = self._trouble() or "they cannot be sent"
        except Exception as error:  # noqa: BLE001 (whatever it is, the next batch may do better)
            result, why = SpanExportResult.FAILURE, type(error).__name__
        refused = result is not SpanExportResult.SUCCESS
        if refused and not self.refused:
            log.warning("traces are not taken by %s (%s): they are dropped until they are", endpoint(os.environ), why)
        elif self.refused and not refused:
            log.info("traces are taken again")
        self.refused = refused
        return result

    def overrun(self) -> None:
        """A span was dropped because the queue in front of this is full."""
        now_s = time.monotonic()
        if not self.refused and now_s >= self._full_until_s:
            self._full_until_s = now_s + _SAY_FULL_EVERY_S
            log.warning(
                "traces are dropped: %s takes them more slowly than they come (OTEL_BSP_MAX_QUEUE_SIZE)",
                endpoint(os.environ),
            )

    def shutdown(self) -> None:
        """Called by the SDK."""
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Called by the SDK; nothing is buffered here."""
        return self._inner.force_flush(timeout_millis)


class _WhenFull(logging.Handler):
    def __init__(self, exporter: QuietExporter) -> None:
        super().__init__(logging.WARNING)
        self._exporter = exporter

    def emit(self, _: logging.LogRecord) -> None:
        self._exporter.overrun()
