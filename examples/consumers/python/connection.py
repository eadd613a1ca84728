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
PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")


def chosen(variable, known):
    """What a variable says, the first of `known` without it; ends the program where it is none of them."""
    value = env(variable) or known[0]
    if value not in known:
        raise SystemExit(f"error: {variable}: {value} is none of {', '.join(known)}")
    return value


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


def user():
    """Name and password; ends the program where one is not there."""
    name, path = env("KAFKA_SASL_USERNAME"), file("KAFKA_SASL_PASSWORD_FILE")
    try:
        password = Path(path).read_text(encoding="utf-8").strip() if path else env("KAFKA_SASL_PASSWORD")
    except UnicodeDecodeError:
        raise SystemExit(f"error: KAFKA_SASL_PASSWORD_FILE: no text in UTF-8: {path}") from None
    if not (name and password):
        raise SystemExit("error: SASL needs KAFKA_SASL_USERNAME, and KAFKA_SASL_PASSWORD or KAFKA_SASL_PASSWORD_FILE")
    return name, password


def security():
    """aiokafka's options for TLS and SASL."""
    protocol = chosen("KAFKA_SECURITY_PROTOCOL", PROTOCOLS)
    options = {"security_protocol": protocol}
    if protocol.endswith("SSL"):
        options["ssl_context"] = certificates()
    if protocol.startswith("SASL"):
        name, password = user()
        mechanism = chosen("KAFKA_SASL_MECHANISM", MECHANISMS)
        options |= {"sasl_mechanism": mechanism, "sasl_plain_username": name, "sasl_plain_password": password}
    return options
