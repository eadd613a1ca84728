"""Where the broker is, what to read there, how to be let in: from the environment, by chatmesh's names."""

import os
from pathlib import Path
from ssl import SSLError

from aiokafka.helpers import create_ssl_context

env = os.environ.get
BROKER = env("KAFKA_BOOTSTRAP_SERVERS") or "127.0.0.1:9092"
NAMESPACE = env("CHATMESH_NAMESPACE", "")
TOPIC = NAMESPACE + "responses.events"
GROUP = NAMESPACE + (env("GROUP") or "consumers.finished-responses")


def file(variable):
    """The path that a variable names, None without one; ends the program where nobody can read it."""
    path = env(variable) or None
    if path is not None:
        try:
            Path(path).read_bytes()
        except OSError as error:
            raise SystemExit(f"error: {variable}: {error.strerror}: {path}") from None
    return path


def certificates():
    """The context for TLS; ends the program where the files do not hold what they are to."""
    authorities, certificate, key = map(file, ("KAFKA_SSL_CAFILE", "KAFKA_SSL_CERTFILE", "KAFKA_SSL_KEYFILE"))
    password = env("KAFKA_SSL_KEY_PASSWORD") or None
    try:
        context = create_ssl_context(cafile=authorities, certfile=certificate, keyfile=key, password=password)
    except SSLError as error:
        raise SystemExit(f"error: the files of KAFKA_SSL_* cannot be used: {error}") from None
    context.check_hostname = env("KAFKA_SSL_CHECK_HOSTNAME", "true").lower() != "false"
    return context


def security():
    """aiokafka's options for TLS and SASL."""
    protocol = env("KAFKA_SECURITY_PROTOCOL") or "PLAINTEXT"
    options = {"security_protocol": protocol}
    if protocol.endswith("SSL"):
        options["ssl_context"] = certificates()
    if protocol.startswith("SASL"):
        password = file("KAFKA_SASL_PASSWORD_FILE")
        options |= {
            "sasl_mechanism": env("KAFKA_SASL_MECHANISM") or "SCRAM-SHA-512",
            "sasl_plain_username": env("KAFKA_SASL_USERNAME"),
            "sasl_plain_password": Path(password).read_text().strip() if password else env("KAFKA_SASL_PASSWORD"),
        }
    return options
