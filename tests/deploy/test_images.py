"""The images: what every one of them must say, and that they install, start, answer and end."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.brokers.embedded import EmbeddedBroker
from deploy.images import roots
from deploy.images.context import Context
from deploy.images.recipe import Copy, Image, Run
from deploy.images.rehearsal import (
    IMAGES,
    QUICK,
    REPOSITORY,
    SERVICES,
    TOOLS,
    VOLUMES,
    Rehearsal,
    build_all,
    dockerfile,
    recipe_of,
)
from shared.release import VERSION
from tests.support.deployed import SETTINGS, load_from, unread
from tests.support.tools import REQUIRE

WRITABLE_VARIABLES = ("CHATMESH_CACHE_DIR", "CHATMESH_DATA_DIR", "HF_HOME")
_UNTIL_ALL_RUN_S = 420
"""On two cores that something else uses too; on quiet ones it is a minute."""


def image_of(name: str) -> Image:
    return recipe_of(name).image


def test_there_is_a_dockerfile_for_every_image_and_no_other() -> None:
    assert {path.stem for path in dockerfile(TOOLS).parent.glob("*.Dockerfile")} == set(IMAGES)


@pytest.mark.parametrize("name", IMAGES)
def test_hadolint_has_nothing_to_say(name: str) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "--no-color", dockerfile(name)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_hadolint_would_say_something(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /tmp && pip install x\n")
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, tmp_path / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "DL3006" in done.stdout


@pytest.mark.parametrize("name", IMAGES)
def test_it_runs_as_nobody_and_says_what_it_is(name: str) -> None:
    image = recipe_of(name, {"VERSION": VERSION, "REVISION": "abc"}).image
    assert image.user == "10001:10001"
    assert image.labels["org.opencontainers.image.title"] == f"chatmesh-{name}"
    assert image.labels["org.opencontainers.image.version"] == VERSION
    assert image.labels["org.opencontainers.image.revision"] == "abc"
    assert image.labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert image.environment["PYTHONDONTWRITEBYTECODE"] == "1", "a read-only root takes none"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_process_one_and_is_asked_how_it_is(name: str) -> None:
    image = image_of(name)
    assert image.entrypoint == ("python", "-m", f"services.{name}"), "a shell before it would keep the signals"
    assert image.stop_signal == "SIGTERM"
    assert image.healthcheck == ("python", "healthcheck.py")
    assert 9464 in image.ports


@pytest.mark.parametrize("name", SERVICES)
def test_its_environment_makes_valid_settings(name: str) -> None:
    environment = dict(image_of(name).environment)
    assert unread(SETTINGS[name], environment) == set()
    settings = load_from(SETTINGS[name], environment)
    assert (settings.management_host, settings.management_port) == ("0.0.0.0", 9464)
    assert settings.log_format == "json"


def test_a_variable_that_nobody_reads_would_be_seen() -> None:
    assert unread(SETTINGS["gateway"], {"CHATMESH_MANAGEMENT_PROT": "1", "PORT": "1"}) == {"CHATMESH_MANAGEMENT_PROT"}


def test_the_gateway_listens_for_others_than_itself_on_the_port_that_it_shows() -> None:
    image = image_of("gateway")
    assert image.environment["CHATMESH_HOST"] == "0.0.0.0"
    assert int(image.environment["PORT"]) in image.ports


@pytest.mark.parametrize("name", IMAGES)
def test_what_it_writes_lies_in_its_volume(name: str) -> None:
    places = [value for variable, value in image_of(name).environment.items() if variable in WRITABLE_VARIABLES]
    volume = VOLUMES.get(name)
    assert bool(places) == (volume is not None)
    assert all(place == volume or place.startswith(f"{volume}/") for place in places)


@pytest.mark.parametrize("name", IMAGES)
def test_it_installs_its_lock_by_hash_and_nothing_else(name: str) -> None:
    runs = [step.command for stage in recipe_of(name).stages for step in stage.steps if isinstance(step, Run)]
    installs = [command for command in runs if "pip" in command.split()]
    assert len(installs) == 2, "uv, then the service's packages"
    assert all("--require-hashes" in command for command in installs)
    locks = {source for step in copies(name) for source in step.sources if source.endswith(".lock")}
    assert f"requirements/{name}.lock" in locks
    expected = {"gateway": {"model"}, "history": {"model"}, "inference": {"model"}, "moderation": {"encoder"}}
    weights = {"requirements/model.lock", "requirements/encoder.lock"}
    assert locks & weights == {f"requirements/{lock}.lock" for lock in expected.get(name, ())}


def copies(name: str) -> list[Copy]:
    """What an image takes from the repository."""
    steps = [step for stage in recipe_of(name).stages for step in stage.steps]
    return [step for step in steps if isinstance(step, Copy) and step.stage is None]


def test_engines_see_sources_and_locks_and_nothing_else_of_the_repository() -> None:
    seen = Context(REPOSITORY).paths
    top = {Path(path).parts[0] for path in seen if (REPOSITORY / path).is_file()}
    assert top <= {"deploy", "requirements", "services", "shared", ".dockerignore"}
    assert not [path for path in seen if "__pycache__" in path or path.endswith((".pem", ".key", ".env", ".sqlite3"))]
    assert not [path for path in seen if path.startswith("deploy/compose")], "secrets lie there"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    """All images, built here and running beside the embedded broker, whatever --broker says."""
    if (trouble := roots.trouble()) is not None:
        if os.environ.get(REQUIRE, "") not in ("", "0"):
            pytest.fail(f"{REQUIRE} asks for the rehearsal of images, and it cannot run here: {trouble}")
        pytest.skip(f"images cannot be rehearsed here: {trouble}")
    folder = REPOSITORY / "build" / "images-in-test"
    try:
        built = build_all(IMAGES, folder, QUICK, print)
        with EmbeddedBroker() as broker, Rehearsal(built, broker, tmp_path_factory.mktemp("images")) as rehearsal:
            rehearsal.start()
            yield rehearsal
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(_UNTIL_ALL_RUN_S)
def test_the_images_answer_a_request_together(mesh: Rehearsal) -> None:
    assert mesh.ask().strip()


@pytest.mark.timeout(_UNTIL_ALL_RUN_S)
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_can_write_only_where_it_must(mesh: Rehearsal, service: str) -> None:
    script = """
