"""Engines: a port, a real one, one that shares a model among several processes, and one that follows a script."""

from typing import TypeAlias

from services.inference.engines.deepspeed import DeepSpeedEngine, DeepSpeedSettings
from services.inference.engines.port import Engine
from services.inference.engines.scripted import ScriptedEngine, ScriptedSettings
from services.inference.engines.transformers import TransformersEngine, TransformersSettings
from shared.chat import ChatTokenizer

EngineSettings: TypeAlias = TransformersSettings | DeepSpeedSettings | ScriptedSettings


def build_engine(settings: EngineSettings, tokenizer: ChatTokenizer) -> Engine:
    """The engine that `settings` describe, not started; `tokenizer` is that of `settings.model`."""
    if isinstance(settings, ScriptedSettings):
        return ScriptedEngine(settings, tokenizer)
    if isinstance(settings, DeepSpeedSettings):
        return DeepSpeedEngine(settings, tokenizer)
    return TransformersEngine(settings, tokenizer)


__all__ = [
    "DeepSpeedSettings",
    "Engine",
    "EngineSettings",
    "ScriptedSettings",
    "TransformersSettings",
    "build_engine",
]
