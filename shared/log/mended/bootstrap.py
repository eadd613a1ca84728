"""aiokafka's clients, able to find their way back by the list of brokers that they were given.

A client of aiokafka asks the list once. From then on it knows the brokers that it was told of last, and with those gone
it is lost, whoever else lives (aio-libs/aiokafka#456, #459): after an outage in which the brokers went down and came
back one by one, it waits for ever for the one that was the last to be up. Kafka's own clients go back to the list
(KIP-899).
"""

from collections.abc import Collection
from typing import Any

import aiokafka.admin.client
import aiokafka.consumer.consumer
import aiokafka.producer.producer
from aiokafka.client import AIOKafkaClient
from aiokafka.cluster import ClusterMetadata


class Client(AIOKafkaClient):  # type: ignore[misc]
    """Asks the list again when none of the brokers that it knows answers."""

    def __init__(self, *, bootstrap_servers: str | list[str], **options: Any) -> None:
        super().__init__(bootstrap_servers=bootstrap_servers, **options)
        # Brokers of the list are those that there are while no others are known; aiokafka leaves it out here.
        self.cluster = ClusterMetadata(
            bootstrap_servers=bootstrap_servers, metadata_max_age_ms=self._metadata_max_age_ms
        )

    async def _metadata_update(self, cluster_metadata: ClusterMetadata, topics: Collection[str] | None) -> bool:
        if await super()._metadata_update(cluster_metadata, topics):
            return True
        known, self.cluster._brokers = self.cluster._brokers, {}
        try:
            return bool(await super()._metadata_update(cluster_metadata, topics))
        finally:
            self.cluster._brokers = self.cluster._brokers or known


# Producers, consumers and admin clients take no class for their client: these are the names by which they call it.
aiokafka.admin.client.AIOKafkaClient = Client
aiokafka.consumer.consumer.AIOKafkaClient = Client
aiokafka.producer.producer.AIOKafkaClient = Client
