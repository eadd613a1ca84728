"""What the mesh can do now, read off the heartbeats: models, windows, and what is still missing. Pure."""

import re
from dataclasses import dataclass

from services.gateway.errors import ApiError
from shared.heartbeats import Cluster
from shared.topics import Service

_OPENAI_MODERATION = re.compile(r"(omni|text)-moderation(-[A-Za-z0-9.-]+)?")


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


def check_moderation_model(cluster: Cluster, name: str, param: str) -> None:
    """Any name of OpenAI's stands for the server's policy, as clients have one as their default; beside them only the
    policy's own are known, its label and its full name. Raises ApiError 404."""
    beats = [member.beat for member in cluster.alive(Service.MODERATION, ready=True)]
    policies = sorted({known for beat in beats for known in (beat.model, beat.revision) if known})
    if _OPENAI_MODERATION.fullmatch(name) is None and name not in policies:
        served = " or ".join(f"'{known}'" for known in ("omni-moderation-latest", *policies))
        message = f"The moderation model '{name[:200]}' does not exist. The server's own policy judges: {served}."
        raise ApiError(404, message, code="model_not_found", param=param)


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
