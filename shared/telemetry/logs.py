"""Logs: one line per record on stderr, as text for people or as JSON for programs.

A JSON line holds `time`, `level`, `logger`, `message`, `service` and `service_id`; `response_id` where it is about a
response; `trace_id` and `span_id` where it was written in a span; `exception` where one was.

Three rules keep what users wrote, and their keys, out of every line:

* Only our own code speaks below WARNING. Clients of databases, brokers and sockets print what passes through them when
  they are asked for details, so `CHATMESH_LOG_LEVEL` is not for them.
* Of an exception the type and where it was raised are printed. Its message only where it cannot quote a text: our own
  errors', the system's, the broker's. Code that no text passes through may log with `extra=OUTSPOKEN`. Within a message
  `cause_of` says of an error what may be said, and `named_cause_of` in a dead letter. What asyncio and the interpreter
  report beside logging quotes exceptions and arguments: it is told again in words of ours.
* Whoever writes about a response names its id in the message: that is where `response_id` comes from.
"""

import asyncio
import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.trace import Span

from shared.errors import ChatmeshError
from shared.settings import MeshSettings

_TEXT_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_OURS = ("services", "shared", "deploy", "__main__")
# They report each failed attempt although they retry by themselves. What fails for good reaches us: of aiokafka as an
# exception, of OpenTelemetry in `QuietExporter`.
_RETRYING = ("aiokafka", "kafka", "opentelemetry.exporter", "opentelemetry.sdk._shared_internal")
# They quote what they cannot read: a client's `tracestate`, a setting with the key in it (`shared/telemetry/otlp.py`).
_QUOTING = ("opentelemetry.trace", "opentelemetry.util.re")
_RESPONSE_ID = re.compile(r"resp_[0-9a-f]{32}")

OUTSPOKEN: Final = {"outspoken": True}
"""`extra` of a record whose exception cannot quote what users wrote: its message is printed whatever its type."""

_HARMLESS = (ChatmeshError, OSError, ImportError)
# torch speaks of shapes and of memory, never of texts.
_HARMLESS_MODULES = ("aiokafka", "sqlite3", "ssl", "torch")


def about(span: Span | None) -> dict[str, Span | None]:
    """`extra` of a record that belongs to a span which is not the current one; None: to the current one after all."""
    return {"span": span}


def cause_of(error: BaseException) -> str:
    """What may be said of an error out of code that handles text: its type, and its message where that is harmless."""
    return str(error) if isinstance(error, ChatmeshError) else named_cause_of(error)


def named_cause_of(error: BaseException) -> str:
    """The same, with the type of our own errors too."""
    name = type(error).__name__
    return f"{name}: {error}" if _is_harmless(error) and str(error) else name


def _is_harmless(error: BaseException) -> bool:
    return isinstance(error, _HARMLESS) or type(error).__module__.partition(".")[0] in _HARMLESS_MODULES


class _Discretion(logging.Formatter):
    """Prints exceptions without the messages that may quote a text."""

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_info and record.exc_info[1] is not None and not getattr(record, "outspoken", False):
            # Kept on the record: whoever formats it after us prints this.
            record.exc_text = "".join(_discreet_traceback(record.exc_info[1])).rstrip()
        return super().format(record)


class JsonFormatter(_Discretion):
    """One JSON object a line."""

    def __init__(self, service: str = "", service_id: str = "") -> None:
        super().__init__()
        self._identity = {"service": service, "service_id": service_id} if service else {}

    def formatMessage(self, record: logging.LogRecord) -> str:
        return record.message

    def format(self, record: logging.LogRecord) -> str:
        super().format(record)  # sets message and exc_text
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.message,
            **self._identity,
            **_place_in_trace(record),
        }
        if (about_response := _RESPONSE_ID.search(record.message)) is not None:
            entry["response_id"] = about_response[0]
        if record.exc_text:
            entry["exception"] = record.exc_text
        return json.dumps(entry, ensure_ascii=False)


def _place_in_trace(record: logging.LogRecord) -> dict[str, str]:
    span = getattr(record, "span", None) or trace.get_current_span()
    context = span.get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def _discreet_traceback(error: BaseException, seen: set[int] | None = None) -> Iterator[str]:
    """The traceback of an error and of what caused it, in Python's order. `seen`: by id, what is told already, for an
    error may be its own cause."""
    seen = set() if seen is None else seen
    for place, each in enumerate(_with_causes(error, seen)):
        if place:
            yield "\nwhich led to:\n\n"
        yield "Traceback (most recent call last):\n"
        yield from traceback.format_tb(each.__traceback__)
        said = f": {each}" if _is_harmless(each) else " (its message is not shown)"
        yield f"{type(each).__name__}{said}\n"
        for part in each.exceptions if isinstance(each, BaseExceptionGroup) else ():
            if id(part) not in seen:
                yield "\nin it:\n\n"
                yield from _discreet_traceback(part, seen)


def _with_causes(error: BaseException, seen: set[int]) -> list[BaseException]:
    """The error behind what caused it, the first cause first; without those in `seen`, to which they are added."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return chain[::-1]


def setup_logging(settings: MeshSettings, service: str = "") -> None:
    """Log to stderr. Libraries speak from WARNING on, so that a quiet mesh has quiet, and discreet, logs.

    Whatever a library or the interpreter would print beside logging (warnings, errors of threads, of finalizers) is
    logged too.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(service, settings.service_id) if settings.log_format == "json" else _Discretion(_TEXT_FORMAT)
    )
    level = logging.getLevelNamesMapping()[settings.log_level]
    logging.basicConfig(level=max(logging.WARNING, level), handlers=[handler], force=True)
    for name in _OURS:
        logging.getLogger(name).setLevel(level)
    for name in (*_RETRYING, *_QUOTING):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.captureWarnings(capture=True)
    threading.excepthook = _log_thread_failure
    sys.unraisablehook = _log_unraisable


def _log_thread_failure(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_value is None or issubclass(failure.exc_type, SystemExit):
        return
    name = failure.thread.name if failure.thread is not None else "a thread"
    logging.getLogger(__name__).error("%s failed", name, exc_info=failure.exc_value)


def _log_unraisable(ignored: "sys.UnraisableHookArgs") -> None:
    """Of the object (a finalizer, a generator) only what it is: its `repr` may quote anything."""
    source = ignored.object
    where = getattr(source, "__qualname__", None) or type(source).__qualname__
    logging.getLogger(__name__).error("an error in %s could not be raised", where, exc_info=ignored.exc_value)


_ASYNCIO_QUOTES_FROM = re.compile(r"(?<= callback ).*|[<\n].*", re.DOTALL)


def log_loop_failure(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """For `loop.set_exception_handler`: what nobody awaited, or a callback that failed.

    asyncio's own handler prints the `repr` of the future, with its exception, and of a callback's arguments. Here a
    task goes by its name, and what it raised by the rules of every other line.
    """
    said = _ASYNCIO_QUOTES_FROM.sub("", str(context.get("message") or "Unhandled exception in event loop")).rstrip(" :")
    task = context.get("task") or context.get("future")
    name = f": {task.get_name()}" if isinstance(task, asyncio.Task) else ""
    logging.getLogger(__name__).error("%s%s", said, name, exc_info=context.get("exception"))
