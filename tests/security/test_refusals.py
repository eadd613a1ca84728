"""What people see when a broker does not let them in, or forbids something: one line that says what to mend."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from deploy.brokers.ports import free_port
from deploy.brokers.secured import ADMIN, CLEAR, ENCRYPTED, MECHANISMS, SecuredJvmBroker
from deploy.topics.acls import grants
from shared.errors import AccessDeniedError, AppendError, BrokerUnavailableError
from shared.log import LogWriter, Tail, prepare_log
from shared.log.granting import Grant, grant, revoke
from shared.records import Heartbeat
from shared.rights import Right, in_namespace, rights_of
from shared.settings import MeshSettings
from shared.topics import EVENTS, HEARTBEATS, REGISTRY, Service
from tests.security.passwords import MECHANISM, set_password
from tests.security.tools import run_tool
from tests.support.mesh import Mesh, Replica

WAIT_S = 60


@pytest.fixture(scope="module")
async def mesh(secured_broker: SecuredJvmBroker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """Topics and access lists, and nobody there."""
    made = Mesh(secured_broker, tmp_path_factory.mktemp("refusals"), counts={}, env={"CHATMESH_CREATE_TOPICS": "false"})
    await grant(made.settings, grants(made.namespace))
    async with made:
        yield made


Change = Callable[[SecuredJvmBroker, Path], dict[str, str]]


def other_authority(_: SecuredJvmBroker, folder: Path) -> dict[str, str]:
    path = folder / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return {"KAFKA_SSL_CAFILE": str(path)}


def by_another_name(broker: SecuredJvmBroker, _: Path) -> dict[str, str]:
    return {"KAFKA_BOOTSTRAP_SERVERS": f"localhost:{broker.port}"}


def without_tls(broker: SecuredJvmBroker, _: Path) -> dict[str, str]:
    return {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA_SSL_CAFILE": ""}


def without_a_name(broker: SecuredJvmBroker, _: Path) -> dict[str, str]:
    return {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SASL_USERNAME": "", "KAFKA_SASL_PASSWORD": ""}


def without_anything(broker: SecuredJvmBroker, folder: Path) -> dict[str, str]:
    return {**without_a_name(broker, folder), "KAFKA_SECURITY_PROTOCOL": "PLAINTEXT", "KAFKA_SSL_CAFILE": ""}


def without_a_name_or_tls(broker: SecuredJvmBroker, folder: Path) -> dict[str, str]:
    return {**without_anything(broker, folder), "KAFKA_BOOTSTRAP_SERVERS": broker.plaintext_bootstrap}


def with_tls_for_nothing(broker: SecuredJvmBroker, _: Path) -> dict[str, str]:
    return {"KAFKA_BOOTSTRAP_SERVERS": broker.plaintext_bootstrap}


def by_another_mechanism(broker: SecuredJvmBroker, _: Path) -> dict[str, str]:
    return {**broker.access_by("gateway", CLEAR, "PLAIN"), "KAFKA_SASL_MECHANISM": "SCRAM-SHA-256"}


def by_a_name_where_certificates_count(broker: SecuredJvmBroker, _: Path) -> dict[str, str]:
    shown = str(broker.certificates.issue("gateway"))
    return {"KAFKA_BOOTSTRAP_SERVERS": broker.mtls_bootstrap, "KAFKA_SSL_CERTFILE": shown}


def wrong_password(protocol: str, mechanism: str) -> Change:
    return lambda broker, _: {**broker.access_by("gateway", protocol, mechanism), "KAFKA_SASL_PASSWORD": "wrong"}


def without_a_certificate(broker: SecuredJvmBroker, folder: Path) -> dict[str, str]:
    return {**without_a_name(broker, folder), "KAFKA_BOOTSTRAP_SERVERS": broker.mtls_bootstrap}


REFUSED: list[tuple[str, Change, str]] = [
    *(
        (
            f"wrong password, {mechanism}, {protocol}",
            wrong_password(protocol, mechanism),
            rf"knows no such name or password for {mechanism} \(",
        )
        for protocol, mechanisms in MECHANISMS.items()
        for mechanism in mechanisms
    ),
    (
        "unknown name",
        lambda *_: {"KAFKA_SASL_USERNAME": "nobody"},
        r"does not let User:nobody in: .*KAFKA_SASL_USERNAME",
    ),
    ("other mechanism", by_another_mechanism, r"does not take KAFKA_SASL_MECHANISM=SCRAM-SHA-256"),
    ("other authority", other_authority, r"certificate that KAFKA_SSL_CAFILE does not vouch for"),
    ("other host", by_another_name, r"certificate for another host: .*'localhost'"),
    ("no TLS", without_tls, r"it speaks TLS: set KAFKA_SECURITY_PROTOCOL"),
    ("no TLS, no name", without_anything, r"it speaks TLS: set KAFKA_SECURITY_PROTOCOL"),
    (
        "TLS where there is none",
        with_tls_for_nothing,
        r"does not speak TLS: KAFKA_SECURITY_PROTOCOL=SASL_SSL is not its",
    ),
    (
        "no name where there is no TLS",
        without_a_name_or_tls,
        r"wants a name and a password: set KAFKA_SECURITY_PROTOCOL",
    ),
    ("no name", without_a_name, r"wants a name and a password: set KAFKA_SECURITY_PROTOCOL"),
    (
        "a name in vain",
        by_a_name_where_certificates_count,
        r"asks for no name and password: KAFKA_SECURITY_PROTOCOL=SASL_SSL",
    ),
    ("no certificate", without_a_certificate, r"refuses the certificate of KAFKA_SSL_CERTFILE, or that there is none"),
]


@pytest.mark.parametrize(("change", "told"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
async def test_who_is_not_let_in_learns_why_at_once(
    secured_broker: SecuredJvmBroker, tmp_path: Path, change: Change, told: str
) -> None:
    given = {"KAFKA_BOOTSTRAP_SERVERS": secured_broker.bootstrap, **secured_broker.access("gateway")}
    given |= change(secured_broker, tmp_path)
    settings = MeshSettings(**{name: value for name, value in given.items() if value})  # type: ignore[arg-type]
    async with asyncio.timeout(settings.start_timeout_s / 2):
        with pytest.raises(AccessDeniedError, match=told) as caught:
            await prepare_log(settings, Service.GATEWAY)
    assert "\n" not in str(caught.value)
    assert secured_broker.passwords["gateway"] not in str(caught.value)


@asynccontextmanager
async def history(mesh: Mesh, **env: str) -> AsyncIterator[Replica]:
    """A service that nobody misses, under way; afterwards it is gone."""
    replica = mesh.add(Service.HISTORY, **env)
    try:
        yield replica
    finally:
        await asyncio.to_thread(replica.process.stop, 10)
        mesh.retire(replica)


async def last_words(replica: Replica) -> list[str]:
    """The last lines of a service that ends by itself, with a failure."""
    assert await asyncio.to_thread(replica.process.wait, WAIT_S), "it goes on"
    assert replica.process.exit_code == 1
    return replica.process.log_tail(20)


@pytest.mark.parametrize(("protocol", "mechanism"), [(ENCRYPTED, "SCRAM-SHA-256"), (CLEAR, "PLAIN")])
async def test_a_service_with_a_wrong_password_ends_in_one_line(
    secured_broker: SecuredJvmBroker, mesh: Mesh, protocol: str, mechanism: str
) -> None:
    wrong = secured_broker.access_by("history", protocol, mechanism) | {"KAFKA_SASL_PASSWORD": "wrong"}
    async with history(mesh, **wrong) as replica:
        lines = await last_words(replica)
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: the broker at ") and f"for {mechanism} " in lines[0], lines


async def test_a_service_whose_password_changes_ends_in_one_line(secured_broker: SecuredJvmBroker, mesh: Mesh) -> None:
    """Not at once: the broker asks again when connections are opened, and lets none live beyond CLEAR_SESSION_S."""
    leaver = "leaver"
    await set_password(mesh.settings, leaver, "at first")
    rights = in_namespace(mesh.namespace, rights_of(Service.HISTORY))
    await grant(mesh.settings, [Grant(f"User:{leaver}", right) for right in rights])
    theirs = {"KAFKA_SASL_USERNAME": leaver, "KAFKA_SASL_PASSWORD": "at first"}
    async with history(mesh, **secured_broker.access_by("history", CLEAR, MECHANISM) | theirs) as replica:
        await mesh.wait_ready(service=Service.HISTORY)
        await set_password(mesh.settings, leaver, "later")
        lines = await last_words(replica)
    assert "does not let User:leaver in: it knows no such name or password" in lines[-1], lines
    assert lines[-1].startswith("error: ") and not any("Traceback" in line for line in lines), lines


async def test_where_nobody_answers_is_waited_for() -> None:
    settings = MeshSettings(KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{free_port()}", start_timeout_s=0.5)
    with pytest.raises(BrokerUnavailableError, match=r"no Kafka broker answers at .* \(KAFKA_BOOTSTRAP_SERVERS\)"):
        await prepare_log(settings, Service.GATEWAY)


async def test_a_client_certificate_stands_for_a_name(secured_broker: SecuredJvmBroker, mesh: Mesh) -> None:
    """It has the rights of that name, and no others."""
    settings = MeshSettings(
        KAFKA_BOOTSTRAP_SERVERS=secured_broker.mtls_bootstrap,
        KAFKA_SECURITY_PROTOCOL="SSL",
        KAFKA_SSL_CAFILE=secured_broker.certificates.ca_file,
        KAFKA_SSL_CERTFILE=secured_broker.certificates.issue("history"),
        namespace=mesh.namespace,
        partitions=mesh.partitions,
        create_topics=False,
    )
    await prepare_log(settings, Service.HISTORY)
    with pytest.raises(AccessDeniedError, match=r"may not .*Read topic \S+responses\.journal"):
        await prepare_log(settings, Service.MODERATION)


# -- rights that are missing -------------------------------------------------------------------------------------------


def each_right(service: Service) -> list[tuple[Service, Right]]:
    return [
        (service, Right(right.resource, right.name, right.pattern, frozenset({operation})))
        for right in rights_of(service)
        for operation in sorted(right.operations)
    ]


@pytest.mark.parametrize("service", list(Service))
async def test_each_right_is_asked_for_at_start_and_named_where_it_is_missing(mesh: Mesh, service: Service) -> None:
    settings = mesh.settings_of(service.value).model_copy(update={"create_topics": False})
    await prepare_log(settings, service)
    for _, right in each_right(service):
        (named,) = in_namespace(mesh.namespace, [right])
        (operation,) = named.operations
        await revoke(mesh.settings, [Grant(f"User:{service.value}", named)])
        try:
            with pytest.raises(AccessDeniedError, match=rf"{operation}\b.* {named.resource} {re.escape(named.name)}"):
                await prepare_log(settings, service)
        finally:
            await grant(mesh.settings, [Grant(f"User:{service.value}", named)])


async def test_who_may_not_make_topics_is_told_how_to_do_without(secured_broker: SecuredJvmBroker, mesh: Mesh) -> None:
    settings = mesh.settings_of("history")
    with pytest.raises(AccessDeniedError, match=r"may not make topic .* CHATMESH_CREATE_TOPICS=false"):
        await prepare_log(settings, Service.HISTORY)


async def test_a_service_without_its_rights_ends_in_one_line(mesh: Mesh) -> None:
    namespace = f"u{uuid.uuid4().hex[:12]}."
    async with history(mesh, CHATMESH_NAMESPACE=namespace) as replica:
        lines = await last_words(replica)
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: User:history may not Write topic ")
    assert f"Read group {namespace}history.recorder" in lines[0]


@pytest.mark.parametrize(
    "lost",
    [
        Right("topic", "service.heartbeats", "literal", frozenset({"Write"})),
        Right("group", "history.recorder", "literal", frozenset({"Read"})),
        Right("group", "history.history.queries", "literal", frozenset({"Read"})),
    ],
    ids=lambda right: right.name,
)
async def test_a_service_that_loses_a_right_ends_in_one_line(mesh: Mesh, lost: Right) -> None:
    (named,) = in_namespace(mesh.namespace, [lost])
    async with history(mesh) as replica:
        await mesh.wait_ready(service=Service.HISTORY)
        await revoke(mesh.settings, [Grant("User:history", named)])
        try:
            lines = await last_words(replica)
        finally:
            await grant(mesh.settings, [Grant("User:history", named)])
    assert "error: User:history may not" in lines[-1] and named.name in lines[-1], lines


async def test_a_writer_and_a_reader_say_what_is_forbidden(mesh: Mesh) -> None:
    settings = mesh.settings_of("third-party")
    writer = LogWriter(settings, Service.GATEWAY, "gateway-1")
    await writer.start()
    failed = asyncio.create_task(writer.failed())
    with pytest.raises(AppendError):
        await writer.append(HEARTBEATS, Heartbeat(service="gateway", id="g", state="ready", seq=1))
    with pytest.raises(AccessDeniedError, match=r"User:third-party may not append to \S+service\.heartbeats"):
        await asyncio.wait_for(failed, WAIT_S)
    await writer.stop()
    tail = Tail(settings, Service.GATEWAY, EVENTS)
    await tail.start({0: 0})
    with pytest.raises(AccessDeniedError, match=r"User:third-party may not read \S+responses\.events"):
        async with asyncio.timeout(WAIT_S):
            async for _ in tail.batches():
                pass
    await tail.stop()


# -- the tool ----------------------------------------------------------------------------------------------------------


async def test_operators_make_and_compare_topics_and_may_not_grant(mesh: Mesh) -> None:
    made = await asyncio.to_thread(run_tool, mesh, ADMIN, "deploy.topics", "create")
    assert (made.returncode, made.stdout) == (0, f"{len(REGISTRY)} topics, 0 of them new\n"), made
    same = await asyncio.to_thread(run_tool, mesh, ADMIN, "deploy.topics", "check")
    assert (same.returncode, same.stdout) == (0, f"{len(REGISTRY)} topics, no differences\n"), same
    may_not = await asyncio.to_thread(run_tool, mesh, ADMIN, "deploy.topics", "acls", "--apply")
    assert may_not.returncode == 1
    assert may_not.stderr == "error: User:admin may not change the access lists: a super user may\n"
