"""The compose file, read by the parser that `docker compose` uses, and held against what it is about.

No engine runs here, so nothing below starts a container. What can be known without one is: that the parser takes it,
that every service gets settings that it understands, and that names, ports, files and times on both sides of a mount,
a network or a secret are the same.
"""

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from cryptography.x509 import load_pem_x509_certificate
from cryptography.x509.oid import NameOID
from pymongo.uri_parser import parse_uri

from deploy.brokers.kafka_settings import KAFKA_VERSION, as_container_environment, single_node
from deploy.compose.__main__ import write_certificates, write_missing
from deploy.images.recipe import Copy
from deploy.images.rehearsal import REPOSITORY, SERVICES, TOOLS, VOLUMES, recipe_of
from deploy.topics.acls import OPERATORS
from services.gateway.auth import load_authenticator
from shared.log.clients import client_options
from shared.runtime import LINGER_S
from shared.settings import MeshSettings
from tests.support.composed import (
    BASE,
    FOLDER,
    GPU,
    RUN_ONCE,
    SECURE,
    environment_of,
    parsed,
    secret_file,
    told,
    used_by,
)
from tests.support.deployed import SETTINGS, load_from, unread
from tests.support.tools import required_tool

OURS = (*SERVICES, "topics", TOOLS)
_MARGIN_S = 1.0


@pytest.fixture(scope="module")
def parser() -> Path:
    return required_tool("compose-spec")


@pytest.fixture(scope="module")
def project(parser: Path) -> Any:
    return parsed(parser, BASE)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compose") / "secrets"
    write_missing(folder)
    return folder


# -- the parser --------------------------------------------------------------------------------------------------


def test_the_parser_takes_it(project: Any) -> None:
    assert set(OURS) - {TOOLS} <= set(project["services"])
    assert {"kafka", "mongodb", "collector", "jaeger", "prometheus", "grafana"} <= set(project["services"])


