"""Topics on the broker: made from the registry, checked at start."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    InvalidReplicationFactorError,
    KafkaError,
    NotControllerError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)

from shared.errors import AccessDeniedError, BrokerUnavailableError, LogError, SettingsError
from shared.log.access import trouble
from shared.log.clients import client_options, topic_name
from shared.log.granted import ungranted
from shared.rights import Right, in_namespace, mesh_rights, rights_of
from shared.settings import KafkaSettings, MeshSettings
from shared.topics import REGISTRY, Party, Topic

_RETRY_S = 0.2
_NOBODY = -1
"""Whom Kafka names for the leader of a partition that has none."""


async def prepare_log(settings: MeshSettings, party: Party | None) -> None:
    """Return once `party` can work on the log: a broker answers, has the topics, grants what the registry does, and
    whoever leads the partitions answers too.

    None: all four services, under one principal. Topics that are missing are made, unless `create_topics` is off.
    Raises BrokerUnavailableError after `start_timeout_s`, AccessDeniedError, SettingsError for other partition counts,
    LogError.
    """
    await _until_available(lambda: _prepare(settings, party), settings.start_timeout_s)


async def wait_for_broker(settings: KafkaSettings, timeout_s: float) -> None:
    """Return once a broker answers; raises BrokerUnavailableError after `timeout_s` seconds, AccessDeniedError at
    once."""
    await _until_available(lambda: _reach(settings), timeout_s)


async def _until_available(work: Callable[[], Awaitable[None]], timeout_s: float) -> None:
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        try:
            return await work()
        except BrokerUnavailableError:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(_RETRY_S)


async def _prepare(settings: MeshSettings, party: Party | None) -> None:
    topics = [topic for topic in REGISTRY.values() if party is None or party in topic.parties]
    async with admin_client(settings) as client:
        if settings.has_principal:
            await _check_rights(client, settings, mesh_rights() if party is None else rights_of(party))
        if settings.create_topics:
            await _ensure_topics(client, settings)
        else:
            await _check_topics(client, settings, topics)
        await _reach_leaders(client, settings, topics)


async def _reach(settings: KafkaSettings) -> None:
    """Also at the address that the broker gives for itself, which may not be the one that led in."""
    async with admin_client(settings) as client:
        await client.list_topics()


async def _reach_leaders(client: AIOKafkaAdminClient, settings: KafkaSettings, topics: Collection[Topic]) -> None:
    """A broker that has died leads what it led until the others notice: what begins before would fail on it."""
    described = await client.describe_topics([topic_name(settings, topic) for topic in topics])
    for leader in sorted({part["leader"] for topic in described for part in topic["partitions"]}):
        if leader == _NOBODY:
            raise BrokerUnavailableError("partitions of the mesh have no leader")
        if not await client._client.ready(leader):
            raise BrokerUnavailableError(f"broker {leader} leads partitions of the mesh and does not answer")


class AdminClient(AIOKafkaAdminClient):  # type: ignore[misc]
    """aiokafka's, which takes it for granted that the brokers know of a controller, and that each of them answers."""

    async def _send_request(self, request: Any, node_id: int | str | None = None) -> Any:
        if node_id is None:  # aiokafka draws one, which may have died a moment ago
            node_id = await self._first_ready()
        return await super()._send_request(request, node_id)

    async def _first_ready(self) -> int | str | None:
        """Of the list of brokers while no others are known: those are named, not numbered."""
        brokers = [broker.nodeId for broker in self._client.cluster.brokers()]
        for node_id in random.sample(brokers, len(brokers)):
            if await self._client.ready(node_id):
                return node_id  # type: ignore[no-any-return]
        return None

    async def _send_to_controller(self, request: Any) -> Any:
        if self._client.cluster.controller is None:
            await self._client.force_metadata_update()
        if self._client.cluster.controller is None:
            raise NotControllerError("the brokers know of no controller now")
        return await super()._send_to_controller(request)


