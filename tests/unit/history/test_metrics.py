"""What history measures: its store's operations, its recorder, and what responses used."""

import asyncio
from inspect import getmembers, iscoroutinefunction

import pytest

from services.history.errors import StoreUnavailableError
from services.history.meter import watch
from services.history.recorder import Recorder
from services.history.stores.measured import measured
from services.history.stores.port import Store
from services.history.usage import Totals, UsageMeter
from shared.telemetry.metrics import Metrics
from shared.topics import Service
from tests.support.scraping import of_registry
from tests.unit.history.fakes import MemoryLog, MemoryOutbox, MemoryStore

COUNT = "chatmesh_store_operation_duration_seconds_count"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(Service.HISTORY)


async def test_each_operation_counts_by_its_name_and_error(metrics: Metrics) -> None:
    memory = MemoryStore()
    store = measured(memory, metrics)
    assert await store.get("acme", "resp_1") is None
    memory.failures = [StoreUnavailableError("away")]
    with pytest.raises(StoreUnavailableError):
        await store.get("acme", "resp_1")
    assert of_registry(metrics.registry).by(COUNT, "db_system_name", "db_operation_name", "error_type") == {
        ("memory", "get", ""): 1,
        ("memory", "get", "StoreUnavailableError"): 1,
    }


async def test_an_operation_that_is_cancelled_counts_and_stays_cancelled(metrics: Metrics) -> None:
    class Slow(MemoryStore):
        async def open(self) -> None:
            await asyncio.Event().wait()

    opening = asyncio.ensure_future(measured(Slow(), metrics).open())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert of_registry(metrics.registry).by(COUNT, "error_type") == {("CancelledError",): 1}


def test_every_operation_of_the_port_is_timed_and_nothing_else_is_changed(metrics: Metrics) -> None:
    memory = MemoryStore()
    store = measured(memory, metrics)
    operations = [name for name, _ in getmembers(Store, iscoroutinefunction)]
    assert len(operations) > 10
    for name in operations:
        assert iscoroutinefunction(getattr(store, name))
        assert getattr(store, name) is getattr(store, name) is not getattr(memory, name)
    assert (store.name, store.system) == (memory.name, memory.system)


def test_the_recorder_tells_how_many_ends_it_stored(metrics: Metrics) -> None:
    recorder = Recorder(MemoryStore(), MemoryLog(), MemoryOutbox())
    watch(metrics, recorder, UsageMeter())
    recorder.recorded = 3
    assert of_registry(metrics.registry).total("chatmesh_recorded_responses_total") == 3


def test_what_responses_used_is_shown_by_partition(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UsageMeter, "totals", {4: Totals(10, 20, {"completed": 2, "failed": 1})})
    watch(metrics, Recorder(MemoryStore(), MemoryLog(), MemoryOutbox()), UsageMeter())
    found = of_registry(metrics.registry)
    tokens = found.by("chatmesh_usage_tokens_total", "gen_ai_token_type", "messaging_destination_partition_id")
    assert tokens == {("input", "4"): 10, ("output", "4"): 20}
    responses = found.by("chatmesh_usage_responses_total", "outcome", "messaging_destination_partition_id")
    assert responses == {("completed", "4"): 2, ("failed", "4"): 1}
