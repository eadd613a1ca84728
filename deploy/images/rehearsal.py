"""All images of a mesh, built and run together on this machine without an engine."""

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx
import yaml

from deploy.brokers import Broker
from deploy.brokers.ports import LOOPBACK, free_port
from deploy.images.building import Builder, Built
from deploy.images.containers import Container, ContainerError
from deploy.images.context import Context
from deploy.images.recipe import Recipe, RecipeError, read_recipe
from deploy.images.roots import Mount
from shared.chat import DEFAULT_MODEL_ID

Say = Callable[[str], None]

FOLDER = Path(__file__).parent
REPOSITORY = FOLDER.parents[1]
TOOLS = "tools"
SERVICES = ("gateway", "moderation", "inference", "history")
IMAGES = (*SERVICES, TOOLS)
QUICK: Mapping[str, str] = {"UV_LINK_MODE": "symlink", "UV_COMPILE_BYTECODE": "0"}
"""Build arguments that install by links to the cache and compile nothing: the same files in a tenth of the time."""
_API_KEYS = "/run/secrets/api-keys.yaml"
VOLUMES = {
    "moderation": "/var/cache/chatmesh",
    "inference": "/var/cache/chatmesh",
    "history": "/var/lib/chatmesh",
}
"""What an image writes into beside /tmp: a deployment mounts a volume there."""
_HEALTHY_S = 240.0
_ANSWER_S = 60.0
_SHUTDOWN_S = 10.0
_TOOL_S = 60.0
_PARTITIONS = 4


def recipe_of(image: str, arguments: Mapping[str, str] | None = None) -> Recipe:
    """What the Dockerfile of `image` comes to. Raises RecipeError."""
    return read_recipe(dockerfile(image).read_text(encoding="utf-8"), arguments)


def dockerfile(image: str) -> Path:
    """Where it lies."""
    return FOLDER / f"{image}.Dockerfile"


def build_all(
    images: Sequence[str], folder: Path, arguments: Mapping[str, str], say: Say, base: Path = Path("/")
) -> dict[str, Built]:
    """Build `images` in `folder`, which is emptied, on the Debian in `base`. Raises RecipeError."""
    shutil.rmtree(folder, ignore_errors=True)
    context, cache = Context(REPOSITORY), uv_cache()
    built = {}
    for image in images:
        say(f"{image}: building")
        built[image] = Builder(folder / image, context, cache, base).build(recipe_of(image, arguments))
    return built


def uv_cache() -> Path:
    """The folder that uv keeps packages in on this machine: what cache mounts show. Raises RecipeError without uv."""
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv is None:
        raise RecipeError("uv is neither in this environment nor on PATH")
    found = subprocess.run([uv, "cache", "dir"], capture_output=True, text=True, check=True)
    folder = Path(found.stdout.strip())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Rehearsal:
    """The services of `built`, one container each, on `broker`. As a context manager it leaves no process behind.

    Topics are made by the image `tools`, where it is among them, as deployments do it.
    """

    def __init__(self, built: Mapping[str, Built], broker: Broker, folder: Path, say: Say = print) -> None:
        self.key = f"sk-{secrets.token_urlsafe(24)}"
        self.url = f"http://{LOOPBACK}:{(port := free_port())}/v1"
        self._built, self._broker, self._folder, self._say = built, broker, folder, say
        self._port = port
        self._stack = ExitStack()
        self.containers: dict[str, Container] = {}

    def __enter__(self) -> "Rehearsal":
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self) -> None:
        """Topics, then every service at once, until all are healthy. Raises ContainerError."""
        if TOOLS in self._built:
            self._say("tools: deploy.topics create")
            self.tool("deploy.topics", "create")
        for service in SERVICES:
            if service in self._built:
                self.containers[service] = self._container(service)
                self.containers[service].start()
        for service, container in self.containers.items():
            container.wait_healthy(_HEALTHY_S)
            self._say(f"{service}: healthy")

    def ask(self) -> str:
        """One response through all of them; its text. Raises ContainerError."""
        request = {"model": DEFAULT_MODEL_ID, "input": "Say hello.", "max_output_tokens": 8, "temperature": 0}
        headers = {"authorization": f"Bearer {self.key}"}
        answer = httpx.post(f"{self.url}/responses", json=request, headers=headers, timeout=_ANSWER_S)
        if answer.status_code != httpx.codes.OK:
            raise ContainerError(f"the gateway answered {answer.status_code}: {answer.text}")
        return str(answer.json()["output"][0]["content"][0]["text"])

    def tool(self, *arguments: str) -> str:
        """What one of the operators' tools prints. Raises ContainerError if it fails."""
        return self._container(TOOLS, arguments).run(_TOOL_S)

    def stop(self) -> None:
        """Each as `docker stop` does it. Raises ContainerError for one that does not end in order."""
        for service, container in self.containers.items():
            container.stop(_SHUTDOWN_S + 5.0)
            self._say(f"{service}: ended in order")

    def _container(self, image: str, arguments: Sequence[str] | None = None) -> Container:
        container = Container(
            image,
            self._built[image],
            environment=self._environment(image),
            arguments=arguments,
            log_path=self._folder / f"{image}.log",
            mounts=self._mounts(image),
        )
        self._stack.callback(container.kill)
        return container

    def _mounts(self, image: str) -> list[Mount]:
        """A file of keys for the gateway, and volumes as an engine makes them: of the owner that the image says."""
        mounts = []
        if image == "gateway":
            keys = self._folder / "api-keys.yaml"
            keys.write_text(yaml.safe_dump({self.key: {"tenant": "rehearsal"}}), encoding="utf-8")
            mounts.append(Mount(keys, _API_KEYS))
        if image in VOLUMES:
            owned = self._built[image].root.path(VOLUMES[image]).stat()
            volume = self._folder / f"{image}-volume"
            volume.mkdir()
            os.chown(volume, owned.st_uid, owned.st_gid)
            mounts.append(Mount(volume, VOLUMES[image], writable=True))
        return mounts

    def _environment(self, image: str) -> dict[str, str]:
        """What a deployment says to a container; one machine has one port of each number."""
        common = {
            "KAFKA_BOOTSTRAP_SERVERS": self._broker.bootstrap,
            "CHATMESH_PARTITIONS": str(_PARTITIONS),
            "CHATMESH_CREATE_TOPICS": "false" if TOOLS in self._built and image != TOOLS else "true",
            "CHATMESH_SESSION_TIMEOUT_MS": str(self._broker.capabilities.session_timeout_ms),
            "CHATMESH_FETCH_MAX_WAIT_MS": str(self._broker.capabilities.fetch_max_wait_ms),
            "CHATMESH_SHUTDOWN_S": f"{_SHUTDOWN_S:g}",
            "CHATMESH_MANAGEMENT_HOST": LOOPBACK,
            "CHATMESH_MANAGEMENT_PORT": str(free_port()),
        }
        if image == TOOLS:
            common["OPENAI_API_KEY"] = self.key
        if image == "gateway":
            common |= {"PORT": str(self._port), "CHATMESH_API_KEYS": _API_KEYS}
        return common