def test_the_parser_would_refuse_a_wrong_one(parser: Path, tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text("services: {a: {image: x, prots: ['80:80']}}")
    done = subprocess.run([parser, "compose.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0


@pytest.mark.parametrize("files", [(BASE,), (BASE, GPU), (BASE, SECURE)])
def test_every_name_that_is_used_is_declared(parser: Path, files: tuple[str, ...]) -> None:
    """`docker compose` checks that behind the parser's own program."""
    project = parsed(parser, *files)
    for name, service in project["services"].items():
        assert set(service.get("depends_on", {})) <= set(project["services"]), name
        assert set(service["networks"]) <= set(project["networks"]), name
        assert {used["source"] for used in used_by(service)} <= set(project["secrets"]), name
        volumes = {mount["source"] for mount in service.get("volumes", []) if mount["type"] == "volume"}
        assert volumes <= set(project["volumes"]), name


# -- what a service is told --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_understands_all_that_it_is_told(project: Any, secrets: Path, name: str) -> None:
    environment = environment_of(project, name, secrets)
    assert unread(SETTINGS[name], environment) == set()
    settings = load_from(SETTINGS[name], environment)
    assert settings.bootstrap_servers == "kafka:9092"
    assert not settings.create_topics
    assert settings.management_port == 9464


def test_who_fetches_models_is_told_the_token_for_gated_ones(project: Any) -> None:
    """Inference its model, the gateway and history that model's tokenizer, moderation the models of a policy."""
    told_it = {name for name, service in project["services"].items() if "HF_TOKEN" in told(service)}
    assert told_it == set(SERVICES)


@pytest.mark.parametrize("files", [(BASE,), (BASE, GPU)])
def test_torch_has_as_many_threads_as_its_container_has_cores(parser: Path, files: tuple[str, ...]) -> None:
    inference = parsed(parser, *files)["services"]["inference"]
    assert float(told(inference)["CHATMESH_TORCH_THREADS"]) == float(inference["deploy"]["resources"]["limits"]["cpus"])


@pytest.mark.parametrize("name", ["topics", TOOLS])
def test_operators_tools_are_told_where_the_log_is(project: Any, name: str) -> None:
    environment = environment_of(project, name)
    assert unread(MeshSettings, environment) == set()
    assert load_from(MeshSettings, environment).bootstrap_servers == "kafka:9092"


def test_the_gateway_reads_the_keys_that_are_made(project: Any, secrets: Path) -> None:
    environment = environment_of(project, "gateway", secrets)
    assert load_authenticator(Path(environment["CHATMESH_API_KEYS"]), environment["CHATMESH_HOST"]) is not None


def test_history_comes_into_mongodb_as_the_user_that_is_made(project: Any, secrets: Path) -> None:
    address = parse_uri((secrets / "mongodb-url").read_text())
    assert [host for host, _ in address["nodelist"]] == ["mongodb"]
    assert address["password"] == (secrets / "mongodb-history-password").read_text()
    assert address["database"] == project["services"]["mongodb"]["environment"]["MONGO_INITDB_DATABASE"]
    script = (FOLDER / "mongodb-user.sh").read_text()
    assert f'user: "{address["username"]}"' in script
    assert "/run/secrets/mongodb-history-password" in script


def test_secrets_are_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    made = write_missing(folder)
    before = {path.name: path.read_text() for path in made}
    assert write_missing(folder) == []
    assert {path.name: path.read_text() for path in folder.iterdir()} == before
    assert len(set(before.values())) == len(before)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_secrets_are_readable_in_a_folder_that_is_not_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    folder = tmp_path / "secrets"
    before = os.umask(umask)
    try:
        folder.mkdir()  # by whoever unpacked or copied it
        write_missing(folder)
        write_certificates(folder)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == dict.fromkeys(modes, 0o644), "containers run as others"


def test_a_lost_address_is_written_with_the_password_that_mongodb_knows(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    write_missing(folder)
    (folder / "mongodb-url").unlink()
    assert [path.name for path in write_missing(folder)] == ["mongodb-url"]
    assert (folder / "mongodb-history-password").read_text() in (folder / "mongodb-url").read_text()


# -- files -------------------------------------------------------------------------------------------------------


def test_every_secret_is_one_that_is_made(project: Any, secrets: Path) -> None:
    for name, secret in project["secrets"].items():
        assert Path(secret["file"]).parent == FOLDER / "secrets"
        assert secret_file(project, name, secrets).is_file()
    used = {used["source"] for service in project["services"].values() for used in used_by(service)}
    assert used == set(project["secrets"])


def test_everything_that_is_mounted_is_there(project: Any) -> None:
    for service in project["services"].values():
        for mount in service.get("volumes", []):
            if mount["type"] == "bind":
                assert Path(mount["source"]).exists(), mount["source"]
                assert mount["read_only"], mount["source"]
            else:
                assert mount["source"] in project["volumes"]


@pytest.mark.parametrize("name", SERVICES)
def test_what_an_image_writes_has_a_volume(project: Any, name: str) -> None:
    if name == "history":
        assert "MONGODB_URL_FILE" in environment_of(project, name), "else it writes a file of its own"
        return
    targets = [mount["target"] for mount in project["services"][name].get("volumes", [])]
    assert targets == ([VOLUMES[name]] if name in VOLUMES else [])


@pytest.mark.parametrize("name", OURS)
def test_a_container_is_of_the_image_that_has_its_program(project: Any, name: str) -> None:
    image = TOOLS if name in RUN_ONCE else name
    assert project["services"][name]["image"].partition(":")[0] == f"chatmesh-{image}"


@pytest.mark.parametrize("image", (*SERVICES, TOOLS))
def test_an_image_is_built_once_from_its_dockerfile_with_arguments_that_it_takes(project: Any, image: str) -> None:
    """Two builders of one tag run side by side, and whoever is second fails: the image exists already."""
    tag = f"chatmesh-{image}:latest"
    (service,) = (one for one in project["services"].values() if one["image"] == tag and "build" in one)
    assert Path(service["build"]["context"]) == REPOSITORY
    dockerfile = REPOSITORY / service["build"]["dockerfile"]
    assert dockerfile == REPOSITORY / "deploy" / "images" / f"{image}.Dockerfile"
    declared = {
        line.split()[1].partition("=")[0] for line in dockerfile.read_text().splitlines() if line.startswith("ARG")
    }
    assert set(service["build"]["args"]) <= declared


def test_compose_up_writes_the_secrets_and_builds_before_it_starts() -> None:
    done = subprocess.run(["make", "-n", "compose-up"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first.endswith("-m deploy.compose")
    assert second.endswith(" up --build")


def test_what_documents_run_in_the_tools_image_is_in_it() -> None:
    """In Compose as in Kubernetes."""
    pages = "".join((REPOSITORY / "docs" / name).read_text() for name in ("runbook.md", "deployment.md"))
    inside = r"(?:run --rm tools|deployment/chatmesh-tools -- (?:env \S+ )?python -m) ([\w.]+)"
    named = set(re.findall(inside, pages))
    assert {"deploy.terminal.top", "services.moderation.report"} <= named
    steps = [step for stage in recipe_of(TOOLS).stages for step in stage.steps if isinstance(step, Copy)]
    held = {source.replace("/", ".") for step in steps for source in step.sources}
    assert [name for name in named if name not in held and name.rpartition(".")[0] not in held] == []


# -- what a container may ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OURS)
def test_our_containers_may_nothing_but_run(project: Any, name: str) -> None:
    service = project["services"][name]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert "privileged" not in service
    assert "user" not in service, "the image says which"


def test_no_container_gains_privileges_or_takes_all_of_the_machine(project: Any) -> None:
    for name, service in project["services"].items():
        assert "no-new-privileges:true" in service["security_opt"], name
        assert {"cpus", "memory", "pids"} <= set(service["deploy"]["resources"]["limits"]), name


def test_only_three_can_be_reached_and_only_from_this_machine(project: Any) -> None:
    published = {name: service["ports"] for name, service in project["services"].items() if service.get("ports")}
    assert set(published) == {"gateway", "grafana", "jaeger"}
    assert {port["host_ip"] for ports in published.values() for port in ports} == {"127.0.0.1"}
    image = recipe_of("gateway").image
    assert [port["target"] for port in published["gateway"]] == [int(image.environment["PORT"])]
    first, _, last = published["gateway"][0]["published"].partition("-")
    assert int(last) - int(first) + 1 == project["services"]["gateway"]["deploy"]["replicas"], "one port each"


def test_the_log_and_the_store_are_reached_by_whom_they_serve_alone(project: Any) -> None:
    networks = {name: set(service["networks"]) for name, service in project["services"].items()}
    assert {name for name, joined in networks.items() if "store" in joined} == {"mongodb", "history"}
    assert {name for name, joined in networks.items() if "log" in joined} == {"kafka", *OURS}
    assert networks["kafka"] == {"log"}
    assert networks["mongodb"] == {"store"}
    assert all(project["networks"][name].get("internal") for name in ("log", "store", "telemetry"))


# -- order and times ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_killed_only_after_its_service_had_its_time(project: Any, secrets: Path, name: str) -> None:
    settings = load_from(SETTINGS[name], environment_of(project, name, secrets))
    grace_s = float(project["services"][name]["stop_grace_period"].removesuffix("s"))
    assert grace_s >= settings.shutdown_s + LINGER_S + _MARGIN_S


def test_a_service_waits_for_what_it_needs(project: Any) -> None:
    for name in SERVICES:
        needs = {other: how["condition"] for other, how in project["services"][name]["depends_on"].items()}
        assert needs["kafka"] == "service_healthy"
        assert needs["topics"] == "service_completed_successfully"
    assert "mongodb" in project["services"]["history"]["depends_on"]
    for service in project["services"].values():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in project["services"][other]


# -- the parts of others -----------------------------------------------------------------------------------------


def test_kafka_is_the_one_that_the_tests_run(project: Any) -> None:
    kafka = project["services"]["kafka"]
    assert kafka["image"] == f"apache/kafka:{KAFKA_VERSION}"
    tested = as_container_environment(
        single_node(client_listener="0.0.0.0:9092", advertised="kafka:9092", controller_port=9093)
    )
    # A killed broker's successor is a matter of tests.
    of_tests = {"KAFKA_BROKER_SESSION_TIMEOUT_MS", "KAFKA_BROKER_HEARTBEAT_INTERVAL_MS"}
    of_compose = {"CLUSTER_ID", "KAFKA_HEAP_OPTS", "KAFKA_LOG_DIRS"}
    environment = {name: str(value) for name, value in kafka["environment"].items() if name not in of_compose}
    assert environment == {name: value for name, value in tested.items() if name not in of_tests}
    assert [mount["target"] for mount in kafka["volumes"]] == [kafka["environment"]["KAFKA_LOG_DIRS"]]


def test_kafka_allows_the_sessions_that_the_services_ask_for(project: Any, secrets: Path) -> None:
    least_ms = int(project["services"]["kafka"]["environment"]["KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS"])
    for name in SERVICES:
        settings = load_from(SETTINGS[name], environment_of(project, name, secrets))
        assert settings.session_timeout_ms >= least_ms
        assert settings.replication_factor == 1, "there is one broker"


def test_prometheus_asks_every_service_at_its_port(project: Any) -> None:
    mounts = {mount["target"]: Path(mount["source"]) for mount in project["services"]["prometheus"]["volumes"]}
    jobs = yaml.safe_load(mounts["/etc/prometheus/prometheus.yaml"].read_text())["scrape_configs"]
    asked = {(name, found["port"]) for job in jobs for found in job["dns_sd_configs"] for name in found["names"]}
    ports = {int(environment_of(project, name)["CHATMESH_MANAGEMENT_PORT"]) for name in SERVICES}
    assert asked == {(name, port) for name in SERVICES for port in ports}
    assert all("telemetry" in project["services"][name]["networks"] for name, _ in asked)
    assert "--config.file=/etc/prometheus/prometheus.yaml" in project["services"]["prometheus"]["command"]


def test_spans_come_to_jaeger_through_the_collector(project: Any) -> None:
    collector = yaml.safe_load((FOLDER / "collector.yaml").read_text())
    received = collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"].rpartition(":")[2]
    for name in SERVICES:
        sent = urlsplit(environment_of(project, name)["OTEL_EXPORTER_OTLP_ENDPOINT"])
        assert (sent.hostname, str(sent.port)) == ("collector", received)
    (pipeline,) = collector["service"]["pipelines"].values()
    assert set(pipeline["receivers"]) == set(collector["receivers"])
    assert set(pipeline["processors"]) == set(collector["processors"])
    assert set(pipeline["exporters"]) == set(collector["exporters"])
    (exporter,) = collector["exporters"].values()
    assert exporter["endpoint"].rpartition(":")[0] in project["services"]


def test_grafana_finds_its_files_and_its_sources(project: Any) -> None:
    grafana = project["services"]["grafana"]
    for variable in ("PROMETHEUS_URL", "JAEGER_URL"):
        assert urlsplit(grafana["environment"][variable]).hostname in project["services"]
    mounts = {mount["target"]: Path(mount["source"]) for mount in grafana["volumes"]}
    provisioning = mounts["/etc/grafana/provisioning"]
    providers = yaml.safe_load(next((provisioning / "dashboards").glob("*.yaml")).read_text())["providers"]
    assert [provider["options"]["path"] for provider in providers] == ["/var/lib/grafana/dashboards"]
    assert list(mounts["/var/lib/grafana/dashboards"].glob("*.json"))
    sources = next((provisioning / "datasources").glob("*.yaml")).read_text()
    assert "$PROMETHEUS_URL" in sources
    assert "$JAEGER_URL" in sources


def test_a_gpu_is_reserved_for_inference(parser: Path, secrets: Path) -> None:
    project = parsed(parser, BASE, GPU)
    inference = project["services"]["inference"]
    (device,) = inference["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert device["count"] == inference["deploy"]["replicas"]
    settings = load_from(SETTINGS["inference"], environment_of(project, "inference", secrets))
    assert settings.model_dump()["device"] == "cuda"
    assert inference["read_only"] is True, "the rest stays as it is"


# -- with TLS and least rights -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secure(parser: Path) -> Any:
    return parsed(parser, BASE, SECURE)


@pytest.fixture(scope="module")
def certificates(secrets: Path) -> Path:
    write_certificates(secrets)
    return secrets


def name_in(certificate: Path) -> str:
    """The common name of the first certificate of a PEM file."""
    (name,) = load_pem_x509_certificate(certificate.read_bytes()).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(name.value)


@pytest.mark.parametrize(
    ("name", "principal"),
    [*((name, name) for name in SERVICES), ("topics", OPERATORS), (TOOLS, OPERATORS), ("rights", "super")],
)
def test_who_comes_to_the_broker_has_a_certificate_in_its_name(
    secure: Any, certificates: Path, name: str, principal: str
) -> None:
    settings = load_from(SETTINGS.get(name, MeshSettings), environment_of(secure, name, certificates))
    assert settings.uses_tls
    assert settings.has_principal
    assert settings.ssl_certfile is not None
    assert name_in(settings.ssl_certfile) == principal
    assert settings.ssl_cafile is not None
    trusted = load_pem_x509_certificate(settings.ssl_cafile.read_bytes())
    load_pem_x509_certificate((certificates / "kafka-broker.pem").read_bytes()).verify_directly_issued_by(trusted)
    assert client_options(settings)["security_protocol"] == "SSL", "and the client can use these files"


def test_the_broker_lets_nobody_in_without_one(secure: Any, certificates: Path) -> None:
    kafka = told(secure["services"]["kafka"])
    protocols = dict(pair.split(":") for pair in kafka["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    listeners = dict(listener.split("://") for listener in kafka["KAFKA_LISTENERS"].split(","))
    reached = {name for name, address in listeners.items() if not address.startswith("127.0.0.1:")}
    assert {protocols[name] for name in reached} == {"SSL"}
    assert kafka["KAFKA_LISTENER_NAME_MTLS_SSL_CLIENT_AUTH"] == "required"
    assert kafka["KAFKA_ALLOW_EVERYONE_IF_NO_ACL_FOUND"] == "false"
    assert set(kafka["KAFKA_SUPER_USERS"].split(";")) == {"User:ANONYMOUS", "User:super"}
    rule, name = kafka["KAFKA_LISTENER_NAME_MTLS_SSL_PRINCIPAL_MAPPING_RULES"].removeprefix("RULE:").split("/")[:2]
    assert re.sub(rule, name.replace("$", "\\"), "CN=gateway,OU=a,O=b") == "gateway"
    assert name_in(certificates / "kafka-broker.pem") == "broker"


def test_rights_come_before_topics_and_topics_before_services(secure: Any) -> None:
    assert secure["services"]["topics"]["depends_on"]["rights"]["condition"] == "service_completed_successfully"
    assert "topics" in secure["services"]["gateway"]["depends_on"]


def test_every_certificate_is_one_that_is_made_and_only_once(secure: Any, certificates: Path) -> None:
    for name in secure["secrets"]:
        assert secret_file(secure, name, certificates).is_file()
    assert write_certificates(certificates) == []
    assert {path.suffix for path in certificates.iterdir()} <= {"", ".pem", ".yaml"}, "nothing else is left there"
