"""JSON Schemas (2020-12) of records, by msgspec from their types. Pure.

Schemas tell what a reader may find, so they leave room: unknown fields are allowed, as every reader is to ignore them.
"""

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import msgspec

from shared.topics import REGISTRY, Topic, Visibility

Schema = dict[str, Any]
Definitions = Mapping[str, Schema]
"""Name of a type → its schema."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"
DEFS = "#/$defs/"
DEAD_LETTERS = "dlq"
"""All dead-letter queues carry the same record, so they share its schema."""


def definitions(topics: Iterable[Topic], ref_prefix: str = DEFS) -> dict[str, Schema]:
    """Every type that the records of `topics` are made of, by name; they refer to each other behind `ref_prefix`."""
    types = [record for topic in topics for record in topic.record_types]
    _, found = msgspec.json.schema_components(types, ref_template=ref_prefix + "{name}")
    return {name: _tidied(schema) for name, schema in sorted(found.items())}


def _tidied(schema: Schema) -> Schema:
    """With its docstring as text, and the tag as the constant that it is."""
    tidy: Schema = _without_discriminator(schema)
    if "description" in tidy:
        tidy["description"] = inspect.cleandoc(tidy["description"])
    tag = tidy.get("properties", {}).get("type", {})
    if len(tag.get("enum", ())) == 1:
        tidy["properties"]["type"] = {"const": tag["enum"][0]}
    return tidy


def _without_discriminator(node: Any) -> Any:
    """A copy without OpenAPI's keyword: AsyncAPI means something else by it, and tags are constants anyway."""
    if isinstance(node, dict):
        return {key: _without_discriminator(value) for key, value in node.items() if key != "discriminator"}
    return [_without_discriminator(value) for value in node] if isinstance(node, list) else node


def type_names(topic: Topic) -> dict[str, str]:
    """Tag of each record type that the topic carries → the name of its definition, in the registry's order."""
    return {str(record.__struct_config__.tag): record.__name__ for record in topic.record_types}


def folder_of(topic: Topic) -> str:
    """Where the topic's schemas and examples lie."""
    return DEAD_LETTERS if topic.name.endswith(".dlq") else topic.name


def record_schema(topic: Topic, tag: str) -> Schema:
    """The self-contained schema of one record type."""
    name = type_names(topic)[tag]
    known = _all_definitions()
    inner = {used: known[used] for used in sorted(set(_reachable([name], known)) - {name})}
    return {**_head(f"{folder_of(topic)}:{tag}"), **known[name], **({"$defs": inner} if inner else {})}


def topic_schema(topic: Topic) -> Schema:
    """The self-contained schema of whatever stands in the topic."""
    names = type_names(topic)
    known = _all_definitions()
    return {
        **_head(folder_of(topic)),
        "title": folder_of(topic),
        "oneOf": [{"$ref": DEFS + name} for name in names.values()],
        "$defs": {used: known[used] for used in sorted(_reachable(names.values(), known))},
    }


def _head(name: str) -> Schema:
    return {"$schema": DIALECT, "$id": f"urn:chatmesh:schema:{name}"}


@cache
def _all_definitions() -> dict[str, Schema]:
    return definitions(REGISTRY.values())


def _reachable(names: Iterable[str], known: Definitions) -> Iterator[str]:
    """Each definition that is needed to read `names`, themselves included, once."""
    seen: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            yield name
            todo.extend(_references(known[name]))


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield str(value).removeprefix(DEFS)
            else:
                yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def files() -> dict[str, str]:
    """Path below docs/schemas → content: one per record type, and one per topic."""
    written: dict[str, str] = {}
    for topic in REGISTRY.values():
        where = folder_of(topic) if topic.visibility is Visibility.PUBLIC else f"internal/{folder_of(topic)}"
        if topic.name.endswith(".dlq") and f"{where}.json" in written:
            continue
        written[f"{where}.json"] = _formatted(topic_schema(topic))
        for tag in type_names(topic):
            written[f"{where}/{tag}.json"] = _formatted(record_schema(topic, tag))
    return written


def _formatted(schema: Schema) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
