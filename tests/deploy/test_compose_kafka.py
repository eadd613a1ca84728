"""The secured broker of the compose file, as a process: the same properties, certificates, rights and commands.

What stays unproven is the image around it: how apache/kafka makes properties of its variables.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.brokers.jvm import JvmBroker, ensure_class_path, format_storage, java_command, require_java
from deploy.brokers.kafka_settings import as_properties
from deploy.brokers.ports import free_ports
from deploy.compose.__main__ import write_certificates, write_missing
from deploy.images.rehearsal import REPOSITORY, SERVICES
from shared.errors import AccessDeniedError
from shared.log.admin import ensure_topics, prepare_log
from shared.settings import MeshSettings
from shared.topics import Service
from tests.support.composed import BASE, SECURE, environment_of, in_folder, parsed, told
from tests.support.deployed import OURS, SETTINGS, load_from
from tests.support.suites import require_jvm
from tests.support.tools import required_tool

_OF_THE_IMAGE = {"KAFKA_HEAP_OPTS", "KAFKA_LOG_DIRS"}
_COMMAND_S = 60


class ComposedBroker(JvmBroker):
    """What the compose file says of kafka, at ports of this machine."""

    def __init__(self, variables: dict[str, str]) -> None:
        super().__init__()
        self._variables = variables

    def _prepare(self, folder: Path) -> list[str]:
        ensure_class_path()
        internal, controller = free_ports(2, but=(self.port,))
        addresses = {
            "0.0.0.0:9092": self.listener,
            "kafka:9092": self.bootstrap,
            ":9094": f":{internal}",
            ":9093": f":{controller}",
        }
        properties = folder / "server.properties"
        settings = {
            name.removeprefix("KAFKA_").lower().replace("_", "."): value for name, value in self._variables.items()
        }
        text = as_properties(settings | {"log.dirs": str(folder / "data")})
        for there, here in addresses.items():
            text = text.replace(there, here)
        properties.write_text(text)
        command = java_command(require_java())
        format_storage(command, properties)
        return [*command, "kafka.Kafka", str(properties)]


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compose") / "secrets"
    write_missing(folder)
    write_certificates(folder)
    return folder


@pytest.fixture(scope="module")
def project() -> Any:
    return parsed(required_tool("compose-spec"), BASE, SECURE)


@pytest.fixture(scope="module")
def kafka(project: Any, secrets: Path) -> Iterator[ComposedBroker]:
    require_jvm("the compose file's Apache Kafka")
    service = project["services"]["kafka"]
    variables = in_folder(project, service, told(service), secrets)
    ours = {name: value for name, value in variables.items() if name.startswith("KAFKA_") and name not in _OF_THE_IMAGE}
    with ComposedBroker(ours) as running:
        yield running


def told_here(project: Any, kafka: ComposedBroker, secrets: Path, name: str) -> dict[str, str]:
    """What a container of the service is told, but for the broker's address, which its certificate does not name."""
    here = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap, "KAFKA_SSL_CHECK_HOSTNAME": "false"}
    return environment_of(project, name, secrets) | here


def command(project: Any, kafka: ComposedBroker, secrets: Path, name: str) -> "subprocess.CompletedProcess[str]":
    """What a container of a tool runs, here."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
    ours = {key: value for key, value in told_here(project, kafka, secrets, name).items() if key.startswith(OURS)}
    argv = [sys.executable, "-m", *project["services"][name]["command"]]
    return subprocess.run(
        argv, cwd=REPOSITORY, env=kept | ours, capture_output=True, text=True, timeout=_COMMAND_S, check=False
    )


@pytest.fixture(scope="module")
def prepared(project: Any, kafka: ComposedBroker, secrets: Path) -> None:
    """Rights, then topics, as the compose file has them made."""
    for name in ("rights", "topics"):
        done = command(project, kafka, secrets, name)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize("name", SERVICES)
async def test_a_service_finds_the_topics_and_the_rights_that_it_needs(
    project: Any, kafka: ComposedBroker, secrets: Path, name: str
) -> None:
    settings = load_from(SETTINGS[name], told_here(project, kafka, secrets, name))
    await prepare_log(settings, Service(name))


@pytest.mark.usefixtures("prepared")
async def test_a_service_cannot_do_what_is_anothers(project: Any, kafka: ComposedBroker, secrets: Path) -> None:
    settings = load_from(SETTINGS["inference"], told_here(project, kafka, secrets, "inference"))
    with pytest.raises(AccessDeniedError):
        await prepare_log(settings, Service.MODERATION)


async def test_nobody_comes_in_without_a_certificate(project: Any, kafka: ComposedBroker, secrets: Path) -> None:
    environment = told_here(project, kafka, secrets, "gateway")
    del environment["KAFKA_SSL_CERTFILE"]
    with pytest.raises(AccessDeniedError):
        await ensure_topics(load_from(MeshSettings, environment | {"CHATMESH_API_KEYS": ""}))
