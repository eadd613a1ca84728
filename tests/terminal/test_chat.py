"""`make chat` as a person at a terminal meets it, and in a pipe: an answer goes on when its gateway is killed."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pexpect
import pytest

from deploy.brokers import Broker
from deploy.local.preflight import only_run
from deploy.local.settings import LocalSettings
from shared.topics import Service
from tests.support.mesh import ROOT, Mesh

pytestmark = pytest.mark.any_broker

LONG = " ".join(f"number {n}," for n in range(60)) + " end."
"""About 290 tokens: at 50 a second, the echo of it takes six seconds."""
WAIT_S = 30
WAITS, WAITS_NO_MORE = "\x1b[?2004h", "\x1b[?2004l"
"""How the editor tells the terminal to mark what is pasted, and that it need not any more."""
WRONG = {"OPENAI_API_KEY": "sk-wrong"}


@pytest.fixture(scope="module")
async def mesh(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """Two gateways, an engine that answers with what it was told."""
    folder = tmp_path_factory.mktemp("chat")
    (folder / "keys.yaml").write_text("sk-ours: {tenant: ours}\n")
    env = {
        "CHATMESH_ENGINE": "scripted",
        "CHATMESH_SCRIPT_ECHO": "true",
        "CHATMESH_SCRIPT_TOKENS_PER_S": "50",
        "CHATMESH_API_KEYS": str(folder / "keys.yaml"),
    }
    counts = {**dict.fromkeys(Service, 1), Service.GATEWAY: 2}
    async with Mesh(broker, folder, env=env, counts=counts) as running:
        yield running


def environment(**changes: str) -> dict[str, str]:
    """No `make run` of this folder, no base URL of the person's own."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "CHATMESH_", "KAFKA_"))
    }
    return {**kept, "CHATMESH_DATA_DIR": "build/no-run-here", "OPENAI_API_KEY": "sk-ours", **changes}


async def chat(*arguments: str, stdin: str = "", **changes: str) -> asyncio.subprocess.Process:
    return await started("chat", *arguments, stdin=stdin, **changes)


async def started(tool: str, *arguments: str, stdin: str = "", **changes: str) -> asyncio.subprocess.Process:
    """The command, in a pipe."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"deploy.terminal.{tool}", *arguments,
        cwd=ROOT, env=environment(**changes),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(stdin.encode())
    process.stdin.close()
    return process


async def printed(process: asyncio.subprocess.Process) -> tuple[int, str, str]:
    """Its exit status, standard output and standard error."""
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    assert b"Traceback" not in err, err.decode()
    return process.returncode, out.decode(), err.decode()


async def test_a_pipe_gets_the_answer_and_nothing_else(mesh: Mesh) -> None:
    status, out, err = await printed(await chat("--base-url", mesh.url, "--message", "Hello, mesh."))
    assert (status, out) == (0, "Hello, mesh.\n")
    assert "tokens in" in err
    status, out, _ = await printed(await chat(stdin="two\nlines\n", OPENAI_BASE_URL=mesh.url))
    assert (status, out) == (0, "two\nlines\n")


async def test_an_answer_goes_on_exactly_where_its_gateway_was_killed(mesh: Mesh) -> None:
    doomed = mesh.of(Service.GATEWAY)[0]
    process = await chat("--base-url", ",".join(mesh.urls()), "--message", LONG)
    assert process.stdout is not None
    begun = await asyncio.wait_for(process.stdout.readexactly(40), WAIT_S)
    doomed.process.kill()
    status, rest, err = await printed(process)
    assert (status, begun.decode() + rest) == (0, LONG + "\n")
    assert "is lost" in err and "reconnected once" in err
    mesh.retire(doomed)
    mesh.add(Service.GATEWAY)
    await mesh.wait_ready()


async def test_what_is_wrong_is_said_on_one_line(mesh: Mesh) -> None:
    for arguments, changes, said in (
        (["--base-url", mesh.url, "--model", "m", "--message", "x"], WRONG, "set OPENAI_API_KEY"),
        (["--base-url", "http://127.0.0.1:1", "--message", "x"], {}, "start a mesh with `make run`"),
        (["--base-url", mesh.url, "--model", "no-such", "--message", "x"], {}, "no-such"),
    ):
        status, out, err = await printed(await chat(*arguments, **changes))
        assert (status, out) == (1, ""), err
        assert said in err and err.startswith("error: ") and err.count("\n") == 1, err


async def test_the_tools_find_the_run_of_this_folder_by_themselves(mesh: Mesh, tmp_path: Path) -> None:
    run = LocalSettings(PORT=mesh.of(Service.GATEWAY)[0].port, data_dir=tmp_path)
    with only_run(run) as announce:
        announce({"KAFKA_BOOTSTRAP_SERVERS": mesh.broker.bootstrap, "CHATMESH_NAMESPACE": mesh.namespace})
        found = {"CHATMESH_DATA_DIR": str(tmp_path)}
        assert (await printed(await started("chat", "--message", "Hello", **found)))[:2] == (0, "Hello\n")
        assert (await printed(await started("dlq", "list", **found)))[:2] == (0, "no dead letters\n")
        status, seen, _ = await printed(await started("top", "--once", "--json", **found))
        assert status == 0 and json.loads(seen)["totals"]["accepted"]


def at_a_terminal(mesh: Mesh) -> pexpect.spawn:
    return pexpect.spawn(
        sys.executable,
        ["-m", "deploy.terminal.chat", "--base-url", ",".join(mesh.urls())],
        cwd=str(ROOT),
        env=environment(PROMPT_TOOLKIT_NO_CPR="1", TERM="xterm-256color"),
        encoding="utf-8",
        timeout=WAIT_S,
        dimensions=(24, 80),
    )


@pytest.fixture
def terminal(mesh: Mesh) -> Iterator[pexpect.spawn]:
    child = at_a_terminal(mesh)
    try:
        child.expect("/help says what else there is")
        yield child
    finally:
        child.close(force=True)


def say(terminal: pexpect.spawn, keys: str) -> None:
    """Type at the prompt; what is expected next is what comes behind it."""
    terminal.expect_exact(WAITS)
    terminal.send(keys)
    terminal.expect_exact(WAITS_NO_MORE)


def test_what_is_typed_ahead_is_sent_once_the_prompt_is_up(mesh: Mesh) -> None:
    child = at_a_terminal(mesh)
    try:
        child.send("I was early.\r")  # the terminal makes a line feed of it, for nobody has told it not to
        child.expect("I was early.\r\n.* tokens in")
    finally:
        child.close(force=True)


def test_a_person_converses_cancels_and_leaves(terminal: pexpect.spawn) -> None:
    say(terminal, "My name is Ada.\r")
    terminal.expect("My name is Ada.\r\n.* tokens in")
    say(terminal, "\x1b[200~first line\nsecond line\x1b[201~\r")  # as a terminal pastes
    terminal.expect("first line\r\nsecond line\r\n.* tokens in .* \\(prompt: ")
    say(terminal, LONG + "\r")
    terminal.expect("number 3, number 4,")
    terminal.sendintr()
    terminal.expect("cancelled")
    say(terminal, "still here\r")
    terminal.expect("still here\r\n.* tokens in")
    say(terminal, "/new\r")
    terminal.expect("a new conversation")
    say(terminal, "/nothing\r")
    terminal.expect("there is no /nothing")
    terminal.expect_exact(WAITS)
    terminal.sendeof()
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
