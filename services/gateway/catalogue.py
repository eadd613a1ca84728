"""What the mesh can do now, read off the heartbeats: models, windows, and what is still missing. Pure."""

from dataclasses import dataclass

from shared.heartbeats import Cluster
from shared.topics import Service


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that living workers serve; `context_window` (tokens) is the smallest of theirs."""

    id: str
    context_window: int


def served_models(cluster: Cluster) -> list[ServedModel]:
    """The models of all ready workers, by id."""
    windows: dict[str, list[int]] = {}
    for member in cluster.alive(Service.INFERENCE, ready=True):
        windows.setdefault(member.beat.model, []).append(member.beat.context_window)
    return [ServedModel(model, min(found)) for model, found in sorted(windows.items()) if model]


def missing_parts(cluster: Cluster, partitions: int) -> list[str]:
    """What keeps the mesh from answering, in words; empty when it can."""
    missing = []
    for service in (Service.MODERATION, Service.INFERENCE):
        if not cluster.alive(service, ready=True):
            starting = [member.beat.detail or member.beat.state for member in cluster.alive(service)]
            missing.append(f"no {service.value} service is ready" + (f" ({'; '.join(starting)})" if starting else ""))
    owned = {number for member in cluster.alive(Service.MODERATION) for number in member.beat.partitions}
    unowned = sorted(set(range(partitions)) - owned)
    if unowned:
        missing.append(f"{len(unowned)} of {partitions} journal partitions have no owner: {unowned}")
    return missing
