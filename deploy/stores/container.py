"""MongoDB itself in a container, where a Docker engine answers: a replica set of one, so that a majority is one."""

import time
from typing import TYPE_CHECKING

from deploy.brokers.ports import LOOPBACK, free_port
from deploy.stores.port import StoreServer, StoreServerError

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

IMAGE = "mongo:7"
_INNER_PORT = 27017
_START_TIMEOUT_S = 120.0
_POLL_S = 0.2
_INITIATE = (
    "try { rs.status() } catch (e) { rs.initiate({_id: 'rs0', members: [{_id: 0, host: 'localhost:27017'}]}) }"
    "; quit(db.hello().isWritablePrimary ? 0 : 1)"
)


class MongoContainer(StoreServer):
    """One node on a fixed loopback port, so that its address survives a restart."""

    name = "mongodb"
    real = True

    def __init__(self) -> None:
        self.port = free_port()
        self._container: DockerContainer | None = None

    def url(self, database: str) -> str:
        return f"mongodb://{LOOPBACK}:{self.port}/{database}?directConnection=true"

    def start(self) -> None:
        from testcontainers.core.container import DockerContainer

        container = DockerContainer(IMAGE, ports=[]).with_command("mongod --replSet rs0 --bind_ip_all")
        container.ports[f"{_INNER_PORT}/tcp"] = (LOOPBACK, self.port)  # type: ignore[assignment]  # docker-py takes it
        self._container = container.start()
        try:
            self._wait_for_primary()
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
        self._started().get_wrapped_container().restart()
        self._wait_for_primary()

    def _wait_for_primary(self) -> None:
        give_up_at = time.monotonic() + _START_TIMEOUT_S
        while self._started().exec(["mongosh", "--quiet", "--eval", _INITIATE]).exit_code != 0:
            if time.monotonic() > give_up_at:
                raise StoreServerError(f"{IMAGE} was not primary within {_START_TIMEOUT_S:g} s")
            time.sleep(_POLL_S)

    def _started(self) -> "DockerContainer":
        if self._container is None:
            raise StoreServerError("the MongoDB container was not started")
        return self._container
