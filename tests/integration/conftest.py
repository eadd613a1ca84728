"""Meshes for integration tests: one with the real model and one with the scripted engine, per broker."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from deploy.brokers import Broker
from tests.support.llama import write_llama
from tests.support.mesh import Mesh
from tests.support.policies import CUT_PHRASE, TEST_POLICY

MODEL = "SmolLM2-135M-Instruct"
SCRIPT = f"The weather is fine today and the birds sing. {CUT_PHRASE} Nobody may ever read this part."

SESSION_MESHES = {"real_mesh", "scripted_mesh"}


@pytest.hookimpl(tryfirst=True)  # before pytest groups by broker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a mesh over files come last: an idle mesh takes a quarter of a core from those behind."""
    items.sort(key=lambda item: not SESSION_MESHES.isdisjoint(getattr(item, "fixturenames", ())))


@pytest.fixture(scope="session")
async def real_mesh(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """Four services with the default model."""
    async with Mesh(broker, tmp_path_factory.mktemp("real"), env={"CHATMESH_ENGINE": "transformers"}) as mesh:
        yield mesh


@pytest.fixture(scope="session")
async def scripted_mesh(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """Four services whose engine says SCRIPT, screened by the test policy."""
    folder: Path = tmp_path_factory.mktemp("scripted")
    policy = folder / "policy.yaml"
    policy.write_text(TEST_POLICY)
    env = {
        "CHATMESH_ENGINE": "scripted",
        "CHATMESH_SCRIPT_TEXT": SCRIPT,
        "CHATMESH_SCRIPT_TOKENS_PER_S": "50",
        "CHATMESH_POLICY": str(policy),
        "CHATMESH_FOREGROUND_GRACE_S": "1",
    }
    async with Mesh(broker, folder, env=env) as mesh:
        yield mesh


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that can be cut into ranks, which clients call "llama"."""
    return write_llama(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
async def client(real_mesh: Mesh) -> AsyncIterator[AsyncOpenAI]:
    """The unmodified SDK against the real model."""
    async with AsyncOpenAI(base_url=real_mesh.url, api_key="local", max_retries=0, timeout=120) as sdk:
        yield sdk


@pytest.fixture
async def scripted_client(scripted_mesh: Mesh) -> AsyncIterator[AsyncOpenAI]:
    """The unmodified SDK against the scripted engine."""
    async with AsyncOpenAI(base_url=scripted_mesh.url, api_key="local", max_retries=0, timeout=60) as sdk:
        yield sdk
