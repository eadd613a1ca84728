"""Weights read from the cache are those that transformers unpacks: bit by bit, and token by token."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from services.inference.engines import weights
from services.inference.engines.port import EngineLoadError
from services.inference.engines.weights import load_weights
from services.inference.settings import InferenceSettings
from shared.chat import ModelSource, load_chat_tokenizer, locate_model

pytestmark = pytest.mark.weights

NEW_TOKENS = 16


@dataclass(frozen=True)
class Loaded:
    """The default model, unpacked and from the cache that this left in `root`."""

    root: Path
    unpacked: Any
    cached: Any


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    root = tmp_path_factory.mktemp("models")
    unpacked = load_weights(locate_model(""), device="cpu", cache_dir=str(root))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "GgufConfig", None)  # it cannot be unpacked again
        cached = load_weights(locate_model(""), device="cpu", cache_dir=str(root))
    return Loaded(root, unpacked, cached)


def folder(loaded: Loaded) -> Path:
    (found,) = (path for path in loaded.root.iterdir() if not path.name.startswith("."))
    return found


def test_every_tensor_is_the_same_bit_by_bit(loaded: Loaded) -> None:
    unpacked, cached = (dict([*m.state_dict().items(), *m.named_buffers()]) for m in (loaded.unpacked, loaded.cached))
    assert unpacked.keys() == cached.keys()
    for name, tensor in unpacked.items():
        assert tensor.dtype == cached[name].dtype, name
        assert torch.equal(tensor.view(torch.uint8), cached[name].view(torch.uint8)), name


def test_the_model_is_the_same_otherwise(loaded: Loaded) -> None:
    unpacked, cached = loaded.unpacked, loaded.cached
    assert type(unpacked) is type(cached)
    assert not cached.training
    assert cached.lm_head.weight.data_ptr() == cached.model.embed_tokens.weight.data_ptr()
    configs = [model.config.to_dict() | {"_name_or_path": ""} for model in (unpacked, cached)]
    assert configs[0] == configs[1]
    assert unpacked.generation_config.to_dict() == cached.generation_config.to_dict()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for each other at every small product are slow where other processes run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_greedy_tokens_are_the_same(loaded: Loaded) -> None:
    prompt = load_chat_tokenizer("").encode([{"role": "user", "content": "Tell me about the sea."}])
    said = [
        model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=NEW_TOKENS)[0, len(prompt) :].tolist()
        for model in (loaded.unpacked, loaded.cached)
    ]
    assert len(said[0]) == NEW_TOKENS
    assert said[0] == said[1]


def test_the_disk_use_is_what_the_setting_says(loaded: Loaded) -> None:
    size_mb = sum(file.stat().st_size for file in folder(loaded).iterdir()) / 1e6
    assert f"{round(size_mb, -1):.0f} MB" in (InferenceSettings.model_fields["cache_dir"].description or "")


@pytest.mark.parametrize("damage", ["truncated", "lacks a layer", "no json"])
def test_a_damaged_folder_is_not_taken_for_a_model(loaded: Loaded, tmp_path: Path, damage: str) -> None:
    for file in folder(loaded).iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = tmp_path / "config.json"
    text = config.read_text()
    if damage == "truncated":
        tensors = tmp_path / "model.safetensors"
        start = tensors.read_bytes()[:1_000_000]
        tensors.unlink()
        tensors.write_bytes(start)
    else:
        config.unlink()
        layers = json.loads(text)["num_hidden_layers"] + 1
        config.write_text(
            text[:100] if damage == "no json" else json.dumps(json.loads(text) | {"num_hidden_layers": layers})
        )
    with pytest.raises(weights._UNUSABLE):
        weights._load_saved(tmp_path, "bfloat16")


def test_what_is_no_gguf_says_so(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF, or not")
    with pytest.raises(EngineLoadError, match="the weights of m cannot be loaded"):
        load_weights(ModelSource("m", file), device="cpu", cache_dir=str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


def test_only_the_newest_two_of_a_model_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaded under three versions of transformers."""
    monkeypatch.setattr(weights, "_load", lambda *_args, **_options: StandIn())
    for version in ("5.1", "5.2", "5.3"):
        monkeypatch.setattr(weights.transformers, "__version__", version)
        weights._load_gguf(locate_model(""), "bfloat16", str(tmp_path))
    kept = sorted(path.name.rpartition("-")[2] for path in tmp_path.iterdir() if not path.name.startswith("."))
    assert kept == ["5.2", "5.3"]


class StandIn:
    """A model that saves itself in no time."""

    def save_pretrained(self, folder: Path, *, save_original_format: bool) -> None:
        (folder / "model.safetensors").write_bytes(b"1")
