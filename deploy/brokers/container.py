"""Apache Kafka in a container, where a Docker engine answers.

The image is the project's own, of the same version and with the same settings as the JVM broker.
"""

import time
from typing import TYPE_CHECKING

from deploy.brokers.kafka_settings import APACHE_KAFKA, KAFKA_VERSION, as_container_environment, single_node
from deploy.brokers.port import Broker, BrokerError
from deploy.brokers.ports import LOOPBACK, free_port

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

IMAGE = f"apache/kafka:{KAFKA_VERSION}"
_INNER_PORT = 9092
_START_TIMEOUT_S = 120.0
_POLL_S = 0.1


class ContainerBroker(Broker):
    """One node on a fixed loopback port, so that its address survives a restart."""

    name = "kafka"
    capabilities = APACHE_KAFKA

    def __init__(self, *, advertised: str | None = None) -> None:
        self.port = free_port()
        self._advertised = advertised
        self._container: DockerContainer | None = None

    @property
    def bootstrap(self) -> str:
        return self._advertised or self.listener

    @property
    def listener(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def start(self) -> None:
        from testcontainers.core.container import DockerContainer

        settings = single_node(
            client_listener=f"0.0.0.0:{_INNER_PORT}",
            advertised=self.bootstrap,
            controller_port=_INNER_PORT + 1,
        )
        container = DockerContainer(IMAGE, ports=[]).with_envs(**as_container_environment(settings))
        container.ports[f"{_INNER_PORT}/tcp"] = (LOOPBACK, self.port)  # type: ignore[assignment]  # docker-py takes it
        self._container = container.start()
        try:
            self._wait_for_start(1)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        if self._container is not None:
            self._container.stop()
            self._container = None

    def kill(self) -> None:
        self._started().get_wrapped_container().kill()

    def restart(self) -> None:
        starts = self._starts_seen()
        self._started().get_wrapped_container().restart()
        self._wait_for_start(starts + 1)

    def _wait_for_start(self, count: int) -> None:
        give_up_at = time.monotonic() + _START_TIMEOUT_S
        while self._starts_seen() < count:
            if time.monotonic() > give_up_at:
                raise BrokerError(f"{IMAGE} was not ready within {_START_TIMEOUT_S:g} s:\n{self._log()[-4000:]}")
            time.sleep(_POLL_S)

    def _starts_seen(self) -> int:
        return self._log().count("Kafka Server started")

    def _log(self) -> str:
        return b"".join(self._started().get_logs()).decode(errors="replace")

    def _started(self) -> "DockerContainer":
        if self._container is None:
            raise BrokerError("the Kafka container was not started")
        return self._container


def docker_answers() -> bool:
    """Whether a Docker engine can be used from here."""
    try:
        import docker
    except ImportError:
        return False
    try:
        client = docker.from_env(timeout=3)
    except docker.errors.DockerException:
        return False
    try:
        return bool(client.ping())
    except (docker.errors.DockerException, OSError):
        return False
    finally:
        client.close()
