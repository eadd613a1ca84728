"""The AsyncAPI 3.0 documents of our topics, from the registry. Pure.

There are two: the one for consumers tells of public topics, which the mesh sends; the other one, for those who work on
the mesh or run it, tells of all topics, and which service sends and receives what.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from deploy.events.cloudevents import CONTENT_TYPE, SPEC, ce_type, common_headers
from deploy.events.release import current_version
from deploy.events.schemas import definitions, folder_of, type_names
from shared.records.codec import encode_headers, header_time
from shared.settings import KafkaSettings
from shared.topics import COMPATIBILITY, REGISTRY, Partitioning, Party, Topic, Visibility

Document = dict[str, Any]
EXAMPLES = Path(__file__).resolve().parents[2] / "shared" / "records" / "examples"
_SCHEMAS = "#/components/schemas/"
_BINDING_VERSION = "0.5.0"
_WIDTH = 120
_EXAMPLE_MS = 1_767_225_600_000
"""2026-01-01T00:00:00Z: examples are the same whenever they are written."""

_CONSUMERS = f"""\
What other teams can read of a chatmesh: every response with its text and usage, what becomes of conversations, and
moderation's verdicts. chatmesh sends, consumers receive; nobody else may write to these topics.

- **Begin** with the guide, docs/events.md, and the programs in examples/consumers.
- **Names.** Where the mesh has a namespace (`CHATMESH_NAMESPACE`), it comes before the name of each topic.
- **Format.** JSON values that name their `type`; [CloudEvents 1.0 headers]({SPEC}) in binary mode.
- **Compatibility.** {COMPATIBILITY}
- **Promises** of order and delivery stand with each channel. Topics are read from any number of consumer groups.
"""
_MAINTAINERS = """\
All topics of a chatmesh, the internal ones too: what the services tell each other, for those who work on the mesh or
run it. Internal topics carry what nobody else may read, unscreened text among it, and their records may change with
any release as long as release N reads what N-1 and N wrote. Consumers find their part in asyncapi.yaml.
"""


def consumers_document() -> Document:
    """What is promised to others: public topics only."""
    topics = [topic for topic in REGISTRY.values() if topic.visibility is Visibility.PUBLIC]
    operations = {f"send_{_id(topic)}": _operation("send", topic) for topic in topics}
    return _document("chatmesh events", _CONSUMERS, topics, operations)


def internal_document() -> Document:
    """Every topic, and every service's part in it."""
    topics = sorted(REGISTRY.values(), key=lambda topic: topic.visibility is not Visibility.PUBLIC)
    operations: Document = {}
    for topic in topics:
        for party in sorted(topic.producers):
            operations[f"{party}_sends_{_id(topic)}"] = _operation("send", topic, party)
        for party in sorted(topic.consumers):
            operations[f"{party}_receives_{_id(topic)}"] = _operation("receive", topic, party)
    return _document("chatmesh, all topics", _MAINTAINERS, topics, operations)


