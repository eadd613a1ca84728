"""A broker that somebody else runs, named by KAFKA_BOOTSTRAP_SERVERS."""

from deploy.brokers.port import Broker, BrokerError, Capabilities
from deploy.brokers.ports import accepts
from shared.settings import addresses_of

VARIABLE = "KAFKA_BOOTSTRAP_SERVERS"
_CONNECT_TIMEOUT_S = 3.0


class ExternalBroker(Broker):
    """Checked at start, and never stopped by us. Taken to be an Apache Kafka."""

    name = "external"
    # 6 s is the default of the broker's group.min.session.timeout.ms.
    capabilities = Capabilities(
        persistent=True, log_append_time=True, idempotence=True, session_timeout_ms=6000, controllable=False
    )

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        try:
            self._addresses = addresses_of(bootstrap)
        except ValueError as error:
            raise BrokerError(f"{VARIABLE} must be host:port[,host:port…]: {error}") from error

    @property
    def bootstrap(self) -> str:
        return self._bootstrap

    def start(self) -> None:
        """Raises BrokerError unless at least one of the addresses accepts connections."""
        if not any(accepts(host, port, _CONNECT_TIMEOUT_S) for host, port in self._addresses):
            raise BrokerError(f"no broker answers at {VARIABLE}={self._bootstrap}; start it, or unset {VARIABLE}")

    def stop(self) -> None:
        """Does nothing: the broker is not ours."""

    def kill(self) -> None:
        raise BrokerError(f"the broker at {self._bootstrap} is not ours to kill")

    def restart(self) -> None:
        raise BrokerError(f"the broker at {self._bootstrap} is not ours to restart")
