"""Where the broker is, what to read there, how to be let in: from the environment, by chatmesh's names."""

import os
from pathlib import Path

from aiokafka.helpers import create_ssl_context

env = os.environ.get
BROKER = env("KAFKA_BOOTSTRAP_SERVERS") or "127.0.0.1:9092"
NAMESPACE = env("CHATMESH_NAMESPACE", "")
TOPIC = NAMESPACE + "responses.events"
GROUP = NAMESPACE + (env("GROUP") or "consumers.finished-responses")


def security():
    """aiokafka's options for TLS and SASL."""
    protocol = env("KAFKA_SECURITY_PROTOCOL") or "PLAINTEXT"
    options = {"security_protocol": protocol}
    if protocol.endswith("SSL"):
        certificate, key = env("KAFKA_SSL_CERTFILE") or None, env("KAFKA_SSL_KEYFILE") or None
        options["ssl_context"] = create_ssl_context(
            cafile=env("KAFKA_SSL_CAFILE") or None,
            certfile=certificate,
            keyfile=key,
            password=env("KAFKA_SSL_KEY_PASSWORD") or None,
        )
        options["ssl_context"].check_hostname = env("KAFKA_SSL_CHECK_HOSTNAME", "true").lower() != "false"
    if protocol.startswith("SASL"):
        file = env("KAFKA_SASL_PASSWORD_FILE")
        options |= {
            "sasl_mechanism": env("KAFKA_SASL_MECHANISM") or "SCRAM-SHA-512",
            "sasl_plain_username": env("KAFKA_SASL_USERNAME"),
            "sasl_plain_password": Path(file).read_text().strip() if file else env("KAFKA_SASL_PASSWORD"),
        }
    return options
