"""What readers of our topics rely on, as data that can be kept with a release and compared. Pure, but for the files.

A contract is the registry and the types of its records without their words: whatever changes in it may concern readers.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from deploy.events.cloudevents import common_headers
from deploy.events.release import ROOT, current_version
from deploy.events.schemas import DEFS, Definitions, Schema, definitions, type_names
from shared.errors import ChatmeshError
from shared.records.base import SCHEMA_VERSION
from shared.records.codec import CE_TYPE_PREFIX
from shared.topics import CONSUMER_GROUPS, REGISTRY, Topic

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


class CommonTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What every topic promises. `headers`: their schema; `type_prefix`: how `ce_type` begins; `consumer_groups`: how
    the groups begin that consumers outside the mesh may join."""

    headers: Schema
    type_prefix: str
    consumer_groups: str


class Contract(msgspec.Struct, frozen=True, kw_only=True):
    """What a release promises."""

    release: str
    schema_version: int
    common: CommonTerms
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
        common=CommonTerms(
            headers=without_words(common_headers()), type_prefix=CE_TYPE_PREFIX, consumer_groups=CONSUMER_GROUPS
        ),
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


def last_release(folder: Path = RELEASES, *, but: str | None = None) -> Contract:
    """The contract of the newest release under `folder`, or the newest `but` for this one. Raises ContractError."""
    versions = kept(folder, but=but)
    if not versions:
        raise ContractError(f"no release stands in {folder}: python -m deploy.events freeze")
    path = folder / max(versions, key=_order) / _FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Contract)
    except msgspec.MsgspecError as error:
        raise ContractError(f"{path} holds no contract: {error}") from error


def kept(folder: Path = RELEASES, *, but: str | None = None) -> list[str]:
    """The versions whose contracts stand there, `but` for this one."""
    return [path.parent.name for path in folder.glob(f"*/{_FILE}") if path.parent.name != but]


def _order(version: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, version.split(".")))
    except ValueError as error:
        raise ContractError(f"docs/releases has a folder that is no version: {version}") from error


def keep(contract: Contract, folder: Path = RELEASES, *, again: bool = False) -> Path:
    """Write the contract where `last_release` finds it. Raises ContractError where that release has one already, which
    readers are held to be promised: `again` is for one that is not out yet."""
    path = folder / contract.release / _FILE
    if path.exists() and not again:
        raise ContractError(
            f"what {contract.release} promised stands in {path}: raise the version in pyproject.toml first, "
            "or say --again if it is not released yet"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    written: Any = msgspec.json.format(msgspec.json.encode(contract, order="sorted"), indent=1)
    path.write_bytes(written + b"\n")
    return path
