"""`make run` as a person at a terminal meets it: the runner on a pseudo-terminal, with real processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pexpect
import psutil
import pytest

from deploy.brokers.ports import can_bind, free_port
from services.moderation.policy import DEFAULT_POLICY
from tests.support.mesh import POLICY

READY_S = 180
END_S = 40
SERVICES = ("gateway", "moderation", "inference", "history")


class Terminal:
    """A runner on a terminal of its own, with a data folder and a port of its own."""

    def __init__(self, data_dir: Path, port: int, **environment: str) -> None:
        self.port = port
        self.data_dir = data_dir
        inherited = {key: value for key, value in os.environ.items() if key != "KAFKA_BOOTSTRAP_SERVERS"}
        chosen = {
            "PORT": str(port),
            "CHATMESH_DATA_DIR": str(data_dir),
            "CHATMESH_ENGINE": "scripted",
            "CHATMESH_POLICY": str(POLICY),
        }
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "deploy.local"],
            env={**inherited, **chosen, **environment},
            encoding="utf-8",
            timeout=READY_S,
            dimensions=(40, 160),
        )

    def wait_until_ready(self) -> "Terminal":
        self.child.expect("chatmesh is ready at")
        return self

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.child.pid).children(recursive=True)

    def exit_code(self) -> int:
        self.child.expect(pexpect.EOF, timeout=END_S)
        self.child.close()
        return int(self.child.exitstatus if self.child.exitstatus is not None else -self.child.signalstatus)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(tmp_path / "data", free_port())
    yield opened
    end(opened)


def end(terminal: Terminal) -> None:
    """Leave nothing behind, also after a failed test."""
    if terminal.child.isalive():
        left = terminal.descendants()
        terminal.child.kill(signal.SIGKILL)
        assert_gone(left)
    terminal.child.close(force=True)


def assert_gone(processes: list[psutil.Process], within_s: float = 20.0) -> None:
    """None of them runs any more; a zombie has ended and only waits for its new parent to notice."""
    give_up_at = time.monotonic() + within_s
    while left := [process for process in processes if is_running(process)]:
        assert time.monotonic() < give_up_at, f"still running: {left}"
        time.sleep(0.05)


def is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def as_shipped(tmp_path: Path) -> Iterator[Terminal]:
    """With the default policy, whose classifier has to be loaded."""
    opened = Terminal(tmp_path / "data", free_port(), CHATMESH_POLICY=str(DEFAULT_POLICY))
    yield opened
    end(opened)


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Terminal]:
    """It gives its services longer to end than any test waits."""
    opened = Terminal(tmp_path / "data", free_port(), CHATMESH_SHUTDOWN_S=str(4 * END_S))
    yield opened
    end(opened)


def test_it_shows_every_service_and_then_the_address_and_what_to_try(as_shipped: Terminal) -> None:
    terminal = as_shipped
    terminal.child.expect("broker: embedded at 127.0.0.1:")
    for service in SERVICES:
        terminal.child.expect(service)
    terminal.child.expect(f"chatmesh is ready at http://127.0.0.1:{terminal.port}")
    terminal.child.expect("keeps everything in memory")
    terminal.child.expect("curl -N")
    terminal.child.expect("from openai import OpenAI")
    terminal.child.expect("previous_response_id")


def test_ctrl_c_ends_everything_and_leaves_no_process(terminal: Terminal) -> None:
    processes = terminal.wait_until_ready().descendants()
    assert len(processes) >= len(SERVICES) + 1  # and the broker
    shown = metrics_by_job(terminal)
    assert list(shown) == [f"chatmesh/{service}" for service in SERVICES]
    for service, text in zip(SERVICES, shown.values(), strict=True):
        assert f'service_name="{service}"' in text
        assert 'chatmesh_service_state{state="ready"} 1.0' in text
    terminal.child.sendintr()
    terminal.child.expect("stopping")
    assert terminal.exit_code() == 0
    assert_gone(processes)
    assert can_bind(terminal.port)
    assert not targets_file(terminal).exists()


def targets_file(terminal: Terminal) -> Path:
    return terminal.data_dir / "metrics-targets.json"


def metrics_by_job(terminal: Terminal) -> dict[str, str]:
    """What Prometheus finds of a run by the file that the run wrote for it."""
    groups = json.loads(targets_file(terminal).read_text())
    return {group["labels"]["job"]: httpx.get(f"http://{group['targets'][0]}/metrics").text for group in groups}


def test_ctrl_c_while_it_starts_ends_it_too(terminal: Terminal) -> None:
    terminal.child.expect("inference")
    processes = terminal.descendants()
    terminal.child.sendintr()
    assert terminal.exit_code() == 0
    assert_gone(processes)


def test_a_second_ctrl_c_kills_at_once(patient: Terminal) -> None:
    terminal = patient
    processes = terminal.wait_until_ready().descendants()
    gateway = next(process for process in processes if "services.gateway" in process.cmdline())
    gateway.suspend()  # it can no longer end by itself
    terminal.child.sendintr()
    terminal.child.expect("stopping")
    terminal.child.sendintr()
    assert terminal.exit_code() == 0
    assert_gone(processes)


def test_nothing_survives_the_death_of_the_runner(terminal: Terminal) -> None:
    processes = terminal.wait_until_ready().descendants()
    terminal.child.kill(signal.SIGKILL)
    assert_gone(processes)


def told_address(data_dir: Path, **environment: str) -> str:
    """The broker that a command is told of beside the run of this data folder."""
    command = [sys.executable, "-m", "deploy.local.running", "printenv", "KAFKA_BOOTSTRAP_SERVERS"]
    inherited = {key: value for key, value in os.environ.items() if key != "KAFKA_BOOTSTRAP_SERVERS"}
    chosen = {**inherited, "CHATMESH_DATA_DIR": str(data_dir), **environment}
    return subprocess.run(command, env=chosen, capture_output=True, text=True, timeout=30, check=False).stdout.strip()


def test_another_program_finds_its_broker_while_it_runs(terminal: Terminal) -> None:
    terminal.child.expect(r"broker: embedded at (127\.0\.0\.1:\d+)")
    address = terminal.child.match.group(1)
    terminal.child.expect("topics:")
    assert told_address(terminal.data_dir) == address
    assert told_address(terminal.data_dir, KAFKA_BOOTSTRAP_SERVERS="kafka:1") == "kafka:1"
    end(terminal)
    assert told_address(terminal.data_dir) == ""


def test_a_second_start_names_the_running_one(terminal: Terminal) -> None:
    terminal.wait_until_ready()
    second = Terminal(terminal.data_dir, free_port())
    second.child.expect(f"already runs here: pid {terminal.child.pid}, http://127.0.0.1:{terminal.port}")
    assert second.exit_code() == 1
    assert terminal.child.isalive()


def test_a_taken_port_is_named_with_its_variable(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        started = Terminal(tmp_path / "data", port)
        started.child.expect(f"port {port} is taken.*PORT=")
        assert started.exit_code() == 1


@pytest.mark.parametrize("model", ["/no/such/model.gguf", "./no-such-folder"])
def test_a_model_that_is_not_there_is_said_before_anything_starts(tmp_path: Path, model: str) -> None:
    started = Terminal(tmp_path / "data", free_port(), CHATMESH_MODEL=model)
    started.child.expect(f"error: CHATMESH_MODEL={model}")
    assert started.exit_code() == 1
    assert "broker:" not in started.child.before


def test_a_model_that_cannot_load_ends_everything_with_its_reason(tmp_path: Path) -> None:
    model = tmp_path / "broken.gguf"
    model.write_bytes(b"GGUF, but no more than that")
    started = Terminal(tmp_path / "data", free_port(), CHATMESH_MODEL=str(model), CHATMESH_ENGINE="transformers")
    started.child.expect("error: .* has ended with exit code 1")
    started.child.expect("The whole log: ")
    assert started.exit_code() == 1


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    started = Terminal(tmp_path / "data", free_port(), CHATMESH_PARTITIONS="many")
    started.child.expect("error: wrong settings")
    started.child.expect("CHATMESH_PARTITIONS")
    assert started.exit_code() == 1


def test_without_a_broker_at_the_given_address_it_says_so(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    started = Terminal(tmp_path / "data", free_port(), KAFKA_BOOTSTRAP_SERVERS=address)
    started.child.expect(f"no broker answers at KAFKA_BOOTSTRAP_SERVERS={address}")
    assert started.exit_code() == 1
