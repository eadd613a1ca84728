"""The headers that every record has, as a schema (CloudEvents 1.0, Kafka protocol binding, binary mode)."""

from typing import Any

from shared.records.base import SCHEMA_VERSION
from shared.records.codec import CE_TYPE_PREFIX

SPEC = "https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md"
CONTENT_TYPE = "application/json"


def common_headers() -> dict[str, Any]:
    """What the headers of every record are."""
    return {
        "type": "object",
        "required": [
            "ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject", "ce_time", "ce_schemaversion",
            "content-type",
        ],
        "properties": {
            "ce_specversion": {"type": "string", "const": "1.0"},
            "ce_id": {
                "type": "string",
                "description": "Names what happened: copies have the same, whoever wrote them.",
            },
            "ce_source": {
                "type": "string",
                "format": "uri-reference",
                "description": "The process that wrote the record: /chatmesh/ and its service id.",
            },
            "ce_subject": {"type": "string", "description": "What the record is about; also the record's key."},
            "ce_time": {"type": "string", "format": "date-time", "description": "When it was written, by its writer."},
            "ce_schemaversion": {
                "type": "string",
                "pattern": "^[0-9]+$",
                "description": f"Extension: the version of the schemas that the record follows, now {SCHEMA_VERSION}.",
            },
            "content-type": {"type": "string", "const": CONTENT_TYPE},
            "traceparent": {"type": "string", "description": "W3C Trace Context of the request, where it is traced."},
            "tracestate": {"type": "string", "description": "W3C Trace Context, where there is any."},
        },
    }  # fmt: skip


def ce_type(tag: str) -> str:
    """CloudEvents' `type` of records with this tag."""
    return f"{CE_TYPE_PREFIX}{tag}"
