"""Apache Kafka as deployments secure it: TLS, a name and password for each principal, and nothing allowed unasked.

    SASL_SSL         name and password over TLS, by the mechanisms of `MECHANISMS`; `access` comes here by SCRAM-SHA-512
    SASL_PLAINTEXT   the same without TLS
    MTLS             TLS with a client certificate whose common name is the principal

The certificates are made for this run and vouched for by an authority of its own. Only the super user may do anything
before access lists say more (`python -m deploy.topics acls --apply`). What anybody did or tried stands in `audit_log`.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.brokers.jvm import KAFKA_FOLDER, JvmBroker, ensure_class_path, format_storage, java_command, require_java
from deploy.brokers.kafka_settings import as_properties, single_node
from deploy.brokers.port import SUPER_USER, BrokerError
from deploy.brokers.ports import LOOPBACK, free_ports
from shared.topics import Service

if TYPE_CHECKING:
    import trustme

ADMIN = "admin"
THIRD_PARTY = "third-party"
PRINCIPALS = (SUPER_USER, ADMIN, *(service.value for service in Service), THIRD_PARTY)

ENCRYPTED, CLEAR = "SASL_SSL", "SASL_PLAINTEXT"
_HASHED = ("SCRAM-SHA-512", "SCRAM-SHA-256")
_DEFAULT = _HASHED[0]
MECHANISMS = {ENCRYPTED: (*_HASHED, "PLAIN"), CLEAR: (_DEFAULT, "PLAIN")}
"""By security protocol, how clients may prove who they are. One is missing, so that its refusal can be seen."""

_LOGGING = KAFKA_FOLDER / "log4j2-audit.yaml"
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"


@dataclass(frozen=True, slots=True)
class Certificates:
    """The authority of a run, and PEM files in `folder` that it vouches for."""

    authority: "trustme.CA"
    folder: Path

    @property
    def ca_file(self) -> Path:
        """Who vouches for everybody here."""
        return self.folder / "ca.pem"

    def issue(self, name: str, *, host: str | None = None) -> Path:
        """A file with a key (PKCS 8: Java reads no other) and its certificates, for a `host` or a principal."""
        from cryptography.hazmat.primitives import serialization

        issued = self.authority.issue_cert(*([host] if host else [f"{name}.chatmesh"]), common_name=name)
        key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path = self.folder / f"{name}.pem"
        path.touch(mode=0o600)
        path.write_bytes(key + b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        return path


def make_certificates(folder: Path) -> Certificates:
    """An authority of its own. Raises BrokerError without the package `trustme`."""
    try:
        import trustme
    except ImportError as error:
        raise BrokerError("a secured broker needs the package trustme: requirements/dev.lock has it") from error
    made = Certificates(trustme.CA(), folder)
    made.authority.cert_pem.write_to_path(str(made.ca_file))
    return made


class SecuredJvmBroker(JvmBroker):
    """A real Apache Kafka that lets nobody do what no access list allows; `principals` may connect.

    `clear_session_s`: how long a connection of SASL_PLAINTEXT lives before the broker wants the password again, which
    aiokafka can only give on a new one; None: as long as it likes.
    """

    name = "kafka-secured"
    start_timeout_s = 120.0

    def __init__(
        self,
        *,
        port: int | None = None,
        log_path: Path | None = None,
        principals: Sequence[str] = PRINCIPALS,
        clear_session_s: float | None = None,
    ) -> None:
        super().__init__(port=port, log_path=log_path)
        self.passwords = {name: secrets.token_urlsafe(18) for name in principals}
        self._plaintext_port, self._mtls_port, self._controller_port = free_ports(3, but=(self.port,))
        self._clear_session_s = clear_session_s
        self._certificates: Certificates | None = None

    @property
    def audit_log(self) -> Path:
        """What the authorizer decided, a line each. Raises BrokerError before `start`."""
        return self.certificates.folder / "audit.log"

    @property
    def plaintext_bootstrap(self) -> str:
        """Where clients with a password and without TLS come."""
        return f"{LOOPBACK}:{self._plaintext_port}"

    @property
    def mtls_bootstrap(self) -> str:
        """Where clients with a certificate come."""
        return f"{LOOPBACK}:{self._mtls_port}"

    @property
    def certificates(self) -> Certificates:
        """Those of this run. Raises BrokerError before `start`."""
        if self._certificates is None:
            raise BrokerError(f"the {self.name} broker was not started")
        return self._certificates

    def access(self, principal: str) -> dict[str, str]:
        """The KAFKA_* variables of a client that comes as `principal`, with its password, to `bootstrap`."""
        variables = self.access_by(principal, ENCRYPTED, _DEFAULT)
        del variables["KAFKA_BOOTSTRAP_SERVERS"]
        return variables

    def access_by(self, principal: str, protocol: str, mechanism: str) -> dict[str, str]:
        """The same for one that comes by a protocol and a mechanism of `MECHANISMS`; also where it has to come."""
        encrypted = protocol == ENCRYPTED
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap if encrypted else self.plaintext_bootstrap,
            "KAFKA_SECURITY_PROTOCOL": protocol,
            "KAFKA_SASL_MECHANISM": mechanism,
            "KAFKA_SASL_USERNAME": principal,
            "KAFKA_SASL_PASSWORD": self.passwords[principal],
            "KAFKA_SSL_CAFILE": str(self.certificates.ca_file) if encrypted else "",
        }

    def _prepare(self, folder: Path) -> list[str]:
        java = require_java()
        ensure_class_path()
        self._certificates = made = make_certificates(folder)
        plain = single_node(
            client_listener=self.listener, advertised=self.bootstrap, controller_port=self._controller_port
        )
        properties = folder / "server.properties"
        properties.touch(mode=0o600)
        properties.write_text(as_properties(plain | self._security(made) | {"log.dirs": str(folder / "data")}))
        command = java_command(java, f"-Dchatmesh.audit={self.audit_log}", logging=_LOGGING)
        users = [f"name={name},password={password}" for name, password in self.passwords.items()]
        hashed = [f"{mechanism}=[{user}]" for mechanism in _HASHED for user in users]
        format_storage(command, properties, options=[part for each in hashed for part in ("--add-scram", each)])
        return [*command, "kafka.Kafka", str(properties)]

    def _security(self, made: Certificates) -> dict[str, str]:
        """What differs from the open node's settings: see Kafka's documentation, chapter "Security"."""
        clients = {
            ENCRYPTED: self.bootstrap,
            CLEAR: self.plaintext_bootstrap,
            "MTLS": self.mtls_bootstrap,
        }
        listening = clients | {"CONTROLLER": f"{LOOPBACK}:{self._controller_port}"}
        return {
            "listeners": ",".join(f"{name}://{where}" for name, where in listening.items()),
            "advertised.listeners": ",".join(f"{name}://{where}" for name, where in clients.items()),
            "inter.broker.listener.name": ENCRYPTED,
            "listener.security.protocol.map": f"{ENCRYPTED}:{ENCRYPTED},{CLEAR}:{CLEAR},MTLS:SSL,CONTROLLER:{CLEAR}",
            **self._passwords_asked(),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(made.issue("broker", host=LOOPBACK)),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(made.ca_file),
            "listener.name.mtls.ssl.client.auth": "required",
            "listener.name.mtls.ssl.principal.mapping.rules": "RULE:^.*CN=([^,]+).*$/$1/",
            # Nobody restarts this one, and a busy machine is no reason to be fenced.
            "broker.session.timeout.ms": "18000",
            "broker.heartbeat.interval.ms": "2000",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:{SUPER_USER}",
            "allow.everyone.if.no.acl.found": "false",
        }

    def _passwords_asked(self) -> dict[str, str]:
        """By listener, how passwords are asked for, and with which the broker comes to itself."""
        myself = f'required username="{SUPER_USER}" password="{self.passwords[SUPER_USER]}"'
        everybody = " ".join(f'user_{name}="{password}"' for name, password in self.passwords.items())
        # A controller starts before it knows SCRAM's users, which it keeps itself.
        asked = {**MECHANISMS, "CONTROLLER": ("PLAIN",)}
        settings = {
            "sasl.mechanism.inter.broker.protocol": _DEFAULT,
            "sasl.mechanism.controller.protocol": "PLAIN",
        }
        if self._clear_session_s is not None:
            lifetime_ms = round(self._clear_session_s * 1000)
            settings[f"listener.name.{CLEAR.lower()}.connections.max.reauth.ms"] = str(lifetime_ms)
        for listener, mechanisms in asked.items():
            prefix = f"listener.name.{listener.lower()}"
            settings[f"{prefix}.sasl.enabled.mechanisms"] = ",".join(mechanisms)
            for mechanism in mechanisms:
                login = f"{_SCRAM} {myself}" if mechanism in _HASHED else f"{_PLAIN} {myself} {everybody}"
                settings[f"{prefix}.{mechanism.lower()}.sasl.jaas.config"] = f"{login};"
        return settings
