"""Every kind of fault once, under streams: nothing is lost, doubled, reordered or left open (DESIGN 8.1, 8.3)."""

import pytest

from deploy.brokers import Broker
from deploy.brokers.select import KAFKA
from tests.chaos.campaign import Plan, campaign
from tests.chaos.faults import FAULTS
from tests.chaos.observations import Injected
from tests.chaos.report import figures, table, violations


@pytest.mark.timeout(900)  # against a hang; it takes three minutes on two quiet cores
async def test_every_stream_outlives_every_kind_of_fault(
    broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if not broker.capabilities.controllable:
        pytest.skip("a broker that others run is not ours to kill")
    plan = Plan(streams=32, kills=1, concurrent=12, baseline=8, patience_s=300.0)
    result = await campaign(KAFKA, tmp_path_factory.mktemp("chaos"), plan)
    found = violations(result)
    print(table(result, found))
    assert result.trouble is None
    assert not found, "\n".join(map(str, found))
    struck = {line.fault for line in result.chaos.lines if isinstance(line, Injected)}
    assert struck == {fault.name for fault in FAULTS}
    assert any(row.faults and row.streams for row in figures(result)), "no fault hit any stream"
