"""What requests that need no stored context feel of a store that is stopped: nothing, it should be."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx

from deploy.brokers import Broker
from tests.bench.history.places import Outage, Place
from tests.bench.load import BenchError
from tests.support.mesh import Mesh

_SETTLE = 10  # requests at the start that are not measured
_BLOCKS = 3  # with the store and without it, in turn


@dataclass(frozen=True, slots=True)
class Latency:
    """Median milliseconds of a whole short answer, from one run."""

    normal_ms: float
    stopped_ms: float

    @property
    def ratio(self) -> float:
        return self.stopped_ms / self.normal_ms


async def latency(broker: Broker, place: Place, outage: Outage, *, requests: int) -> Latency:
    """Of `requests` answers with the store and as many without it, one after another. Raises BenchError."""
    with tempfile.TemporaryDirectory(prefix="chatmesh-bench-") as folder:
        env = {"CHATMESH_ENGINE": "scripted", "CHATMESH_SCRIPT_TOKENS_PER_S": "1000", **place.env}
        async with Mesh(broker, Path(folder), env=env) as mesh, httpx.AsyncClient(timeout=60) as client:
            await _answers_ms(client, mesh.url, _SETTLE)
            normal_ms: list[float] = []
            stopped_ms: list[float] = []
            for _ in range(_BLOCKS):
                normal_ms += await _answers_ms(client, mesh.url, requests // _BLOCKS)
                async with outage(mesh.folder / "data"):
                    stopped_ms += await _answers_ms(client, mesh.url, requests // _BLOCKS)
            return Latency(median(normal_ms), median(stopped_ms))


async def _answers_ms(client: httpx.AsyncClient, base_url: str, count: int) -> list[float]:
    took_ms = []
    for number in range(count):
        body = {"model": await _model(client, base_url), "input": f"Say {number}.", "max_output_tokens": 16}
        started_s = time.perf_counter()
        answer = await client.post(f"{base_url}/responses", json=body)
        took_ms.append((time.perf_counter() - started_s) * 1000)
        if answer.status_code != 200:
            raise BenchError(f"status {answer.status_code}: {answer.text[:500]}")
    return took_ms


async def _model(client: httpx.AsyncClient, base_url: str) -> str:
    answer = await client.get(f"{base_url}/models")
    return str(answer.raise_for_status().json()["data"][0]["id"])
