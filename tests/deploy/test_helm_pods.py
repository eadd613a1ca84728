"""The chart's pods as processes of this machine: their environment, their files, their probes, their end.

What only a cluster has is left out: images, users, networks. Images are rehearsed in tests/deploy/test_images.py.
"""

import os
import sys
import time
from pathlib import Path
from signal import SIGTERM
from typing import Any

import httpx
import pytest

from deploy.brokers import Broker
from deploy.process import ChildProcess
from tests.support.chart import (
    SCENARIOS,
    SERVICES,
    Object,
    Rendered,
    container,
    environment_below,
    helm_template,
)
from tests.support.mesh import POLICY, READY_S, ROOT, free_port
from tests.support.tools import required_tool

KEY = "sk-rehearsal"
HERE = ("PATH", "HOME", "LANG", "PYTHONPATH", "VIRTUAL_ENV", "OMP_NUM_THREADS", "XDG_CACHE_HOME")
"""All that a process gets of ours: its settings are those of its pod alone."""
LOOK_EVERY_S = 0.1


class Pod:
    """The one container of a pod. Addresses and ports are of this machine: all pods share it."""

    def __init__(self, rendered: Rendered, component: str, template: Object, root: Path, command: list[str]) -> None:
        self.component = component
        self.spec: Object = template["spec"]
        self.container = container(template)
        self.management = free_port()
        self.port = free_port()
        ports = {"CHATMESH_MANAGEMENT_PORT": str(self.management), "PORT": str(self.port)}
        hosts = dict.fromkeys(("CHATMESH_MANAGEMENT_HOST", "CHATMESH_HOST"), "127.0.0.1")
        of_pod = environment_below(rendered, template, root)
        for keys in root.glob("etc/chatmesh/keys/*"):
            keys.write_text(f"{KEY}: {{tenant: acme, tier: default}}\n")
        ours = {name: os.environ[name] for name in HERE if name in os.environ}
        environment = ours | of_pod | {name: value for name, value in (ports | hosts).items() if name in of_pod}
        self.process = ChildProcess([sys.executable, "-m", *command], log_path=root / "log", env=environment, cwd=ROOT)

    def probe(self, kind: str) -> int:
        """The status that a kubelet would get; 0: none."""
        wanted: dict[str, Any] = self.container[f"{kind}Probe"]["httpGet"]
        try:
            return httpx.get(f"http://127.0.0.1:{self.management}{wanted['path']}").status_code
        except httpx.TransportError:
            return 0

    def wait_started(self, timeout_s: float = READY_S) -> None:
        """As a kubelet does, but more often."""
        give_up_at = time.monotonic() + timeout_s
        while self.probe("startup") != 200:
            assert self.process.running, "\n".join(self.process.log_tail(20))
            assert time.monotonic() < give_up_at, "\n".join(self.process.log_tail(20))
            time.sleep(LOOK_EVERY_S)

    def delete(self) -> tuple[int | None, float]:
        """Asked to end as by `kubectl delete`: its exit code (None: it would have been killed) and how long it took."""
        begun = time.monotonic()
        self.process.signal(SIGTERM)
        self.process.wait(self.spec["terminationGracePeriodSeconds"])
        return self.process.exit_code, time.monotonic() - begun


@pytest.fixture(scope="module")
def release(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """The least of a deployment, with a scripted engine and a policy without a model, on this broker."""
    namespace = f"{tmp_path_factory.mktemp('release').name}."
    options = {
        "kafka.external.bootstrapServers": broker.bootstrap,
        "kafka.namespace": namespace,
        "kafka.partitions": 2,
        "inference.settings.CHATMESH_ENGINE": "scripted",
        "inference.settings.CHATMESH_SCRIPT_TEXT": "It is up.",
        **{f"{name}.settings.CHATMESH_SESSION_TIMEOUT_MS": broker.capabilities.session_timeout_ms for name in SERVICES},
        **{f"{name}.shutdownS": 6 for name in SERVICES},
    }
    sets = [part for name, value in options.items() for part in ("--set", f"{name}={value}")]
    policy = ["--set-file", f"moderation.policy={POLICY}"]
    done = helm_template(required_tool("helm"), SCENARIOS["minimal"], *sets, *policy)
    assert done.returncode == 0, done.stderr
    return Rendered("minimal", done.stdout)


@pytest.mark.any_broker
def test_the_pods_of_a_release_answer_and_end_in_time(release: Rendered, tmp_path: Path) -> None:
    templates = {name: release.named("Deployment", name)["spec"]["template"] for name in SERVICES}
    pods = [Pod(release, name, templates[name], tmp_path / name, [f"services.{name}"]) for name in SERVICES]
    [job] = release.of("Job")
    template = job["spec"]["template"]
    topics = Pod(release, "topics", template, tmp_path / "topics", container(template)["args"])
    try:
        topics.process.start()  # before the others, as Helm's hook does: they only look whether the topics are there
        topics.process.wait(READY_S)
        assert topics.process.exit_code == 0, "\n".join(topics.process.log_tail(20))
        for pod in pods:
            pod.process.start()
        for pod in pods:
            pod.wait_started()
            assert {kind: pod.probe(kind) for kind in ("liveness", "readiness")} == {"liveness": 200, "readiness": 200}
        assert ask(pods[0]) == "It is up."
        ends = {pod.component: pod.delete() for pod in pods}
        assert {name: code for name, (code, _) in ends.items()} == dict.fromkeys(SERVICES, 0)
    finally:
        for pod in (topics, *pods):
            pod.process.kill()


def ask(gateway: Pod) -> str:
    """A response's text. A gateway that is ready may not have heard of a worker yet: then it says so."""
    give_up_at = time.monotonic() + 20.0
    with httpx.Client(
        base_url=f"http://127.0.0.1:{gateway.port}", headers={"Authorization": f"Bearer {KEY}"}
    ) as client:
        while True:
            [model, *_] = [one["id"] for one in client.get("/v1/models").json().get("data", [])] or [""]
            answer = client.post("/v1/responses", json={"model": model, "input": "Is it up?"}, timeout=30.0)
            if answer.status_code == 200:
                return str(answer.json()["output"][0]["content"][0]["text"])
            assert time.monotonic() < give_up_at, answer.text
            time.sleep(LOOK_EVERY_S)
