"""The chart's pods as processes of this machine: their environment, their files, their probes, their end.

What only a cluster has is left out: images, users, networks.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from signal import SIGTERM
from typing import Any

import httpx

from deploy.brokers import Broker
from deploy.brokers.ports import free_port
from deploy.process import ChildProcess
from tests.support.chart import SCENARIOS, SERVICES, Object, Rendered, container, environment_below, helm_template
from tests.support.mesh import POLICY, READY_S, ROOT
from tests.support.tools import required_tool

Secrets = Callable[[str], Mapping[str, str]]
"""Component → what its secrets hold, by the paths at which the pod has them."""

API_KEY = "sk-rehearsal"
API_KEYS = {"/etc/chatmesh/keys/api-keys.yaml": f"{API_KEY}: {{tenant: acme, tier: default}}\n"}
ANSWER = "It is up."
_OURS = ("PATH", "HOME", "LANG", "OMP_NUM_THREADS", "XDG_CACHE_HOME")
"""All that a process gets of our environment: its settings are those of its pod alone."""
_LOOK_EVERY_S = 0.1


def quick_release(scenario: str, broker: Broker, namespace: str, **options: str) -> Rendered:
    """A scenario on this broker, with a scripted engine, a policy without a model, and little time to end."""
    settings = {
        "kafka.external.bootstrapServers": broker.bootstrap,
        "kafka.namespace": namespace,
        "kafka.partitions": "2",
        "kafka.replicationFactor": "1",
        "kafka.minInsyncReplicas": "1",
        "inference.settings.CHATMESH_ENGINE": "scripted",
        "inference.settings.CHATMESH_SCRIPT_TEXT": ANSWER,
        **{
            f"{name}.settings.CHATMESH_SESSION_TIMEOUT_MS": str(broker.capabilities.session_timeout_ms)
            for name in SERVICES
        },
        **{f"{name}.shutdownS": "6" for name in SERVICES},
        **options,
    }
    sets = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    policy = ["--set-file", f"moderation.policy={POLICY}"]
    done = helm_template(required_tool("helm"), SCENARIOS[scenario], *sets, *policy)
    assert done.returncode == 0, done.stderr
    return Rendered(scenario, done.stdout)


def rehearse(release: Rendered, root: Path, secrets: Secrets = lambda _: {}) -> None:
    """The job that makes the topics, then the services, as Helm's hook orders them: they start, answer, end in time."""
    templates = {name: release.named("Deployment", name)["spec"]["template"] for name in SERVICES}
    commands = {name: [f"services.{name}"] for name in SERVICES}
    [job] = release.of("Job")
    topics = Pod(
        release, job["spec"]["template"], root / "topics", container(job["spec"]["template"])["args"], secrets("admin")
    )
    pods = {
        name: Pod(release, templates[name], root / name, commands[name], {**API_KEYS, **secrets(name)})
        for name in SERVICES
    }
    try:
        topics.process.start()
        topics.process.wait(READY_S)
        assert topics.process.exit_code == 0, topics.last_words()
        for pod in pods.values():
            pod.process.start()
        for pod in pods.values():
            pod.wait_started()
            assert {kind: pod.probe(kind) for kind in ("liveness", "readiness")} == {"liveness": 200, "readiness": 200}
        assert ask(pods["gateway"]) == ANSWER
        ends = {name: pod.delete() for name, pod in pods.items()}
        assert ends == dict.fromkeys(SERVICES, 0)
    finally:
        for pod in (topics, *pods.values()):
            pod.process.kill()


class Pod:
    """The one container of a pod. Addresses and ports are of this machine: all pods share it."""

    def __init__(
        self, release: Rendered, template: Object, root: Path, command: list[str], secrets: Mapping[str, str]
    ) -> None:
        self.spec: Object = template["spec"]
        self.container = container(template)
        self.management, self.port = free_port(), free_port()
        told = environment_below(release, template, root)
        for path, content in secrets.items():
            held = root / path.lstrip("/")
            if held.exists():
                held.write_text(content)
        here = {
            "CHATMESH_MANAGEMENT_PORT": str(self.management),
            "CHATMESH_MANAGEMENT_HOST": "127.0.0.1",
            "PORT": str(self.port),
            "CHATMESH_HOST": "127.0.0.1",
        }
        ours = {name: os.environ[name] for name in _OURS if name in os.environ}
        environment = ours | told | {name: value for name, value in here.items() if name in told}
        self.process = ChildProcess([sys.executable, "-m", *command], log_path=root / "log", env=environment, cwd=ROOT)

    def last_words(self) -> str:
        """The end of its log."""
        return "\n".join(self.process.log_tail(20))

    def probe(self, kind: str) -> int:
        """The status that a kubelet would get; 0: none."""
        wanted: dict[str, Any] = self.container[f"{kind}Probe"]["httpGet"]
        try:
            return httpx.get(f"http://127.0.0.1:{self.management}{wanted['path']}").status_code
        except httpx.TransportError:
            return 0

    def wait_started(self) -> None:
        """As a kubelet does, but more often."""
        give_up_at = time.monotonic() + READY_S
        while self.probe("startup") != 200:
            assert self.process.running, self.last_words()
            assert time.monotonic() < give_up_at, self.last_words()
            time.sleep(_LOOK_EVERY_S)

    def delete(self) -> int | None:
        """Asked to end as by `kubectl delete`: its exit code, or None where it would have been killed."""
        self.process.signal(SIGTERM)
        self.process.wait(self.spec["terminationGracePeriodSeconds"])
        return self.process.exit_code


def ask(gateway: Pod) -> str:
    """A response's text. A gateway that is ready may not have heard of a worker yet: then it says so."""
    give_up_at = time.monotonic() + READY_S
    address = f"http://127.0.0.1:{gateway.port}"
    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {API_KEY}"}, timeout=30.0) as client:
        while True:
            [model, *_] = [one["id"] for one in client.get("/v1/models").json().get("data", [])] or [""]
            answer = client.post("/v1/responses", json={"model": model, "input": "Is it up?"})
            if answer.status_code == 200:
                return str(answer.json()["output"][0]["content"][0]["text"])
            assert time.monotonic() < give_up_at, answer.text
            time.sleep(_LOOK_EVERY_S)
