"""A small Llama with random weights in a folder, for what needs a model that can be cut into heads."""

from pathlib import Path

HEADS, KV_HEADS = 8, 4


def write_llama(folder: Path) -> Path:
    """The default model's tokenizer and a network of two layers, in float32; always the same weights.

    Their spread makes the next token depend on the whole context. Logits of such a network lie close together: compare
    texts in float32 (CHATMESH_DTYPE), where rounding moves no token past another in a test's length.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from shared.chat import locate_model

    source = locate_model("")
    tokenizer = AutoTokenizer.from_pretrained(str(source.path.parent), gguf_file=source.path.name)
    tokenizer.save_pretrained(str(folder))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=2_048,
        initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(str(folder))
    return folder
