"""`make top` beside a real mesh: what it shows is what the mesh does, on a terminal and in a pipe."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pexpect
import pytest
from openai import AsyncOpenAI

from deploy.brokers import Broker
from deploy.brokers.ports import free_port
from shared.topics import GROUPS, Service
from tests.support.mesh import ROOT, Mesh, Replica

pytestmark = pytest.mark.any_broker

WAIT_S = 30
MODEL = "SmolLM2-135M-Instruct"


@dataclass
class Measured(Mesh):
    """Its worker shows its metrics at `metrics_url`."""

    management_port: int = field(default_factory=free_port)

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.management_port}/metrics"

    def add(self, service: Service, **env: str) -> Replica:
        port = {"CHATMESH_MANAGEMENT_PORT": str(self.management_port)} if service is Service.INFERENCE else {}
        return super().add(service, **port, **env)


@pytest.fixture(scope="module")
async def mesh(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Measured]:
    """An engine that goes on for ever unless it is limited."""
    env = {"CHATMESH_ENGINE": "scripted", "CHATMESH_SCRIPT_TOKENS_PER_S": "50", "CHATMESH_FOREGROUND_GRACE_S": "1"}
    async with Measured(broker, tmp_path_factory.mktemp("top"), env=env) as running:
        yield running


def environment(mesh: Measured) -> dict[str, str]:
    return {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": mesh.broker.bootstrap, "CHATMESH_NAMESPACE": mesh.namespace}


async def top(mesh: Measured, *arguments: str, status: int = 0, **changes: str) -> str:
    """What the command prints in a pipe."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "deploy.terminal.top", *arguments,
        cwd=ROOT, env={**environment(mesh), **changes},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == status, out.decode()
    return out.decode()


async def test_one_look_shows_what_runs_what_ended_and_who_lags(mesh: Measured) -> None:
    async with AsyncOpenAI(base_url=mesh.url, api_key="local", max_retries=0, timeout=60) as client:
        ended = await client.responses.create(model=MODEL, input="short", max_output_tokens=12)
        stream = await client.responses.create(model=MODEL, input="long", stream=True)
        await anext(aiter(stream))
        seen: dict[str, Any] = json.loads(await top(mesh, "--once", "--json", "--metrics", mesh.metrics_url))
        await stream.close()
    assert ended.usage is not None
    assert (seen["running"], seen["waiting"]) == (1, 0)
    assert seen["totals"]["accepted"] == 2
    assert (seen["totals"]["ended"], seen["totals"]["output_tokens"]) == ({"incomplete": 1}, ended.usage.output_tokens)
    assert {row["id"]: row["state"] for row in seen["services"]} == {r.id: "ready" for r in mesh.replicas}
    assert all(row["age_ms"] < 5000 for row in seen["services"])
    assert seen["scraped"]["answered"] == 1
    assert 1 < seen["scraped"]["tokens_per_s"] < 200  # one stream at 50 a second, on a machine that may stand still
    groups = {row["group"]: row for row in seen["groups"]}
    assert groups.keys() == GROUPS.keys()
    assert all(row["members"] == 1 for row in groups.values())
    assert groups["moderation"]["lag"] > 0  # the response that runs is folded again by whoever takes over


async def test_a_table_fits_eighty_columns_and_names_every_service(mesh: Measured) -> None:
    shown = (await top(mesh, COLUMNS="80")).splitlines()
    assert max(map(len, shown)) <= 80
    for replica in mesh.replicas:
        assert any(line.startswith(replica.id) and " ready " in line for line in shown)


async def test_who_has_no_mesh_is_told_what_to_do(mesh: Measured) -> None:
    said = await top(mesh, "--once", status=1, CHATMESH_NAMESPACE="nobody.")
    assert said.startswith("error: no mesh has run on the broker at") and said.count("\n") == 1
    said = await top(mesh, "--once", status=1, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert said.startswith("error: no Kafka broker answers at 127.0.0.1:1") and said.count("\n") == 1


def test_a_terminal_is_kept_up_to_date_until_ctrl_c(mesh: Measured) -> None:
    child = pexpect.spawn(
        sys.executable,
        ["-m", "deploy.terminal.top", "--interval", "0.2"],
        cwd=str(ROOT),
        env={**environment(mesh), "TERM": "xterm-256color"},
        encoding="utf-8",
        timeout=WAIT_S,
        dimensions=(30, 80),
    )
    try:
        child.expect("inference-1 .*ready")
        worker = mesh.of(Service.INFERENCE)[0]
        worker.process.kill()
        child.expect("inference-1 fell silent")
        child.setwinsize(20, 60)
        child.expect("histor[^\\n]*ready[^\\n]*…")  # what is too long is cut to the new width
        child.sendintr()
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 0
    finally:
        child.close(force=True)
