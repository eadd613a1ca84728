"""The mesh's own topics and store, read whole."""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from services.history.settings import HistorySettings
from services.history.stores.port import StoredResponse
from services.history.stores.sqlite import SqliteStore
from shared.records.codec import Envelope
from shared.settings import load_settings
from shared.topics import Topic
from tests.support.logs import records
from tests.support.mesh import Mesh

TENANT = "local"


async def sub_logs(mesh: Mesh, topic: Topic) -> dict[str, list[Envelope[Any]]]:
    """Every record of a log topic, by response."""
    return by_response(await records(mesh, topic))


def by_response(found: Iterable[Envelope[Any]]) -> dict[str, list[Envelope[Any]]]:
    """Response id → its records, in their order."""
    logs: dict[str, list[Envelope[Any]]] = {}
    for envelope in found:
        logs.setdefault(envelope.record.response_id, []).append(envelope)
    return logs


async def stored(mesh: Mesh, response_ids: Collection[str]) -> dict[str, StoredResponse | None]:
    """What history holds of each response now."""
    store = SqliteStore(store_file(mesh))
    await store.open()
    try:
        return {response_id: await store.get(TENANT, response_id) for response_id in response_ids}
    finally:
        await store.close()


def store_file(mesh: Mesh) -> Path:
    """The file that history's replicas share."""
    return load_settings(HistorySettings, data_dir=mesh.folder / "data").sqlite_file


def service_logs(mesh: Mesh) -> dict[str, list[str]]:
    """Service id → the lines of its log; those that are gone too."""
    return {
        replica.id: replica.process.log_path.read_text(errors="replace").splitlines()
        for replica in [*mesh.retired, *mesh.replicas]
    }
