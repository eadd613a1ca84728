"""Apache Kafka as a process: one KRaft node from Maven Central's jars, for machines with Java and Maven."""

import fcntl
import shutil
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from pathlib import Path

from deploy.brokers.kafka_settings import APACHE_KAFKA, as_properties, single_node
from deploy.brokers.local_process import LocalProcessBroker
from deploy.brokers.port import BrokerError
from deploy.brokers.ports import free_ports
from deploy.programs import ProgramError, fetched, succeed

KAFKA_FOLDER = Path(__file__).resolve().parent.parent / "kafka"
_LIB = KAFKA_FOLDER / "target" / "lib"
_STAMP = KAFKA_FOLDER / "target" / "lib.pom"
_MINIMUM_JAVA = 17
_DOWNLOAD_TIMEOUT_S = 600.0
_FORMAT_TIMEOUT_S = 60.0
_HEAP = ("-Xms64m", "-Xmx512m", "-XX:+UseSerialGC")


class JvmBroker(LocalProcessBroker):
    """A real Apache Kafka broker. The first start on a machine downloads about 45 MB of jars."""

    name = "kafka"
    capabilities = APACHE_KAFKA
    start_timeout_s = 60.0
    cluster_id: str | None = None
    """Which cluster it is a node of; None: of one of its own."""
    java_options: tuple[str, ...] = ()

    def _prepare(self, folder: Path) -> list[str]:
        java = require_java()
        ensure_class_path()
        properties = folder / "server.properties"
        properties.write_text(as_properties(self._settings() | {"log.dirs": str(folder / "data")}))
        command = java_command(java, *self.java_options)
        format_storage(command, properties, cluster_id=self.cluster_id)
        return [*command, "kafka.Kafka", str(properties)]

    def _settings(self) -> dict[str, str]:
        """Its server.properties, but for the folder of its data."""
        controller_port = free_ports(1, but=(self.port,))[0]
        return single_node(client_listener=self.listener, advertised=self.bootstrap, controller_port=controller_port)

    def _answers(self, log: str) -> bool:
        # Logged once the broker is unfenced; its port opens about a second earlier.
        return "Kafka Server started" in log


def missing_tools() -> list[str]:
    """Which of the needed programs are not on PATH; empty: this broker can run here."""
    return [tool for tool in ("java", "mvn") if shutil.which(tool) is None]


def require_java() -> str:
    """Path of a Java that can run Kafka 4. Raises BrokerError that names what is missing."""
    if missing := missing_tools():
        raise BrokerError(
            f"Apache Kafka needs {' and '.join(missing)} on PATH (Java {_MINIMUM_JAVA} or newer, and Maven);"
            " or start Docker, or set KAFKA_BOOTSTRAP_SERVERS to a broker of yours"
        )
    java = str(shutil.which("java"))
    version = _java_version(java)
    if version < _MINIMUM_JAVA:
        raise BrokerError(f"Apache Kafka 4 needs Java {_MINIMUM_JAVA} or newer, and {java} is Java {version}")
    return java


def ensure_class_path() -> None:
    """Fetch the jars of deploy/kafka/pom.xml unless they are there. Raises BrokerError when Maven fails."""
    pom = (KAFKA_FOLDER / "pom.xml").read_text()
    _STAMP.parent.mkdir(exist_ok=True)
    with (_STAMP.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs may come here at once
        if _STAMP.exists() and _STAMP.read_text() == pom:
            return
        shutil.rmtree(_LIB, ignore_errors=True)
        _fetch_jars()
        _STAMP.write_text(pom)


def _fetch_jars() -> None:
    maven = ["mvn", "--quiet", "--batch-mode", "--file", str(KAFKA_FOLDER / "pom.xml"), "package"]
    try:
        fetched(maven, timeout_s=_DOWNLOAD_TIMEOUT_S)
    except ProgramError as error:
        raise BrokerError(f"Maven could not fetch the jars of Apache Kafka: {error}") from error


def _java_version(java: str) -> int:
    out = _run([java, "-XshowSettings:properties", "-version"], _FORMAT_TIMEOUT_S, f"{java} does not run")
    for line in out.splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "java.specification.version":
            return int(value.strip().removeprefix("1."))  # Java 8 called itself 1.8
    raise BrokerError(f"{java} does not tell its version:\n{out}")


def java_command(java: str, *options: str, logging: Path = KAFKA_FOLDER / "log4j2.yaml") -> list[str]:
    """How a program of Kafka's jars is called: its class comes behind."""
    return [java, *_HEAP, *options, f"-Dlog4j2.configurationFile={logging}", "-cp", f"{_LIB}/*"]


def format_storage(
    command: Sequence[str], properties: Path, options: Sequence[str] = (), *, cluster_id: str | None = None
) -> None:
    """Lay out the data folder that `properties` names, for a cluster of its own unless one is named. Raises
    BrokerError."""
    cluster = cluster_id or new_cluster_id()
    argv = [*command, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties), *options]
    _run(argv, _FORMAT_TIMEOUT_S, "Apache Kafka's storage could not be formatted")


def _run(argv: Sequence[str], timeout_s: float, trouble: str) -> str:
    try:
        return succeed(argv, timeout_s=timeout_s)
    except ProgramError as error:
        raise BrokerError(f"{trouble}: {error}") from error


def new_cluster_id() -> str:
    """16 random bytes in URL-safe base64 without padding, as `kafka-storage random-uuid` makes them.

    Like those it never begins with a dash: the command line would take it for an option.
    """
    while (text := urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()).startswith("-"):
        pass
    return text
