"""A mesh whose services show their metrics, and a real Prometheus that reads them with our rules."""

import asyncio
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from deploy.brokers.ports import free_port
from deploy.local.targets import targets
from deploy.process import ChildProcess
from shared.topics import Service
from tests.support.mesh import ROOT, Mesh, Replica

_PROMETHEUS = ROOT / "deploy" / "monitoring" / "prometheus"
_TURN_S = 1
_START_S = 60.0


@dataclass
class WatchedMesh(Mesh):
    """A mesh in which every replica has a management endpoint; `management` says at which port."""

    management: dict[str, int] = field(default_factory=dict)

    def add(self, service: Service, **env: str) -> Replica:
        port = free_port()
        replica = super().add(service, CHATMESH_MANAGEMENT_PORT=str(port), **env)
        self.management[replica.id] = port
        return replica

    def targets(self) -> list[dict[str, object]]:
        """The replicas in Prometheus' format."""
        return [target for each in self.replicas for target in targets({each.service: self.management[each.id]})]


class Prometheus:
    """Prometheus as `make run` has it, but for how often it looks. Runs inside the block, reads `mesh`."""

    def __init__(self, program: Path, mesh: WatchedMesh, folder: Path) -> None:
        self._mesh = mesh
        self._folder = folder
        self.url = f"http://127.0.0.1:{free_port()}"
        self._process = ChildProcess(
            [
                str(program),
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
                "--enable-feature=exemplar-storage",
            ],
            log_path=folder / "prometheus.log",
            env={"PATH": os.environ["PATH"]},
        )

    async def __aenter__(self) -> Self:
        self.retarget()
        configuration = yaml.safe_load((_PROMETHEUS / "prometheus.yaml").read_text())
        configuration["global"] = {"scrape_interval": f"{_TURN_S}s", "evaluation_interval": f"{_TURN_S}s"}
        configuration["rule_files"] = [str(_PROMETHEUS / "rules" / "*.yaml")]
        (scrape,) = configuration["scrape_configs"]
        (discovery,) = scrape["file_sd_configs"]
        discovery["files"] = [str(self._targets)]
        (self._folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
        self._process.start()
        try:
            await self.until(f"count(up == 1) == {len(self._mesh.replicas)}")
        except BaseException:
            await asyncio.to_thread(self._process.stop, 5)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._process.stop, 10)

    @property
    def _targets(self) -> Path:
        return self._folder / "targets.json"

    def retarget(self) -> None:
        """The mesh's replicas are others now. Whole or not at all: Prometheus reads the file as it changes."""
        fresh = self._folder / "targets.json.new"
        fresh.write_text(json.dumps(self._mesh.targets()))
        fresh.replace(self._targets)

    async def get(self, path: str, **parameters: str) -> Any:
        """`data` of an answer of its API. Raises AssertionError with its words for any other."""
        async with httpx.AsyncClient(timeout=20) as client:
            answer = (await client.get(f"{self.url}/api/v1/{path}", params=parameters)).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    async def query(self, expr: str) -> list[dict[str, Any]]:
        """The instant vector of `expr`: `metric` and `value` of each series."""
        result: list[dict[str, Any]] = (await self.get("query", query=expr))["result"]
        return result

    async def until(self, expr: str, timeout_s: float = _START_S) -> None:
        """Return once `expr` has a result; raises AssertionError with its log if it has none in time."""
        end_s = time.monotonic() + timeout_s
        while True:
            try:
                if await self.query(expr):
                    return
            except (httpx.TransportError, json.JSONDecodeError):
                pass  # it does not listen yet, or is not ready
            assert self._process.running, self._process.log_tail(20)
            assert time.monotonic() < end_s, f"{expr}\n" + "\n".join(self._process.log_tail(20))
            await asyncio.sleep(0.2)
