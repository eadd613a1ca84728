"""Who reads our topics beside the services: consumers that said so in docs/consumers.yaml, and what they read there."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from deploy.events.contract import Contract, ContractError, resolved
from deploy.events.release import ROOT
from deploy.events.schemas import Schema
from shared.topics import Visibility

DECLARED = ROOT / "docs" / "consumers.yaml"


class Consumer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`reads`: topic → record type → the fields that it looks at, with dots; `contact`: whom to ask."""

    name: str
    contact: str
    reads: dict[str, dict[str, list[str]]]

    def concerned(self, topic: str, tag: str | None = None, path: str = "") -> bool:
        """Whether a change concerns it: of the topic, of one record type, or of a field of that."""
        if topic not in self.reads:
            return False
        if tag is None:
            return True
        if tag not in self.reads[topic]:
            return False
        field = _plain(path)
        return any(_overlap(field, _plain(read)) for read in self.reads[topic][tag])


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    consumers: list[Consumer]


def declared(path: Path = DECLARED) -> tuple[Consumer, ...]:
    """The consumers of the table. Raises ContractError."""
    try:
        return tuple(msgspec.yaml.decode(path.read_bytes(), type=_Table).consumers)
    except (OSError, msgspec.MsgspecError) as error:
        raise ContractError(f"{path.name}: {error}") from error


def mistakes(consumers: tuple[Consumer, ...], contract: Contract) -> Iterator[str]:
    """What consumers say they read and nobody promises."""
    for consumer in consumers:
        for topic, records in consumer.reads.items():
            terms = contract.topics.get(topic)
            if terms is None or terms.visibility != Visibility.PUBLIC:
                yield f"{consumer.name}: {topic} is no public topic"
                continue
            for tag, fields in records.items():
                if tag not in terms.records:
                    yield f"{consumer.name}: {topic} has no records of type {tag}"
                    continue
                schema = contract.schema(topic, tag)
                missing = [field for field in fields if not _has(schema, field.split("."), contract.definitions)]
                yield from (f"{consumer.name}: {tag} in {topic} has no field {field}" for field in missing)


def _has(schema: Schema, path: list[str], known: Mapping[str, Schema]) -> bool:
    """Whether a value of this schema has the field; through lists and unions too."""
    schema = resolved(schema, known)
    if "anyOf" in schema:
        return any(_has(part, path, known) for part in schema["anyOf"])
    if "items" in schema:
        return _has(schema["items"], path, known)
    if not path:
        return True
    inner: Any = schema.get("properties", {}).get(path[0])
    return inner is not None and _has(inner, path[1:], known)


def _plain(path: str) -> list[str]:
    return [part for part in path.replace("[]", "").replace("{}", "").split(".") if part]


def _overlap(left: list[str], right: list[str]) -> bool:
    """Whether one is the other or lies in it."""
    shorter = min(len(left), len(right))
    return left[:shorter] == right[:shorter]
