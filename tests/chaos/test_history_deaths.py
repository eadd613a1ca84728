"""kill -9 of history at random points during 500 responses: the store equals the log, and no lock is left."""

import pytest

from deploy.brokers import Broker
from tests.chaos.store.deaths import Plan, deaths_of_history


@pytest.mark.timeout(240)  # against a hang; it takes half a minute on two quiet cores
async def test_the_store_equals_the_log_however_often_history_dies(
    broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    result = await deaths_of_history(broker, tmp_path_factory.mktemp("history"), Plan(responses=500))
    print(result.figures())
    assert not result.violations, "\n".join(map(str, result.violations))
    assert result.kills >= 4
    assert len(result.remains.events) >= 450
    assert any(story.deleted for story in result.notes.stories)
    assert any(story.erased for story in result.notes.stories)
