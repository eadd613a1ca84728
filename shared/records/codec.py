"""Records to bytes and back: JSON values, CloudEvents 1.0 binary-mode headers, W3C trace context.

The Kafka protocol binding of CloudEvents puts the attributes into `ce_*` headers and the data into the value
(https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md). The schema
version travels as the extension attribute `ce_schemaversion`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Generic, TypeVar

import msgspec

from shared.errors import MalformedRecordError, UnknownRecordError
from shared.ids import now_ms
from shared.records.base import SCHEMA_VERSION, Record

R = TypeVar("R")
Headers = Sequence[tuple[str, bytes]]

_encoder = msgspec.json.Encoder()
_VERSION_HEADER = "ce_schemaversion"
_VERSION_DIGITS = 9
"""Of a longer number so many tell enough."""
_OUR_VERSION = str(SCHEMA_VERSION).encode()
_FIXED: tuple[tuple[str, bytes], ...] = (
    ("ce_specversion", b"1.0"),
    ("content-type", b"application/json"),
    (_VERSION_HEADER, _OUR_VERSION),
)
CE_TYPE_PREFIX = "chatmesh."
# What msgspec quotes of a value that is none of those allowed: errors go to logs, values may be what users wrote. The
# name of a record type is kept: it says which release wrote it.
_VALUE = re.compile(r"""(?<=value) (?!'[a-z_]{1,40}' - at `\$\.type`)(['"]).*\1(?= - at)""", re.DOTALL)


class Envelope(msgspec.Struct, Generic[R], frozen=True, gc=False):
    """A record as it stands in the log: where, when (unix ms, the log's clock) and in which trace."""

    record: R
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    trace: Mapping[str, str] = msgspec.field(default_factory=dict)


def encode_value(record: Record) -> bytes:
    """The record's JSON."""
    return _encoder.encode(record)


def encode_headers(
    record: Record, source: str, trace: Mapping[str, str] | None = None, *, time: bytes | None = None
) -> list[tuple[str, bytes]]:
    """CloudEvents headers of a record that `source` (a service id) produces; `trace` holds W3C header fields.

    `time`: a `header_time` that the records of a batch share; now, if None.
    """
    headers = [
        *_common_headers(source, record.__struct_config__.tag),
        ("ce_id", record.uid.encode()),
        ("ce_subject", record.subject.encode()),
        ("ce_time", time or header_time(now_ms())),
    ]
    if trace:
        headers.extend((name, value.encode()) for name, value in trace.items())
    return headers


@lru_cache(maxsize=16)  # the batches of one step share it
def header_time(unix_ms: int) -> bytes:
    """A time as CloudEvents has it (RFC 3339, UTC)."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds").encode()


@lru_cache(maxsize=256)
def _common_headers(source: str, tag: str) -> tuple[tuple[str, bytes], ...]:
    """What all records of one type and one process have in common: on the token path they are made once."""
    return (
        *_FIXED,
        ("ce_source", f"/chatmesh/{source}".encode()),
        ("ce_type", f"{CE_TYPE_PREFIX}{tag}".encode()),
    )


class RecordDecoder(Generic[R]):
    """Decodes the records of one topic: `types` is its tagged union."""

    def __init__(self, types: Any) -> None:
        self._decoder: msgspec.json.Decoder[R] = msgspec.json.Decoder(types)

    def decode(self, value: bytes | None, headers: Headers = ()) -> R:
        """Raises UnknownRecordError for a foreign type or version, MalformedRecordError for anything else."""
        if value is None:
            raise MalformedRecordError("the record has no value (tombstones are not used on these topics)")
        _check_version(headers)
        try:
            return self._decoder.decode(value)
        except msgspec.ValidationError as error:
            said = _VALUE.sub("", str(error))
            if "Invalid value" in said and "$.type" in said:
                raise UnknownRecordError(f"unknown record type: {said}") from error
            raise MalformedRecordError(said) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MalformedRecordError(f"not a JSON record: {error}") from error
        except RecursionError as error:
            raise MalformedRecordError("not a JSON record: nested too deeply") from error


def trace_of(headers: Headers) -> dict[str, str]:
    """The W3C trace context among the headers."""
    return {name: value.decode("ascii", "replace") for name, value in headers if name in _TRACE_HEADERS}


_TRACE_HEADERS = frozenset({"traceparent", "tracestate"})


def _check_version(headers: Iterable[tuple[str, bytes]]) -> None:
    for name, value in headers:
        if name != _VERSION_HEADER:
            continue
        if value == _OUR_VERSION or not value.isdigit():
            continue
        version = int(value[:_VERSION_DIGITS])
        if version > SCHEMA_VERSION + 1:
            raise UnknownRecordError(
                f"the record has schema version {version}, this release reads up to {SCHEMA_VERSION + 1}"
            )
