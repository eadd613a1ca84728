"""What readers of our topics rely on, as data that can be kept with a release and compared. Pure, but for the files.

A contract is the registry and the types of its records without their words: whatever changes in it may concern readers.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from deploy.events.release import ROOT, current_version
from deploy.events.schemas import DEFS, Definitions, Schema, definitions, type_names
from shared.errors import ChatmeshError
from shared.records.base import SCHEMA_VERSION
from shared.topics import REGISTRY, Topic

RELEASES = ROOT / "docs" / "releases"
_FILE = "contract.json"
_WORDS = frozenset({"title", "description"})


class ContractError(ChatmeshError):
    """A contract cannot be read, or must not be written."""


class TopicTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What one topic promises. `partitions` 0: as many as the mesh is set to; `records`: tag → definition."""

    visibility: str
    key: str
    partitioning: str
    partitions: int
    cleanup: str
    retention_s: int
    log_append_time: bool
    consumers: list[str]
    records: dict[str, str]


class Contract(msgspec.Struct, frozen=True, kw_only=True):
    """What a release promises."""

    release: str
    schema_version: int
    topics: dict[str, TopicTerms]
    definitions: dict[str, Schema]

    def schema(self, topic: str, tag: str) -> Schema:
        """Of one record type."""
        return self.definitions[self.topics[topic].records[tag]]


def current_contract(registry: Mapping[str, Topic] = REGISTRY) -> Contract:
    """What this working tree promises."""
    return contract_of(registry.values(), definitions(registry.values()), current_version(), SCHEMA_VERSION)


def contract_of(topics: Iterable[Topic], known: Definitions, release: str, schema_version: int) -> Contract:
    """Of these topics, whose types `known` holds."""
    return Contract(
        release=release,
        schema_version=schema_version,
        topics={topic.name: _terms(topic) for topic in topics},
        definitions={name: without_words(schema) for name, schema in known.items()},
    )


def _terms(topic: Topic) -> TopicTerms:
    config = topic.broker_config(min_insync_replicas=1)
    return TopicTerms(
        visibility=str(topic.visibility),
        key=topic.key,
        partitioning=str(topic.partitioning),
        partitions=topic.partitions,
        cleanup=config["cleanup.policy"],
        retention_s=int(topic.retention.total_seconds()),
        log_append_time=topic.log_append_time,
        consumers=sorted(map(str, topic.consumers)),
        records=type_names(topic),
    )


def without_words(schema: Schema) -> Schema:
    """A schema without what is only for people."""
    bare: Schema = {key: value for key, value in schema.items() if key not in _WORDS}
    if "properties" in bare:
        bare["properties"] = {name: without_words(value) for name, value in bare["properties"].items()}
    return bare


def resolved(schema: Schema, known: Definitions) -> Schema:
    """What a schema that may be a reference stands for."""
    return known[schema["$ref"].removeprefix(DEFS)] if "$ref" in schema else schema


# -- contracts of releases ---------------------------------------------------------------------------------------


def last_release(folder: Path = RELEASES) -> Contract:
    """The contract of the newest release under `folder`. Raises ContractError."""
    versions = kept(folder)
    if not versions:
        raise ContractError(f"no release stands in {folder}: python -m deploy.events freeze")
    path = folder / max(versions, key=_order) / _FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Contract)
    except msgspec.MsgspecError as error:
        raise ContractError(f"{path} holds no contract: {error}") from error


def kept(folder: Path = RELEASES) -> list[str]:
    """The versions whose contracts stand there."""
    return [path.parent.name for path in folder.glob(f"*/{_FILE}")]


def _order(version: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, version.split(".")))
    except ValueError as error:
        raise ContractError(f"docs/releases has a folder that is no version: {version}") from error


def keep(contract: Contract, folder: Path = RELEASES) -> Path:
    """Write the contract where `last_release` finds it."""
    path = folder / contract.release / _FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    written: Any = msgspec.json.format(msgspec.json.encode(contract, order="sorted"), indent=1)
    path.write_bytes(written + b"\n")
    return path
