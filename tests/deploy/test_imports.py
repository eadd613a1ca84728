"""Services that install no torch must also start without it."""

import subprocess
import sys
from pathlib import Path

import pytest

from services.moderation.policy import load_policy
from tests.support.mesh import POLICY

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "accelerate", "triton")
# A module that is None in sys.modules cannot be imported: ModuleNotFoundError, as if it were not installed.
START = """
import runpy, sys
sys.modules.update(dict.fromkeys({heavy!r}))
sys.argv = ["{service}", "--help"]
runpy.run_module("services.{service}", run_name="__main__")
"""


def start_without(heavy: tuple[str, ...], service: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", START.format(heavy=heavy, service=service)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("service", ["gateway", "moderation", "history"])
def test_it_starts_without_torch(service: str) -> None:
    done = start_without(HEAVY, service)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_test_meshes_screen_without_a_model() -> None:
    """Whatever tests start by the dozen would each read a classifier's weights."""
    assert load_policy(POLICY).backends == {}
    assert load_policy().backends != {}, "the default policy has no model either: the test shows nothing"


def test_a_package_that_is_needed_would_be_missed() -> None:
    assert "aiokafka" in start_without(("aiokafka",), "gateway").stderr
