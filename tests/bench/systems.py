"""The three systems that are compared, each started for its part and ended before the next."""

import asyncio
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from deploy.brokers import Broker
from deploy.brokers.local_process import LocalProcessBroker
from deploy.brokers.ports import free_port
from deploy.process import ChildProcess
from shared.records.codec import Envelope
from shared.topics import EVENTS, JOURNAL
from tests.bench.load import BenchError, HttpLoad, chat_completions_api, responses_api
from tests.bench.stages import median_stages, stages_ms
from tests.bench.workload import Sample
from tests.support.logs import sub_log
from tests.support.mesh import Mesh

ROOT = Path(__file__).resolve().parents[2]
SERVE_START_S = 120.0
POLICY = "version: bench\nstreaming: {{stride: 1, lookback: {lookback}, hold_back: {hold_back}}}\ncategories: {{}}\n"


@dataclass(frozen=True, slots=True)
class Settings:
    """What all systems have in common: the folder of the model and how the engine is cut."""

    model: Path
    max_tokens: int
    threads: int
    slots: int = 32
    cache_tokens: int = 32_768
    step_tokens: int = 512

    def environment(self) -> dict[str, str]:
        """For every process that runs the model: the threads, and no network."""
        return {**os.environ, "OMP_NUM_THREADS": str(self.threads), "HF_HUB_OFFLINE": "1", **self.engine()}

    def engine(self) -> dict[str, str]:
        """chatmesh's engine settings."""
        return {
            "CHATMESH_MODEL": str(self.model),
            "CHATMESH_ENGINE": "transformers",
            "CHATMESH_SLOTS": str(self.slots),
            "CHATMESH_CACHE_TOKENS": str(self.cache_tokens),
            "CHATMESH_TORCH_THREADS": str(self.threads),
        }


@dataclass(frozen=True)
class System:
    """A running system: `measure` runs prompts at once; `pids` are what its CPU time is counted by.

    `stages` tells where a first token's time went, where the system has a log that knows.
    """

    name: str
    measure: Callable[[Sequence[str]], Awaitable[list[Sample]]]
    pids: Mapping[str, int] = field(default_factory=dict)
    stages: Callable[[Sequence[Sample]], Awaitable[dict[str, float]]] | None = None


@asynccontextmanager
async def bare_engine(settings: Settings) -> AsyncIterator[System]:
    """The mesh's engine in one process, without anything around it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.engine_process",
        str(settings.max_tokens),
        cwd=ROOT,
        env=settings.environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    async def answer() -> list[dict[str, float]]:
        line = await stdout.readline()
        if not line:
            raise BenchError(f"the engine's process ended with {await process.wait()}")
        return json.loads(line)  # type: ignore[no-any-return]

    async def measure(prompts: Sequence[str]) -> list[Sample]:
        stdin.write(json.dumps(list(prompts)).encode() + b"\n")
        return [Sample(**sample) for sample in await answer()]  # type: ignore[arg-type]

    try:
        await answer()
        yield System("engine", measure, {"engine": process.pid})
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def whole_mesh(
    settings: Settings, broker: Broker, hold_back: int, more: Mapping[str, str]
) -> AsyncIterator[System]:
    """Four services on `broker`; the policy screens every code point and holds back `hold_back` of them."""
    with tempfile.TemporaryDirectory(prefix="chatmesh-bench-") as folder:
        policy = Path(folder) / "policy.yaml"
        policy.write_text(POLICY.format(hold_back=hold_back, lookback=max(64, 2 * hold_back)))
        env = {**settings.engine(), "OMP_NUM_THREADS": str(settings.threads), "CHATMESH_POLICY": str(policy), **more}
        async with Mesh(broker, Path(folder), env=env) as mesh, mesh_system(mesh, settings, broker) as system:
            yield system


@asynccontextmanager
async def mesh_system(mesh: Mesh, settings: Settings, broker: Broker) -> AsyncIterator[System]:
    """A mesh that runs, as a system to measure."""
    load = HttpLoad(mesh.url, responses_api(await _first_model(mesh.url)), settings.max_tokens)
    pids = {replica.service.value: replica.process.pid for replica in mesh.replicas}
    if isinstance(broker, LocalProcessBroker):
        pids["broker"] = broker.pid

    async def stages(samples: Sequence[Sample]) -> dict[str, float]:
        return median_stages([stages_ms(s, await _records(mesh, s.id)) for s in samples])

    try:
        yield System("mesh", load.measure, pids, stages)
    finally:
        await load.close()


async def _records(mesh: Mesh, response_id: str) -> list[Envelope[Any]]:
    return await sub_log(mesh, JOURNAL, response_id) + await sub_log(mesh, EVENTS, response_id)


@asynccontextmanager
async def transformers_serve(settings: Settings, page_tokens: int) -> AsyncIterator[System]:
    """`transformers serve --continuous-batching` with the same folder, dtype, threads and cache."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="chatmesh-serve-") as folder:
        process = ChildProcess(
            _serve_command(settings, port, page_tokens), log_path=Path(folder) / "log", env=settings.environment()
        )
        process.start()
        load = HttpLoad(f"http://127.0.0.1:{port}/v1", chat_completions_api(str(settings.model)), settings.max_tokens)
        try:
            await _answers(f"http://127.0.0.1:{port}/health", process)
            yield System("serve", load.measure, {"serve": process.pid})
        finally:
            await load.close()
            await asyncio.to_thread(process.stop, 5.0)


def serve_trouble() -> str | None:
    """Why `transformers serve` cannot run here; None: it can."""
    if importlib.util.find_spec("fastapi") is None:
        return "`transformers serve` needs fastapi, which is not installed"
    return None


def _serve_command(settings: Settings, port: int, page_tokens: int) -> list[str]:
    options = {
        "--dtype": "bfloat16",
        "--device": "auto",
        "--host": "127.0.0.1",
        "--port": str(port),
        "--cb-block-size": str(page_tokens),
        "--cb-num-blocks": str(settings.cache_tokens // page_tokens),
        "--cb-max-batch-tokens": str(settings.step_tokens),
    }
    program = str(Path(sys.executable).parent / "transformers")
    flat = [word for option in options.items() for word in option]
    return [program, "serve", str(settings.model), "--continuous-batching", *flat]


async def _answers(url: str, process: ChildProcess) -> None:
    async with asyncio.timeout(SERVE_START_S), httpx.AsyncClient() as client:
        while True:
            if not process.running:
                raise BenchError("transformers serve ended:\n" + "\n".join(process.log_tail(20)))
            try:
                if (await client.get(url)).status_code == 200:
                    return
            except httpx.TransportError:
                await asyncio.sleep(0.1)


async def _first_model(base_url: str) -> str:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{base_url}/models")
    return str(answer.raise_for_status().json()["data"][0]["id"])
