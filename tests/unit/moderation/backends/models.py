"""Tiny models with random weights, in folders as Hugging Face saves them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

TEXT = "the quick brown fox jumps over lazy dog word all work and no play makes jack a dull boy"
WORDS = TEXT.split()
WINDOW = 24


def write_classifier(folder: Path, labels: Sequence[str], problem_type: str | None = None, **changes: Any) -> Path:
    """A BERT of two layers that reads WINDOW tokens; its weights are spread so wide that texts score differently."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    write_tokenizer(folder)
    config = BertConfig(
        vocab_size=len(WORDS) + 4,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=WINDOW,
        initializer_range=0.6,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        problem_type=problem_type,
        pad_token_id=0,
        **changes,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(str(folder))
    return folder


def write_tokenizer(folder: Path) -> None:
    """Words of WORDS, in any case; everything else is [UNK]."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(str(folder))
