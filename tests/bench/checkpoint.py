"""The model of a bench as a Hugging Face folder, which every system loads: `transformers serve` takes no GGUF path."""

import hashlib
import tempfile
from pathlib import Path

from shared.chat import locate_model


def checkpoint_of(model: str, cache: Path) -> Path:
    """A folder with the weights of `model` (bfloat16) and its tokenizer, made once and kept under `cache`.

    A folder is taken as it is; a GGUF file is unpacked exactly as the engine would unpack it.
    """
    source = locate_model(model)
    if not source.is_gguf:
        return source.path
    stat = source.path.stat()
    digest = hashlib.sha256(f"{source.path}:{stat.st_size}:{stat.st_mtime_ns}".encode()).hexdigest()[:12]
    folder = cache / f"{source.model_id}-{digest}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as unfinished:
            _unpack(source.path, Path(unfinished))
            Path(unfinished).rename(folder)
            Path(unfinished).mkdir()  # for the context manager to remove
    return folder


def _unpack(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    weights = AutoModelForCausalLM.from_pretrained(
        **place, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    # The weights are plain bfloat16 from here on; the config must not say otherwise to whoever loads them.
    if hasattr(weights.config, "quantization_config"):
        del weights.config.quantization_config
    weights.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**place).save_pretrained(folder)
