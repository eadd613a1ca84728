"""Which broker is used where.

`make run`            KAFKA_BOOTSTRAP_SERVERS if set, else the embedded broker
suite `embedded`      the embedded broker, always
suite `kafka`         Apache Kafka: a container where Docker answers, else from Maven Central with Java,
                      else the broker at KAFKA_BOOTSTRAP_SERVERS
"""

import os
from collections.abc import Mapping
from pathlib import Path

from deploy.brokers import external, jvm
from deploy.brokers.container import ContainerBroker, docker_answers
from deploy.brokers.embedded import EmbeddedBroker
from deploy.brokers.external import ExternalBroker
from deploy.brokers.jvm import JvmBroker
from deploy.brokers.port import Broker, BrokerError

EMBEDDED = "embedded"
KAFKA = "kafka"
SUITES = (EMBEDDED, KAFKA)


def broker_for_run(environment: Mapping[str, str] = os.environ, *, log_path: Path | None = None) -> Broker:
    """The broker of `make run`, not started. Raises BrokerError for a malformed address."""
    if bootstrap := environment.get(external.VARIABLE):
        return ExternalBroker(bootstrap)
    return EmbeddedBroker(log_path=log_path)


def broker_for_suite(
    suite: str, environment: Mapping[str, str] = os.environ, *, advertised: str | None = None
) -> Broker:
    """The broker of a test suite, not started. Raises BrokerError when this machine can run none.

    `advertised` (`host:port`) is where its clients are told to come: a proxy in front of it. A broker that somebody
    else runs cannot be told so.
    """
    if suite == EMBEDDED:
        return EmbeddedBroker(advertised=advertised)
    if suite != KAFKA:
        raise ValueError(f"no such suite: {suite!r}; there are {', '.join(SUITES)}")
    if docker_answers():
        return ContainerBroker(advertised=advertised)
    if not jvm.missing_tools():
        return JvmBroker(advertised=advertised)
    if (bootstrap := environment.get(external.VARIABLE)) and advertised is None:
        return ExternalBroker(bootstrap)
    jvm.require_java()
    raise BrokerError("no Apache Kafka can be had here")  # unreachable unless a tool appeared meanwhile


def suite_trouble(suite: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """Why this machine cannot run a suite; None: it can."""
    try:
        broker_for_suite(suite, environment)
    except BrokerError as error:
        return str(error)
    return None
