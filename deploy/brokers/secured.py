"""Apache Kafka as deployments secure it: TLS, a name and password for each principal, and nothing allowed unasked.

    SASL_SSL   SCRAM-SHA-512 over TLS: what `access` and `environment` describe
    MTLS       TLS with a client certificate whose common name is the principal

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

_LOGGING = KAFKA_FOLDER / "log4j2-audit.yaml"
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
_MECHANISM = "SCRAM-SHA-512"


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
    """A real Apache Kafka that lets nobody do what no access list allows; `principals` may connect."""

    name = "kafka-secured"
    start_timeout_s = 120.0

    def __init__(
        self, *, port: int | None = None, log_path: Path | None = None, principals: Sequence[str] = PRINCIPALS
    ) -> None:
        super().__init__(port=port, log_path=log_path)
        self.passwords = {name: secrets.token_urlsafe(18) for name in principals}
        self._mtls_port, self._controller_port = free_ports(2, but=(self.port,))
        self._certificates: Certificates | None = None

    @property
    def audit_log(self) -> Path:
        """What the authorizer decided, a line each. Raises BrokerError before `start`."""
        return self.certificates.folder / "audit.log"

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
        """The KAFKA_* variables of a client that comes as `principal`, with its password."""
        return {
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_MECHANISM": _MECHANISM,
            "KAFKA_SASL_USERNAME": principal,
            "KAFKA_SASL_PASSWORD": self.passwords[principal],
            "KAFKA_SSL_CAFILE": str(self.certificates.ca_file),
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
        users = [f"{_MECHANISM}=[name={name},password={password}]" for name, password in self.passwords.items()]
        format_storage(command, properties, options=[part for user in users for part in ("--add-scram", user)])
        return [*command, "kafka.Kafka", str(properties)]

    def _security(self, made: Certificates) -> dict[str, str]:
        """What differs from the open node's settings: see Kafka's documentation, chapter "Security"."""
        password = self.passwords[SUPER_USER]
        myself = f'required username="{SUPER_USER}" password="{password}"'
        return {
            "listeners": f"SASL_SSL://{self.listener},MTLS://{self.mtls_bootstrap},"
            f"CONTROLLER://{LOOPBACK}:{self._controller_port}",
            "advertised.listeners": f"SASL_SSL://{self.bootstrap},MTLS://{self.mtls_bootstrap}",
            "inter.broker.listener.name": "SASL_SSL",
            "listener.security.protocol.map": "SASL_SSL:SASL_SSL,MTLS:SSL,CONTROLLER:SASL_PLAINTEXT",
            "sasl.enabled.mechanisms": _MECHANISM,
            "sasl.mechanism.inter.broker.protocol": _MECHANISM,
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": f"{_SCRAM} {myself};",
            # A controller starts before it knows SCRAM's users.
            "sasl.mechanism.controller.protocol": "PLAIN",
            "listener.name.controller.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.controller.plain.sasl.jaas.config": f'{_PLAIN} {myself} user_{SUPER_USER}="{password}";',
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
