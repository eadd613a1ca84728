"""What may go wrong beside deaths, once each, on Apache Kafka: nobody is harmed, and the checker finds nothing."""

import pytest

from deploy.brokers import Broker
from tests.chaos.scenarios.runner import SCENARIOS, run_scenarios, table


@pytest.mark.timeout(420)
async def test_no_scenario_harms_anybody(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> None:
    report = await run_scenarios(broker, tmp_path_factory.mktemp("scenarios"))
    print(table(report))
    assert report.outcomes.keys() == SCENARIOS.keys()
    assert not report.violations, "\n".join(map(str, report.violations))
