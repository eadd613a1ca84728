"""The lock files: hashes everywhere, no address anywhere, the same pins in all, torch only where it belongs."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
# tests/deploy/test_imports.py shows that they also start without it, and so does moderation with a policy of patterns.
WITHOUT_TORCH = ("gateway", "history", "tools")
HEAVY = ("torch", "transformers", "accelerate", "triton", "deepspeed")


def load_lock_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lock", ROOT / "requirements" / "lock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lock = load_lock_module()


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_a_lock_has_a_hash_for_every_pin_and_names_no_address(path: Path) -> None:
    text = path.read_text()
    assert lock.addresses(text) == []
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert blocks
    assert [block.splitlines()[0] for block in blocks if "--hash=sha256:" not in block] == []


@pytest.mark.parametrize(
    "line",
    ["a==1 @ https://host/a.whl", "--index-url x", "-i x", "--find-links x", "a @ file:///x", "# via /home/x", "-e ."],
)
def test_an_address_in_a_lock_is_found(line: str) -> None:
    assert lock.addresses(line) == [line]


def test_all_locks_agree_with_the_lock_for_development() -> None:
    dev = lock.pins((ROOT / "requirements/dev.lock").read_text())
    for path in LOCKS:
        if path.stem in (
            "model",
            "encoder",
            "tracing",
        ):  # nothing depends on weights; the trace UI is a program by itself
            continue
        pins = lock.pins(path.read_text())
        if path.stem == "frontends":  # programs of others, in an environment of their own
            pins = {name: version for name, version in pins.items() if name in dev}
        others = pins.items() - dev.items()
        assert not others, f"{path.name} pins what dev.lock does not: {others}"


@pytest.mark.parametrize("name", ["dev", *lock.WITH_TORCH])
def test_a_lock_without_cuda_lacks_torch_and_its_cuda_wheels_only(name: str) -> None:
    whole = lock.pins((ROOT / f"requirements/{name}.lock").read_text())
    cpu = lock.pins((ROOT / f"requirements/{name}-cpu.lock").read_text())
    left_out = whole.keys() - cpu.keys()
    assert {"torch", "triton"} <= left_out
    assert {name for name in left_out if not name.startswith(("nvidia-", "cuda-"))} == {"torch", "triton"}


def test_every_image_with_torch_has_a_lock_without_cuda_and_no_other_has_torch() -> None:
    with_torch = {
        image for image in lock.IMAGES if "torch" in lock.pins((ROOT / f"requirements/{image}.lock").read_text())
    }
    assert with_torch == set(lock.WITH_TORCH)


@pytest.mark.parametrize("service", WITHOUT_TORCH)
def test_a_service_that_needs_no_torch_does_not_install_it(service: str) -> None:
    names = lock.pins((ROOT / f"requirements/{service}.lock").read_text())
    assert not names.keys() & set(HEAVY)


def test_what_we_leave_out_is_in_no_lock() -> None:
    lines = (ROOT / "requirements/excludes.in").read_text().splitlines()
    excluded = {line for line in lines if line and not line.startswith("#")}
    assert "spacy" in excluded
    for path in LOCKS:
        assert not lock.pins(path.read_text()).keys() & excluded, path.name
