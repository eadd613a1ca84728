"""What the runner reads from the environment, and the environment that it gives to the services."""

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from deploy.brokers import Broker
from shared.settings import MeshSettings, env
from shared.topics import Service

LOOPBACK = "127.0.0.1"
# An embedded broker serves one machine: 32 partitions would only cost it consumers (DESIGN 10).
_EMBEDDED_PARTITIONS = 8
# The services end in three steps, and the broker after them; each gets its part of the runner's deadline.
_SHUTDOWN_STEPS = 4


class LocalSettings(MeshSettings):
    """The settings of `make run`; all others are handed on to the services as they are."""

    port: int = env("PORT", 8080, "port of the gateway", ge=1, le=65535)
    data_dir: Path = Field(Path(".chatmesh"), description="folder of the store, the logs and the lock")
    model: str = Field("", description="a Hub id, a folder or a .gguf file; empty: the bundled default")

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def log_dir(self) -> Path:
        return self.data_dir / "logs"

    @property
    def targets_file(self) -> Path:
        """Tells Prometheus where the services show their metrics."""
        return self.data_dir / "metrics-targets.json"


def service_ids(run_id: int) -> dict[Service, str]:
    """The ids under which this run's services beat; others may beat on the same broker."""
    return {service: f"{service.value}-{run_id}" for service in Service}


def mesh_environment(settings: LocalSettings, broker: Broker) -> dict[str, str]:
    """Variables that all services of this run share; what the user has set wins, but for the broker's address."""
    defaults = {
        "CHATMESH_SESSION_TIMEOUT_MS": str(broker.capabilities.session_timeout_ms),
        "CHATMESH_FETCH_MAX_WAIT_MS": str(broker.capabilities.fetch_max_wait_ms),
        "PYTHONUNBUFFERED": "1",
    }
    if not broker.capabilities.persistent:
        defaults["CHATMESH_PARTITIONS"] = str(_EMBEDDED_PARTITIONS)
    decided = {
        "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap,
        "PORT": str(settings.port),
        "CHATMESH_DATA_DIR": str(settings.data_dir),
        "CHATMESH_SHUTDOWN_S": f"{settings.shutdown_s / _SHUTDOWN_STEPS:g}",
    }
    return {**defaults, **os.environ, **decided}


def service_environment(common: Mapping[str, str], service_id: str, management_port: int) -> dict[str, str]:
    """The environment of one service."""
    return {**common, "CHATMESH_SERVICE_ID": service_id, "CHATMESH_MANAGEMENT_PORT": str(management_port)}
