"""A `tokenizers.Tokenizer` out of a GGUF file's vocabulary.

GGUF carries the vocabulary and the merges of a byte-level BPE, and names the rule that cuts text into words before
merging (`tokenizer.ggml.pre`). The rules are those of llama.cpp's `llm_tokenizer_bpe` (src/llama-vocab.cpp).
"""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.pre_tokenizers import PreTokenizer

from shared.chat.errors import UnsupportedTokenizerError
from shared.chat.gguf import GgufMetadata

_CONTROL = 3
_USER_DEFINED = 4

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_SPLITS = {
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama-bpe": _LLAMA3,
    "falcon3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
}
_GPT2 = ("default", "gpt-2")
# Trained with every digit on its own. transformers 5.23 ignores this name, and so cuts "\n\n3" and "a  1" otherwise
# than the model was taught.
_DIGITS_THEN_GPT2 = ("smollm", "starcoder", "refact", "command-r")


def build_bpe(metadata: GgufMetadata) -> Tokenizer:
    """The tokenizer that `metadata` describes.

    Raises UnsupportedTokenizerError for any kind but byte-level BPE, and for an unknown word-cutting rule.
    """
    kind = metadata.text("tokenizer.ggml.model")
    if kind != "gpt2":
        raise UnsupportedTokenizerError(
            f"the GGUF file's tokenizer is of kind {kind!r}; only byte-level BPE ('gpt2') can be built from GGUF: "
            "use the model's Hugging Face folder instead"
        )
    tokens = metadata.texts("tokenizer.ggml.tokens")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = [_pair(merge) for merge in metadata.texts("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = _pre_tokenizer(metadata.text("tokenizer.ggml.pre") or "default")
    tokenizer.decoder = decoders.ByteLevel()
    kinds = metadata.integers("tokenizer.ggml.token_type")
    tokenizer.add_special_tokens(_added(tokens, kinds, _CONTROL))
    tokenizer.add_tokens(_added(tokens, kinds, _USER_DEFINED))
    return tokenizer


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def _added(tokens: list[str], kinds: list[int], wanted: int) -> list[AddedToken]:
    special = wanted == _CONTROL
    return [
        AddedToken(token, normalized=False, special=special)
        for token, kind in zip(tokens, kinds, strict=False)
        if kind == wanted
    ]


def _pre_tokenizer(name: str) -> PreTokenizer:
    if name in _GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name in _DIGITS_THEN_GPT2:
        return pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    if name in _SPLITS:
        split = pre_tokenizers.Split(Regex(_SPLITS[name]), behavior="isolated")
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    known = ", ".join(sorted({*_GPT2, *_DIGITS_THEN_GPT2, *_SPLITS}))
    raise UnsupportedTokenizerError(
        f"the GGUF file cuts words by the rule {name!r}, which is not one of {known}: "
        "use the model's Hugging Face folder instead"
    )