import os, sys
def writable(folder):
    try:
        open(os.path.join(folder, "try"), "w").close()
    except OSError:
        return False
    return True
folders = ("/", "/opt/chatmesh/app", "/opt/chatmesh/venv", "/etc", "/var/lib", "/var/cache", "/run", *sys.argv[1:])
print(os.getuid(), *(folder for folder in folders if writable(folder)))
"""
    volume = [VOLUMES[service]] if service in VOLUMES else []
    done = mesh.containers[service].probe(["python", "-c", script, "/tmp", *volume])
    assert done.stdout.split() == ["10001", "/tmp", *volume], done.stderr


@pytest.mark.timeout(_UNTIL_ALL_RUN_S)
def test_moderation_has_what_every_kind_of_backend_needs(mesh: Rehearsal) -> None:
    examples = "services/moderation/policies/examples"
    check = ["python", "-m", "services.moderation.policy", "check", "--load", f"{examples}/personal-data.yaml"]
    checked = mesh.containers["moderation"].probe(check, 60.0)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    backends = "from services.moderation.backends import asking, guard, hugging_face"
    engines = "import services.inference.engines.transformers"
    imported = mesh.containers["moderation"].probe(["python", "-c", f"{backends}; {engines}"], 120.0)
    assert imported.returncode == 0, imported.stderr


@pytest.mark.timeout(_UNTIL_ALL_RUN_S)
def test_operators_tools_run_in_their_image(mesh: Rehearsal) -> None:
    assert "inference" in mesh.tool("deploy.terminal.top", "--once")
    assert "no dead letters" in mesh.tool("deploy.terminal.dlq", "list")
    assert mesh.tool("services.moderation.report", "--since", "1h").strip()
    short = ("--temperature", "0", "--max-output-tokens", "16")  # a small model may go on for ever
    assert mesh.tool("deploy.terminal.chat", "--base-url", mesh.url, "--message", "Say hello.", *short).strip()
    mesh.tool("deploy.topics", "check")


@pytest.mark.timeout(_UNTIL_ALL_RUN_S)
def test_they_end_in_order(mesh: Rehearsal) -> None:
    mesh.stop()
