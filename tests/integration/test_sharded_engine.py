"""A model that several ranks share says what one process says with it, whoever started the ranks."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.inference.settings import InferenceSettings
from tests.support.mesh import ROOT
from tests.support.sharded import CANCELLED_AFTER, SETTINGS, play

DRIVER = ("-m", "tests.support.sharded")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2")
GONE_S = 5
TIMEOUT_S = 280  # nearly all of it is imports, when two cores have more to do


@pytest.fixture(scope="module")
async def alone(llama: Path) -> dict[str, Any]:
    """What the plain engine says, in this process."""
    settings = InferenceSettings(
        model=str(llama), dtype="float32", device="cpu", torch_threads=1, slots=4, cache_tokens=2_048
    )
    return await play(settings)


def start(llama: Path, arguments: Sequence[str], **env: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, **SETTINGS, "CHATMESH_MODEL": str(llama), "CHATMESH_ENGINE": "deepspeed", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, dict[str, Any] | None, str]:
    """Exit status, what it told, what it logged."""
    try:
        out, log = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    return process.returncode, json.loads(out) if out else None, log


@pytest.mark.parametrize(
    ("arguments", "env"),
    [((*TORCHRUN, *DRIVER), {"PYTHONHASHSEED": "0"}), (DRIVER, {})],
    ids=["two ranks by torchrun", "one rank"],
)
async def test_ranks_say_together_what_one_says(
    llama: Path, alone: dict[str, Any], arguments: Sequence[str], env: dict[str, str]
) -> None:
    status, told, log = await asyncio.to_thread(finish, start(llama, arguments, **env))
    assert (status, told) == (0, alone), log
    assert alone["ended"] == {name: "cancelled" if name == "cancelled" else "length" for name in alone["said"]}
    assert len(alone["said"]["cancelled"]) == CANCELLED_AFTER
    assert alone["said"]["short"] == alone["said"]["the same prompt again"][:12]
    assert alone["said"]["seeded"][:12] != alone["said"]["short"], "must say what no other rank says by itself"


async def test_the_first_rank_starts_the_others_and_they_do_not_outlive_it(llama: Path, alone: dict[str, Any]) -> None:
    first = start(llama, DRIVER, CHATMESH_TENSOR_PARALLEL="2", PYTHONHASHSEED="0", TEST_STAYS="1")
    assert first.stdout is not None
    async with asyncio.timeout(TIMEOUT_S):
        told = await asyncio.to_thread(first.stdout.readline)
    others = psutil.Process(first.pid).children() if told else []
    first.kill()
    _, _, log = await asyncio.to_thread(finish, first)
    assert json.loads(told) == alone, log
    assert len(others) == 1
    assert not psutil.wait_procs(others, timeout=GONE_S)[1]
