"""Whether a reader that goes by one JSON Schema can read what was written by another. Pure.

It knows the part of JSON Schema that msgspec makes of our types: objects, arrays, enums, constants, unions, references.
Absent fields are read as their defaults, so that a default is part of the contract: records are written without what
is at its default.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from deploy.events.contract import resolved
from deploy.events.schemas import Definitions, Schema


@dataclass(frozen=True)
class Side:
    """A schema, and the definitions that it refers to."""

    schema: Schema
    known: Definitions

    def at(self, schema: Schema) -> "Side":
        """Another schema of the same side."""
        return Side(schema, self.known)


@dataclass(frozen=True, order=True)
class Trouble:
    """What a reader stumbles over. `path`: the field, with dots; "" is the record itself."""

    path: str
    what: str


def troubles(reader: Side, writer: Side, path: str = "", *, lost: bool = True) -> Iterator[Trouble]:
    """Why `reader` cannot take all that `writer` writes; nothing: it can.

    `lost`: also what a reader could do without, but was there for it to read and is no more.
    """
    yield from _Comparison(lost).compare(reader, writer, path)


class _Comparison:
    """One walk. Types that contain themselves are compared once."""

    def __init__(self, lost: bool) -> None:
        self._lost = lost
        self._under_way: set[tuple[str, str]] = set()

    def compare(self, reader: Side, writer: Side, path: str) -> Iterator[Trouble]:
        names = (json.dumps(reader.schema, sort_keys=True), json.dumps(writer.schema, sort_keys=True))
        if names in self._under_way:
            return
        self._under_way.add(names)
        try:
            for written in _alternatives(writer):
                yield from self._taken(_alternatives(reader), written, path)
        finally:
            self._under_way.remove(names)

    def _taken(self, readable: list[Side], written: Side, path: str) -> Iterator[Trouble]:
        kind = _kind(written.schema)
        candidates = [side for side in readable if _takes(_kind(side.schema), kind)]
        if not candidates:
            wanted = " or ".join(_kind(side.schema) for side in readable)
            yield Trouble(path, f"may be {kind} where {wanted} is read")
        elif len(candidates) == 1 or not any(self._fits(side, written) for side in candidates):
            yield from self._same_kind(candidates[0], written, path)

    def _fits(self, reader: Side, written: Side) -> bool:
        return not any(self._same_kind(reader, written, ""))

    def _same_kind(self, reader: Side, writer: Side, path: str) -> Iterator[Trouble]:
        yield from _values(reader.schema, writer.schema, path)
        if "properties" in reader.schema:
            yield from self._fields(reader, writer, path)
        if reader.schema.get("items"):
            yield from self._values_of("items", reader, writer, path, "[]")
        if reader.schema.get("additionalProperties"):
            yield from self._entries(reader, writer, path)

    def _values_of(self, keyword: str, reader: Side, writer: Side, path: str, mark: str) -> Iterator[Trouble]:
        """What stands in an array or a map."""
        written = writer.schema.get(keyword)
        if isinstance(written, dict):
            yield from self.compare(reader.at(reader.schema[keyword]), writer.at(written), path + mark)
        else:
            yield Trouble(path, "may hold values of any kind")

    def _entries(self, reader: Side, writer: Side, path: str) -> Iterator[Trouble]:
        """To who reads a map, every field of an object is an entry."""
        if "properties" not in writer.schema:
            yield from self._values_of("additionalProperties", reader, writer, path, "{}")
            return
        for name, written in writer.schema["properties"].items():
            yield from self.compare(
                reader.at(reader.schema["additionalProperties"]), writer.at(written), _inner(path, name)
            )

    def _fields(self, reader: Side, writer: Side, path: str) -> Iterator[Trouble]:
        read, written = reader.schema["properties"], writer.schema.get("properties", {})
        required, always = set(reader.schema.get("required", ())), set(writer.schema.get("required", ()))
        is_map, entries = "properties" not in writer.schema, writer.schema.get("additionalProperties", {})
        for name, schema in read.items():
            where = _inner(path, name)
            if name not in written:
                if self._lost or name in required:
                    yield Trouble(where, "is not there" + _renamed(schema, read, written))
                elif is_map:  # it is not promised, but what is there by this name is read
                    yield from self.compare(reader.at(schema), writer.at(entries), where)
                continue
            if name in required and name not in always:
                yield Trouble(where, "may be absent")
            yield from _default(schema, written[name], where)
            yield from self.compare(reader.at(schema), writer.at(written[name]), where)


def _inner(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _alternatives(side: Side) -> list[Side]:
    schema = resolved(side.schema, side.known)
    if "anyOf" in schema:
        return [found for part in schema["anyOf"] for found in _alternatives(side.at(part))]
    return [side.at(schema)]


def _kind(schema: Schema) -> str:
    """What tells the alternatives of a union apart: the tag of a record, else the JSON type."""
    tag = schema.get("properties", {}).get("type", {}).get("const")
    if tag is not None:
        return f"the record {tag}"
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values is not None:
        return "string" if all(isinstance(value, str) for value in values) else "a constant"
    return str(schema.get("type", "anything"))


def _takes(reader: str, writer: str) -> bool:
    return reader in (writer, "anything") or (reader, writer) == ("number", "integer")


def _values(reader: Schema, writer: Schema, path: str) -> Iterator[Trouble]:
    """Enums and constants: what may be written that cannot be read."""
    readable, written = _enumerated(reader), _enumerated(writer)
    if readable is None:
        return
    if written is None:
        yield Trouble(path, f"may be any {_kind(writer)}, not only {', '.join(map(repr, readable))}")
    elif further := [value for value in written if value not in readable]:
        yield Trouble(path, f"may be {', '.join(map(repr, further))}")


def _enumerated(schema: Schema) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _default(reader: Schema, writer: Schema, path: str) -> Iterator[Trouble]:
    """Of a field that is absent each assumes its own default."""
    if "default" in reader and "default" in writer and reader["default"] != writer["default"]:
        meant, read = json.dumps(writer["default"]), json.dumps(reader["default"])
        yield Trouble(path, f"means {meant} where it is absent, read as {read}")


def _renamed(schema: Schema, read: Schema, written: Schema) -> str:
    """A field of the same shape that only the writer knows is perhaps this one by another name."""
    alike = [name for name, other in written.items() if name not in read and other == schema]
    return f" (renamed to {' or '.join(alike)}?)" if alike else ""
