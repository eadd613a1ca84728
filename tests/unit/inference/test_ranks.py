"""Where a rank stands, who may share a model, and what the first rank learns of the others. No model, no torch."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from services.inference.engines import (
    DeepSpeedSettings,
    ScriptedSettings,
    TransformersSettings,
    build_engine,
    deepspeed,
    lockstep,
)
from services.inference.engines.deepspeed import DeepSpeedEngine, check_divides, check_installed, check_planned
from services.inference.engines.lockstep import Followers, Place, check_hashes_alike, join_group
from services.inference.engines.port import EngineDeadError, EngineLoadError
from services.inference.settings import InferenceSettings
from shared.chat import load_chat_tokenizer
from shared.errors import SettingsError
from shared.settings import load_settings

PLACED = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
TIMEOUT_S = 20


def test_a_place_is_what_torchrun_says() -> None:
    assert Place.of(PLACED) == Place(rank=1, ranks=4, local_rank=1)
    assert Place.of({}) is None


@pytest.mark.parametrize("environ", [{"RANK": "1"}, PLACED | {"WORLD_SIZE": "many"}])
def test_half_a_place_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="WORLD_SIZE"):
        Place.of(environ)


@pytest.mark.parametrize("seed", [None, "", "random"])
def test_ranks_whose_strings_hash_differently_are_refused(seed: str | None) -> None:
    with pytest.raises(SettingsError, match="PYTHONHASHSEED"):
        check_hashes_alike({} if seed is None else {"PYTHONHASHSEED": seed})
    check_hashes_alike({"PYTHONHASHSEED": "0"})


@pytest.mark.parametrize(
    ("ranks", "uneven"),
    [
        (3, "num_attention_heads=8 and num_key_value_heads=4"),
        (8, "num_key_value_heads=4"),
        (5, "num_attention_heads=8"),
    ],
)
def test_heads_that_cannot_be_shared_evenly_are_refused_by_number(ranks: int, uneven: str) -> None:
    config = SimpleNamespace(num_attention_heads=8, num_key_value_heads=4)
    with pytest.raises(EngineLoadError, match=f"^{ranks} ranks cannot share m, which has {uneven}"):
        check_divides(config, ranks, "m")
    for even in (1, 2, 4):
        check_divides(config, even, "m")


def test_a_model_whose_cache_would_not_be_cut_with_its_heads_is_refused() -> None:
    check_planned(SimpleNamespace(tp_plan={"model.layers.*.self_attn.k_proj": "colwise"}), "m")
    for plan in ({}, None, {"layers.*.mlp.up_proj": "colwise"}):
        with pytest.raises(EngineLoadError, match="m cannot be shared"):
            check_planned(SimpleNamespace(tp_plan=plan), "m")


def test_a_missing_deepspeed_is_told_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepspeed, "find_spec", lambda _: None)
    with pytest.raises(EngineLoadError, match="extra `deepspeed`"):
        check_installed()


@pytest.mark.parametrize(
    ("env", "engine"),
    [
        ({}, TransformersSettings),
        ({"ENGINE": "scripted"}, ScriptedSettings),
        ({"ENGINE": "deepspeed", "TENSOR_PARALLEL": "2"}, DeepSpeedSettings),
    ],
)
def test_settings_choose_the_engine(monkeypatch: pytest.MonkeyPatch, env: dict[str, str], engine: type) -> None:
    for name, value in env.items():
        monkeypatch.setenv(f"CHATMESH_{name}", value)
    settings = load_settings(InferenceSettings).engine_settings()
    assert type(settings) is engine
    assert type(build_engine(settings, load_chat_tokenizer(""))).__name__ == engine.__name__.replace(
        "Settings", "Engine"
    )


def test_only_deepspeed_shares_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATMESH_TENSOR_PARALLEL", "2")
    with pytest.raises(SettingsError, match="CHATMESH_TENSOR_PARALLEL=2 needs CHATMESH_ENGINE=deepspeed"):
        load_settings(InferenceSettings)


def test_the_ranks_that_torchrun_started_must_be_those_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PLACED.items():
        monkeypatch.setenv(name, value)
    assert DeepSpeedSettings(ranks=None).place().ranks == 4
    assert DeepSpeedSettings(ranks=4).place().rank == 1
    with pytest.raises(SettingsError, match="CHATMESH_TENSOR_PARALLEL=2, but 4 ranks"):
        DeepSpeedSettings(ranks=2).place()


async def test_an_engine_that_was_never_started_says_so() -> None:
    engine = DeepSpeedEngine(DeepSpeedSettings(ranks=2), load_chat_tokenizer(""))
    with pytest.raises(EngineDeadError, match="never started"):
        await engine.restart()
    await engine.close()


class Losses:
    """What `on_loss` was told, and ranks that run a line of Python."""

    def __init__(self, ranks: int, code: str) -> None:
        self.told: queue.Queue[str] = queue.Queue()
        self.followers = Followers(ranks, (sys.executable, "-c", code))
        self.followers.start(self.told.put)


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> type[Losses]:
    environ = dict(os.environ)
    monkeypatch.setattr(os, "environ", environ)  # what `start` adds is gone with the test
    return Losses


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("raise SystemExit(3)", "ended with status 3"),
        ("", "ended with status 0"),
        ("import os; os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
    ],
)
def test_a_rank_that_ends_too_early_is_told_with_how(losses: type[Losses], code: str, what: str) -> None:
    rig = losses(2, code)
    told = rig.told.get(timeout=TIMEOUT_S)
    assert told.startswith("rank 1 (pid ")
    assert told.endswith(what)


def test_every_rank_is_placed_as_torchrun_would(losses: type[Losses], tmp_path: Path) -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    code = (
        "import os, pathlib; "
        f"pathlib.Path({str(tmp_path)!r}, os.environ['RANK']).write_text(' '.join(os.environ[n] for n in {names!r}))"
    )
    rig = losses(3, code)
    for _ in range(2):
        rig.told.get(timeout=TIMEOUT_S)
    port = os.environ["MASTER_PORT"]
    assert int(port) > 0
    assert (tmp_path / "1").read_text() == f"1 1 3 3 127.0.0.1 {port}"
    assert (tmp_path / "2").read_text() == f"2 2 3 3 127.0.0.1 {port}"
    assert Place.of(os.environ) == Place(rank=0, ranks=3, local_rank=0)


@pytest.mark.parametrize(("chosen", "read"), [({}, "0"), ({"NCCL_GRAPH_MIXING_SUPPORT": "1"}, "1")])
@pytest.mark.parametrize(("device", "backend"), [("cuda", "nccl"), ("cpu", "gloo")])
def test_what_nccl_reads_is_said_before_ranks_meet(
    monkeypatch: pytest.MonkeyPatch, device: str, backend: str, chosen: dict[str, str], read: str
) -> None:
    met: list[tuple[str, str | None]] = []
    group = SimpleNamespace(
        init_process_group=lambda name: met.append((name, os.environ.get("NCCL_GRAPH_MIXING_SUPPORT")))
    )
    monkeypatch.setattr(os, "environ", dict(chosen))
    monkeypatch.setattr(lockstep, "_distributed", lambda: group)
    join_group(device)
    assert met == [(backend, read)]


def test_ranks_that_do_not_end_are_killed_and_no_loss(losses: type[Losses]) -> None:
    rig = losses(3, "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)")
    before = time.monotonic()
    rig.followers.stop(grace_s=0.2)
    assert time.monotonic() - before < 10
    time.sleep(0.1)  # a watcher that took it for a loss would say so at once
    assert rig.told.empty()


ORPHAN = """
import os, subprocess, sys, time
code = ("import os, time; from services.inference.engines.lockstep import watch_parent;"
        "watch_parent(lambda: os._exit(0)); print(os.getpid(), flush=True); time.sleep(60)")
subprocess.Popen([sys.executable, "-c", code])
time.sleep(60)
"""


def test_a_rank_whose_parent_is_killed_ends() -> None:
    parent = subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    orphan = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    closed = threading.Thread(target=parent.stdout.read, daemon=True)  # its pipe ends with the last that holds it
    closed.start()
    closed.join(TIMEOUT_S)
    assert not closed.is_alive(), f"process {orphan} outlived its parent"
