"""A process of the bench that is told what to do by one line on stdin and answers with one line when it runs."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.bench.load import BenchError
from tests.bench.systems import ROOT

_START_S = 120.0


@dataclass(frozen=True, slots=True)
class Child:
    """`said`: the words of its first line."""

    pid: int
    said: list[str]


@asynccontextmanager
async def child(module: str, told: bytes) -> AsyncIterator[Child]:
    """`python -m module` with the line `told`, killed at the end. Raises BenchError if it ends by itself."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(told.rstrip(b"\n") + b"\n")
        async with asyncio.timeout(_START_S):
            line = await process.stdout.readline()
        if not line:
            raise BenchError(f"{module} ended with {await process.wait()}")
        yield Child(process.pid, line.decode().split())
        if process.returncode is not None:
            raise BenchError(f"{module} ended early, with {process.returncode}")
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
