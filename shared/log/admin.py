"""Topics on the broker: made from the registry, checked at start."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from shared.errors import BrokerUnavailableError, LogError, SettingsError
from shared.log.clients import client_options, topic_name
from shared.settings import KafkaSettings
from shared.topics import REGISTRY, Topic

_RETRY_S = 0.2


@asynccontextmanager
async def admin_client(settings: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    """A connected admin client. Raises BrokerUnavailableError when no broker answers."""
    client = AIOKafkaAdminClient(**client_options(settings))
    try:
        await client.start()
    except (KafkaError, OSError) as error:
        await client.close()
        raise BrokerUnavailableError(
            f"no Kafka broker answers at {settings.bootstrap_servers} (KAFKA_BOOTSTRAP_SERVERS)"
        ) from error
    try:
        yield client
    finally:
        await client.close()


async def wait_for_broker(settings: KafkaSettings, timeout_s: float) -> None:
    """Return once a broker answers; raises BrokerUnavailableError after `timeout_s` seconds."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        try:
            async with admin_client(settings):
                return
        except BrokerUnavailableError:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(_RETRY_S)


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


async def ensure_topics(settings: KafkaSettings) -> None:
    """Create the topics of the registry that are missing and check the partition counts of those that exist."""
    async with admin_client(settings) as client:
        existing = set(await client.list_topics())
        missing = [topic for topic in REGISTRY.values() if topic_name(settings, topic) not in existing]
        if missing:
            await _create(client, settings, missing)
        await _check_partitions(client, settings)


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
    try:
        answer = await client.create_topics(new)
    except TopicAlreadyExistsError:
        return
    except KafkaError as error:
        raise LogError(f"cannot create topics {[item.name for item in new]}: {error}") from error
    for name, code, *detail in answer.topic_errors:
        failure = for_code(code)
        if code != 0 and failure is not TopicAlreadyExistsError:
            raise LogError(f"cannot create topic {name}: {failure.__name__} {' '.join(map(str, detail))}".rstrip())


async def _check_partitions(client: AIOKafkaAdminClient, settings: KafkaSettings) -> None:
    names = {topic_name(settings, topic): topic for topic in REGISTRY.values()}
    for described in await client.describe_topics(list(names)):
        topic = names[described["topic"]]
        found, wanted = len(described["partitions"]), partitions_of(settings, topic)
        if found and found != wanted and not topic.partitions:
            raise SettingsError(
                f"CHATMESH_PARTITIONS is {wanted}, but topic {described['topic']} has {found} partitions: set "
                f"CHATMESH_PARTITIONS={found} or add partitions to every response topic"
            )
