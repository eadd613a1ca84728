"""OpenTelemetry's own variables, checked before OpenTelemetry reads them.

What it cannot use it passes over: silently, with a traceback, or with a line that quotes the key in it. Here it is a
wrong setting like any other.
"""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from opentelemetry.util.re import parse_env_headers

from shared.errors import SettingsError

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_FAMILIES = ("OTEL_EXPORTER_OTLP_", "OTEL_EXPORTER_OTLP_TRACES_")
_COMPRESSIONS = ("none", "gzip", "deflate")


@dataclass(frozen=True, slots=True)
class Batching:
    """How finished spans wait. OpenTelemetry's own delay of 5 s is too long here: a process that is killed takes along
    what it has not exported, and that is just what one wants to see then."""

    delay_ms: int = 1000
    queue: int = 2048
    batch: int = 512


_BATCHING = {
    "delay_ms": "OTEL_BSP_SCHEDULE_DELAY",
    "queue": "OTEL_BSP_MAX_QUEUE_SIZE",
    "batch": "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
}


def exports(environment: Mapping[str, str]) -> bool:
    """Whether spans are to go anywhere."""
    return any(environment.get(name) for name in ENDPOINTS)


def endpoint(environment: Mapping[str, str]) -> str:
    """Where spans go, by scheme, host and port: the rest of the URL may hold a password."""
    url = next(filter(None, map(environment.get, reversed(ENDPOINTS))), "")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if host is None:
        return "the endpoint"
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (f":{port}" if port is not None else "")


def check_exporter(environment: Mapping[str, str]) -> None:
    """Raises SettingsError that names every variable that the exporter could not use, and no secret."""
    faults = []
    for family in _FAMILIES:
        for suffix, fault_of in _EXPORTER.items():
            value = environment.get(family + suffix)
            if value and (fault := fault_of(value)) is not None:
                faults.append(f"{family}{suffix}: {fault}")
    if faults:
        raise SettingsError("wrong settings:\n  " + "\n  ".join(faults))


def batching(environment: Mapping[str, str]) -> Batching:
    """Raises SettingsError."""
    given = {field: _count(name, environment[name]) for field, name in _BATCHING.items() if environment.get(name)}
    found = Batching(**given)
    if found.batch > found.queue:
        raise SettingsError(
            f"{_BATCHING['queue']} is {found.queue}, less than {_BATCHING['batch']}={found.batch}: a batch must fit"
        )
    return found


def _count(name: str, value: str) -> int:
    try:
        number = int(value)
    except ValueError:
        number = 0
    if number < 1:
        raise SettingsError(f"{name}: must be a whole number above 0 (got {value!r})")
    return number


def _url_fault(value: str) -> str | None:
    """Not quoted: it may hold a password."""
    try:
        parts = urlsplit(value)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    return None if whole else "is no address: write http://host:port"


def _headers_fault(value: str) -> str | None:
    """Not quoted: it holds a key."""
    for place, item in enumerate(value.split(","), start=1):
        read = parse_env_headers(item, liberal=True)  # as the exporter reads it
        if item.strip() and not (read and all(part.isprintable() for pair in read.items() for part in pair)):
            return f"write name=value[,name=value], values URL-encoded; entry {place} is not that"
    return None


def _timeout_fault(value: str) -> str | None:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    return None if seconds > 0 and math.isfinite(seconds) else f"must be seconds above 0 (got {value!r})"


def _compression_fault(value: str) -> str | None:
    known = value.strip().lower() in _COMPRESSIONS
    return None if known else f"must be one of {', '.join(_COMPRESSIONS)} (got {value!r})"


def _file_fault(value: str) -> str | None:
    return None if os.access(value, os.R_OK) else f"cannot read {value}"


_EXPORTER: Mapping[str, Callable[[str], str | None]] = {
    "ENDPOINT": _url_fault,
    "HEADERS": _headers_fault,
    "TIMEOUT": _timeout_fault,
    "COMPRESSION": _compression_fault,
    "CERTIFICATE": _file_fault,
    "CLIENT_CERTIFICATE": _file_fault,
    "CLIENT_KEY": _file_fault,
}