@asynccontextmanager
async def admin_client(settings: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    """A connected admin client. What aiokafka raises within the block becomes a BrokerUnavailableError, or an
    AccessDeniedError where the broker does not let us."""
    client = AdminClient(**client_options(settings))
    try:
        await client.start()
        yield client
    except (KafkaError, OSError) as error:  # a timeout is an OSError
        what = f"use the broker at {settings.bootstrap_servers}"
        raise await trouble(settings, what, error, first_contact=True) from error
    finally:
        await client.close()


async def check_rights(settings: MeshSettings, rights: Collection[Right]) -> None:
    """Raises AccessDeniedError that names every right that the broker does not grant."""
    async with admin_client(settings) as client:
        await _check_rights(client, settings, rights)


async def _check_rights(client: AIOKafkaAdminClient, settings: MeshSettings, rights: Collection[Right]) -> None:
    async with asyncio.timeout(settings.start_timeout_s):
        lacking = await ungranted(client, in_namespace(settings.namespace, rights))
    if lacking:
        listed = ", ".join(f"{' and '.join(sorted(r.operations))} {r.resource} {r.name}" for r in lacking)
        raise AccessDeniedError(
            f"{settings.principal} may not {listed}: grant it (`python -m deploy.topics acls` prints how)"
        )


def partitions_of(settings: KafkaSettings, topic: Topic) -> int:
    """How many partitions the topic is declared with."""
    return topic.partitions or settings.partitions


async def partitions_found(settings: KafkaSettings, topic: Topic) -> int:
    """How many partitions the topic has on the broker, 0 if it is not there. Raises BrokerUnavailableError."""
    name = topic_name(settings, topic)
    async with admin_client(settings) as client:
        if name not in await client.list_topics():
            return 0  # asking for it by name could make it
        (described,) = await client.describe_topics([name])
        return len(described["partitions"])


async def existing_partitions(settings: KafkaSettings, topic: Topic) -> int:
    """The same of a topic that is there. Raises LogError where no mesh ever ran, and as `partitions_found`."""
    count = await partitions_found(settings, topic)
    if not count:
        name = topic_name(settings, topic)
        raise LogError(f"no mesh has run on the broker at {settings.bootstrap_servers}: there is no topic {name}")
    return count


async def ensure_topics(settings: KafkaSettings) -> list[str]:
    """Create the topics of the registry that are missing and check the partition counts of those that exist.

    Returns the names of those that were missing. Raises as `prepare_log`.
    """
    async with admin_client(settings) as client:
        return await _ensure_topics(client, settings)


async def _ensure_topics(client: AIOKafkaAdminClient, settings: KafkaSettings) -> list[str]:
    if missing := await _missing(client, settings, REGISTRY.values()):
        await _create(client, settings, missing)
    await _check_partitions(client, settings, REGISTRY.values())
    return [topic_name(settings, topic) for topic in missing]


@dataclass(frozen=True, slots=True)
class TopicFound:
    """A topic as the broker has it; `config` holds what is set there and what is the broker's default. `in_sync`: of
    each partition, how many copies have all its records, and a broker that answers."""

    partitions: int
    replicas: int
    config: Mapping[str, str]
    in_sync: tuple[int, ...]


async def topics_found(settings: KafkaSettings, topics: Collection[Topic]) -> dict[str, TopicFound]:
    """Those of `topics` that the broker has, by their names there. Raises AccessDeniedError, BrokerUnavailableError."""
    async with admin_client(settings) as client:
        existing = set(await client.list_topics())
        names = [name for topic in topics if (name := topic_name(settings, topic)) in existing]
        if not names:
            return {}
        described = {found["topic"]: found["partitions"] for found in await client.describe_topics(names)}
        configs = await _configs(client, settings, names)
        holders = {broker for parts in described.values() for part in parts for broker in part["isr"]}
        # Without a majority of controllers nobody notices who is gone.
        alive = {broker for broker in holders if await client._client.ready(broker)}
    return {
        name: TopicFound(
            len(parts),
            len(parts[0]["replicas"]) if parts else 0,
            configs[name],
            tuple(len(alive.intersection(part["isr"])) for part in parts),
        )
        for name, parts in described.items()
    }


async def _configs(client: AIOKafkaAdminClient, settings: KafkaSettings, names: list[str]) -> dict[str, dict[str, str]]:
    (answer,) = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names])
    configs = {}
    for code, message, _, name, entries in answer.resources:
        if for_code(code) is TopicAuthorizationFailedError:
            raise AccessDeniedError(f"{settings.principal} may not see how topic {name} is set (DescribeConfigs)")
        if code:
            raise LogError(f"cannot see how topic {name} is set: {message}")
        configs[name] = {key: value for key, value, *_ in entries}
    return configs


async def _check_topics(client: AIOKafkaAdminClient, settings: KafkaSettings, topics: Collection[Topic]) -> None:
    """Raises LogError that names the topics that are missing, SettingsError for other partition counts."""
    if missing := await _missing(client, settings, topics):
        names = ", ".join(topic_name(settings, topic) for topic in missing)
        raise LogError(
            f"there is no topic {names}, and CHATMESH_CREATE_TOPICS is off: `python -m deploy.topics create`"
        )
    await _check_partitions(client, settings, topics)


async def _missing(client: AIOKafkaAdminClient, settings: KafkaSettings, topics: Collection[Topic]) -> list[Topic]:
    existing = set(await client.list_topics())
    return [topic for topic in topics if topic_name(settings, topic) not in existing]


async def _create(client: AIOKafkaAdminClient, settings: KafkaSettings, missing: list[Topic]) -> None:
    new = [
        NewTopic(
            name=topic_name(settings, topic),
            num_partitions=partitions_of(settings, topic),
            replication_factor=settings.replication_factor,
            topic_configs=topic.broker_config(settings.min_insync_replicas),
        )
        for topic in missing
    ]
    answer = await client.create_topics(new)
    for name, code, *detail in answer.topic_errors:
        failure = for_code(code)
        if failure is TopicAuthorizationFailedError:
            raise AccessDeniedError(
                f"{settings.principal} may not make topic {name}: let who may do it (`python -m deploy.topics create`) "
                "and set CHATMESH_CREATE_TOPICS=false"
            )
        if code != 0 and failure is not TopicAlreadyExistsError:
            # Of the copies that are wanted, some may be on brokers that have not registered yet.
            passing = failure.retriable or failure is InvalidReplicationFactorError
            said = f"cannot create topic {name}: {failure.__name__} {' '.join(map(str, detail))}".rstrip()
            raise BrokerUnavailableError(said) if passing else LogError(said)


async def _check_partitions(client: AIOKafkaAdminClient, settings: KafkaSettings, topics: Collection[Topic]) -> None:
    names = {topic_name(settings, topic): topic for topic in topics}
    for described in await client.describe_topics(list(names)):
        topic = names[described["topic"]]
        found, wanted = len(described["partitions"]), partitions_of(settings, topic)
        if found and found != wanted and not topic.partitions:
            raise SettingsError(
                f"CHATMESH_PARTITIONS is {wanted}, but topic {described['topic']} has {found} partitions: set "
                f"CHATMESH_PARTITIONS={found} or add partitions to every response topic"
            )
