"""Chat front ends from PyPI that nobody here wrote: LangChain, and the terminal program `llm`, over both dialects."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pexpect
import pytest

from tests.clients import frontends
from tests.clients.scene import ACME, LONG, MODEL, Scene

DIALECTS = ["chat", "responses"]
PROGRAMS = Path(__file__).parent / "programs"
_STEP_S = 60
"""How long a step of a front end may take: importing one takes seconds on a busy machine."""


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder of the front ends' programs."""
    return frontends.installed()


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_langchain_has_a_conversation_and_leaves(programs: Path, scene: Scene, dialect: str) -> None:
    process = await asyncio.create_subprocess_exec(
        str(programs / "python"),
        str(PROGRAMS / "langchain_chat.py"),
        dialect,
        env={**os.environ, "CHATMESH_SCENE": scene.described(), "LANGSMITH_TRACING": "false"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        first, second, third = json.loads(await _line(process))
        assert (first["text"], second["text"], third["text"]) == ("First.", "Second.", "Third.")
        assert second["usage"]["input_tokens"] > first["usage"]["total_tokens"]
        for turn in (first, second, third):
            usage = turn["usage"]
            assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        assert await _line(process) == b"left\n"
        await scene.until_idle()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _line(process: asyncio.subprocess.Process) -> bytes:
    """The next line of its output. Raises AssertionError with what it said where there is none."""
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(_STEP_S):
        line = await process.stdout.readline()
        assert line, (await process.stderr.read()).decode()
    return line


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_llm_has_a_conversation_and_is_interrupted(
    programs: Path, scene: Scene, dialect: str, tmp_path: Path
) -> None:
    environment = _llm_settings(tmp_path, scene, dialect)
    with _terminal(programs / "llm", ["chat", "-m", "mesh"], environment) as terminal:
        await asyncio.to_thread(_converse, terminal, ["First.", "Second."])
        terminal.sendline(LONG)
        await asyncio.to_thread(terminal.expect_exact, "word0 word1 word2", _STEP_S)  # the terminal's own echo
        await scene.until_busy()
        terminal.sendintr()
        await scene.until_idle()
    first, second = (await _logged(programs, environment))[:2]
    assert (first["response"], second["response"]) == ("First.", "Second.")
    assert second["input_tokens"] > first["input_tokens"] + first["output_tokens"]


def _llm_settings(folder: Path, scene: Scene, dialect: str) -> dict[str, str]:
    """The environment of `llm`, in whose folder the mesh is the model `mesh`."""
    model: dict[str, Any] = {"model_id": "mesh", "model_name": MODEL, "api_base": scene.url, "api_key_name": "mesh"}
    # JSON is YAML too
    (folder / "extra-openai-models.yaml").write_text(json.dumps([{**model, "responses": dialect == "responses"}]))
    (folder / "keys.json").write_text(json.dumps({"mesh": ACME}))
    return {**os.environ, "LLM_USER_PATH": str(folder), "TERM": "dumb", "COLUMNS": "4000"}


@contextmanager
def _terminal(program: Path, arguments: list[str], environment: dict[str, str]) -> Iterator[Any]:
    child = pexpect.spawn(
        str(program),
        arguments,
        env=environment,
        encoding="utf-8",
        timeout=_STEP_S,
        dimensions=(50, 4000),
        # What was started in the background by a shell ignores Ctrl-C, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield child
    finally:
        child.close(force=True)


def _converse(terminal: Any, turns: list[str]) -> None:
    for text in turns:
        terminal.expect_exact("> ")
        terminal.sendline(text)
        terminal.expect_exact(text)  # what was typed
        terminal.expect_exact(text)  # what was answered
    terminal.expect_exact("> ")


async def _logged(programs: Path, environment: dict[str, str]) -> list[dict[str, Any]]:
    """What `llm` noted of its conversation, the oldest turn first."""
    process = await asyncio.create_subprocess_exec(
        str(programs / "llm"), "logs", "--json", "-n", "0", env=environment, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(_STEP_S):
        out, _ = await process.communicate()
    rows: list[dict[str, Any]] = json.loads(out)
    return sorted(rows, key=lambda row: str(row["datetime_utc"]))