def written(document: Document) -> str:
    """The document as docs/ holds it."""
    head = "# Written by `make asyncapi` from shared/topics.py and the types of records: change those.\n"
    return head + yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH)


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as such, and says everything where it stands: no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _document(title: str, description: str, topics: list[Topic], operations: Document) -> Document:
    """The tags of `operations` are those of their services and topics."""
    return {
        "asyncapi": "3.0.0",
        "id": "urn:chatmesh",
        "info": {
            "title": title,
            "version": current_version(),
            "description": description,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": CONTENT_TYPE,
        "servers": _servers(),
        "channels": {_id(topic): _channel(topic) for topic in topics},
        "operations": operations,
        "components": {
            "messages": _messages(topics),
            "schemas": definitions(topics, _SCHEMAS),
            "messageTraits": {"cloudEvent": {"headers": common_headers()}},
            "securitySchemes": {
                "scramSha512": {"type": "scramSha512", "description": "A user and a password of Kafka's."},
                "mutualTls": {"type": "X509", "description": "A client certificate."},
            },
        },
    }


def _servers() -> Document:
    def server(protocol: str, description: str, **more: Any) -> Document:
        return {
            "host": "{bootstrap}",
            "protocol": protocol,
            "description": description,
            "variables": {
                "bootstrap": {"default": "127.0.0.1:9092", "description": "The mesh's KAFKA_BOOTSTRAP_SERVERS."}
            },
            "bindings": {"kafka": {"bindingVersion": _BINDING_VERSION}},
            **more,
        }

    schemes = [{"$ref": f"#/components/securitySchemes/{name}"} for name in ("scramSha512", "mutualTls")]
    return {
        "secured": server("kafka-secure", "A deployment: TLS, and a user or a certificate.", security=schemes),
        "local": server("kafka", "`make run`: docs/events.md says how to find its broker."),
    }


def _channel(topic: Topic) -> Document:
    tags = [{"name": str(topic.visibility)}]
    return {
        "address": topic.name,
        "title": topic.name,
        "summary": topic.summary,
        "description": _words(topic),
        "messages": {tag: {"$ref": f"#/components/messages/{_message_id(topic, tag)}"} for tag in type_names(topic)},
        "tags": tags,
        "bindings": {"kafka": _kafka_channel(topic)},
    }


def _words(topic: Topic) -> str:
    """What is promised of the topic, in sentences."""
    rows = (
        ("Visibility", _VISIBILITY[topic.visibility]),
        ("Partition and key", _partition_words(topic)),
        ("Order", topic.ordering),
        ("Delivery", topic.delivery),
        ("Retention", _retention_words(topic)),
        ("Compatibility", COMPATIBILITY),
    )
    return "\n".join(f"- **{name}.** {text}" for name, text in rows) + "\n"


_VISIBILITY = {
    Visibility.PUBLIC: "Public: other teams may read it, with a read right on the topic and on their consumer group.",
    Visibility.INTERNAL: "Internal: for the services named here, and for operators.",
}


def _partition_words(topic: Topic) -> str:
    if topic.partitions == 1:
        return f"One partition. The key is the {topic.key}."
    how = {
        Partitioning.FROM_ID: "The response's id names the partition",
        Partitioning.MAILBOX: "Each partition is the mailbox of one worker",
        Partitioning.KEY: "A hash of the key (CRC-32, modulo the number of partitions) decides",
        Partitioning.OWN: "Each addressee reads a partition of its own",
    }[topic.partitioning]
    return f"{how}. The key is the {topic.key}."


def _retention_words(topic: Topic) -> str:
    if topic.config.get("cleanup.policy") == "compact":
        return "The last record of each key stays (compacted)."
    return f"{_duration(topic)}, by the {'broker' if topic.log_append_time else 'writer'}'s clock."


def _duration(topic: Topic) -> str:
    minutes = int(topic.retention.total_seconds()) // 60
    for size, unit in ((1440, "day"), (60, "hour"), (1, "minute")):
        if minutes % size == 0:
            count = minutes // size
            return f"{count} {unit}{'s' if count != 1 else ''}"
    raise AssertionError("every number of minutes is one of minutes")


def _kafka_channel(topic: Topic) -> Document:
    config = topic.broker_config(min_insync_replicas=1)
    return {
        "topic": topic.name,
        "partitions": topic.partitions or KafkaSettings.model_fields["partitions"].default,
        "topicConfiguration": {
            "cleanup.policy": config["cleanup.policy"].split(","),
            "retention.ms": int(config["retention.ms"]),
            "max.message.bytes": topic.max_message_bytes,
        },
        "bindingVersion": _BINDING_VERSION,
    }


def _operation(action: str, topic: Topic, party: Party | None = None) -> Document:
    tags = {"tags": [{"name": str(party)}]} if party is not None else {}
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{_id(topic)}"},
        "summary": topic.summary,
        "messages": [{"$ref": f"#/channels/{_id(topic)}/messages/{tag}"} for tag in type_names(topic)],
        **tags,
    }


def _messages(topics: Iterable[Topic]) -> Document:
    """One per record type; queues of dead letters share theirs."""
    return {_message_id(topic, tag): _message(topic, tag) for topic in topics for tag in type_names(topic)}


def _message(topic: Topic, tag: str) -> Document:
    name = type_names(topic)[tag]
    headers, payload = _example(topic, tag)
    return {
        "name": ce_type(tag),
        "title": tag,
        "contentType": CONTENT_TYPE,
        "traits": [{"$ref": "#/components/messageTraits/cloudEvent"}],
        "headers": {"type": "object", "properties": {"ce_type": {"type": "string", "const": ce_type(tag)}}},
        "payload": {"$ref": _SCHEMAS + name},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": topic.key},
                "bindingVersion": _BINDING_VERSION,
            }
        },
        "examples": [{"name": tag, "headers": headers, "payload": payload}],
    }


def _example(topic: Topic, tag: str) -> tuple[Document, Any]:
    """Headers and value of the committed example, as the log would have it."""
    value = (EXAMPLES / folder_of(topic) / f"{tag}.json").read_bytes()
    source = f"{sorted(topic.producers)[0]}-1"
    headers = encode_headers(topic.decoder.decode(value), source, time=header_time(_EXAMPLE_MS))
    return {key: text.decode() for key, text in headers}, json.loads(value)


def _id(topic: Topic) -> str:
    """Identifiers of the document may not hold every character of a topic's name."""
    return topic.name.replace(".", "_")


def _message_id(topic: Topic, tag: str) -> str:
    return f"{folder_of(topic)}_{tag}".replace(".", "_")
