"""Chaos needs a broker that keeps its records and its groups' clocks: Apache Kafka only."""

import logging

import pytest

from deploy.brokers.select import KAFKA


@pytest.fixture(autouse=True, scope="session")
def quiet_reconnects() -> None:
    """aiokafka would report each attempt to reach a killed broker, thousands of lines."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not _on_another_broker(item)]


def _on_another_broker(item: pytest.Item) -> bool:
    if item.path.parent.name != "chaos":
        return False
    callspec = getattr(item, "callspec", None)
    return callspec is not None and callspec.params.get("broker", KAFKA) != KAFKA
