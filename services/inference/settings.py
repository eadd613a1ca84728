"""Settings of the inference service."""

from typing import Literal

from pydantic import Field

from shared.settings import MeshSettings


class InferenceSettings(MeshSettings):
    """What to serve, with which engine, how many sequences at a time."""

    model: str = Field(
        "", description="Hugging Face id, folder or .gguf file; empty: the bundled SmolLM2-135M-Instruct"
    )
    engine: Literal["transformers", "scripted"] = Field("transformers", description="scripted is for load tests only")
    slots: int = Field(32, ge=1, le=4096, description="concurrent sequences; more requests wait with their owner")
    torch_threads: int = Field(0, ge=0, description="CPU threads of torch; 0: its own default")
    script_text: str = Field("", description="what the scripted engine says; empty: a text derived from the prompt")
    script_tokens_per_s: float = Field(20.0, gt=0, description="rate of each scripted stream")
    script_first_token_s: float = Field(0.0, ge=0, description="delay before a scripted stream's first token")
